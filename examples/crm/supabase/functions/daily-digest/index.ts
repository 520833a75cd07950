// POST /daily-digest {}: sends every user a summary of their tasks, once a day.
import "jsr:@supabase/functions-js/edge-runtime.d.ts";
import { admin } from "../_shared/admin.ts";
import { cronGuard, periodOf } from "../_shared/auth.ts";
import { describeError, json } from "../_shared/http.ts";
import { signToken } from "../_shared/token.ts";

const BATCH = 100; // what send-email takes in one call
const LINK_LIFETIME_SECONDS = 30 * 24 * 3600;

interface DigestRow {
  user_id: string;
  email: string;
  full_name: string;
  overdue: number;
  due_today: number;
}

async function toEmail(row: DigestRow, day: string) {
  const exp = Math.floor(Date.now() / 1000) + LINK_LIFETIME_SECONDS;
  const token = await signToken({ sub: row.user_id, purpose: "digest-opt-out", exp });
  const functionsUrl = Deno.env.get("PUBLIC_FUNCTIONS_URL") ?? "http://127.0.0.1:54321/functions/v1";
  return {
    key: `digest:${day}:${row.user_id}`,
    to: row.email,
    subject: `Your day: ${row.due_today} due, ${row.overdue} overdue`,
    text: [
      `Good morning ${row.full_name},`,
      `${row.due_today} of your tasks are due today, ${row.overdue} are overdue.`,
      `No more of these: ${functionsUrl}/digest-opt-out?token=${token}`,
    ].join("\n\n"),
  };
}

async function sendDigests(day: string) {
  const { data: rows } = await admin().rpc("digest_rows", { p_day: day }).throwOnError();
  const totals = { day, sent: 0, already_sent: 0 };
  for (let start = 0; start < rows.length; start += BATCH) {
    const emails = await Promise.all(rows.slice(start, start + BATCH).map((row: DigestRow) => toEmail(row, day)));
    const { data, error } = await admin().functions.invoke("send-email", {
      body: { action: "send_batch", payload: { template: "daily_digest", emails } },
    });
    if (error) throw error;
    totals.sent += data.data.sent;
    totals.already_sent += data.data.already_sent;
  }
  console.log(`digest of ${day}: ${totals.sent} sent, ${totals.already_sent} sent before`);
  return totals;
}

Deno.serve(async (req) => {
  try {
    const denied = await cronGuard(req);
    if (denied) return denied;
    return json(await sendDigests(periodOf(req).toISOString().slice(0, 10)));
  } catch (cause) {
    const { status, error } = describeError(cause);
    return json({ error }, status);
  }
});
