// `deno.land/x/sift`: handlers by path, and checks of a request.
import { match } from "npm:path-to-regexp@6.3.0";

type Params = Record<string, string> | undefined;
type Handler = (request: Request, connection: unknown, params: Params) => Response | Promise<Response>;
type Terms = { headers?: string[]; params?: string[] };

export function serve(routes: Record<string | number, Handler>): void {
  const paths = Object.entries(routes).filter(([path]) => path !== "404");
  Deno.serve(async (request, connection) => {
    const { pathname } = new URL(request.url);
    for (const [path, handler] of paths) {
      const found = match(path)(pathname);
      if (found) return await handler(request, connection, found.params as Params);
    }
    return routes[404] ? await routes[404](request, connection, undefined) : new Response("Not Found", { status: 404 });
  });
}

export function json(value: unknown, init?: ResponseInit): Response {
  const headers = init?.headers instanceof Headers ? init.headers : new Headers(init?.headers);
  if (!headers.has("Content-Type")) headers.set("Content-Type", "application/json; charset=utf-8");
  return new Response(JSON.stringify(value) + "\n", { statusText: init?.statusText, status: init?.status ?? 200, headers });
}

export function validateRequest(request: Request, terms: Record<string, Terms>) {
  const refused = (message: string, status: number) => Promise.resolve({ error: { message, status } });
  const wanted = terms[request.method];
  if (wanted === undefined) return refused(`method ${request.method} is not allowed for the URL`, 405);
  const header = wanted.headers?.find((name) => !request.headers.has(name));
  if (header !== undefined) return refused(`header '${header}' not available`, 400);
  const { searchParams } = new URL(request.url);
  const param = wanted.params?.find((name) => !searchParams.get(name));
  if (param !== undefined) return refused(`param '${param}' is required to process the request`, 400);
  return Promise.resolve({ error: undefined, body: undefined });
}
