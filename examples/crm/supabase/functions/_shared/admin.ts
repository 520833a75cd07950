import { createClient, type SupabaseClient } from "https://esm.sh/@supabase/supabase-js@2";
import { platformEnv } from "./env.ts";

let client: SupabaseClient | undefined;

/** The service-role client, made on first use so that a missing key fails the request and not the boot. */
export function admin(): SupabaseClient {
  client ??= createClient(platformEnv("SUPABASE_URL"), platformEnv("SUPABASE_SERVICE_ROLE_KEY"), {
    auth: { persistSession: false, autoRefreshToken: false },
  });
  return client;
}
