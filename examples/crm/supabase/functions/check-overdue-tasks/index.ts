// POST /check-overdue-tasks {}: notifies assignees of open tasks that are past their due time, once per due time.
import { createClient } from "https://esm.sh/@supabase/supabase-js@2";
import { cronGuard, periodOf } from "../_shared/auth.ts";
import { platformEnv } from "../_shared/env.ts";
import { describeError, json } from "../_shared/http.ts";

const PAGE = 500;
const BEFORE_ALL_IDS = "00000000-0000-0000-0000-000000000000";

async function notifyOverdue(now: string) {
  const supabase = createClient(platformEnv("SUPABASE_URL"), platformEnv("SUPABASE_SERVICE_ROLE_KEY"), {
    auth: { persistSession: false, autoRefreshToken: false },
  });
  let [overdue, notified, last] = [0, 0, BEFORE_ALL_IDS];
  for (;;) {
    const { data: tasks } = await supabase
      .from("tasks").select("id, title, assignee_id, due_at")
      .eq("status", "open").is("deleted_at", null).lt("due_at", now).gt("id", last)
      .order("id").limit(PAGE).throwOnError();
    if (tasks.length === 0) break;
    const { data: added } = await supabase
      .from("notifications")
      .upsert(
        tasks.map((task) => ({
          dedupe_key: `task-overdue:${task.id}:${task.due_at}`,
          user_id: task.assignee_id,
          kind: "task_overdue",
          title: `Overdue: ${task.title}`,
          link: `/tasks/${task.id}`,
        })),
        { onConflict: "dedupe_key", ignoreDuplicates: true },
      )
      .select("id").throwOnError();
    overdue += tasks.length;
    notified += added.length;
    last = tasks[tasks.length - 1].id;
    if (tasks.length < PAGE) break;
  }
  return { overdue, notified };
}

Deno.serve(async (req) => {
  try {
    const denied = await cronGuard(req);
    if (denied) return denied;
    const result = await notifyOverdue(periodOf(req).toISOString());
    console.log(`${result.overdue} tasks overdue, ${result.notified} new notifications`);
    return json(result);
  } catch (cause) {
    const { status, error } = describeError(cause);
    return json({ error }, status);
  }
});
