// --- servers of a function --------------------------------------------------------------------------------------

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

