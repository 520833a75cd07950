-- Enqueueing. One set-based function holds the rules; the single call, the view's trigger and the HTTP API all come here.

create type tramline.enqueue_row as (
  ord int, run_id uuid, target text, kind text, version int, input jsonb, correlation_id text, opts jsonb, code text, detail jsonb
);

-- Is an owner awake? It is when its lock can be shared; then it cannot begin to rest before this transaction has ended, and
-- finds what was inserted by itself. One that rests has to be called. The classes of the locks are those of discovery/rest.rs.
-- (Without settings of its own, so that it becomes part of the statements that ask.)
create function tramline.is_awake(p_owner uuid) returns boolean language sql volatile as $$
  select p_owner is null or pg_try_advisory_xact_lock_shared(1953653101, uuid_hash(p_owner))
$$;
-- The same of a shard whose owner nobody has looked up: who rests holds the locks of its shards too. Where it is false, tramline.wake_owners knows more.
create function tramline.is_attended(p_shard int) returns boolean language sql volatile as $$
  select pg_try_advisory_xact_lock_shared(1953653102, p_shard)
$$;
-- Calls the owners of these shards that rest; without an argument, of all shards.
create function tramline.wake_owners(p_shards int[]) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('tramline:' || o.owner, '')
     from (select distinct s.owner from tramline.shards s where p_shards is null or s.shard = any (p_shards)) o
    where not tramline.is_awake(o.owner);
end $$;
create function tramline.wake_for_commands() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform tramline.wake_owners(array(select distinct c.shard from commands_made c));
  return null;
end $$;
create trigger wake_for_commands after insert on tramline.commands referencing new table as commands_made
  for each statement execute function tramline.wake_for_commands();

-- Where a run comes from when the writer does not say: the calling function, else the role of the token, else the session's user.
create function tramline.derived_source() returns text language sql stable as $$
  select coalesce('function:' || nullif(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-tramline-function', ''),
                  'role:' || auth.role(), 'sql:' || session_user)
$$;

-- Does nobody stand behind this session, as behind the requests of /rest/v1? Then the source is the session's user, nothing has a creator and no run calls;
-- one look instead of three. (What plpgsql evaluates is set up anew in every transaction: the size of its expressions counts, not their time.)
create function tramline.is_own_session() returns boolean language sql stable as $$
  select concat(current_setting('request.headers', true), current_setting('request.jwt.claims', true), current_setting('request.jwt.claim.role', true),
                current_setting('request.jwt.claim.sub', true)) = ''
$$;

-- The run whose step made this request: the host's fetch wrapper sends its id, /rest/v1 hands the headers on.
create function tramline.calling_run() returns uuid language plpgsql stable as $$
begin
  return nullif(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-tramline-run-id', '')::uuid;
exception when others then
  return null;                                       -- not a UUID: nobody's child
end $$;

-- What may keep a run from starting, as discovery reads it: queue, limit key, group; null for most runs.
create function tramline.gate_of(p_queue text, p_limit_key text, p_group text) returns text[] language sql immutable parallel safe as $$
  select case when p_queue <> 'default' or p_limit_key is not null or p_group is not null then array[p_queue, p_limit_key, p_group] end
$$;

-- Is there a run of this id in the partitions? Not inlined on purpose: as part of a statement that hardly ever asks, opening every
-- partition would cost more than all of the rest.
create function tramline.is_in_partitions(p_id uuid, p_shard int) returns boolean language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return nullif(exists (select from tramline.runs x where x.run_id = p_id and x.shard = p_shard), false);
end $$;

-- How long correlation ids of these targets hold, for the targets that say so themselves.
create function tramline.retentions(p_target text[]) returns jsonb language sql stable set search_path = pg_catalog, pg_temp as $$
  select jsonb_object_agg(t.target, t.retention)
    from (select q.target, case when d.found then d.retention else f.retention end as retention
            from (select distinct u.target from unnest(p_target) as u(target)) q
            left join lateral (select true as found, w.retention from tramline.workflow_definitions w
                                where w.name = q.target and w.status = 'published' order by w.version desc limit 1) d on true
            left join tramline.functions f on f.name = q.target) t
   where t.retention is not null
$$;

-- What of a run cannot be, with its place; null when everything can. Sizes are looked at by what they take in memory first, which is known
-- without writing them out. Times without an end are no times, and one beyond a hundred years is a mistake in units. Without settings of its own,
-- so that it becomes part of the statements that ask.
create function tramline.unfit(p_input jsonb, p_correlation_id text, p_opts jsonb) returns text language sql stable as $$
  select case
    when pg_column_size(p_input) > 262144 and octet_length(p_input::text) > 1048576
      then 'input has more than 1048576 bytes; store it elsewhere and give its place'
    when length(p_correlation_id) > 512 then 'correlation_id has more than 512 characters'
    when length(p_opts ->> 'queue') not between 1 and 128 then 'queue must have 1 to 128 characters'
    when length(p_opts ->> 'concurrency_key') > 512 then 'concurrency_key has more than 512 characters'
    when p_opts ? 'run_at' and not (isfinite((p_opts ->> 'run_at')::timestamptz) and (p_opts ->> 'run_at')::timestamptz < now() + interval '100 years')
      then 'run_at must be a time within the next hundred years'
  end
$$;

-- Is this the input that a run was started with, number by number?
create function tramline.is_input_of(p_run_id uuid, p_input jsonb) returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from tramline.all_runs r where r.run_id = p_run_id and r.input = p_input)
$$;

-- What nearly every batch is: no correlation ids, no options but those that say who starts the run, nothing that targets ask for is missing, ids of
-- about now that are not used yet. Inserted by one plain statement; each statement costs more than what it reads. Answers what only the database knows of
-- these runs: their transaction and time, the source of those that name none, and of each target its version (null of a function's) and the policy of
-- its runs. Answers nulls and leaves nothing behind when a batch is not like that, and the long way looks at it.
-- p_given: some ids are the caller's own, and may have been used long before. p_input: texts that jsonb takes, which the caller knows.
-- p_fields: what every input has, as far as the caller knows; no input is read for what a target asks for of these.
create function tramline.enqueue_plain(p_run_id uuid[], p_target text[], p_input text[], p_opts jsonb[], p_given boolean, p_fields text[],
  out xid xid8, out queued_at timestamptz, out source text, out targets text[], out versions int[], out retries jsonb[])
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  v_targets text[] := p_target[1:1];
  v_source text;
  v_user uuid;
  v_limited boolean;
  v_asks boolean;                                    -- some target asks for more than p_fields
  v_from uuid;                                       -- the ids that have their partitions
  v_until uuid;
  v_awake boolean;
  v_now bigint;
  v_rows int;
begin
  -- One target for all is the rule, and needs no statement.
  if p_target <> array_fill(p_target[1], array[cardinality(p_target)]) then
    v_targets := array(select distinct u.target from unnest(p_target) as u(target));
  end if;
  if cardinality(p_run_id) <> cardinality(p_target) or cardinality(p_run_id) <> cardinality(p_input)
     or cardinality(p_run_id) <> cardinality(p_opts) or cardinality(v_targets) not between 1 and 100 then
    return;
  elsif tramline.is_own_session() then
    v_source := 'sql:' || session_user;
  elsif tramline.calling_run() is not null then
    return;
  else
    v_source := tramline.derived_source();
    v_user := auth.uid();
  end if;
  if p_given then
    if exists (select from tramline.runs_foreign) then
      return;
    end if;
  end if;
  select array_agg(t.name), array_agg(t.version), array_agg(t.retry), bool_or(t.is_limited), bool_or((t.required_inputs <@ p_fields) is not true),
         (array_agg(t.ids_from))[1], (array_agg(t.ids_until))[1],
         -- A batch that is not small is of all shards.
         case when cardinality(p_run_id) < 100 then (select bool_and(tramline.is_attended(tramline.shard_of(u.id))) from unnest(p_run_id) as u(id)) end
    into targets, versions, retries, v_limited, v_asks, v_from, v_until, v_awake
    from tramline.targets t where t.name = any (v_targets);
  if (cardinality(targets) = cardinality(v_targets) and not v_limited) is not true then
    return;
  end if;
  if v_asks then
    if exists (select from (select x.target, x.input::jsonb as input from unnest(p_target, p_input) as x(target, input) offset 0) u
                 join tramline.targets t on t.name = u.target
                where t.required_inputs <> '{}' and not coalesce(jsonb_typeof(u.input) = 'object' and u.input ?& t.required_inputs, false)) then
      return;
    end if;
  end if;
  if v_awake is not true then
    perform tramline.wake_owners(case when not v_awake then array(select tramline.shard_of(u.id) from unnest(p_run_id) as u(id)) end);
  end if;
  v_now := date_part('epoch', now()) * 65536000;     -- the first eight bytes of ids of now
  insert into tramline.runs (run_id, shard, kind, target, version, input, source, created_by, triggered_by, function_name, metadata, retry)
  select u.run_id, tramline.shard_of(u.run_id), case when versions[u.at] is null then 'function' else 'workflow' end, u.target, versions[u.at],
         coalesce(u.input, '{}'), coalesce(u.opts ->> 'source', v_source), coalesce((u.opts ->> 'created_by')::uuid, v_user), u.opts ->> 'triggered_by',
         case when versions[u.at] is null then u.target end, nullif(u.opts -> 'metadata', 'null'), retries[u.at]
    from (select x.*, array_position(targets, x.target) as at
            from unnest(p_run_id, p_target, p_input, p_opts) as x(run_id, target, input, opts) offset 0) u
   where (get_byte(uuid_send(u.run_id), 6) >> 4) = 7 and u.run_id >= v_from and u.run_id < v_until
     -- Of about now: yesterday's and tomorrow's at most.
     and uuid_send(u.run_id) between int8send(v_now - 5662310400000) and int8send(v_now + 5662310400000) and u.at is not null
     and coalesce(pg_column_size(u.input) <= 262144, true)
     -- Some options say more than who starts the run. (own_id matters to limits only.)
     and case when jsonb_typeof(u.opts) = 'object' then u.opts - array['own_id', 'source', 'created_by', 'triggered_by', 'metadata'] = '{}'
              else u.opts is null end
   order by u.run_id;
  get diagnostics v_rows = row_count;
  if v_rows <> cardinality(p_run_id) then
    raise exception using errcode = 'TL000', message = 'some of these runs are not plain';
  end if;
  xid := pg_current_xact_id();
  queued_at := now();
  source := v_source;
exception when unique_violation or sqlstate 'TL000' then
  -- Sent again: some of them exist. Or some are not plain, which shows here.
  targets := null;
  versions := null;
  retries := null;
end $$;

-- Enqueues any number of runs in one statement. Arrays are parallel; p_run_id, p_correlation_id and p_opts may hold nulls.
-- opts: kind, queue, priority, run_at, delay_ms, concurrency_key, source, created_by, triggered_by, parent_run_id, root_run_id, project_id, env,
-- git_sha, git_ref, context, metadata, retry; own_id = true where p_run_id is the caller's own and must not be moved to the shard of its limit.
-- One row per item: the run (new, or the first one of its correlation id), or a code: TL400 no such kind, what cannot be (detail.path), or a
-- limit that cannot be kept; TL404 unknown target; TL409 correlation id used with other input (detail.run_id names the first run); TL422
-- missing fields (detail.missing lists them all). Nothing of a refused item is kept.
-- A known correlation id is answered with its run also when the target asks for more by now: the call was accepted once.
-- Locks: correlations in key order, then runs in the order of their ids, so that two batches cannot deadlock.
create function tramline.enqueue_many(p_run_id uuid[], p_target text[], p_input jsonb[], p_correlation_id text[], p_opts jsonb[])
returns table (ord int, run_id uuid, created boolean, code text, detail jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  v_rows tramline.enqueue_row[];
  v_source text;
  v_user uuid;
  v_parent uuid;
  v_root uuid;
  v_limited boolean;                                 -- some queue or target has a limit
  v_lo uuid[];                                       -- the days that native ids may be of: is_native, once for all rows
  v_hi uuid[];
  v_retention jsonb;                                 -- how long correlation ids hold, of the targets that say so
  v_pull text[];
  v_ids uuid[];
  v_plain record;
begin
  if cardinality(array_remove(p_correlation_id, null)) = 0 then
    v_ids := case when array_position(p_run_id, null) is null then p_run_id
                  else array(select coalesce(u.id, tramline.uuid_v7()) from unnest(p_run_id) with ordinality as u(id, ord) order by u.ord) end;
    v_plain := tramline.enqueue_plain(v_ids, p_target, p_input::text[], p_opts, cardinality(array_remove(p_run_id, null)) > 0, '{}');
    if v_plain.xid is not null then
      return query select u.ord::int, u.id, true, null::text, null::jsonb from unnest(v_ids) with ordinality as u(id, ord);
      return;
    end if;
  end if;
  v_source := tramline.derived_source();
  v_user := auth.uid();
  v_parent := tramline.calling_run();
  -- Workers outside name their targets themselves: nothing of a run in a pull queue is looked up.
  v_pull := array(select q.name from tramline.queues q where q.mode = 'pull');
  select array_agg(p.lo), array_agg(p.hi) into v_lo, v_hi from tramline.native_days p;
  if v_parent is not null then
    select coalesce(r.root_run_id, r.run_id) into v_root from tramline.all_runs r where r.run_id = v_parent;
    if not found then
      v_parent := null;
    end if;
  end if;

  with targets as materialized (
    select q.target, coalesce(d.kind, f.kind) as kind, d.version, d.required, case when d.kind is null then f.retry end as retry
      from (select distinct target from unnest(p_target) as u(target)) q
      left join lateral (select 'workflow' as kind, w.version, w.required_inputs as required from tramline.workflow_definitions w
                          where w.name = q.target and w.status = 'published' order by w.version desc limit 1) d on true
      left join lateral (select 'function' as kind, f.retry from tramline.functions f where f.name = q.target) f on true)
  select array_agg(row(
           u.ord,
           case when u.run_id is not null then u.run_id
                when u.opts ->> 'concurrency_key' is not null
                  then tramline.with_tail_bits(tramline.uuid_v7(), tramline.key_bits(u.opts ->> 'concurrency_key'))
                when coalesce(u.opts ->> 'parent_run_id', v_parent::text) is not null
                  then tramline.with_tail_bits(tramline.uuid_v7(), tramline.tail_bits(coalesce((u.opts ->> 'parent_run_id')::uuid, v_parent)))
                else tramline.uuid_v7() end,
           u.target, case when u.pull then coalesce(u.opts ->> 'kind', 'external') else t.kind end, t.version, u.input, u.correlation_id,
           case when t.retry is null then u.opts else jsonb_build_object('retry', t.retry) || coalesce(u.opts, '{}') end,
           case when f.words is not null then 'TL400'
                when u.pull then case when u.opts ->> 'kind' not in ('function', 'workflow', 'pipeline', 'external') then 'TL400' end
                when t.kind is null or t.kind <> coalesce(u.opts ->> 'kind', t.kind) then 'TL404'
                when m.missing is not null then 'TL422' end,
           case when f.words is not null then jsonb_build_object('path', split_part(f.words, ' ', 1), 'message', f.words)
                when u.pull then jsonb_build_object('message', format('"%s" is no kind of a run', u.opts ->> 'kind'))
                when t.kind is null or t.kind <> coalesce(u.opts ->> 'kind', t.kind)
                  then jsonb_build_object('target', u.target)
                when m.missing is not null then jsonb_build_object('target', u.target, 'missing', m.missing) end
         )::tramline.enqueue_row order by u.ord)
    into v_rows
    from (select i.ord::int as ord, i.run_id, coalesce(i.target, case when i.opts ->> 'queue' = any (v_pull) then i.opts ->> 'queue' end) as target,
                 coalesce(i.input, '{}') as input, i.correlation_id, i.opts, coalesce(i.opts ->> 'queue' = any (v_pull), false) as pull
            from unnest(p_run_id, p_target, p_input, p_correlation_id, p_opts) with ordinality
              as i(run_id, target, input, correlation_id, opts, ord)) u
    left join targets t on t.target = u.target and not u.pull
    cross join lateral (select tramline.unfit(u.input, u.correlation_id, u.opts) as words offset 0) f
    left join lateral (select jsonb_agg(r.name order by r.name) as missing from unnest(t.required) as r(name)
                        where jsonb_typeof(u.input) <> 'object' or not u.input ? r.name) m on t.required <> '{}';

  v_limited := tramline.has_limits();
  if v_limited then
    v_rows := tramline.apply_limits(v_rows);
  end if;

  if exists (select from unnest(v_rows) r where r.correlation_id is not null) then
    v_retention := tramline.retentions(p_target);
    insert into tramline.correlations as c (shard, target, correlation_id, run_id, input_hash, expires_at)
    select tramline.key_shard(k.target || chr(31) || k.correlation_id), k.target, k.correlation_id, k.run_id,
           sha256(convert_to(k.input::text, 'UTF8')), now() + coalesce((v_retention ->> k.target)::interval, interval '30 days')
      from (select distinct on (r.target, r.correlation_id) r.target, r.correlation_id, r.run_id, r.input from unnest(v_rows) r
             where r.correlation_id is not null and r.code is null order by r.target, r.correlation_id, r.ord) k
     order by 1, 2, 3
    on conflict (shard, target, correlation_id) do update
       set run_id = excluded.run_id, input_hash = excluded.input_hash, created_at = now(), expires_at = excluded.expires_at
     where c.expires_at <= now();
    -- Read back in a statement of its own: it sees what another transaction committed while this one waited for its key.
    select array_agg(case
             when c.run_id is null then r
             when c.input_hash = sha256(convert_to(r.input::text, 'UTF8')) and c.run_id = r.run_id then r
             when c.input_hash = sha256(convert_to(r.input::text, 'UTF8'))
               then row(r.ord, c.run_id, r.target, r.kind, r.version, r.input, r.correlation_id, r.opts, 'known', null)::tramline.enqueue_row
             -- 1 and 1.0 are written differently and are the same number: what the hash cannot tell, the values do.
             when tramline.is_input_of(c.run_id, r.input)
               then row(r.ord, c.run_id, r.target, r.kind, r.version, r.input, r.correlation_id, r.opts, 'known', null)::tramline.enqueue_row
             when r.code is not null then r
             else row(r.ord, r.run_id, r.target, r.kind, r.version, r.input, r.correlation_id, r.opts, 'TL409',
                      jsonb_build_object('target', r.target, 'correlation_id', r.correlation_id, 'run_id', c.run_id))::tramline.enqueue_row
           end order by r.ord)
      into v_rows
      from (select (u).* from unnest(v_rows) u) x
      cross join lateral (select row(x.*)::tramline.enqueue_row as r) y
      cross join lateral (select (y.r).*) r
      left join tramline.correlations c on (r.code is null or r.code = 'TL422' and c.expires_at > now()) and r.correlation_id is not null
       and c.shard = tramline.key_shard(r.target || chr(31) || r.correlation_id) and c.target = r.target and c.correlation_id = r.correlation_id;
  end if;

  perform tramline.wake_owners(array(select distinct tramline.shard_of(r.run_id) from unnest(v_rows) r
                                      where r.code is null and coalesce(r.opts ->> 'queue' <> all (v_pull), true)));
  return query
  with fresh as materialized (
    select r.run_id, r.shard, r.kind, r.target, r.version, r.input, r.correlation_id,
           case when r.opts ->> 'queue' = any (v_pull) then 'pull' else 'engine' end as executor, coalesce(r.opts ->> 'queue', 'default') as queue, coalesce((r.opts ->> 'priority')::smallint, 2::smallint) as priority,
           r.opts ->> 'concurrency_key' as concurrency_key, case when v_limited then r.opts ->> 'limit_key' end as limit_key, coalesce(r.opts ->> 'source', v_source) as source,
           coalesce((r.opts ->> 'created_by')::uuid, v_user) as created_by, r.opts ->> 'triggered_by' as triggered_by,
           coalesce((r.opts ->> 'parent_run_id')::uuid, v_parent) as parent_run_id,
           case when r.opts ->> 'root_run_id' is not null then (r.opts ->> 'root_run_id')::uuid
                when r.opts ->> 'parent_run_id' is null then v_root
                else (select coalesce(x.root_run_id, x.run_id) from tramline.all_runs x where x.run_id = (r.opts ->> 'parent_run_id')::uuid limit 1)
                end as root_run_id,
           r.opts ->> 'project_id' as project_id, r.opts ->> 'env' as env, r.opts ->> 'git_sha' as git_sha, r.opts ->> 'git_ref' as git_ref,
           case when r.kind = 'function' then r.target end as function_name,
           nullif(r.opts -> 'context', 'null') as context, nullif(r.opts -> 'metadata', 'null') as metadata,
           nullif(r.opts -> 'retry', 'null') as retry,
           coalesce((r.opts ->> 'run_at')::timestamptz, now() + (r.opts ->> 'delay_ms')::bigint * interval '1 millisecond') as scheduled_at, r.native,
           -- Where an id belongs changes with time; sent again much later, it still names the run that exists.
           case when r.native then (select true from tramline.runs_foreign x where x.run_id = r.run_id and x.shard = r.shard limit 1)
                else tramline.is_in_partitions(r.run_id, r.shard) end as elsewhere
      from (select u.*, tramline.shard_of(u.run_id) as shard,
                     (get_byte(uuid_send(u.run_id), 6) >> 4) = 7
                     and exists (select from unnest(v_lo, v_hi) as w(lo, hi) where u.run_id >= w.lo and u.run_id < w.hi) as native
              from unnest(v_rows) u where u.code is null offset 0) r
     order by r.run_id, r.ord),
  a as (
    insert into tramline.runs (run_id, shard, kind, target, version, executor, input, correlation_id, queue, priority, concurrency_key, limit_key, source, created_by,
           triggered_by, parent_run_id, root_run_id, project_id, env, git_sha, git_ref, function_name, context, metadata, scheduled_at, retry)
    select f.run_id, f.shard, f.kind, f.target, f.version, f.executor, f.input, f.correlation_id, f.queue, f.priority, f.concurrency_key, f.limit_key, f.source, f.created_by,
           f.triggered_by, f.parent_run_id, f.root_run_id, f.project_id, f.env, f.git_sha, f.git_ref, f.function_name, f.context, f.metadata, f.scheduled_at, f.retry
      from fresh f where f.native and f.elsewhere is null on conflict do nothing
    returning run_id, executor, queue, priority, coalesce(scheduled_at, queued_at) as run_at),
  b as (
    insert into tramline.runs_foreign (run_id, shard, kind, target, version, executor, input, correlation_id, queue, priority, concurrency_key, limit_key, source,
           created_by, triggered_by, parent_run_id, root_run_id, project_id, env, git_sha, git_ref, function_name, context, metadata, scheduled_at, retry)
    select f.run_id, f.shard, f.kind, f.target, f.version, f.executor, f.input, f.correlation_id, f.queue, f.priority, f.concurrency_key, f.limit_key, f.source,
           f.created_by, f.triggered_by, f.parent_run_id, f.root_run_id, f.project_id, f.env, f.git_sha, f.git_ref, f.function_name, f.context, f.metadata,
           f.scheduled_at, f.retry
      from fresh f where not f.native and f.elsewhere is null on conflict do nothing
    returning run_id, executor, queue, priority, coalesce(scheduled_at, queued_at) as run_at),
  -- Where workers outside claim them, and row triggers of users see them.
  c as (
    insert into ops.pull_runs (run_id, queue, priority, run_at, is_foreign)
    select run_id, queue, priority, run_at, false from a where executor = 'pull'
    union all select run_id, queue, priority, run_at, true from b where executor = 'pull')
  select r.ord, r.run_id, n.run_id is not null and row_number() over (partition by r.run_id, r.code order by r.ord) = 1, nullif(r.code, 'known'), r.detail
    from unnest(v_rows) r
    left join (select run_id from a union all select run_id from b) n on n.run_id = r.run_id and r.code is null
   order by r.ord;
end $$;

-- Raises what enqueue_many found wrong with one item.
create function tramline.raise_refusal(p_code text, p_detail jsonb) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  case p_code
    when 'TL404' then
      raise exception using errcode = 'TL404', message = format('no workflow or function named "%s" is published', p_detail ->> 'target'),
        hint = 'publish the workflow or deploy the function first', detail = p_detail::text;
    when 'TL409' then
      raise exception using errcode = 'TL409', message = format('correlation id "%s" was used for run %s with other input',
        p_detail ->> 'correlation_id', p_detail ->> 'run_id'), hint = 'use another correlation id, or the same input', detail = p_detail::text;
    when 'TL422' then
      raise exception using errcode = 'TL422', message = format('input of "%s" lacks: %s', p_detail ->> 'target',
        (select string_agg(v, ', ') from jsonb_array_elements_text(p_detail -> 'missing') v)), detail = p_detail::text;
    else
      raise exception using errcode = p_code, message = coalesce(p_detail ->> 'message', 'refused'), detail = p_detail::text;
  end case;
end $$;

-- Starts one run and returns its id: the new one, or with a known correlation id and the same input the first one.
create function ops.enqueue(p_target text, p_input jsonb default '{}', p_correlation_id text default null, p_run_at timestamptz default null,
  p_queue text default 'default', p_priority int default 2, p_concurrency_key text default null, p_run_id uuid default null,
  p_metadata jsonb default null, p_source text default null, p_retry jsonb default null)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan as $$
declare
  v record;
begin
  if p_retry is null then
    insert into ops.runs (run_id, target, input, correlation_id, scheduled_at, queue, priority, concurrency_key, metadata, source)
    values (p_run_id, p_target, p_input, p_correlation_id, p_run_at, nullif(p_queue, 'default'), p_priority, p_concurrency_key, p_metadata, p_source)
    returning run_id into v;
    return v.run_id;
  end if;
  -- The view has no such column.
  select * into v from tramline.enqueue_many(array[p_run_id], array[p_target], array[p_input], array[p_correlation_id],
    array[jsonb_strip_nulls(jsonb_build_object('queue', p_queue, 'priority', p_priority, 'concurrency_key', p_concurrency_key, 'run_at', p_run_at,
      'source', p_source, 'retry', p_retry, 'own_id', case when p_run_id is not null then true end)) || jsonb_build_object('metadata', p_metadata)]);
  if v.code is not null then
    perform tramline.raise_refusal(v.code, v.detail);
  end if;
  return v.run_id;
end $$;

-- Asks the owner of a run for something; applied or refused by it, with an event in either case. Returns the command's id.
create function tramline.request(p_run_id uuid, p_verb text, p_args jsonb default null, p_reason text default null, p_actor text default null)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_id uuid := tramline.uuid_v7();
begin
  insert into tramline.commands (shard, command_id, subject_id, verb, args, actor, reason)
  values (tramline.shard_of(p_run_id), v_id, p_run_id::text, p_verb, p_args,
          coalesce(p_actor, auth.uid()::text, auth.role(), session_user), p_reason);
  return v_id;
end $$;
