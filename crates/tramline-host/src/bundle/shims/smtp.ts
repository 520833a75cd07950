// `deno.land/x/denomailer` and `deno.land/x/smtp` over nodemailer.
import nodemailer from "npm:nodemailer@6.9.16";

type Address = string | { mail: string; name?: string };
type Addresses = Address | Address[] | Record<string, string>;
type Mail = Record<string, any>;
type Transport = ReturnType<typeof nodemailer.createTransport>;

function addresses(value: Addresses | undefined): unknown {
  if (value === undefined || typeof value === "string") return value;
  if (Array.isArray(value)) return value.map(addresses);
  if (typeof value.mail === "string") return { address: value.mail, name: value.name ?? "" };
  return Object.entries(value as Record<string, string>).map(([name, address]) => ({ name, address }));
}

function message(mail: Mail) {
  const attachments = (mail.attachments ?? []).map((file: Mail) => {
    const content = file.content ?? file.data;
    return {
      filename: file.filename ?? file.fileName,
      contentType: file.contentType,
      content: content instanceof ArrayBuffer ? new Uint8Array(content) : content,
      encoding: file.encoding === "base64" ? "base64" : undefined,
    };
  });
  const { from, to, cc, bcc, replyTo, content, mimeContent: _, ...rest } = mail;
  const people = { from: addresses(from), to: addresses(to), cc: addresses(cc), bcc: addresses(bcc), replyTo: addresses(replyTo) };
  // `auto` makes the text from the HTML
  const text = content === "auto" ? String(mail.html ?? "").replace(/<[^>]*>/g, "") : content;
  return { ...rest, ...people, text, attachments };
}

export class SMTPClient {
  #transport: Transport;
  constructor(config: Mail) {
    const { hostname, port, tls, auth } = config.connection;
    this.#transport = nodemailer.createTransport({
      host: hostname,
      port: port ?? (tls ? 465 : 25),
      secure: tls ?? false,
      auth: auth && { user: auth.username, pass: auth.password },
    });
  }
  async send(mail: Mail): Promise<void> {
    await this.#transport.sendMail(message(mail) as Mail);
  }
  close(): Promise<void> {
    this.#transport.close();
    return Promise.resolve();
  }
}

type Login = { hostname: string; port?: number; username?: string; password?: string };

// of the versions before 1.0
export class SmtpClient {
  #client?: SMTPClient;
  #connect(login: Login, tls: boolean): Promise<void> {
    const auth = login.username === undefined ? undefined : { username: login.username, password: login.password };
    this.#client = new SMTPClient({ connection: { hostname: login.hostname, port: login.port, tls, auth } });
    return Promise.resolve();
  }
  connect = (login: Login): Promise<void> => this.#connect(login, false);
  connectTLS = (login: Login): Promise<void> => this.#connect(login, true);
  send(mail: Mail): Promise<void> {
    if (this.#client === undefined) throw new Error("connect before sending");
    return this.#client.send(mail);
  }
  close = (): Promise<void> => this.#client?.close() ?? Promise.resolve();
}
