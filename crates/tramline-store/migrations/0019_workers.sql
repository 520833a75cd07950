-- What workers and those who queue work for them call: queue_run, enqueue_many, events, artifacts, and the names in public that
-- supabase.rpc() finds.

-- Queues a run for a worker, by default in the pull queue "ops". Returns its id: the new one, or with a known correlation id and the
-- same input the first one.
create function ops.queue_run(p_project_id text default null, p_env text default null, p_git_sha text default null, p_git_ref text default null,
  p_target text default 'pipeline', p_input jsonb default '{}', p_queue text default 'ops', p_priority int default 2,
  p_correlation_id text default null, p_run_at timestamptz default null, p_metadata jsonb default null, p_kind text default 'pipeline',
  p_source text default null, p_run_id uuid default null)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v record;
begin
  if p_priority is null or p_priority not between 0 and 3 then
    raise exception using errcode = 'TL400', message = 'a priority is 0, 1, 2 or 3';
  end if;
  if not exists (select from tramline.queues q where q.name = p_queue and q.mode = 'pull') then
    raise exception using errcode = 'TL404', message = format('no pull queue named "%s"', p_queue), detail = jsonb_build_object('queue', p_queue)::text,
      hint = 'runs of functions and workflows are started by ops.enqueue';
  end if;
  select * into v from tramline.enqueue_many(array[p_run_id], array[p_target], array[p_input], array[p_correlation_id],
    array[jsonb_strip_nulls(jsonb_build_object('queue', p_queue, 'priority', p_priority, 'kind', p_kind, 'run_at', p_run_at, 'source', p_source,
      'project_id', p_project_id, 'env', p_env, 'git_sha', p_git_sha, 'git_ref', p_git_ref)) || jsonb_build_object('metadata', p_metadata)]);
  if v.code is not null then
    perform tramline.raise_refusal(v.code, v.detail);
  end if;
  return v.run_id;
end $$;

-- Starts any number of runs, given as an array of objects: target, input, correlation_id, run_id, queue, priority, run_at, delay_ms,
-- concurrency_key, metadata, context, kind, source, triggered_by, parent_run_id, project_id, env, git_sha, git_ref. One row per run in the
-- order of the array: its id and whether it is new, or a code (TL404, TL409, TL422, with the detail) and nothing of it is kept. An
-- element that cannot be read refuses the whole call, TL400 with its place.
create function ops.enqueue_many(p_runs jsonb) returns table (ord int, run_id uuid, created boolean, code text, detail jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c_runs_max constant int := 10000;                  -- one statement and one commit, a second or two
  v jsonb;
  v_n int := 0;
begin
  if jsonb_typeof(p_runs) is distinct from 'array' then
    raise exception using errcode = 'TL400', message = 'runs are given as an array of objects';
  end if;
  if jsonb_array_length(p_runs) > c_runs_max then
    raise exception using errcode = 'TL400', message = format('at most %s runs in one call, these are %s', c_runs_max, jsonb_array_length(p_runs)),
      hint = 'send them in several calls';
  end if;
  for v in select * from jsonb_array_elements(p_runs) loop
    perform tramline.check_new_run(v, format('runs[%s]', v_n));
    v_n := v_n + 1;
  end loop;
  return query
    select m.ord, m.run_id, m.created, m.code, m.detail from (
      select array_agg((x.item ->> 'run_id')::uuid order by x.n) as ids, array_agg(x.item ->> 'target' order by x.n) as targets,
             array_agg(coalesce(nullif(x.item -> 'input', 'null'), '{}') order by x.n) as inputs,
             array_agg(x.item ->> 'correlation_id' order by x.n) as correlations,
             array_agg(jsonb_strip_nulls(x.item - array['run_id', 'target', 'input', 'correlation_id', 'metadata', 'context'])
               || jsonb_build_object('metadata', x.item -> 'metadata', 'context', x.item -> 'context') order by x.n) as opts
        from jsonb_array_elements(p_runs) with ordinality as x(item, n)) a
      cross join lateral tramline.enqueue_many(a.ids, a.targets, a.inputs, a.correlations, a.opts) m
     where a.targets is not null;
end $$;

-- Refuses what cannot be read of one element, with its place.
create function tramline.check_new_run(p jsonb, p_place text) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_known constant text[] := array['target', 'input', 'correlation_id', 'run_id', 'queue', 'priority', 'run_at', 'delay_ms', 'concurrency_key', 'metadata',
    'context', 'kind', 'source', 'triggered_by', 'parent_run_id', 'project_id', 'env', 'git_sha', 'git_ref'];
  c_delay_max constant numeric := 315576000000;      -- ten years: beyond, it is a mistake in units
  v_key text;
  v_value jsonb;
begin
  if jsonb_typeof(p) <> 'object' then
    raise exception using errcode = 'TL400', message = format('%s is no object', p_place);
  end if;
  for v_key, v_value in select * from jsonb_each(p) loop
    if v_key <> all (c_known) then
      raise exception using errcode = 'TL400', message = format('%s.%s is unknown', p_place, v_key), hint = 'known are ' || array_to_string(c_known, ', ');
    end if;
    continue when v_value = 'null' or v_key in ('input', 'metadata', 'context');
    if v_key = 'priority' then
      if v_value not in ('0', '1', '2', '3') then
        raise exception using errcode = 'TL400', message = format('%s.priority must be 0, 1, 2 or 3', p_place);
      end if;
    elsif v_key = 'delay_ms' then
      if jsonb_typeof(v_value) <> 'number' or (v_value #>> '{}')::numeric not between 0 and c_delay_max or (v_value #>> '{}')::numeric % 1 <> 0 then
        raise exception using errcode = 'TL400', message = format('%s.delay_ms must be a whole number of milliseconds, from 0 to ten years', p_place);
      end if;
    elsif jsonb_typeof(v_value) <> 'string' or v_value = '""' then
      raise exception using errcode = 'TL400', message = format('%s.%s must be a text', p_place, v_key);
    elsif v_key in ('run_id', 'parent_run_id', 'run_at') then
      begin
        perform case v_key when 'run_at' then (p ->> v_key)::timestamptz::text else (p ->> v_key)::uuid::text end;
      exception when data_exception then
        raise exception using errcode = 'TL400', message = format('%s.%s must be a %s', p_place, v_key, case v_key when 'run_at' then 'time' else 'UUID' end);
      end;
    end if;
  end loop;
end $$;

-- Is this still the claim? Asked before a worker adds to the ledger of a run; keeps the claim from being passed on until then.
create function tramline.check_fence(p_run_id uuid, p_fence bigint) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform from ops.pull_runs p where p.run_id = p_run_id and p.fence = p_fence and p.status in ('claimed', 'running') for share;
  if not found then
    perform tramline.raise_lost(p_run_id, p_fence);
  end if;
end $$;

-- Appends an event to the ledger of a run. With a fence only while that claim is held.
create function ops.append_event(p_run_id uuid, p_level text, p_message text, p_payload jsonb default '{}', p_event_type text default 'log',
  p_fence bigint default null)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_foreign boolean;
begin
  if coalesce(p_level, 'info') not in ('debug', 'info', 'warn', 'error') then
    raise exception using errcode = 'TL400', message = format('"%s" is no level', p_level), hint = 'debug, info, warn and error are';
  end if;
  select r.is_foreign into v_foreign from tramline.all_runs r where r.run_id = p_run_id;
  if not found then
    raise exception using errcode = 'TL404', message = format('no run %s', p_run_id);
  end if;
  if p_fence is not null then
    perform tramline.check_fence(p_run_id, p_fence);
  end if;
  return tramline.add_event(p_run_id, v_foreign, coalesce(p_event_type, 'log'), coalesce(p_level, 'info'),
    coalesce(p_message, p_event_type, 'log'), p_payload);
end $$;

-- Adds an artifact to a run: what it made, kept elsewhere. With a fence only while that claim is held.
create function ops.add_artifact(p_run_id uuid, p_name text, p_kind text default 'file', p_uri text default null, p_sha256 text default null,
  p_bytes bigint default null, p_metadata jsonb default null, p_validated boolean default false, p_fence bigint default null)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_id uuid;
begin
  if coalesce(p_name, '') = '' or coalesce(p_kind, '') = '' then
    raise exception using errcode = 'TL400', message = 'an artifact needs a name and a kind';
  end if;
  if p_sha256 !~ '^[0-9a-f]{64}$' then
    raise exception using errcode = 'TL400', message = 'sha256 must be 64 lower-case hexadecimal digits';
  end if;
  if p_bytes < 0 then
    raise exception using errcode = 'TL400', message = format('an artifact cannot have %s bytes', p_bytes);
  end if;
  if not exists (select from tramline.all_runs r where r.run_id = p_run_id) then
    raise exception using errcode = 'TL404', message = format('no run %s', p_run_id);
  end if;
  if p_fence is not null then
    perform tramline.check_fence(p_run_id, p_fence);
  end if;
  insert into tramline.artifacts (run_id, kind, name, uri, sha256, bytes, metadata, validated)
  values (p_run_id, p_kind, p_name, p_uri, p_sha256, p_bytes, p_metadata, coalesce(p_validated, false)) returning artifact_id into v_id;
  return v_id;
end $$;

-- The same under names that supabase.rpc() finds without naming a schema. A function of the project that has such a name stays as it is.
do $$
declare f record;
begin
  for f in select * from (values
    ('queue_run', 'p_project_id text default null, p_env text default null, p_git_sha text default null, p_git_ref text default null,
        p_target text default ''pipeline'', p_input jsonb default ''{}'', p_queue text default ''ops'', p_priority int default 2,
        p_correlation_id text default null, p_run_at timestamptz default null, p_metadata jsonb default null',
      'uuid', 'p_project_id, p_env, p_git_sha, p_git_ref, p_target, p_input, p_queue, p_priority, p_correlation_id, p_run_at, p_metadata'),
    ('claim_next_run', 'p_worker_id text, p_queue text default ''ops'', p_lease interval default ''30 minutes''', 'jsonb', 'p_worker_id, p_queue, p_lease'),
    ('append_event', 'p_run_id uuid, p_level text, p_message text, p_payload jsonb default ''{}''', 'uuid', 'p_run_id, p_level, p_message, p_payload'),
    ('finish_run', 'p_run_id uuid, p_status text, p_metadata jsonb default ''{}'', p_fence bigint default null', 'boolean',
      'p_run_id, p_status, p_metadata, p_fence')) as v(name, parameters, answer, arguments)
   where not exists (select from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = v.name)
  loop
    execute format('create function public.%1$I(%2$s) returns %3$s language sql set search_path = pg_catalog, pg_temp as $f$ select ops.%1$I(%4$s) $f$',
      f.name, f.parameters, f.answer, f.arguments);
    execute format('revoke execute on function public.%I from public, anon, authenticated', f.name);
    execute format('grant execute on function public.%I to service_role, tramline_api', f.name);
  end loop;
end $$;
