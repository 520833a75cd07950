// POST /capture-dashboard-snapshots {}: keeps the figures of every user's dashboard, once an hour.
import { admin } from "../_shared/admin.ts";
import { cronGuard, periodOf } from "../_shared/auth.ts";
import { describeError, json } from "../_shared/http.ts";

export default {
  async fetch(req: Request): Promise<Response> {
    try {
      const denied = await cronGuard(req);
      if (denied) return denied;
      const at = periodOf(req).toISOString();
      const { data: captured } = await admin().rpc("capture_dashboard_snapshots", { p_at: at }).throwOnError();
      return json({ at, captured });
    } catch (cause) {
      const { status, error } = describeError(cause);
      return json({ error }, status);
    }
  },
};
