// The program of every worker. It binds its socket and warms the HTTP stack before it knows which function it will be;
// the first POST tells it. Nothing of the function runs before that, and whatever the host trusts (the nonce of log
// frames and of control requests) lives in closures and in built-ins captured here, where the function cannot reach it.
// Modules of Node are loaded where they are needed: `node:http`, `node:util` and `node:url` take 3 MB of every instance.
import { AsyncLocalStorage } from "node:async_hooks";

type Handler = (request: Request, info: unknown) => Response | Promise<Response>;
// The address that a call came with, or for a Node server the context that stood in its headers. What it says is taken
// apart when somebody asks: most calls write no log and call nobody.
type Call = string;

const MESSAGE_MAX = 10_000;
const CALL_HEADER = "x-tramline-call";
const DEPTH_HEADER = "x-tramline-depth";
const CONTEXT_HEADER = "x-tramline-context";
// what the socket puts before the host in a request's address
const INNER = "http+unix://";

const socket = Deno.args[0];
const nativeServe = Deno.serve;
const nativeFetch = globalThis.fetch;
const stringify = JSON.stringify;
const slice = Function.prototype.call.bind(String.prototype.slice) as (s: string, a: number, b: number) => string;
const indexOf = Function.prototype.call.bind(String.prototype.indexOf) as (s: string, w: string, from: number) => number;
const split = Function.prototype.call.bind(String.prototype.split) as (s: string, by: string) => string[];
const decode = decodeURIComponent, NativePromise = Promise;
const then: (answer: Promise<Response>, done: undefined, failed: (error: unknown) => Response) => Promise<Response> =
  Function.prototype.call.bind(Promise.prototype.then);
const encoder = new TextEncoder();
const encode = encoder.encode.bind(encoder);
const subarray = Function.prototype.call.bind(Uint8Array.prototype.subarray) as (b: Uint8Array, a: number) => Uint8Array;
const writeStderr = Deno.stderr.writeSync.bind(Deno.stderr);
const define = Object.defineProperty;
const inspect = Deno.inspect;
type Format = (args: unknown[], options: Deno.InspectOptions) => string;
// what Deno's own console formats with; another version of Deno may hide it
const inspectArgs: Format = (Deno as any)[(Deno as any).internal]?.inspectArgs ?? await formatOfNode();
// a function may replace what these read, but must not see the host's nonce pass through it
const requestGetter = (name: string) =>
  Function.prototype.call.bind(Object.getOwnPropertyDescriptor(Request.prototype, name)!.get!);
const methodOf = requestGetter("method") as (request: Request) => string;
const innerUrlOf = requestGetter("url") as (request: Request) => string;
const headersOf = requestGetter("headers") as (request: Request) => Headers;
const getHeader = Function.prototype.call.bind(Headers.prototype.get) as (h: Headers, name: string) => string | null;
const calls = new AsyncLocalStorage<Call>();
const currentCall = calls.getStore.bind(calls);
const withCall = calls.run.bind(calls);

async function formatOfNode(): Promise<Format> {
  const { formatWithOptions } = await import("node:util");
  return (args, options) => formatWithOptions(options, ...args);
}

const later = globalThis.setTimeout;
let nonce = "";
let handler: Handler | null = null;
// called when the function listens; a module that waits for its server (`await serve(…)`) never ends loading
let listens = () => {};

// --- calls ------------------------------------------------------------------------------------------------------

// The host writes `/~<run>~<depth>~<token>~<request>` before the path of every call, `-` for what there is not. It stands in
// the address and not in headers, because the function may change those, and because looking at them costs more than
// everything else here.
function contextOf(call: Call | undefined) {
  let text = call ?? "";
  if (slice(text, 0, INNER.length) === INNER) {
    const from = indexOf(text, "/", INNER.length) + 1;
    text = slice(text, from, indexOf(text, "/", from));
  }
  const parts = split(text, "~");
  const part = (i: number) => parts[i] === undefined || parts[i] === "-" ? null : decode(parts[i]);
  return { runId: part(1), depth: part(2), token: part(3), requestId: part(4) };
}

// Functions expect the address that their caller used. It is made when it is asked for.
function installUrl() {
  define(Request.prototype, "url", {
    get(this: Request): string {
      const url = innerUrlOf(this);
      if (slice(url, 0, INNER.length) !== INNER) return url;
      const at = indexOf(url, "/", INNER.length);
      const path = slice(url, indexOf(url, "/", at + 1), url.length);
      let host = slice(url, INNER.length, at), scheme = "http";
      try {
        const headers = headersOf(this);
        host = getHeader(headers, "x-forwarded-host") ?? host;
        scheme = getHeader(headers, "x-forwarded-proto") ?? scheme;
      } catch {
        // it was answered long ago, and nothing else of it is left
      }
      const value = scheme + "://" + host + path;
      define(this, "url", { value, configurable: true });
      return value;
    },
    configurable: true,
    enumerable: true,
  });
}

// --- log frames -------------------------------------------------------------------------------------------------

// A frame begins with a line end, so that text the function wrote without one cannot swallow it.
function frame(level: string, message: string) {
  const { runId, requestId } = contextOf(currentCall());
  const text = message.length > MESSAGE_MAX ? slice(message, 0, MESSAGE_MAX) + "… (cut)" : message;
  // only strings and null go to stringify, so no toJSON of the function is ever asked
  const line = "\n" + nonce + "[" + stringify(level) + "," + stringify(runId) + "," + stringify(requestId) + "," +
    stringify(text) + "]\n";
  let bytes = encode(line);
  while (bytes.byteLength > 0) {
    bytes = subarray(bytes, writeStderr(bytes));
  }
}

function describe(error: unknown): string {
  try {
    return error instanceof Error ? inspect(error) : String(error);
  } catch {
    return "an error that cannot be shown";
  }
}

function installConsole() {
  let indent = "";
  const counts = new Map<string, number>();
  const timers = new Map<string, number>();
  const say = (level: string, args: unknown[]) => {
    let text: string;
    try {
      text = inspectArgs(args, { depth: 6, colors: false });
    } catch (error) {
      text = "cannot format this entry: " + describe(error);
    }
    frame(level, indent === "" ? text : indent + text.replaceAll("\n", "\n" + indent));
  };
  const passed = (label: string) => {
    const since = timers.get(label);
    return since === undefined ? null : `${label}: ${(performance.now() - since).toFixed(3)}ms`;
  };
  const methods: Record<string, (...args: any[]) => void> = {
    log: (...args) => say("info", args),
    info: (...args) => say("info", args),
    debug: (...args) => say("debug", args),
    warn: (...args) => say("warn", args),
    error: (...args) => say("error", args),
    dir: (item, options) => say("info", [inspect(item, options)]),
    dirxml: (...args) => say("info", args),
    table: (data) => say("info", [data]),
    trace: (...args) => say("debug", [new Error(inspectArgs(args, { colors: false })).stack]),
    assert: (ok, ...args) => {
      if (!ok) say("error", ["Assertion failed", ...args]);
    },
    count: (label = "default") => {
      counts.set(label, (counts.get(label) ?? 0) + 1);
      say("info", [`${label}: ${counts.get(label)}`]);
    },
    countReset: (label = "default") => void counts.delete(label),
    time: (label = "default") => void timers.set(label, performance.now()),
    timeLog: (label = "default", ...args) => say("info", [passed(label) ?? `no timer ${label}`, ...args]),
    timeEnd: (label = "default") => {
      say("info", [passed(label) ?? `no timer ${label}`]);
      timers.delete(label);
    },
    group: (...args) => {
      if (args.length > 0) say("info", args);
      indent += "  ";
    },
    groupEnd: () => {
      indent = indent.slice(2);
    },
    clear: () => {},
  };
  methods.groupCollapsed = methods.group;
  for (const [name, value] of Object.entries(methods)) {
    define(console, name, { value, writable: true, configurable: true, enumerable: true });
  }
}

// --- globals of a function --------------------------------------------------------------------------------------

// The environment lives in a map: the process itself has none to read. `process.env` of Node goes through this too.
function installEnv(values: Record<string, string>) {
  const env = new Map<string, string>(Object.entries(values));
  const text = (value: unknown) => String(value);
  define(Deno, "env", {
    value: {
      get: (name: string) => env.get(text(name)),
      set: (name: string, value: string) => void env.set(text(name), text(value)),
      has: (name: string) => env.has(text(name)),
      delete: (name: string) => void env.delete(text(name)),
      toObject: () => Object.fromEntries(env),
    },
    writable: true,
    configurable: true,
    enumerable: true,
  });
}

const background = new Set<Promise<unknown>>();

function waitUntil<T>(promise: Promise<T>): Promise<T> {
  const guarded = Promise.resolve(promise).catch((error) => frame("uncaught", "in waitUntil: " + describe(error)));
  background.add(guarded);
  guarded.finally(() => background.delete(guarded));
  return promise;
}

// The platform runs models itself; there are none here, and a function that wants one shall learn it by name.
class NoModel {
  constructor(model: unknown) {
    throw new Error(`Supabase.ai has no models here (${String(model)}); call the API of a provider instead`);
  }
}

// Packages written for Node read files beside themselves; in a bundle all of them are one file.
function installPlace(entry: string) {
  const file = decodeURIComponent(new URL(entry).pathname);
  define(globalThis, "__filename", { value: file, writable: true, configurable: true });
  define(globalThis, "__dirname", { value: slice(file, 0, file.lastIndexOf("/")), writable: true, configurable: true });
}

function installGlobals() {
  // they would keep data between functions: one database for all workers that share this program
  for (const name of ["localStorage", "sessionStorage", "caches"]) {
    delete (globalThis as Record<string, unknown>)[name];
  }
  // the arguments tell where the socket is
  define(Deno, "args", { value: [], configurable: true });
  define(globalThis, "EdgeRuntime", { value: { waitUntil }, writable: true, configurable: true });
  define(globalThis, "Supabase", { value: { ai: { Session: NoModel } }, writable: true, configurable: true });
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    frame("uncaught", "unhandled rejection: " + describe(event.reason));
  });
  globalThis.addEventListener("error", (event) => {
    event.preventDefault();
    frame("uncaught", "uncaught " + describe(event.error));
  });
}

// Calls to the project's own API carry the token that says which function calls and on behalf of which run, and how many
// functions have called one another so far: the gateway ends a chain that is too long.
function installFetch(apiUrl: string | undefined) {
  let origin: string;
  try {
    origin = new URL(apiUrl ?? "").origin;
  } catch {
    return;
  }
  const fetch = (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    const call = currentCall();
    if (call === undefined) return nativeFetch(input, init);
    const isRequest = input instanceof Request;
    let target: string;
    try {
      target = new URL(isRequest ? input.url : String(input)).origin;
    } catch {
      return nativeFetch(input, init);
    }
    if (target !== origin) return nativeFetch(input, init);
    const headers = new Headers(init?.headers ?? (isRequest ? input.headers : undefined));
    const { token, depth } = contextOf(call);
    if (token) headers.set(CALL_HEADER, token);
    if (depth) headers.set(DEPTH_HEADER, depth);
    return nativeFetch(input, { ...init, headers });
  };
  define(globalThis, "fetch", { value: fetch, writable: true, configurable: true, enumerable: true });
}

// `Deno.serve` of the function registers its handler; the socket is the worker's own.
function installServe() {
  const serve = (first: unknown, second?: unknown) => {
    const options = (typeof first === "function" ? {} : first ?? {}) as Record<string, any>;
    const found = typeof first === "function" ? first : typeof second === "function" ? second : options.handler;
    if (typeof found !== "function") {
      throw new TypeError("Deno.serve needs a handler function");
    }
    const onError = options.onError;
    handler = typeof onError !== "function" ? found as Handler : async (request, info) => {
      try {
        return await found(request, info);
      } catch (error) {
        return await onError(error);
      }
    };
    listens();
    const addr = { transport: "tcp" as const, hostname: "0.0.0.0", port: options.port ?? 8000 };
    if (typeof options.onListen === "function") queueMicrotask(() => options.onListen(addr));
    let finish = () => {};
    const finished = new Promise<void>((resolve) => finish = resolve);
    const server = {
      finished,
      addr,
      shutdown: () => (finish(), finished),
      ref() {},
      unref() {},
      [Symbol.asyncDispose]: () => server.shutdown(),
    };
    return server;
  };
  define(Deno, "serve", { value: serve, writable: true, configurable: true, enumerable: true });
}

// Many packages ask Node's `os` for the machine, to name it in a header. They are told of a machine without a face; what it
// really is needs a permission that functions do not have.
async function installOs() {
  const { default: os } = await import("node:os");
  const folder = slice(socket, 0, socket.lastIndexOf("/"));
  const told: Record<string, () => unknown> = {
    hostname: () => "localhost",
    release: () => "0.0.0",
    version: () => "",
    homedir: () => folder,
    cpus: () => [],
    totalmem: () => 0,
    freemem: () => 0,
    networkInterfaces: () => ({}),
    loadavg: () => [0, 0, 0],
    uptime: () => performance.now() / 1000,
    userInfo: () => ({ uid: -1, gid: -1, username: "function", homedir: folder, shell: null }),
  };
  for (const [name, value] of Object.entries(told)) define(os, name, { value, writable: true, configurable: true, enumerable: true });
  define(Deno, "hostname", { value: told.hostname, writable: true, configurable: true, enumerable: true });
}

let nodeListening: Promise<unknown> | null = null;

// A server of Node's http module (express and its like) asks for a port; it gets a second socket, and the host sends the
// calls there. The first one to listen is the function's.
async function installNodeServe() {
  const { Server: NodeServer } = await import("node:http");
  const listen = NodeServer.prototype.listen;
  const emit = NodeServer.prototype.emit;
  NodeServer.prototype.listen = function (this: any, ...args: any[]) {
    if (nodeListening !== null) throw new Error("a function has one server; this is a second one");
    nodeListening = new Promise((resolve, reject) => {
      this.once("listening", resolve);
      this.once("error", reject);
    });
    nodeListening.then(listens, () => {});
    return listen.call(this, { path: socket.slice(0, -1) + "n" }, args.find((arg) => typeof arg === "function"));
  };
  NodeServer.prototype.emit = function (this: any, event: string, ...args: any[]) {
    if (event !== "request") return emit.call(this, event, ...args);
    const context: string = args[0].headers[CONTEXT_HEADER] ?? "";
    delete args[0].headers[CONTEXT_HEADER];
    return withCall(context, () => emit.call(this, event, ...args));
  };
}

// --- serving ----------------------------------------------------------------------------------------------------

type Boot = { path: string; env: Record<string, string>; nonce: string; revoke: string[]; node: { http: boolean; os: boolean } };

let installed = false;

// What every function finds, whichever it is: done while nobody waits for it.
function install() {
  if (installed) return;
  installed = true;
  installConsole();
  installGlobals();
  installUrl();
  installServe();
}

async function boot(message: Boot): Promise<Response> {
  nonce = message.nonce;
  install();
  installEnv(message.env);
  installFetch(message.env.SUPABASE_URL);
  installPlace(message.path);
  if (message.node.os) await installOs();
  if (message.node.http) await installNodeServe();
  let module: Record<string, any>;
  try {
    const loading = import(message.path);
    // the rest of a module that does not wait has run before the second timer
    const listening = new Promise<Record<string, any>>((resolve) => {
      listens = () => void later(() => later(() => resolve({}), 0), 0);
    });
    const failedLater = (error: unknown) => {
      if (served) frame("uncaught", "after it began to listen: " + describe(error));
    };
    let served = false;
    loading.catch(failedLater);
    module = await Promise.race([loading, listening]);
    served = true;
  } catch (error) {
    const text = describe(error);
    frame("error", text);
    return new Response(text, { status: 503 });
  }
  if (handler === null) {
    const server = module.default;
    if (typeof server?.fetch === "function") {
      handler = (request) => server.fetch(request, {});
    }
  }
  let answer = "booted";
  if (handler === null && nodeListening !== null) {
    await nodeListening;
    answer = "booted node";
    handler = () => new Response("Internal Server Error", { status: 500 });
  }
  if (handler === null) {
    return new Response("it neither calls Deno.serve nor exports default { fetch }", { status: 503 });
  }
  for (const path of message.revoke) {
    Deno.permissions.revokeSync({ name: "read", path });
  }
  globalThis.dispatchEvent(new Event("load"));
  return new Response(answer);
}

async function control(request: Request): Promise<Response> {
  const url = new URL(innerUrlOf(request));
  if (url.pathname === "/beforeunload") {
    const detail = { reason: url.searchParams.get("reason") ?? "termination" };
    globalThis.dispatchEvent(new CustomEvent("beforeunload", { detail, cancelable: true }));
    while (background.size > 0) await Promise.allSettled([...background]);
    globalThis.dispatchEvent(new Event("unload"));
  }
  return new Response(String(background.size));
}

function failed(error: unknown): Response {
  frame("error", describe(error));
  return new Response("Internal Server Error", { status: 500 });
}

function invoke(request: Request, info: unknown, run: Handler): Response | Promise<Response> {
  try {
    const answer = run(request, info);
    return answer instanceof NativePromise ? then(answer, undefined, failed) : answer;
  } catch (error) {
    return failed(error);
  }
}

// The host's first requests. They compile what serving and booting need, and name the modules of Node that its functions
// load.
async function warmUp(request: Request): Promise<Response> {
  install();
  await new Response("{}").json();
  // the same for every worker, so that its compiled form is kept once
  await import("data:text/javascript,export default 0").catch(() => {});
  const names = new URL(innerUrlOf(request)).searchParams.getAll("node");
  await Promise.allSettled(names.map((name) => import("node:" + name)));
  return new Response("warm");
}

let booting = false;

nativeServe({ path: socket, onListen() {} }, (request: Request, info: unknown) => {
  const method = methodOf(request);
  const run = handler;
  // the host's own requests; no other can have this method
  if (nonce !== "" && method === nonce) return control(request);
  if (run === null || booting) {
    if (nonce !== "") return new Response("warm");
    if (method !== "POST") return warmUp(request);
    booting = true;
    return request.json().then(boot).finally(() => booting = false);
  }
  // now: once a request is answered its address is gone
  return withCall(innerUrlOf(request), invoke, request, info, run);
});
