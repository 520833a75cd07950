import { isServiceRole } from "./auth.ts";
import { describeError, HttpError, json, readJson } from "./http.ts";

/** Does the work of one action. A repeated call has the same key and must not have another effect. */
export type Action = (payload: unknown, key: string) => Promise<unknown>;

/** A handler for `{action, payload}` that answers `{success, data|error}`; for callers with the service role. */
export function actionHandler(actions: Record<string, Action>): (req: Request) => Promise<Response> {
  return async (req) => {
    try {
      if (req.method !== "POST") throw new HttpError(405, "method_not_allowed", "use POST");
      if (!await isServiceRole(req)) throw new HttpError(403, "forbidden", "the service role is needed");
      const { action, payload } = await readJson(req) as { action?: unknown; payload?: unknown } ?? {};
      if (typeof action !== "string" || !Object.hasOwn(actions, action)) {
        throw new HttpError(400, "unknown_action", `action must be one of ${Object.keys(actions).join(", ")}`);
      }
      const key = req.headers.get("Idempotency-Key") ?? crypto.randomUUID();
      return json({ success: true, data: await actions[action](payload, key) });
    } catch (cause) {
      const { status, error } = describeError(cause);
      return json({ success: false, error }, status);
    }
  };
}
