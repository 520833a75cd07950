const ALLOWED_HEADERS =
  "authorization, x-client-info, apikey, content-type, idempotency-key, x-retry-count, traceparent, tracestate, baggage";
const DEVELOPMENT_ORIGINS = "http://localhost:3000,http://127.0.0.1:3000";

function corsHeaders(req: Request): Record<string, string> {
  const allowed = (Deno.env.get("ALLOWED_ORIGINS") ?? DEVELOPMENT_ORIGINS).split(",").map((o) => o.trim());
  const origin = req.headers.get("Origin") ?? "";
  return {
    "Access-Control-Allow-Origin": allowed.includes(origin) ? origin : allowed[0],
    "Access-Control-Allow-Headers": ALLOWED_HEADERS,
    "Access-Control-Allow-Methods": "GET, PATCH, OPTIONS",
    "Vary": "Origin",
  };
}

/** Answers preflights and puts the CORS headers on every other answer. */
export async function withCors(req: Request, handler: (req: Request) => Promise<Response>): Promise<Response> {
  const res = req.method === "OPTIONS" ? new Response(null, { status: 204 }) : await handler(req);
  for (const [name, value] of Object.entries(corsHeaders(req))) res.headers.set(name, value);
  return res;
}
