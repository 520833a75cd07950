// The program of every worker; its pieces are one file when it runs (worker/launch.rs). It binds its socket and warms up
// before it knows which function it will be; the first POST tells it. Nothing of the function runs before that, and
// whatever the host trusts (the nonce of log frames and of control requests) lives in closures and in built-ins captured
// here, where the function cannot reach it.
// Modules of Node are loaded where functions name them: `node:async_hooks` takes 2 MB of every instance, `node:http`,
// `node:util` and `node:url` take 3. `setTimeout` loads as much when it is first looked at, so nothing here does.

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
// what is below Deno's own parts; another version may hide it
const core = (Deno as any)[(Deno as any).internal]?.core;
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
// runs something as part of a call, and tells from within, and from whatever it waits for, which call that is
type Run = <A, B, C, T>(call: Call, work: (a: A, b: B, c: C) => T, a?: A, b?: B, c?: C) => T;
const { currentCall, withCall } = await followCalls();

// What Node's AsyncLocalStorage is made of; another version of Deno may hide it.
async function followCalls(): Promise<{ currentCall: () => Call | undefined; withCall: Run }> {
  if (typeof core?.AsyncVariable !== "function" || typeof core.setAsyncContext !== "function") {
    const { AsyncLocalStorage } = await import("node:async_hooks");
    const calls = new AsyncLocalStorage<Call>();
    return { currentCall: calls.getStore.bind(calls), withCall: calls.run.bind(calls) as Run };
  }
  const variable = new core.AsyncVariable();
  const enter = variable.enter.bind(variable), leave = core.setAsyncContext;
  const withCall: Run = (call, work, a, b, c) => {
    const before = enter(call);
    try {
      return work(a!, b!, c!);
    } finally {
      leave(before);
    }
  };
  return { currentCall: variable.get.bind(variable), withCall };
}

async function formatOfNode(): Promise<Format> {
  const { formatWithOptions } = await import("node:util");
  return (args, options) => formatWithOptions(options, ...args);
}

// something to be done in a turn of its own
const inTurn: (work: () => void, after: number, isAwaited: boolean) => void = core?.createSystemTimer ?? globalThis.setTimeout;
let nonce = "";
let handler: Handler | null = null;
// called when the function listens; a module that waits for its server (`await serve(…)`) never ends loading
let listens = () => {};

