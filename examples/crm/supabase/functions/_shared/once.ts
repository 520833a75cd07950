import { admin } from "./admin.ts";

const UNIQUE_VIOLATION = "23505";

/** Inserts a row unless one with its idempotency_key exists, and tells the id of the one that does. */
export async function insertOnce(
  table: string,
  row: { idempotency_key: string } & Record<string, unknown>,
): Promise<{ id: string; created: boolean }> {
  const { data, error } = await admin().from(table).insert(row).select("id").single();
  if (!error) return { id: data.id, created: true };
  if (error.code !== UNIQUE_VIOLATION) throw error;
  const { data: existing } = await admin()
    .from(table).select("id").eq("idempotency_key", row.idempotency_key).single().throwOnError();
  return { id: existing.id, created: false };
}
