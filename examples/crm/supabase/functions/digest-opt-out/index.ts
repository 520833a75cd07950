// GET /digest-opt-out?token=    asks; mail scanners open links too, so looking changes nothing
// POST /digest-opt-out?token=   unsubscribes
import { serve } from "https://deno.land/std@0.168.0/http/server.ts";
import { createClient } from "https://esm.sh/@supabase/supabase-js@2";
import { platformEnv } from "../_shared/env.ts";
import { verifyToken } from "../_shared/token.ts";

function escapeHtml(text: string): string {
  const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (char) => entities[char]);
}

function page(title: string, body: string, status = 200): Response {
  const html = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${title}</title></head>
<body><main><h1>${title}</h1>${body}</main></body>
</html>
`;
  return new Response(html, {
    status,
    headers: {
      "Content-Type": "text/html; charset=utf-8",
      "Content-Security-Policy": "default-src 'none'; form-action 'self'",
      "Referrer-Policy": "no-referrer", // the address holds the token
      "Cache-Control": "no-store",
    },
  });
}

async function optOut(req: Request): Promise<Response> {
  if (req.method !== "GET" && req.method !== "POST") return page("Not possible", "<p>Open the link again.</p>", 405);
  const claims = await verifyToken(new URL(req.url).searchParams.get("token") ?? "", "digest-opt-out");
  if (!claims) return page("This link does not work", "<p>It is incomplete or has expired.</p>", 400);

  const profiles = createClient(platformEnv("SUPABASE_URL"), platformEnv("SUPABASE_SERVICE_ROLE_KEY"), {
    auth: { persistSession: false, autoRefreshToken: false },
  }).from("profiles");
  const { data: profile } = req.method === "POST"
    ? await profiles.update({ digest_opt_out: true }).eq("id", claims.sub).select("email").maybeSingle().throwOnError()
    : await profiles.select("email").eq("id", claims.sub).maybeSingle().throwOnError();
  if (!profile) return page("Unknown user", "<p>This address gets no digest.</p>", 404);

  const email = escapeHtml(profile.email);
  if (req.method === "POST") return page("Unsubscribed", `<p>${email} gets no more daily digests.</p>`);
  return page(
    "Unsubscribe",
    `<form method="post"><p>No more daily digests for ${email}?</p><button>Unsubscribe</button></form>`,
  );
}

serve((req: Request) =>
  optOut(req).catch((error) => {
    console.error("opting out failed:", error);
    return page("Something went wrong", "<p>Please try again later.</p>", 500);
  })
);
