-- Deployed functions: their versions, what every node of a cluster serves, the secrets they run with, and who may deploy.

-- Twenty lower-case letters that name this project in the platform's management API; so a client with the address of another node is told.
insert into tramline.settings
  select 'project_ref', to_jsonb(string_agg(chr(97 + get_byte(r.bytes, g.i) % 26), ''))
    from (select sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')) as bytes) r, generate_series(0, 19) as g(i);

-- Contents of sources and bundles by their hash: versions share what did not change.
create table tramline.function_blobs (
  sha256 bytea primary key check (sha256 = sha256(content)),
  content bytea not null
);

-- Only inserted into and deleted from.
create table tramline.function_versions (
  name text not null,
  version int not null,                              -- never used twice, also not after the function was deleted
  sources_sha256 bytea not null,                     -- of all files and the configuration
  bundle_sha256 bytea not null,                      -- in function_blobs
  config jsonb not null,                             -- entry file, import map, patterns of static files, guard, settings
  dependencies jsonb not null,                       -- packages that went into the bundle
  created_by text not null,
  created_at timestamptz not null default now(),
  primary key (name, version)
);

create function tramline.refuse_update() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'TL409', message = format('rows of %s never change', tg_table_name);
end $$;
create trigger refuse_update before update on tramline.function_versions for each row execute function tramline.refuse_update();

-- The sources as they were uploaded.
create table tramline.function_files (
  name text not null,
  version int not null,
  path text not null,
  sha256 bytea not null,                             -- in function_blobs
  is_static boolean not null,                        -- read at run time
  primary key (name, version, path)
);
create index function_files_sha256 on tramline.function_files (sha256);
create index function_versions_bundle on tramline.function_versions (bundle_sha256);

-- The version that calls run.
create table tramline.active_functions (
  name text primary key,
  version int not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table tramline.function_events (
  event_id bigint generated always as identity primary key,
  name text not null,
  event text not null check (event in ('deployed', 'activated', 'deleted')),
  version int not null,
  previous int,                                      -- the version that was active before
  actor text not null,
  created_at timestamptz not null default clock_timestamp()
);
create index function_events_name on tramline.function_events (name, event_id);

-- Values are sealed by the nodes; the key is not in the database.
create table tramline.function_secrets (
  name text primary key,
  sealed bytea not null,
  digest text not null,                              -- SHA-256 (hex) of the value, shown in lists as on the platform
  updated_by text not null,
  updated_at timestamptz not null default now()
);

-- One number that rises with every change of what nodes serve; they compare it.
create table tramline.function_changes (count bigint not null);
insert into tramline.function_changes (count) values (0);

create table tramline.access_tokens (
  token_id uuid primary key default gen_random_uuid(),
  name text not null check (name ~ '^[a-zA-Z0-9][a-zA-Z0-9_. -]{0,63}$'),
  sha256 bytea not null unique check (length(sha256) = 32),
  created_by text not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz,                            -- null: does not expire
  revoked_at timestamptz
);

-- Every change of deployed functions takes this lock first: versions are numbered in order, and contents are not removed while a version that
-- names them is being stored.
create function tramline.lock_functions() returns void language sql set search_path = pg_catalog, pg_temp as $$
  select pg_advisory_xact_lock(hashtext('tramline.functions'))
$$;

-- Tells all nodes, when this transaction commits.
create function tramline.functions_changed() returns void language sql set search_path = pg_catalog, pg_temp as $$
  update tramline.function_changes set count = count + 1;
  select pg_notify('tramline_functions', '')
$$;

-- Stores a version that is not active yet and returns its number; one with the same sources and bundle is found again. p_contents holds what
-- the database may lack. Older versions than the p_kept newest go, unless they are active or were so last.
create function tramline.store_function_version(p_name text, p_sources_sha256 bytea, p_bundle_sha256 bytea, p_config jsonb, p_dependencies jsonb,
  p_paths text[], p_hashes bytea[], p_static boolean[], p_contents bytea[], p_actor text, p_kept int)
returns table (version int, created boolean) language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_version int;
begin
  perform tramline.lock_functions();
  select max(v.version) into v_version from tramline.function_versions v
    where v.name = p_name and v.sources_sha256 = p_sources_sha256 and v.bundle_sha256 = p_bundle_sha256;
  if v_version is not null then
    return query select v_version, false;
    return;
  end if;
  select 1 + greatest(coalesce(max(v.version), 0), coalesce((select max(e.version) from tramline.function_events e where e.name = p_name), 0))
    into v_version from tramline.function_versions v where v.name = p_name;
  insert into tramline.function_blobs (sha256, content)
    select distinct on (sha256(c)) sha256(c), c from unnest(p_contents) c on conflict do nothing;
  insert into tramline.function_versions (name, version, sources_sha256, bundle_sha256, config, dependencies, created_by)
    values (p_name, v_version, p_sources_sha256, p_bundle_sha256, p_config, p_dependencies, p_actor);
  insert into tramline.function_files (name, version, path, sha256, is_static)
    select p_name, v_version, f.path, f.sha256, f.is_static from unnest(p_paths, p_hashes, p_static) as f(path, sha256, is_static);
  insert into tramline.function_events (name, event, version, actor) values (p_name, 'deployed', v_version, p_actor);
  perform tramline.forget_function_versions(p_name, array(
    select v.version from tramline.function_versions v
      where v.name = p_name and v.version not in (select a.version from tramline.active_functions a where a.name = p_name)
        and v.version is distinct from tramline.previous_function_version(p_name)
      order by v.version desc offset p_kept));
  return query select v_version, true;
end $$;

-- The version that was active before the one that is, or null.
create function tramline.previous_function_version(p_name text) returns int language sql stable set search_path = pg_catalog, pg_temp as $$
  select e.previous from tramline.function_events e join tramline.active_functions a on a.name = e.name and a.version = e.version
    where e.name = p_name and e.event = 'activated' order by e.event_id desc limit 1
$$;

-- Removes versions with all that only they had. The caller holds the lock.
create function tramline.forget_function_versions(p_name text, p_versions int[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_events constant int := 200;                      -- kept per function: years of deploys, a page to read
begin
  with gone as (delete from tramline.function_files f where f.name = p_name and f.version = any (p_versions) returning f.sha256),
       unbound as (delete from tramline.function_versions v where v.name = p_name and v.version = any (p_versions) returning v.bundle_sha256)
  delete from tramline.function_blobs b where b.sha256 in (select sha256 from gone union select bundle_sha256 from unbound)
    and not exists (select from tramline.function_files f where f.sha256 = b.sha256 and (f.name, f.version) not in (select p_name, unnest(p_versions)))
    and not exists (select from tramline.function_versions v where v.bundle_sha256 = b.sha256 and (v.name, v.version) not in (select p_name, unnest(p_versions)));
  delete from tramline.function_events e where e.name = p_name and e.event_id <
    (select k.event_id from tramline.function_events k where k.name = p_name order by k.event_id desc offset c_events limit 1);
end $$;

-- Makes versions active, all or none. Returns the functions whose active version is another now.
create function tramline.activate_functions(p_names text[], p_versions int[], p_actor text)
returns setof text language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_missing text;
begin
  perform tramline.lock_functions();
  select format('function "%s" has no version %s', w.name, w.version) into v_missing from unnest(p_names, p_versions) as w(name, version)
    where not exists (select from tramline.function_versions v where v.name = w.name and v.version = w.version) limit 1;
  if v_missing is not null then
    raise exception using errcode = 'TL404', message = v_missing;
  end if;
  return query
    with wanted as (select distinct on (w.name) w.name, w.version, a.version as previous
           from unnest(p_names, p_versions) with ordinality as w(name, version, at) left join tramline.active_functions a on a.name = w.name
           order by w.name, w.at desc),
         changed as (insert into tramline.active_functions as a (name, version) select w.name, w.version from wanted w
           on conflict (name) do update set version = excluded.version, updated_at = clock_timestamp() where a.version <> excluded.version
           returning a.name, a.version),
         told as (insert into tramline.function_events (name, event, version, previous, actor)
           select c.name, 'activated', c.version, w.previous, p_actor from changed c join wanted w on w.name = c.name returning name)
    select t.name from told t;
  if found then
    perform tramline.functions_changed();
  end if;
end $$;

-- Forgets a function with all its versions. False when it is not deployed.
create function tramline.delete_function(p_name text, p_actor text) returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_version int;
begin
  perform tramline.lock_functions();
  delete from tramline.active_functions a where a.name = p_name returning a.version into v_version;
  if not found then
    return false;
  end if;
  insert into tramline.function_events (name, event, version, previous, actor)
    select p_name, 'deleted', max(v.version), v_version, p_actor from tramline.function_versions v where v.name = p_name;
  perform tramline.forget_function_versions(p_name, array(select v.version from tramline.function_versions v where v.name = p_name));
  perform tramline.functions_changed();
  return true;
end $$;

-- Sets secrets, all or none; at most p_max of them.
create function tramline.set_function_secrets(p_names text[], p_sealed bytea[], p_digests text[], p_actor text, p_max int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform tramline.lock_functions();
  insert into tramline.function_secrets as s (name, sealed, digest, updated_by)
    select w.name, w.sealed, w.digest, p_actor from unnest(p_names, p_sealed, p_digests) as w(name, sealed, digest)
    on conflict (name) do update set sealed = excluded.sealed, digest = excluded.digest, updated_by = excluded.updated_by, updated_at = clock_timestamp();
  if (select count(*) from tramline.function_secrets) > p_max then
    raise exception using errcode = 'TL422', message = format('a project has at most %s secrets', p_max);
  end if;
  perform tramline.functions_changed();
end $$;

create function tramline.unset_function_secrets(p_names text[]) returns bigint language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_count bigint;
begin
  perform tramline.lock_functions();
  delete from tramline.function_secrets s where s.name = any (p_names);
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform tramline.functions_changed();
  end if;
  return v_count;
end $$;

create view ops.function_versions with (security_invoker = true) as
select v.name, v.version, a.version is not null as active, encode(v.sources_sha256, 'hex') as sources_sha256, encode(v.bundle_sha256, 'hex') as bundle_sha256,
       v.config, v.dependencies, v.created_by, v.created_at
  from tramline.function_versions v left join tramline.active_functions a on a.name = v.name and a.version = v.version;
create view ops.function_events with (security_invoker = true) as
select event_id, name, event, version, previous, actor, created_at from tramline.function_events;

-- Nodes only: what runs, with what secrets, and who may change it.
do $$
declare t text;
begin
  foreach t in array array['function_blobs', 'function_versions', 'function_files', 'active_functions', 'function_events', 'function_secrets',
                           'function_changes', 'access_tokens'] loop
    execute format('alter table tramline.%I enable row level security', t);
    execute format('create policy engine on tramline.%I to tramline_engine using (true) with check (true)', t);
    execute format('grant select, insert, update, delete on tramline.%I to tramline_engine', t);
  end loop;
  -- what is no secret may be read
  foreach t in array array['function_versions', 'active_functions', 'function_events'] loop
    execute format('create policy api on tramline.%I for select to tramline_api, service_role using (true)', t);
    execute format('create policy dashboard on tramline.%I for select to tramline_dashboard using (true)', t);
    execute format('grant select on tramline.%I to tramline_api, tramline_dashboard, service_role', t);
  end loop;
end $$;
grant select on ops.function_versions, ops.function_events to service_role, tramline_engine, tramline_api, tramline_dashboard;
revoke execute on function tramline.refuse_update(), tramline.lock_functions(), tramline.functions_changed(), tramline.previous_function_version(text),
  tramline.store_function_version(text, bytea, bytea, jsonb, jsonb, text[], bytea[], boolean[], bytea[], text, int),
  tramline.forget_function_versions(text, int[]), tramline.activate_functions(text[], int[], text), tramline.delete_function(text, text),
  tramline.set_function_secrets(text[], bytea[], text[], text, int), tramline.unset_function_secrets(text[]) from public;
grant execute on function tramline.refuse_update(), tramline.lock_functions(), tramline.functions_changed(), tramline.previous_function_version(text),
  tramline.store_function_version(text, bytea, bytea, jsonb, jsonb, text[], bytea[], boolean[], bytea[], text, int),
  tramline.forget_function_versions(text, int[]), tramline.activate_functions(text[], int[], text), tramline.delete_function(text, text),
  tramline.set_function_secrets(text[], bytea[], text[], text, int), tramline.unset_function_secrets(text[]) to tramline_engine;
