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

