// POST /messages {action, payload}: conversations between hosts and guests.
import "@supabase/functions-js/edge-runtime.d.ts";
import { z } from "zod";
import { actionHandler } from "../_shared/actions.ts";
import { admin } from "../_shared/admin.ts";
import { HttpError, parse } from "../_shared/http.ts";
import { insertOnce } from "../_shared/once.ts";

const ProposalThread = z.object({
  proposalId: z.string().uuid(),
  guestId: z.string().uuid(),
  hostId: z.string().uuid(),
  listingId: z.string().uuid(),
  status: z.string().min(1),
}).strict();

const Message = z.object({
  threadId: z.string().uuid(),
  author: z.enum(["system", "host", "guest"]),
  body: z.string().trim().min(1).max(5000),
}).strict();

/** Opens the thread of a proposal with a first message. Each row has its own key: a repeat fills in what is missing. */
async function createProposalThread(payload: unknown, key: string) {
  const { proposalId, guestId, hostId, listingId, status } = parse(ProposalThread, payload, "payload");
  const thread = await insertOnce("threads", {
    idempotency_key: key,
    subject_kind: "proposal",
    subject_id: proposalId,
    guest_id: guestId,
    host_id: hostId,
    listing_id: listingId,
  });
  const message = await insertOnce("messages", {
    idempotency_key: `${key}/first-message`,
    thread_id: thread.id,
    body: `The proposal was created (${status}).`,
  });
  return { thread_id: thread.id, message_id: message.id };
}

async function postMessage(payload: unknown, key: string) {
  const { threadId, author, body } = parse(Message, payload, "payload");
  const { data: thread } = await admin()
    .from("threads").select("id").eq("id", threadId).is("deleted_at", null).maybeSingle().throwOnError();
  if (!thread) throw new HttpError(404, "thread_not_found", `no thread ${threadId}`);
  const message = await insertOnce("messages", { idempotency_key: key, thread_id: threadId, author, body });
  return { message_id: message.id };
}

Deno.serve(actionHandler({
  create_proposal_thread: createProposalThread,
  post_message: postMessage,
}));
