// Uses the running example as an application would: `cd scripts && npm install && node try.mjs`.
// Exits with 0 when everything answered as it should, else with 1.
// SUPABASE_URL, SUPABASE_ANON_KEY, SUPABASE_SERVICE_ROLE_KEY and JWT_SECRET replace the local demo values.
import assert from "node:assert/strict";
import { createHmac, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const env = process.env;
const url = env.SUPABASE_URL ?? "http://127.0.0.1:54321";
const jwtSecret = env.JWT_SECRET ?? "super-secret-jwt-token-with-at-least-32-characters-long";
const EMAILS_WITHIN_MS = 60_000;
// supabase-js wants a WebSocket even where realtime is not used, and Node 20 has none.
const options = { auth: { persistSession: false }, realtime: { transport: WebSocket } };

function mint(claims) {
  const [header, body] = [{ alg: "HS256", typ: "JWT" }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"));
  const signature = createHmac("sha256", jwtSecret).update(`${header}.${body}`).digest("base64url");
  return `${header}.${body}.${signature}`;
}

const demoKey = (role) => mint({ iss: "supabase-demo", role, exp: 1983812996 });
const anonKey = env.SUPABASE_ANON_KEY ?? demoKey("anon");
const serviceKey = env.SUPABASE_SERVICE_ROLE_KEY ?? demoKey("service_role");

/** A client signed in as one of the seeded users. */
function clientOf(user) {
  const now = Math.floor(Date.now() / 1000);
  const { id, email } = user;
  const token = mint({
    iss: `${url}/auth/v1`,
    sub: id,
    aud: "authenticated",
    role: "authenticated",
    email,
    iat: now,
    exp: now + 3600,
  });
  return createClient(url, anonKey, { ...options, global: { headers: { Authorization: `Bearer ${token}` } } });
}

const seeded = (kind, number) => `${kind}0000000-0000-4000-8000-${String(number).padStart(12, "0")}`;
const userTwo = { id: seeded(1, 2), email: "user2@crm.example" };
const me = clientOf(userTwo);
const service = createClient(url, serviceKey, options);

async function failure(result) {
  assert.ok(result.error?.context instanceof Response, `expected an HTTP error, got ${JSON.stringify(result)}`);
  return { status: result.error.context.status, body: await result.error.context.json() };
}

console.log("users: list");
const listed = await me.functions.invoke("users?limit=3", { method: "GET" });
assert.ifError(listed.error);
assert.equal(listed.data.users.length, 3);
console.log(`  ${listed.data.total} users; first ${listed.data.users[0].full_name}`);

console.log("users: a bad patch names everything that is wrong");
const refused = await failure(
  await me.functions.invoke(`users/${userTwo.id}`, { method: "PATCH", body: { full_name: "", nickname: "Bo" } }),
);
assert.equal(refused.status, 400);
assert.equal(refused.body.error.issues.length, 2);
for (const { path, message } of refused.body.error.issues) console.log(`  ${path || "(body)"}: ${message}`);

console.log("users: patch");
const patched = await me.functions.invoke(`users/${userTwo.id}`, { method: "PATCH", body: { title: "Host manager" } });
assert.ifError(patched.error);
assert.equal(patched.data.user.title, "Host manager");
console.log(`  ${patched.data.user.full_name} is now ${patched.data.user.title}`);

console.log("messages: the same call twice opens one thread");
const openThread = {
  headers: { "Idempotency-Key": `try-${randomUUID()}` },
  body: {
    action: "create_proposal_thread",
    payload: {
      proposalId: randomUUID(),
      guestId: seeded(3, 1),
      hostId: userTwo.id,
      listingId: seeded(5, 1),
      status: "sent",
    },
  },
};
const first = await service.functions.invoke("messages", openThread);
const second = await service.functions.invoke("messages", openThread);
assert.ifError(first.error ?? second.error);
assert.equal(first.data.data.thread_id, second.data.data.thread_id);
console.log(`  thread ${first.data.data.thread_id}`);

console.log("messages: users may not call it");
assert.equal((await failure(await me.functions.invoke("messages", openThread))).status, 403);

console.log("proposal: the insert starts the workflow; the host is reminded 2 s later");
const { data: proposal, error } = await me.from("proposals")
  .insert({
    listing_id: seeded(5, 1),
    guest_id: seeded(3, 1),
    host_id: userTwo.id,
    reminder_delay: "2s",
    created_by: userTwo.id,
  })
  .select("id").single();
assert.ifError(error);

async function emailsAbout(id) {
  const { data, error } = await service.from("sent_emails").select("template, to_email, subject").eq("related_id", id)
    .order("sent_at");
  assert.ifError(error);
  return data;
}
const deadline = Date.now() + EMAILS_WITHIN_MS;
let emails = [];
while ((emails = await emailsAbout(proposal.id)).length < 2 && Date.now() < deadline) await sleep(250);
for (const email of emails) console.log(`  to ${email.to_email}: ${email.subject}`);
assert.deepEqual(emails.map((email) => email.template), ["host_proposal_notice", "proposal_reminder"]);

const { data: threads } = await me.from("threads").select("id").eq("subject_id", proposal.id).throwOnError();
assert.equal(threads.length, 1);
console.log("all done");
