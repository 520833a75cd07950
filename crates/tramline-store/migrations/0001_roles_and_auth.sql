-- Roles of the platform and of tramline, and the auth functions that policies call.
-- Runs as any role with CREATEROLE: what only a superuser may do (bypassrls) is tried and, where refused, replaced by policies.

create schema if not exists ops;
create schema if not exists tramline;
create schema if not exists auth;
create schema if not exists extensions;

do $$
declare r text;
begin
  foreach r in array array['anon', 'authenticated', 'service_role', 'tramline_engine', 'tramline_api', 'tramline_dashboard'] loop
    if not exists (select from pg_roles where rolname = r) then
      begin
        execute format('create role %I nologin noinherit', r);
      exception when duplicate_object or unique_violation then null;  -- another database of the cluster made it just now
      end;
    end if;
  end loop;
  if not (select rolbypassrls from pg_roles where rolname = 'service_role') then
    begin
      alter role service_role bypassrls;
    exception
      when insufficient_privilege then null;                          -- policies below serve it then
      when internal_error then null;                                  -- another database of the cluster does it just now
    end;
  end if;
end $$;

-- The claims of the verified token; /rest/v1 sets them for every request. PostgREST's older single settings are read first.
create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim', true), ''), nullif(current_setting('request.jwt.claims', true), ''))::jsonb
$$;
create or replace function auth.uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
create or replace function auth.role() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
                  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
$$;
create or replace function auth.email() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.email', true), ''),
                  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email')
$$;

grant usage on schema auth, extensions to anon, authenticated, service_role;
grant execute on function auth.jwt(), auth.uid(), auth.role(), auth.email() to anon, authenticated, service_role;
grant usage on schema ops, tramline to anon, authenticated, service_role, tramline_engine, tramline_api, tramline_dashboard;
