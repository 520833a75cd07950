// `serve` of the standard library: its own accept loop is replaced by the runtime's server.
type Handler = (request: Request, info: unknown) => Response | Promise<Response>;
export function serve(handler: Handler, options: Record<string, unknown> = {}): Promise<void> {
  return Deno.serve({ ...options }, handler).finished;
}
export const serveTls = serve;
// before version 0.131 the address came first
export const listenAndServe = (_address: unknown, handler: Handler): Promise<void> => serve(handler);
