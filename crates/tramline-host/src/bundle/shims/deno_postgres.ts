// `deno.land/x/postgres` and `jsr:@db/postgres` over pg.
import pg from "npm:pg@8.16.3";

type Args = unknown[] | Record<string, unknown>;
type Query = { text: string; args?: Args; fields?: string[]; camelCase?: boolean; camelcase?: boolean };
type Result<T> = { rows: T[]; rowCount?: number; command: string; query: Query; warnings: never[] };
type Runner = { query(query: unknown): Promise<any> };

const INT8 = 20;
// whole numbers of eight bytes are of type bigint there
const types = {
  getTypeParser: (oid: number, format?: "text" | "binary") => oid === INT8 ? BigInt : pg.types.getTypeParser(oid, format as "text"),
};

function read(first: TemplateStringsArray | string | Query, rest: unknown[]): Query {
  if (typeof first === "string") return { text: first, args: (rest[0] ?? []) as Args };
  if ("raw" in first) return { text: first.reduce((text, part, i) => `${text}$${i}${part}`), args: rest };
  return first;
}

// names in arguments (`$name`) become numbers
function numbered({ text, args }: Query): { text: string; values: unknown[] } {
  if (args === undefined || Array.isArray(args)) return { text, values: args ?? [] };
  const byName = new Map(Object.entries(args).map(([name, value]) => [name.toLowerCase(), value]));
  const values: unknown[] = [], seen = new Map<string, number>();
  const changed = text.replace(/\$([a-z_]\w*)/gi, (whole, name: string) => {
    const key = name.toLowerCase();
    if (!byName.has(key)) return whole;
    if (!seen.has(key)) seen.set(key, values.push(byName.get(key)));
    return `$${seen.get(key)}`;
  });
  return { text: changed, values };
}

const camel = (name: string) => name.replace(/_+(\w)/g, (_, letter: string) => letter.toUpperCase());

async function run<T>(runner: Runner, query: Query, asArray: boolean): Promise<Result<T>> {
  const { text, values } = numbered(query);
  const found = await runner.query({ text, values, rowMode: "array", types });
  const names: string[] = found.fields.map((field: { name: string }, i: number) =>
    query.fields?.[i] ?? (query.camelCase || query.camelcase ? camel(field.name) : field.name)
  );
  const rows = asArray ? found.rows : found.rows.map((row: unknown[]) => Object.fromEntries(row.map((value, i) => [names[i], value])));
  return { rows, rowCount: found.rowCount ?? undefined, command: found.command, query, warnings: [] };
}

class Queries {
  constructor(protected runner: () => Runner) {}
  queryArray<T = unknown[]>(first: TemplateStringsArray | string | Query, ...rest: unknown[]): Promise<Result<T>> {
    return run<T>(this.runner(), read(first, rest), true);
  }
  queryObject<T = Record<string, unknown>>(first: TemplateStringsArray | string | Query, ...rest: unknown[]): Promise<Result<T>> {
    return run<T>(this.runner(), read(first, rest), false);
  }
}

export class Transaction extends Queries {
  constructor(public name: string, runner: () => Runner) {
    super(runner);
  }
  begin = async (): Promise<void> => void await this.runner().query("begin");
  commit = async (): Promise<void> => void await this.runner().query("commit");
  rollback = async (): Promise<void> => void await this.runner().query("rollback");
}

function settings(config: any): any {
  if (config === undefined || typeof config === "string") return { connectionString: config };
  const { hostname, tls, applicationName, options, ...rest } = config;
  const ca = tls?.caCertificates?.filter(Boolean) ?? [];
  const ssl = tls?.enforce || ca.length > 0 ? { ca: ca.length > 0 ? ca : undefined } : rest.ssl;
  return { ...rest, host: hostname ?? rest.host, application_name: applicationName, ssl };
}

export class Client extends Queries {
  #client: pg.Client;
  connected = false;
  constructor(config?: unknown) {
    super(() => this.#client);
    this.#client = new pg.Client(settings(config));
    // the next query tells; without a listener a lost connection is an error that nobody caught
    this.#client.on("error", () => this.connected = false);
  }
  async connect(): Promise<void> {
    await this.#client.connect();
    this.connected = true;
  }
  async end(): Promise<void> {
    this.connected = false;
    await this.#client.end();
  }
  createTransaction(name: string): Transaction {
    return new Transaction(name, () => this.#client);
  }
}

export class PoolClient extends Queries {
  constructor(private client: pg.PoolClient) {
    super(() => client);
  }
  release(): void {
    this.client.release();
  }
  createTransaction(name: string): Transaction {
    return new Transaction(name, () => this.client);
  }
  [Symbol.dispose](): void {
    this.release();
  }
}

export class Pool {
  #pool: pg.Pool;
  constructor(config: unknown, public size: number, _lazy = false) {
    this.#pool = new pg.Pool({ ...settings(config), max: size });
    // a connection that breaks while nobody uses it is replaced by the next one who asks
    this.#pool.on("error", (error: Error) => console.warn("a connection of the pool broke:", error.message));
  }
  get available(): number {
    return this.#pool.idleCount;
  }
  async connect(): Promise<PoolClient> {
    return new PoolClient(await this.#pool.connect());
  }
  end(): Promise<void> {
    return this.#pool.end();
  }
}

export const PostgresError = pg.DatabaseError;
export class ConnectionError extends Error {}
export class TransactionError extends Error {}
