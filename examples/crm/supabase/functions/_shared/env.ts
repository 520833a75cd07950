type PlatformName = "SUPABASE_URL" | "SUPABASE_ANON_KEY" | "SUPABASE_SERVICE_ROLE_KEY";

/** A value that the platform provides, or its LOCAL_ stand-in. */
export function platformEnv(name: PlatformName): string {
  const value = Deno.env.get(name) ?? Deno.env.get(`LOCAL_${name}`);
  if (!value) throw new Error(`neither ${name} nor LOCAL_${name} is set`);
  return value;
}
