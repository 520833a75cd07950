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
    // the rest of a module that does not wait has run before the second turn
    const listening = new Promise<Record<string, any>>((resolve) => {
      listens = () => inTurn(() => inTurn(() => resolve({}), 0, true), 0, true);
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

// How long what came before the end is waited for: the stream of a call that was cut off is cancelled, though both reach us at once.
const heardMs = 5;

async function control(request: Request): Promise<Response> {
  const url = new URL(innerUrlOf(request));
  if (url.pathname === "/beforeunload") {
    await new NativePromise((resolve) => inTurn(resolve, heardMs, true));
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

// The host's first requests. They name the modules of Node that its functions load, and a module that answers a call as
// functions do: to become that one, and to answer for it, compiles what becoming a function needs.
type WarmUp = { path: string; node: string[] };

let isWarm = false;

async function warmUp(request: Request, info: unknown): Promise<Response> {
  const { path, node }: WarmUp = await request.json();
  let answer = new Response("warm");
  if (!isWarm) {
    isWarm = true;
    const message = { path, env: { SUPABASE_URL: "http://warm-up.invalid" }, nonce: "", revoke: [], node: { http: false, os: false } };
    const failed = await boot(message);
    answer = handler === null ? failed : await withCall(innerUrlOf(request), invoke, request, info, handler);
    handler = null;
  }
  await Promise.allSettled(node.map((name) => import("node:" + name)));
  return answer;
}

let booting = false;

nativeServe({ path: socket, onListen() {} }, (request: Request, info: unknown) => {
  const method = methodOf(request);
  const run = handler;
  // the host's own requests; no other can have this method
  if (nonce !== "" && method === nonce) return control(request);
  if (run === null || booting) {
    if (nonce !== "") return new Response("warm");
    if (method !== "POST") return warmUp(request, info);
    booting = true;
    return request.json().then(boot).finally(() => booting = false);
  }
  // now: once a request is answered its address is gone
  return withCall(innerUrlOf(request), invoke, request, info, run);
});
