// GET /users?limit=&offset=&q=   the caller's colleagues
// PATCH /users/<id>              changes a profile: one's own, or anybody's as an administrator
import "jsr:@supabase/functions-js/edge-runtime.d.ts";
import { createClient } from "jsr:@supabase/supabase-js@2";
import { z } from "npm:zod@3.25.76";
import { admin } from "../_shared/admin.ts";
import { bearer } from "../_shared/auth.ts";
import { withCors } from "../_shared/cors.ts";
import { platformEnv } from "../_shared/env.ts";
import { describeError, HttpError, json, parse, readJson } from "../_shared/http.ts";

const COLUMNS = "id, email, full_name, title, role, digest_opt_out";

const Query = z.object({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  offset: z.coerce.number().int().min(0).default(0),
  q: z.string().trim().max(100).optional(),
}).strict();

const Patch = z.object({
  full_name: z.string().trim().min(1).max(120),
  title: z.string().trim().max(120).nullable(),
  digest_opt_out: z.boolean(),
  role: z.enum(["member", "admin"]),
}).partial().strict().refine((patch) => Object.keys(patch).length > 0, "nothing to change");

/** A client that acts as the caller: row level security applies. */
function asCaller(req: Request) {
  return createClient(platformEnv("SUPABASE_URL"), platformEnv("SUPABASE_ANON_KEY"), {
    global: { headers: { Authorization: req.headers.get("Authorization") ?? "" } },
    auth: { persistSession: false, autoRefreshToken: false },
  });
}

async function signedIn(req: Request) {
  const caller = asCaller(req);
  const { data, error } = await caller.auth.getUser(bearer(req));
  if (error || !data.user) throw new HttpError(401, "unauthorized", "sign in first");
  return { caller, user: data.user };
}

async function list(req: Request): Promise<Response> {
  const { caller } = await signedIn(req);
  const { limit, offset, q } = parse(Query, Object.fromEntries(new URL(req.url).searchParams), "query");
  let query = caller.from("profiles").select(COLUMNS, { count: "exact" }).is("deleted_at", null);
  if (q) query = query.ilike("full_name", `%${q}%`);
  const { data, count } = await query.order("email").range(offset, offset + limit - 1).throwOnError();
  return json({ users: data, total: count });
}

async function patch(req: Request, id: string): Promise<Response> {
  const { caller, user } = await signedIn(req);
  parse(z.string().uuid(), id, "id");
  const changes = parse(Patch, await readJson(req));
  if (id !== user.id || changes.role) {
    const { data: me } = await caller.from("profiles").select("role").eq("id", user.id).maybeSingle().throwOnError();
    if (me?.role !== "admin") throw new HttpError(403, "forbidden", "only an administrator may change that");
  }
  const { data } = await admin()
    .from("profiles").update(changes).eq("id", id).is("deleted_at", null).select(COLUMNS).maybeSingle().throwOnError();
  if (!data) throw new HttpError(404, "not_found", "no such user");
  return json({ user: data });
}

async function route(req: Request): Promise<Response> {
  try {
    const [, , id] = new URL(req.url).pathname.split("/");
    if (req.method === "GET" && !id) return await list(req);
    if (req.method === "PATCH" && id) return await patch(req, id);
    throw new HttpError(405, "method_not_allowed", "use GET /users or PATCH /users/<id>");
  } catch (cause) {
    const { status, error } = describeError(cause);
    return json({ error }, status);
  }
}

Deno.serve((req) => withCors(req, route));
