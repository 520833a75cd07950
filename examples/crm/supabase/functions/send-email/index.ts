// POST /send-email {action, payload}: hands e-mails to the mail catcher, the table sent_emails.
import "jsr:@supabase/functions-js/edge-runtime.d.ts";
import { z } from "npm:zod@3.25.76";
import { actionHandler } from "../_shared/actions.ts";
import { admin } from "../_shared/admin.ts";
import { parse } from "../_shared/http.ts";
import { insertOnce } from "../_shared/once.ts";

const Mail = z.object({
  to: z.string().email(),
  subject: z.string().min(1).max(200),
  text: z.string().min(1).max(50_000),
}).strict();

const Batch = z.object({
  template: z.string().min(1).max(50),
  emails: z.array(Mail.extend({ key: z.string().min(1).max(200) })).min(1).max(100),
}).strict();

const ProposalMail = z.object({
  to: z.string().email(),
  guestName: z.string().min(1),
  listingName: z.string().min(1),
  proposalId: z.string().uuid().optional(),
}).strict();

const ProposalReminder = ProposalMail.required({ proposalId: true });

/** The row of one e-mail. */
function toRow(mail: z.infer<typeof Mail>, template: string, key: string, relatedId?: string) {
  const from = Deno.env.get("MAIL_FROM") ?? "CRM <crm@crm.example>";
  return {
    idempotency_key: key,
    template,
    to_email: mail.to,
    subject: mail.subject,
    text_body: `From: ${from}\n\n${mail.text}`,
    related_id: relatedId ?? null,
  };
}

async function deliver(mail: z.infer<typeof Mail>, template: string, key: string, relatedId?: string) {
  const { id, created } = await insertOnce("sent_emails", toRow(mail, template, key, relatedId));
  return { email_id: id, already_sent: !created };
}

function send(payload: unknown, key: string) {
  return deliver(parse(Mail, payload, "payload"), "plain", key);
}

/** Many e-mails in one call, each with a key of its own. */
async function sendBatch(payload: unknown) {
  const { template, emails } = parse(Batch, payload, "payload");
  const rows = emails.map(({ key, ...mail }) => toRow(mail, template, key));
  const { data } = await admin()
    .from("sent_emails").upsert(rows, { onConflict: "idempotency_key", ignoreDuplicates: true })
    .select("id").throwOnError();
  return { sent: data.length, already_sent: rows.length - data.length };
}

function sendHostProposalNotice(payload: unknown, key: string) {
  const { to, guestName, listingName, proposalId } = parse(ProposalMail, payload, "payload");
  const text = `${guestName} is waiting for your answer about ${listingName}.`;
  return deliver({ to, subject: `New proposal for ${listingName}`, text }, "host_proposal_notice", key, proposalId);
}

/** Reminds the host, unless the proposal has been answered or deleted meanwhile. */
async function sendProposalReminder(payload: unknown, key: string) {
  const { to, guestName, listingName, proposalId } = parse(ProposalReminder, payload, "payload");
  const { data: proposal } = await admin()
    .from("proposals").select("status, deleted_at").eq("id", proposalId).maybeSingle().throwOnError();
  if (proposal && (proposal.status !== "sent" || proposal.deleted_at)) {
    return { skipped: true, reason: proposal.deleted_at ? "deleted" : proposal.status };
  }
  const text = `${guestName} is still waiting for your answer about ${listingName}.`;
  return deliver({ to, subject: `Reminder: proposal for ${listingName}`, text }, "proposal_reminder", key, proposalId);
}

Deno.serve(actionHandler({
  send,
  send_batch: sendBatch,
  send_host_proposal_notice: sendHostProposalNotice,
  send_proposal_reminder: sendProposalReminder,
}));
