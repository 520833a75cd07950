import { platformEnv } from "./env.ts";
import { json } from "./http.ts";

export function bearer(req: Request): string {
  return /^Bearer (.+)$/i.exec(req.headers.get("Authorization") ?? "")?.[1] ?? "";
}

/** Compares digests, so that the time taken tells nothing about the secret. */
async function sameSecret(given: string, secret: string): Promise<boolean> {
  if (!given || !secret) return false;
  const [a, b] = await Promise.all(
    [given, secret].map(async (s) =>
      new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(s)))
    ),
  );
  return a.reduce((difference, byte, i) => difference | (byte ^ b[i]), 0) === 0;
}

/** Whether the request carries the service role key or one of the newer secret keys, which travel as `apikey`. */
async function hasServiceKey(req: Request): Promise<boolean> {
  const secretKeys: Record<string, string> = JSON.parse(Deno.env.get("SUPABASE_SECRET_KEYS") || "{}");
  for (const secret of [platformEnv("SUPABASE_SERVICE_ROLE_KEY"), ...Object.values(secretKeys)]) {
    if (await sameSecret(bearer(req), secret)) return true;
    if (await sameSecret(req.headers.get("apikey") ?? "", secret)) return true;
  }
  return false;
}

/** For cron functions: null for the holder of CRON_SECRET or of a service key, else the 401 to answer. */
export async function cronGuard(req: Request): Promise<Response | null> {
  if (await sameSecret(bearer(req), Deno.env.get("CRON_SECRET") ?? "")) return null;
  if (await hasServiceKey(req)) return null;
  return json({ error: { code: "unauthorized", message: "CRON_SECRET or the service role key is needed" } }, 401);
}

/** The due time of the schedule's period when the scheduler tells it, else now. */
export function periodOf(req: Request): Date {
  const due = new Date(req.headers.get("x-tramline-period") ?? "");
  return Number.isNaN(due.getTime()) ? new Date() : due;
}

/**
 * Whether the caller has the service role. Only for functions with verify_jwt = true: the gateway has verified
 * the token's signature, its claims are read here without doing that again.
 */
export async function isServiceRole(req: Request): Promise<boolean> {
  if (await hasServiceKey(req)) return true;
  try {
    const claims = bearer(req).split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).role === "service_role";
  } catch {
    return false;
  }
}
