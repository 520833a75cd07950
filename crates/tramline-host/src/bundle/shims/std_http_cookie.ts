export type Cookie = {
  name: string;
  value: string;
  expires?: Date | number;
  maxAge?: number;
  domain?: string;
  path?: string;
  secure?: boolean;
  httpOnly?: boolean;
  partitioned?: boolean;
  sameSite?: "Strict" | "Lax" | "None";
  unparsed?: string[];
};

const NAME = /^[!#$%&'*+\-.^_`|~\w]+$/, VALUE = /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*$/, ATTRIBUTE = /^[\x20-\x3a\x3c-\x7e]*$/;

export function getCookies(headers: Headers): Record<string, string> {
  const cookies: Record<string, string> = Object.create(null);
  for (const pair of (headers.get("Cookie") ?? "").split(";")) {
    const [name, ...value] = pair.split("=");
    if (value.length > 0) cookies[name.trim()] = value.join("=").trim();
  }
  return cookies;
}

function text(cookie: Cookie): string {
  if (!NAME.test(cookie.name)) throw new SyntaxError(`Invalid cookie name: "${cookie.name}"`);
  if (!VALUE.test(cookie.value)) throw new SyntaxError(`Invalid value of the cookie ${cookie.name}`);
  const parts = [`${cookie.name}=${cookie.value}`];
  const strict = cookie.name.startsWith("__Host-");
  if (cookie.secure || strict || cookie.name.startsWith("__Secure-")) parts.push("Secure");
  if (cookie.httpOnly) parts.push("HttpOnly");
  if (cookie.partitioned) parts.push("Partitioned");
  if (cookie.maxAge !== undefined) parts.push(`Max-Age=${cookie.maxAge}`);
  if (cookie.domain && !strict) parts.push(`Domain=${cookie.domain}`);
  if (cookie.sameSite) parts.push(`SameSite=${cookie.sameSite}`);
  if (cookie.path || strict) parts.push(`Path=${strict ? "/" : cookie.path}`);
  if (cookie.expires !== undefined) parts.push(`Expires=${new Date(cookie.expires).toUTCString()}`);
  parts.push(...cookie.unparsed ?? []);
  const bad = parts.find((part) => !ATTRIBUTE.test(part));
  if (bad !== undefined) throw new SyntaxError(`Invalid cookie attribute: "${bad}"`);
  return parts.join("; ");
}

export function setCookie(headers: Headers, cookie: Cookie): void {
  headers.append("Set-Cookie", text(cookie));
}
export function deleteCookie(headers: Headers, name: string, attributes: Partial<Cookie> = {}): void {
  setCookie(headers, { ...attributes, name, value: "", expires: new Date(0) });
}
