-- Limits. A run has at most one limit key, chosen when it is inserted: "queue:<name>" when its queue has a limit, "target:<name>" or
-- "target:<name>:<value>" when its workflow or function has one. The run's id carries the hash of the key, so that all runs of a key
-- are in one shard, whose owner counts them alone. What needs two keys cannot be exact and is refused here, with the reason.

-- Limits that workflows and functions declare, compiled: the rule for the owner, the path of the key for this file.
create table tramline.target_limits (
  target text primary key,
  key_path text[],                                   -- in the input; null = all runs of the target share one key
  rule jsonb not null,
  revision bigint not null,                          -- rises over all rows, so that owners notice a change
  updated_at timestamptz not null default now()
);
create sequence tramline.limit_revision;
create trigger target_changed after insert or delete on tramline.target_limits
  for each row execute function tramline.target_changed();

-- A change of a limit or a pause is told to all owners: a queue that was paused starts nothing for another second.
create function tramline.tell_limits() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_notify('tramline:limits', '');
  return null;
end $$;
create trigger tell_limits after insert or update or delete on tramline.target_limits
  for each statement execute function tramline.tell_limits();
create trigger tell_limits after insert or update or delete on tramline.queues
  for each statement execute function tramline.tell_limits();

-- Runs that have their place: inserted before the first call, deleted with the end. What a new owner finds here is occupied.
create table tramline.limit_claims (
  shard int not null,
  run_id uuid not null,
  limit_key text not null,
  epoch bigint not null,                             -- the ownership under which it got its place
  node text,
  started_at timestamptz not null default now(),
  primary key (shard, run_id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
-- Who has the places of a key: asked by people and by the look for what is stuck.
create index limit_claims_by_key on tramline.limit_claims (shard, limit_key);

-- State of rates: written with the claim of the run that changed it, read at a takeover, worth nothing when it has expired.
create table tramline.limits (
  shard int not null,
  limit_key text not null,
  state jsonb not null,
  expires_at timestamptz not null,
  primary key (shard, limit_key)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index limits_expiry on tramline.limits (expires_at);

-- How many claims the rate of a queue allows at a time, and from when on it is counted (microseconds since 1970). The bucket is that of
-- the engine's rates, empty at a time that is kept in tramline.limits.
create function tramline.claim_room(p_queue tramline.queues, p_now timestamptz, out room bigint, out from_us bigint, out interval_us bigint)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select greatest(0, floor((n.us - b.from_us)::numeric / i.us)::bigint + i.burst), b.from_us, i.us
    from (select ceil(p_queue.rate_per_ms * 1000.0 / p_queue.rate_count)::bigint as us, coalesce(p_queue.rate_burst, p_queue.rate_count) as burst) i
   cross join (select (extract(epoch from p_now) * 1000000)::bigint as us) n
    left join tramline.limits l on l.limit_key = 'queue:' || p_queue.name and l.shard = tramline.key_shard('queue:' || p_queue.name)
   -- A rate that was made slower since, or a clock that went back: it is full, and no more than that.
   cross join lateral (select greatest(n.us, least(coalesce((l.state ->> 'empty_at_us')::bigint, 0), n.us + i.us * i.burst)) as from_us) b
$$;

-- Does any limit exist at all? Asked by every insert: two small tables.
create function tramline.has_limits() returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from tramline.target_limits)
      or exists (select from tramline.queues q where q.mode = 'engine' and (q.concurrency is not null or q.rate_count is not null))
$$;

-- Gives each row of a batch its limit key (opts.limit_key) and an id in the key's shard, or a refusal.
create function tramline.apply_limits(p_rows tramline.enqueue_row[]) returns tramline.enqueue_row[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_agg(row(r.ord,
           case when k.key is null or r.code is not null or v.code is not null or (r.opts ->> 'own_id')::boolean then r.run_id
                else tramline.with_tail_bits(r.run_id, tramline.key_bits(k.key)) end,
           r.target, r.kind, r.version, r.input, r.correlation_id,
           case when k.key is null then r.opts - 'limit_key' else coalesce(r.opts, '{}') || jsonb_build_object('limit_key', k.key) end,
           coalesce(r.code, v.code), case when r.code is null then v.detail else r.detail end)::tramline.enqueue_row order by r.ord)
    from (select u.*, coalesce(u.opts ->> 'queue', 'default') as queue from unnest(p_rows) u) r
    left join tramline.queues q on q.name = r.queue and q.mode = 'engine' and (q.concurrency is not null or q.rate_count is not null)
    left join tramline.queues outside on outside.name = r.queue and outside.mode = 'pull'
    -- Workers outside execute what is in a pull queue: the claim keeps its limit, a target's is not asked.
    left join tramline.target_limits t on t.target = r.target and outside.name is null
    cross join lateral (select coalesce(r.opts ->> 'concurrency_key', case when jsonb_typeof(r.input #> t.key_path) <> 'null' then r.input #>> t.key_path end)
                          as value) w
    cross join lateral (select case when q.name is not null then 'queue:' || q.name
                                    when t.target is null then null
                                    when w.value is null then 'target:' || t.target
                                    else 'target:' || t.target || ':' || w.value end as key) k
    cross join lateral (select case
        when q.name is not null and t.target is not null then 'TL400'
        when q.name is null and t.key_path is not null and w.value is null then 'TL422'
        when q.name is null and t.target is not null and octet_length(w.value) > 256 then 'TL400'
        when q.name is null and t.target is not null and r.opts ->> 'concurrency_key' is null
             and jsonb_typeof(r.input #> t.key_path) in ('object', 'array') then 'TL400'
        when k.key is not null and (r.opts ->> 'own_id')::boolean and tramline.shard_of(r.run_id) <> tramline.key_shard(k.key) then 'TL400'
      end as code) c
    cross join lateral (select c.code, case
        when c.code = 'TL422' then jsonb_build_object('target', r.target, 'missing', jsonb_build_array(array_to_string(t.key_path, '.')))
        when q.name is not null and t.target is not null then jsonb_build_object('target', r.target, 'message',
             format('"%s" has a limit of its own and queue "%s" has one too; a run is counted exactly under one key only: use another queue', r.target, q.name))
        when octet_length(w.value) > 256 then jsonb_build_object('target', r.target, 'message',
             format('the limit key of "%s" has %s bytes, at most 256 can be kept', r.target, octet_length(w.value)))
        when jsonb_typeof(r.input #> t.key_path) in ('object', 'array') and r.opts ->> 'concurrency_key' is null then
             jsonb_build_object('target', r.target, 'message',
             format('the limit key of "%s" is at "%s" of the input, which must be a text, a number or a boolean there', r.target,
                    array_to_string(t.key_path, '.')))
        when c.code is not null then jsonb_build_object('target', r.target, 'message',
             format('run id %s is not in the shard of its limit key "%s"; leave the id out, or make one whose last ten bits are %s', r.run_id, k.key,
                    tramline.key_bits(k.key)))
      end as detail) v
$$;

-- Claims, ends of claims and the states of rates that a flush brings, under its locks and in its transaction.
create function tramline.flush_limits(p_node text, p_held int[], p_epochs bigint[], p jsonb)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if p ? 'done' then
    delete from tramline.limit_claims c using jsonb_array_elements_text(p -> 'done') as r(run_id)
     where c.run_id = r.run_id::uuid and c.shard = tramline.shard_of(r.run_id::uuid) and c.shard = any (p_held);
  end if;
  if p ? 'claims' then
    insert into tramline.limit_claims (shard, run_id, limit_key, epoch, node)
    select tramline.shard_of(r.run_id), r.run_id, r.limit_key, p_epochs[tramline.shard_of(r.run_id) + 1], p_node
      from jsonb_to_recordset(p -> 'claims') as r(run_id uuid, limit_key text)
     where tramline.shard_of(r.run_id) = any (p_held) on conflict do nothing;
  end if;
  if p ? 'states' then
    insert into tramline.limits as l (shard, limit_key, state, expires_at)
    select tramline.key_shard(r.limit_key), r.limit_key, r.state, r.expires_at
      from jsonb_to_recordset(p -> 'states') as r(limit_key text, state jsonb, expires_at timestamptz)
     where tramline.key_shard(r.limit_key) = any (p_held) order by 1, 2
    on conflict (shard, limit_key) do update set state = excluded.state, expires_at = excluded.expires_at;
  end if;
end $$;

-- The key of a run of a schedule that is inserted now, or why it cannot be: what enqueueing it would find. place: what of the schedule is wrong.
create function tramline.schedule_key(p_target text, p_queue text, p_input jsonb, out limit_key text, out problem text, out place text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select case when r.code is null then r.opts ->> 'limit_key' end,
         case when r.code = 'TL422' then format('its input has no "%s", by which "%s" is limited', r.detail #>> '{missing,0}', p_target)
              when r.code is not null then r.detail ->> 'message' end,
         case when r.code is null then null when q.name is not null then 'queue' else 'input' end
    from unnest(tramline.apply_limits(array[row(1, '00000000-0000-0000-0000-000000000000', p_target, null, null, p_input, null,
                                                jsonb_build_object('queue', p_queue), null, null)::tramline.enqueue_row])) r
    left join tramline.queues q on q.name = p_queue and q.mode = 'engine' and (q.concurrency is not null or q.rate_count is not null)
   where tramline.has_limits()
$$;

-- Refuses a schedule whose runs could not be inserted, or whose periods would have to wait for each other: the runs of a limited target are in
-- the shards of their keys, and who owns these does not know what else the schedule has going on.
create function tramline.check_schedule_limit(p_name text, p_target text, p_queue text, p_input jsonb, p_overlap text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare k record;
begin
  select * into k from tramline.schedule_key(p_target, p_queue, p_input);
  if k.problem is not null then
    raise exception using errcode = 'TL400', message = format('schedule "%s" cannot start "%s": %s', p_name, p_target, k.problem),
      detail = jsonb_build_object('path', k.place)::text;
  elsif k.limit_key is not null and p_overlap <> 'allow' then
    raise exception using errcode = 'TL400',
      message = format('schedule "%s" cannot have the overlap policy "%s": its runs are limited by the key "%s", which alone says which of them go at once',
                       p_name, p_overlap, k.limit_key), detail = '{"path": "overlap"}',
      hint = 'leave overlap out; a limit with "concurrency": 1 and "on_conflict": "queue", "skip" or "cancel_older" does the same';
  end if;
end $$;

-- A limit has come, changed or gone: the schedules that it is about must fit it, and their owners must know whether there is one.
create function tramline.tell_limited_schedules(p_target text, p_queue text, p_came_or_went boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare s record;
begin
  select x.name, coalesce(k.problem, format('its overlap policy is "%s", and only the limit may say which of its runs go at once', x.overlap)) as problem into s
    from tramline.schedules x cross join lateral tramline.schedule_key(x.target, x.queue, x.input) k
   where (x.target = p_target or x.queue = p_queue) and (k.problem is not null or k.limit_key is not null and x.overlap <> 'allow') order by x.name limit 1;
  if found then
    raise exception using errcode = 'TL400',
      message = format('%s cannot have this limit while schedule "%s" uses it: %s',
                       case when p_target is null then format('queue "%s"', p_queue) else format('"%s"', p_target) end, s.name, s.problem),
      hint = 'change the schedule first';
  end if;
  if p_came_or_went then
    update tramline.schedules x set revision = x.revision + 1 where x.target = p_target or x.queue = p_queue;
  end if;
end $$;

-- Declares (or with null takes back) the limit of a workflow or function: {"key": ["customer", "id"], "concurrency": 1, ...} as compiled.
-- Runs that are there keep the key that they were inserted with; what is allowed to it changes at once. True when something changed.
create function tramline.set_target_limit(p_target text, p_limit jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_path text[] := (select array_agg(x) from jsonb_array_elements_text(case jsonb_typeof(p_limit -> 'key') when 'array' then p_limit -> 'key' else '[]' end) x);
  v_had boolean := exists (select from tramline.target_limits t where t.target = p_target);
  v_changed boolean;
begin
  if p_limit is null then
    delete from tramline.target_limits where target = p_target;
    if v_had then
      perform tramline.tell_limited_schedules(p_target, null, true);
    end if;
    return v_had;
  end if;
  insert into tramline.target_limits as t (target, key_path, rule, revision)
  values (p_target, v_path, p_limit - 'key', nextval('tramline.limit_revision'))
  on conflict (target) do update set key_path = excluded.key_path, rule = excluded.rule, revision = excluded.revision, updated_at = now()
   where (t.key_path, t.rule) is distinct from (excluded.key_path, excluded.rule);
  v_changed := found;
  if v_changed then
    perform tramline.tell_limited_schedules(p_target, null, not v_had);
  end if;
  return v_changed;
end $$;

-- Stores a compiled definition together with the limit that it declares, or none: no run of it is ever accepted under another one.
create function tramline.publish_definition(p_name text, p_definition jsonb, p_checksum text, p_required text[], p_by text, p_limit jsonb)
returns table (version int, created boolean) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtext('tramline.definition'), hashtext(p_name));
  perform tramline.set_target_limit(p_name, p_limit);
  return query select s.version, s.created from tramline.store_definition(p_name, p_definition, p_checksum, p_required, p_by) s;
end $$;
-- The same for one that was inserted by hand. What is settled already changes nothing.
create function tramline.publish_submitted(p_name text, p_version int, p_checksum text, p_required text[], p_limit jsonb)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtext('tramline.definition'), hashtext(p_name));
  if exists (select from tramline.workflow_definitions d where d.name = p_name and d.version = p_version and d.status = 'submitted') then
    perform tramline.set_target_limit(p_name, p_limit);
    perform tramline.settle_definition(p_name, p_version, p_checksum, p_required);
  end if;
end $$;

-- Makes a queue, or changes what p_settings names: mode, concurrency, rate {count, per, burst}, fifo, claims_max (of a pull queue: so many
-- claims of a run may be lost), paused, description. null takes a limit away. p_create: true = it must be new, false = it must exist. A limit holds for the runs that are inserted from then on; those that were
-- there before are not counted. p_reason and p_actor are kept in ops.changes; without an actor it is whoever is connected.
create function ops.set_queue(p_name text, p_settings jsonb default '{}', p_create boolean default null, p_reason text default null,
  p_actor text default null) returns ops.queues
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v tramline.queues;
  v_out ops.queues;
  v_key text;
  v_rate jsonb := p_settings -> 'rate';
  v_per interval;
  v_had boolean;
  v_limited boolean;
  v_new boolean := false;
  v_said text[] := tramline.acts(p_actor, p_reason);
begin
  if jsonb_typeof(p_settings) is distinct from 'object' then
    raise exception using errcode = 'TL400', message = 'settings of a queue must be an object';
  end if;
  select k into v_key from jsonb_object_keys(p_settings) k
   where k not in ('mode', 'concurrency', 'rate', 'fifo', 'claims_max', 'paused', 'description') order by k limit 1;
  if found then
    raise exception using errcode = 'TL400', message = format('unknown setting "%s" of queue "%s"', v_key, p_name),
      hint = 'known are mode, concurrency, rate, fifo, claims_max, paused and description';
  end if;
  if p_name is null or p_name !~ '^[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,127}$' then
    raise exception using errcode = 'TL400', message = format('"%s" is no name of a queue', p_name),
      hint = 'a letter or digit, then up to 127 letters, digits, and _ . : -';
  end if;
  select * into v from tramline.queues where name = p_name for update;
  if not found and p_create is false then
    raise exception using errcode = 'TL404', message = format('no queue "%s"', p_name), hint = 'make it first: tramline queue create';
  elsif found and p_create then
    raise exception using errcode = 'TL409', message = format('queue "%s" exists already', p_name);
  elsif not found then
    v_new := true;                                   -- with what the table has when nothing is said
    v.mode := tramline.setting_text(p_settings, 'mode', 'engine', array['engine', 'pull']);
    v.paused := false; v.fifo := false; v.claims_max := 10;
  end if;
  if p_settings ? 'mode' then
    v.mode := tramline.setting_text(p_settings, 'mode', 'engine', array['engine', 'pull']);
  end if;
  if p_settings ? 'concurrency' then
    v.concurrency := tramline.setting_count(p_settings, 'concurrency');
  end if;
  if p_settings ? 'rate' then
    if jsonb_typeof(v_rate) = 'null' then
      v.rate_count := null; v.rate_per_ms := null; v.rate_burst := null;
    else
      if jsonb_typeof(v_rate) <> 'object' or exists (select from jsonb_object_keys(v_rate) k where k not in ('count', 'per', 'burst'))
         or v_rate ->> 'count' is null or v_rate ->> 'per' is null then
        raise exception using errcode = 'TL400', message = 'rate must be like {"count": 10, "per": "1m"}, with "burst" if wanted';
      end if;
      begin
        v_per := (v_rate ->> 'per')::interval;
      exception when others then
        v_per := null;
      end;
      v.rate_per_ms := (extract(epoch from v_per) * 1000)::bigint;
      if v.rate_per_ms is null or v.rate_per_ms < 1 or v_per > interval '366 days' then
        raise exception using errcode = 'TL400', message = format('rate.per "%s" is no duration', v_rate ->> 'per'),
          hint = 'write it like 500ms, 30s, 5m or 24h';
      end if;
      v.rate_count := tramline.setting_count(v_rate, 'count');
      v.rate_burst := tramline.setting_count(v_rate, 'burst');
    end if;
  end if;
  if p_settings ? 'fifo' then
    v.fifo := tramline.setting_flag(p_settings, 'fifo');
  end if;
  if p_settings ? 'paused' then
    v.paused := tramline.setting_flag(p_settings, 'paused');
  end if;
  if p_settings ? 'description' then
    v.description := p_settings ->> 'description';
  end if;
  if p_settings ? 'claims_max' then
    if v.mode <> 'pull' then
      raise exception using errcode = 'TL400', message = format('claims_max is for pull queues; the nodes execute the runs of queue "%s"', p_name),
        hint = 'how often a run is tried there, its retry policy says';
    end if;
    v.claims_max := tramline.setting_count(p_settings, 'claims_max');
  end if;
  v_limited := v.mode = 'engine' and (v.concurrency is not null or v.rate_count is not null);
  v_had := exists (select from tramline.queues q where q.name = p_name and q.mode = 'engine' and (q.concurrency is not null or q.rate_count is not null));
  if v_new then
    insert into tramline.queues (name, mode, concurrency, rate_count, rate_per_ms, rate_burst, fifo, claims_max, paused, description)
    values (p_name, v.mode, v.concurrency, v.rate_count, v.rate_per_ms, v.rate_burst, v.fifo, v.claims_max, v.paused, v.description);
  end if;
  update tramline.queues q set (mode, concurrency, rate_count, rate_per_ms, rate_burst, fifo, claims_max, paused, description)
       = (v.mode, v.concurrency, v.rate_count, v.rate_per_ms, v.rate_burst, v.fifo, v.claims_max, v.paused, v.description)
   where q.name = p_name
     and (q.mode, q.concurrency, q.rate_count, q.rate_per_ms, q.rate_burst, q.fifo, q.claims_max, q.paused, q.description)
         is distinct from (v.mode, v.concurrency, v.rate_count, v.rate_per_ms, v.rate_burst, v.fifo, v.claims_max, v.paused, v.description);
  if v_had <> v_limited then
    perform tramline.tell_limited_schedules(null, p_name, true);
  end if;
  perform tramline.acts(v_said[1], v_said[2]);
  select * into v_out from ops.queues where name = p_name;
  return v_out;
end $$;

-- One setting out of an object, checked.
create function tramline.setting_count(p jsonb, p_name text) returns int language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if p -> p_name is null or jsonb_typeof(p -> p_name) = 'null' then
    return null;
  end if;
  if jsonb_typeof(p -> p_name) <> 'number' or (p ->> p_name)::numeric not between 1 and 1000000 or (p ->> p_name)::numeric % 1 <> 0 then
    raise exception using errcode = 'TL400', message = format('%s must be a whole number from 1 to 1000000, not %s', p_name, p ->> p_name),
      hint = case when p_name = 'concurrency' then 'to stop starts, pause the queue' else 'null takes a limit away' end;
  end if;
  return (p ->> p_name)::numeric::int;
end $$;
create function tramline.setting_flag(p jsonb, p_name text) returns boolean language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if jsonb_typeof(p -> p_name) <> 'boolean' then
    raise exception using errcode = 'TL400', message = format('%s must be true or false, not %s', p_name, p ->> p_name);
  end if;
  return (p ->> p_name)::boolean;
end $$;
create function tramline.setting_text(p jsonb, p_name text, p_default text, p_known text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare v text := coalesce(p ->> p_name, p_default);
begin
  if v <> all (p_known) then
    raise exception using errcode = 'TL400', message = format('%s must be one of %s, not %s', p_name, array_to_string(p_known, ', '), v);
  end if;
  return v;
end $$;

-- Stops or resumes the starts of a queue; what runs goes on. False when nothing changed; TL404 when there is no such queue.
create function ops.pause_queue(p_name text, p_paused boolean default true, p_reason text default null, p_actor text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_said text[] := tramline.acts(p_actor, p_reason);
  v_changed boolean;
begin
  if not exists (select from tramline.queues where name = p_name) then
    raise exception using errcode = 'TL404', message = format('no queue "%s"', p_name), hint = 'make it first: tramline queue create';
  end if;
  update tramline.queues set paused = coalesce(p_paused, true) where name = p_name and paused <> coalesce(p_paused, true);
  v_changed := found;
  perform tramline.acts(v_said[1], v_said[2]);
  return v_changed;
end $$;

-- What owners have to know: all rules by scope, and the queues that are paused. A change of the first column is a change of any of them.
create function tramline.limit_rules() returns table (scope text, rule jsonb) language sql stable set search_path = pg_catalog, pg_temp as $$
  select 'queue:' || q.name,
         jsonb_strip_nulls(jsonb_build_object('concurrency', q.concurrency, 'paused', q.paused,
           'order', case when q.fifo then 'fifo' else 'fair' end,
           'rate', case when q.rate_count is not null then jsonb_build_object('count', q.rate_count, 'per_ms', q.rate_per_ms,
                                                                              'burst', coalesce(q.rate_burst, q.rate_count)) end))
    from tramline.queues q where q.mode = 'engine' and (q.paused or q.concurrency is not null or q.rate_count is not null)
  union all
  select 'target:' || t.target, t.rule from tramline.target_limits t
$$;
create function tramline.limit_fingerprint() returns table (revisions bigint, count bigint) language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce((select sum(q.revision) from tramline.queues q), 0)::bigint + coalesce((select max(t.revision) from tramline.target_limits t), 0),
         (select count(*) from tramline.queues) + (select count(*) from tramline.target_limits)
$$;

-- What is in the queues: runs that wait although their time has come, and runs that have started. Reads what the owners have not passed
-- with their low-water marks, and what side tables name: as much as is unfinished, whatever the history.
create function tramline.queue_counts() returns table (queue text, waiting bigint, running bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
  with open as materialized (
    select r.run_id, r.shard, r.queue, r.scheduled_at from tramline.shards s cross join generate_series(0, 3) c(priority)
      cross join lateral (select x.run_id, x.shard, x.queue, x.scheduled_at from tramline.runs x
                           where x.shard = s.shard and x.priority = c.priority and x.executor = 'engine' and x.enqueued_xid >= coalesce(s.low_xid, '0')
                             and not exists (select from tramline.run_ends e where e.run_id = x.run_id and e.shard = x.shard)) r
    union
    select x.run_id, x.shard, x.queue, x.scheduled_at from tramline.runs_foreign x
     where x.executor = 'engine' and not exists (select from tramline.run_ends_foreign e where e.run_id = x.run_id and e.shard = x.shard)
    union
    select r.run_id, r.shard, r.queue, r.scheduled_at from tramline.parked p join tramline.all_runs r on r.run_id = p.run_id and r.shard = p.shard
    union
    select r.run_id, r.shard, r.queue, r.scheduled_at from tramline.timers t join tramline.all_runs r on r.run_id = t.run_id and r.shard = t.shard)
  select o.queue, count(*) filter (where not o.started and coalesce(o.scheduled_at <= now(), true)), count(*) filter (where o.started)
    from (select x.queue, x.scheduled_at,
                 exists (select from tramline.limit_claims c where c.shard = x.shard and c.run_id = x.run_id)
                 or coalesce((select m.status in ('running', 'waiting', 'compensating') from tramline.all_marks m
                               where m.run_id = x.run_id and m.shard = x.shard and m.priority is null order by m.generation desc, m.seq desc limit 1), false)
                   as started
            from open x) o
   group by o.queue
  union all
  select p.queue, count(*) filter (where p.status = 'queued' and p.run_at <= now()), count(*) filter (where p.status in ('claimed', 'running')) from ops.pull_runs p group by p.queue
$$;

-- The limit that a run is under: of its key, which it got when it was inserted, or of its pull queue.
create function tramline.limit_on(p ops.runs, out limit_key text, out concurrency int, out rate_count int, out rate_per_ms bigint, out rate_burst int,
  out debounced boolean) returns setof record language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.limit_key, coalesce(q.concurrency, (t.rule ->> 'concurrency')::int), coalesce(q.rate_count, (t.rule #>> '{rate,count}')::int),
         coalesce(q.rate_per_ms, (t.rule #>> '{rate,per_ms}')::bigint), coalesce(q.rate_burst, q.rate_count, (t.rule #>> '{rate,burst}')::int),
         coalesce(t.rule ? 'debounce', false)
    from tramline.all_runs r
    left join tramline.queues q on r.limit_key = 'queue:' || q.name
    left join tramline.target_limits t on r.limit_key like 'target:%' and t.target = split_part(r.limit_key, ':', 2)
   where r.run_id = p.run_id and p.executor = 'engine' and r.limit_key is not null and (q.name is not null or t.target is not null)
  union all
  select 'queue:' || q.name, q.concurrency, q.rate_count, q.rate_per_ms, coalesce(q.rate_burst, q.rate_count), false
    from tramline.queues q where p.executor = 'pull' and q.name = p.queue and (q.concurrency is not null or q.rate_count is not null)
$$;
-- Who has the places of a limit key.
create function tramline.holders_of(p_key text) returns table (run_id uuid, since timestamptz, held_by text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.run_id, c.started_at, c.node from tramline.limit_claims c where c.shard = tramline.key_shard(p_key) and c.limit_key = p_key
  union all
  select x.run_id, x.started_at, x.claimed_by from ops.pull_runs x
   where p_key like 'queue:%' and x.queue = substr(p_key, 7) and x.status in ('claimed', 'running')
$$;
-- When the rate of a limit key allows the next start; null = now.
create function tramline.rate_opens_at(p_key text, p_count int, p_per_ms bigint, p_burst int) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$
  select o.at from tramline.limits l
   cross join lateral (select to_timestamp(((l.state ->> 'empty_at_us')::bigint - ceil(p_per_ms * 1000.0 / p_count)::bigint * (p_burst - 1)) / 1000000.0) as at) o
   where l.shard = tramline.key_shard(p_key) and l.limit_key = p_key and o.at > clock_timestamp()
$$;

-- Waits behind other runs, as it should: for a limit whose places are taken or whose rate is used up, or in its schedule's line.
create function tramline.stands_in_line(p_run_id uuid, p_shard int, p_limit_key text, p_metadata jsonb) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p_limit_key is not null and not exists (select from tramline.limit_claims c where c.shard = p_shard and c.run_id = p_run_id)
         and (exists (select from tramline.limit_claims c where c.shard = p_shard and c.limit_key = p_limit_key)
              or exists (select from tramline.limits l where l.shard = p_shard and l.limit_key = p_limit_key and l.expires_at > clock_timestamp()))
      or exists (select from tramline.schedules s join tramline.schedule_periods x on x.schedule = s.name and x.finished_at is null
                    and x.outcome = 'started' and x.run_id <> p_run_id
                  where s.name = p_metadata ->> 'schedule' and s.overlap <> 'allow')
$$;
