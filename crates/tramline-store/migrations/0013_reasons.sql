-- "Why does it not move?": one function for a run, one for a queue. Each reason has a function of its own that answers with rows when it
-- applies; a new kind of waiting is one more function and one more line in ops.why.

create type tramline.reason as (rank int, code text, since timestamptz, sentence text, detail jsonb);

-- A time in a sentence.
create function tramline.shown(p_at timestamptz) returns text language sql stable as $$
  select coalesce(to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'), 'an unknown time')
$$;

create function tramline.is_terminal(p_status text) returns boolean language sql immutable parallel safe as $$
  select p_status in ('completed', 'failed', 'cancelled', 'skipped')
$$;

-- Nodes that drive runs and have been seen lately. A node beats several times within its lease; thirty seconds are three default leases.
create function tramline.engines_alive() returns bigint language sql stable set search_path = pg_catalog, pg_temp as $$
  select count(*) from tramline.nodes n where 'engine' = any (n.roles) and n.seen_at > now() - interval '30 seconds'
$$;

create function tramline.why_ended(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(0, case when d.run_id is null then 'ended' else 'dead_letter' end, p.finished_at,
           case when d.run_id is not null
                  then format('it is a dead letter since %s (%s): %s; redrive it when the cause is mended', tramline.shown(d.created_at), d.reason, d.message)
                when p.status = 'failed'
                  then format('it failed at %s: %s; a retry goes on from there', tramline.shown(p.finished_at), p.error ->> 'message')
                else format('it ended (%s) at %s; nothing is left to happen', p.status, tramline.shown(p.finished_at)) end,
           jsonb_build_object('status', p.status, 'error', p.error, 'error_step', p.error_step))::tramline.reason
    from (select) one
    left join tramline.dead_letters d on d.run_id = p.run_id and d.shard = tramline.shard_of(p.run_id) and d.generation = p.generation
     and d.redriven_at is null
   where tramline.is_terminal(p.status)
$$;

-- Requests that the owner has not answered.
create function tramline.why_commands(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(1, 'request_open', c.created_at,
           format('the request to %s it, made by %s at %s, has not been answered by the owner of shard %s', c.verb, c.actor,
                  tramline.shown(c.created_at), c.shard),
           jsonb_build_object('verb', c.verb, 'actor', c.actor, 'reason', c.reason, 'shard', c.shard))::tramline.reason
    from tramline.commands c
   where c.shard = tramline.shard_of(p.run_id) and c.subject_kind = 'run' and c.subject_id = p.run_id::text and c.verb <> 'call_ended'
$$;

-- Nobody drives the shard.
create function tramline.why_owner(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(1, case when alive.n = 0 then 'no_engine' when s.owner is null then 'shard_unowned' else 'owner_silent' end, n.seen_at,
           case when alive.n = 0 then 'no node that drives runs has been seen for thirty seconds: start one'
                when s.owner is null then format('its shard %s has no owner; a node that runs takes it within a lease', s.shard)
                else format('its shard %s belongs to node %s, which was last seen at %s; another takes over a lease after that', s.shard,
                            coalesce(n.name, s.owner::text), tramline.shown(n.seen_at)) end,
           jsonb_build_object('shard', s.shard, 'owner', s.owner, 'node', n.name, 'engines_alive', alive.n))::tramline.reason
    from tramline.shards s
    left join tramline.nodes n on n.node_id = s.owner
    cross join (select tramline.engines_alive() as n) alive
   where p.executor = 'engine' and not tramline.is_terminal(p.status) and s.shard = tramline.shard_of(p.run_id)
     and (s.owner is null or n.seen_at is null or n.seen_at < now() - interval '30 seconds')
$$;

create function tramline.why_paused(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(2, 'paused', coalesce(e.created_at, m.at),
           format('it was paused by %s at %s%s; resume it to go on', coalesce(e.payload ->> 'actor', 'somebody'),
                  tramline.shown(coalesce(e.created_at, m.at)), coalesce(' (' || (e.payload ->> 'reason') || ')', '')),
           jsonb_build_object('actor', e.payload ->> 'actor', 'reason', e.payload ->> 'reason'))::tramline.reason
    from (select) one
    left join lateral (select x.at from tramline.all_marks x where x.run_id = p.run_id and x.status = 'paused' order by x.seq desc limit 1) m on true
    left join lateral (select x.created_at, x.payload from tramline.all_events x where x.run_id = p.run_id and x.event_type = 'paused'
                        order by x.created_at desc limit 1) e on true
   where p.status = 'paused'
$$;

-- The limit that keeps it from starting, and the runs that have its places.
create function tramline.why_limited(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(2, w.code, w.since,
           case w.code
             when 'limited' then format('it waits since %s for limit key "%s", which allows %s at once and is held by %s', tramline.shown(w.since), k.limit_key,
                    k.concurrency, (select string_agg(format('run %s (since %s%s)', h.run_id, tramline.shown(h.since), coalesce(', ' || h.held_by, '')), ', ')
                                      from (select * from tramline.holders_of(k.limit_key) order by 2, 1 limit 3) h)
                    || case when n.held > 3 then format(' and %s more', n.held - 3) else '' end)
             when 'rate_limited' then format('it waits since %s for limit key "%s", which allows %s starts in %s ms; the next is allowed at %s',
                    tramline.shown(w.since), k.limit_key, k.rate_count, k.rate_per_ms, tramline.shown(n.opens_at))
             else format('limit key "%s" is debounced: it starts when no other run of its burst comes for a while, else the last of them does', k.limit_key) end,
           jsonb_strip_nulls(jsonb_build_object('limit_key', k.limit_key, 'concurrency', k.concurrency, 'running', n.held, 'next_start_at', n.opens_at,
             'held_by', (select jsonb_agg(jsonb_build_object('run_id', h.run_id, 'since', h.since, 'by', h.held_by) order by h.since, h.run_id)
                           from (select * from tramline.holders_of(k.limit_key) order by 2, 1 limit 10) h))))::tramline.reason
    from tramline.limit_on(p) k
   cross join lateral (select count(*) as held, coalesce(bool_or(h.run_id = p.run_id), false) as has_place,
                              tramline.rate_opens_at(k.limit_key, k.rate_count, k.rate_per_ms, k.rate_burst) as opens_at
                         from tramline.holders_of(k.limit_key) h) n
   cross join lateral (select case when n.held >= k.concurrency then 'limited' when n.opens_at is not null then 'rate_limited'
                                   when k.debounced then 'debounced' end as code, greatest(p.scheduled_at, p.queued_at) as since) w
   where p.status in ('queued', 'scheduled') and w.since <= now() and not n.has_place and w.code is not null
$$;

-- The run of its schedule that goes on, when the schedule allows no overlap.
create function tramline.why_line(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(2, 'overlap', me.planned_at,
           format('it waits since %s for run %s of its schedule "%s" (period %s), which has not ended: the schedule allows no overlap',
                  tramline.shown(me.planned_at), o.run_id, s.name, tramline.shown(o.due_at)),
           jsonb_build_object('schedule', s.name, 'behind', o.run_id, 'period', o.due_at))::tramline.reason
    from tramline.schedules s
    join tramline.schedule_periods me on me.schedule = s.name and me.run_id = p.run_id and me.finished_at is null and me.outcome in ('prepared', 'started')
   cross join lateral (select x.run_id, x.due_at from tramline.schedule_periods x
                        where x.schedule = s.name and x.finished_at is null and x.outcome in ('prepared', 'started') and x.run_id <> me.run_id
                          and (x.outcome = 'started' or x.due_at < me.due_at) order by x.outcome = 'started' desc, x.due_at limit 1) o
   where s.name = p.metadata ->> 'schedule' and s.overlap <> 'allow' and p.status in ('queued', 'scheduled') and me.planned_at <= now()
$$;

-- Its node drives as many runs as it may, or the host of its function has all the calls that it may have.
create function tramline.why_full(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(4, w.code, null::timestamptz,
           case w.code when 'node_full' then format('node %s drives %s of at most %s runs, and %s are in line there', n.name, n.load ->> 'active',
                              n.load ->> 'active_max', n.load ->> 'in_line')
                       when 'calls_full' then format('node %s has %s of at most %s calls out, and %s wait for one of them to end', n.name, n.load ->> 'calls',
                              n.load ->> 'calls_max', n.load ->> 'calls_waiting')
                       else format('the host of %s has no room on node %s: its calls wait there', array_to_string(f.full_ones, ', '), n.name) end,
           n.load || jsonb_build_object('node', n.name))::tramline.reason
    from tramline.shards s
    join tramline.nodes n on n.node_id = s.owner and n.seen_at > now() - interval '30 seconds'
   cross join lateral (select array_agg(distinct x.name order by x.name) as full_ones from jsonb_array_elements_text(n.load -> 'full') x(name)
                        where x.name = p.target
                           or exists (select from tramline.workflow_definitions d cross join lateral jsonb_array_elements(d.definition -> 'steps') st
                                       where d.name = p.target and d.version = p.version and st ->> 'function' = x.name)) f
   cross join lateral (select case when p.status = 'queued' and (n.load ->> 'active')::bigint >= nullif((n.load ->> 'active_max')::bigint, 0) then 'node_full'
                                   when f.full_ones is not null then 'host_full'
                                   when (n.load ->> 'calls_waiting')::bigint > 0 and (n.load ->> 'calls')::bigint >= (n.load ->> 'calls_max')::bigint
                                     then 'calls_full' end as code) w
   where p.executor = 'engine' and p.status in ('queued', 'running') and s.shard = tramline.shard_of(p.run_id) and w.code is not null
$$;

-- What its queue says.
create function tramline.why_in_queue(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(case when q.paused then 2 else 3 end, case when q.paused then 'queue_paused' else 'no_worker' end, case when q.paused then coalesce(b.since, q.updated_at) else p.queued_at end,
           case when q.paused then format('its queue "%s" is paused since %s%s', q.name, tramline.shown(coalesce(b.since, q.updated_at)), b.words)
                else format('it waits in queue "%s" for a worker to claim it since %s', q.name, tramline.shown(p.queued_at)) end,
           jsonb_build_object('queue', q.name, 'mode', q.mode) || coalesce(case when q.paused then b.detail end, '{}'))::tramline.reason
    from tramline.queues q left join lateral tramline.paused_by('queue', q.name) b on q.paused
   where q.name = p.queue and p.status = 'queued' and (q.paused or p.executor = 'pull')
$$;

-- Timers that stand for it: sleeps, retries, its start, its deadline.
create function tramline.why_timers(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(case when t.due_at < now() - interval '5 seconds' then 1 when t.kind = 'deadline' then 6 else 3 end,
           case when t.due_at < now() - interval '5 seconds' then 'timer_overdue' else t.kind end, t.created_at,
           case t.kind when 'start' then format('it starts at %s', tramline.shown(t.due_at))
                       when 'sleep' then format('step "%s" sleeps until %s', t.step, tramline.shown(t.due_at))
                       when 'retry' then format('attempt %s%s failed; the next one is due at %s', t.attempt,
                                                coalesce(' of step "' || nullif(t.step, '') || '"', ''), tramline.shown(t.due_at))
                       else format('its deadline is %s', tramline.shown(t.due_at)) end
           || case when t.due_at < now() - interval '5 seconds' then ', which is over: the owner of its shard is late' else '' end,
           jsonb_build_object('kind', t.kind, 'step', nullif(t.step, ''), 'attempt', t.attempt, 'due_at', t.due_at))::tramline.reason
    from tramline.timers t
   where t.run_id = p.run_id and not tramline.is_terminal(p.status)
$$;

-- Rows that keep the low-water mark off it, for a reason that the others do not tell.
create function tramline.why_parked(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(4, case k.why when 'overlap' then 'overlap' else 'parked' end, k.at,
           case k.why when 'overlap' then format('it waits since %s for the run of its schedule before it: the schedule allows no overlap', tramline.shown(k.at))
                      else format('its owner has put it aside since %s: %s', tramline.shown(k.at), k.why) end,
           jsonb_build_object('why', k.why))::tramline.reason
    from tramline.parked k
   where k.shard = tramline.shard_of(p.run_id) and k.run_id = p.run_id and not tramline.is_terminal(p.status)
     and k.why not in ('paused', 'woken', 'reopened', 'limit') and (k.why <> 'overlap' or not exists (select from tramline.why_line(p)))
$$;

-- Where it stands when nothing holds it back.
create function tramline.why_status(p ops.runs) returns setof tramline.reason language sql stable set search_path = pg_catalog, pg_temp as $$
  select row(5, case when p.executor = 'external' then 'kept_by_its_writer' when p.status = 'queued' then 'its_turn' else p.status end,
           coalesce(m.at, p.queued_at),
           case when p.executor = 'external' then format('it is kept by its writer (%s); only that moves it', coalesce(p.claimed_by, p.source))
                when p.status = 'queued' then format('it waits for its turn on node %s since %s', coalesce(n.name, 'unknown'),
                                                     tramline.shown(coalesce(m.at, p.scheduled_at, p.queued_at)))
                when p.status in ('running', 'claimed') then format('it is being executed by %s since %s%s', coalesce(p.claimed_by, n.name, 'its owner'),
                       tramline.shown(coalesce(p.started_at, m.at)),
                       coalesce(format('; step "%s" ended last, at %s', l.step, tramline.shown(l.finished_at)), '; no step has ended yet'))
                when p.status = 'scheduled' then format('it starts at %s', tramline.shown(p.scheduled_at))
                else format('it is %s since %s', p.status, tramline.shown(coalesce(m.at, p.queued_at))) end,
           jsonb_build_object('status', p.status, 'node', coalesce(p.claimed_by, n.name), 'last_step', l.step, 'last_step_ended_at', l.finished_at))
           ::tramline.reason
    from tramline.shards s
    left join tramline.nodes n on n.node_id = s.owner
    left join lateral (select x.at from tramline.all_marks x where x.run_id = p.run_id and x.generation = p.generation
                        order by x.seq desc limit 1) m on true
    left join lateral (select nullif(x.step, '') as step, x.finished_at from tramline.all_steps x where x.run_id = p.run_id
                        and x.generation = p.generation and x.step <> '' order by x.finished_at desc limit 1) l on true
   where s.shard = tramline.shard_of(p.run_id) and not tramline.is_terminal(p.status)
$$;

-- Why a run does not move, the most important reason first. What only the memory of its owner knows (its place in line, calls that are
-- out), the API of that node adds. TL404.
create function ops.why(p_run_id uuid) returns table (code text, since timestamptz, sentence text, detail jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare v ops.runs;
begin
  select * into v from ops.runs r where r.run_id = p_run_id;
  if not found then
    raise exception using errcode = 'TL404', message = format('no run %s', p_run_id);
  end if;
  return query
  with reasons as (
    select * from tramline.why_ended(v)
    union all select * from tramline.why_commands(v)
    union all select * from tramline.why_owner(v)
    union all select * from tramline.why_paused(v)
    union all select * from tramline.why_limited(v)
    union all select * from tramline.why_line(v)
    union all select * from tramline.why_full(v)
    union all select * from tramline.why_in_queue(v)
    union all select * from tramline.why_timers(v)
    union all select * from tramline.why_parked(v)
    union all select * from tramline.why_status(v))
  -- where it stands is no reason beside a real one
  select q.code, q.since, q.sentence, q.detail from reasons q
   where q.rank <> 5 or not exists (select from reasons o where o.rank between 0 and 4)
   order by q.rank, q.since;
end $$;

-- Why the runs of a queue do not move. Counts are those of the newest 20,000 runs of the queue. TL404 when there is no such queue and no
-- run in it.
create function ops.why_queue(p_queue text) returns table (code text, since timestamptz, sentence text, detail jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  q tramline.queues;
  v_counts jsonb;
  v_oldest timestamptz;
  v_oldest_id uuid;
  v_unowned int[];
begin
  select * into q from tramline.queues x where x.name = p_queue;
  if not found and not exists (select from tramline.all_runs r where r.queue = p_queue) then
    raise exception using errcode = 'TL404', message = format('no queue "%s"', p_queue), detail = jsonb_build_object('queue', p_queue)::text;
  end if;
  with page as materialized (select r.run_id from tramline.all_runs r where r.queue = p_queue order by r.run_id desc limit 20000),
  open as materialized (
    select o.status, o.since, p.run_id from page p
      cross join lateral (select x.status, coalesce(x.scheduled_at, x.queued_at) as since from ops.runs x where x.run_id = p.run_id offset 0) o
     where not tramline.is_terminal(o.status))
  select (select coalesce(jsonb_object_agg(c.status, c.n), '{}') from (select o.status, count(*) as n from open o group by 1) c),
         (select min(o.since) from open o where o.status = 'queued'),
         (select o.run_id from open o where o.status = 'queued' order by o.since, o.run_id limit 1)
    into v_counts, v_oldest, v_oldest_id;
  select array_agg(s.shard order by s.shard) into v_unowned from tramline.shards s left join tramline.nodes n on n.node_id = s.owner
   where s.owner is null or n.seen_at is null or n.seen_at < now() - interval '30 seconds';

  if q.paused then
    return query select 'queue_paused', coalesce(b.since, q.updated_at),
      format('it is paused since %s%s', tramline.shown(coalesce(b.since, q.updated_at)), b.words), coalesce(b.detail, '{}')
      from tramline.paused_by('queue', p_queue) b;
  end if;
  if q.mode = 'pull' then
    return query select 'pull_queue', null::timestamptz, 'its runs are executed by workers that claim them: nothing moves without one', '{}'::jsonb;
  elsif tramline.engines_alive() = 0 then
    return query select 'no_engine', (select max(n.seen_at) from tramline.nodes n where 'engine' = any (n.roles)),
      'no node that drives runs has been seen for thirty seconds: start one', '{}'::jsonb;
  elsif v_unowned is not null then
    return query select 'shards_unowned', null::timestamptz,
      format('%s of the shards have no living owner; runs of these wait until a node takes them', cardinality(v_unowned)),
      jsonb_build_object('shards', v_unowned);
  end if;
  if q.concurrency is not null then
    return query select 'concurrency', q.updated_at,
      format('at most %s of its runs are executed at once; %s are', q.concurrency, count(*)),
      jsonb_build_object('concurrency', q.concurrency, 'running', count(*), 'held_by', coalesce(jsonb_agg(
        jsonb_build_object('run_id', h.run_id, 'since', h.since, 'by', h.held_by) order by h.since, h.run_id) filter (where h.n <= 10), '[]'))
      from (select x.*, row_number() over (order by x.since, x.run_id) as n from tramline.holders_of('queue:' || q.name) x) h;
  end if;
  if q.rate_count is not null then
    return query select 'rate', q.updated_at,
      format('at most %s of its runs start in %s ms', q.rate_count, q.rate_per_ms)
        || coalesce('; the next may at ' || tramline.shown(r.opens_at), ''),
      jsonb_strip_nulls(jsonb_build_object('count', q.rate_count, 'per_ms', q.rate_per_ms, 'next_start_at', r.opens_at))
      from (select tramline.rate_opens_at('queue:' || q.name, q.rate_count, q.rate_per_ms, coalesce(q.rate_burst, q.rate_count)) as opens_at) r;
  end if;
  if v_counts = '{}' then
    return query select 'nothing_open', null::timestamptz, 'it has no unfinished run', v_counts;
  else
    return query select 'open_runs', v_oldest,
      format('it has %s', (select string_agg(c.value || ' ' || c.key, ', ' order by c.key) from jsonb_each_text(v_counts) c))
        || coalesce(format('; the one that waits longest (%s) does so since %s', v_oldest_id, tramline.shown(v_oldest)), ''),
      v_counts || jsonb_build_object('oldest', v_oldest_id);
  end if;
end $$;

-- What does not move although it should, found by the engines' maintenance. A row stands as long as its cause does; the event is raised
-- when the row is made, so once per cause and not once per look.
create table tramline.stuck (
  kind text not null check (kind in ('run', 'shard')),
  id text not null,
  shard int not null,
  code text not null,                                -- queued_too_long, timer_overdue, over_deadline, request_unanswered, shard_unowned
  since timestamptz not null,
  found_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  primary key (kind, id, code)
);

-- Looks at these shards and at those without a living owner. Answers how many subjects are stuck now, and how many are new.
-- Bounded: of each cause the oldest p_limit of a shard; queued runs among the first 5,000 that the low-water mark has not passed.
create function tramline.check_stuck(p_shards int[], p_queued interval, p_overdue interval, p_command interval, p_unowned interval, p_limit int,
  out stuck bigint, out raised bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := clock_timestamp();
  v_shards int[];
  v_row record;
begin
  -- A shard that lost its owner by a clean release says no time: it counts from when it was first seen so.
  insert into tramline.stuck as k (kind, id, shard, code, since, found_at, seen_at)
  select 'shard', s.shard::text, s.shard, 'shard_unowned', coalesce(n.seen_at, v_now), v_now, v_now
    from tramline.shards s left join tramline.nodes n on n.node_id = s.owner
   where s.owner is null or n.seen_at is null or n.seen_at < v_now - p_unowned order by s.shard
  on conflict (kind, id, code) do update set seen_at = greatest(k.seen_at, excluded.seen_at);
  delete from tramline.stuck k where k.kind = 'shard' and k.seen_at < v_now;
  select array_agg(distinct u) into v_shards from (
    select unnest(p_shards) u union select k.shard from tramline.stuck k where k.kind = 'shard' and k.since < v_now - p_unowned) q;

  raised := 0;
  for v_row in
    insert into tramline.stuck as k (kind, id, shard, code, since, found_at, seen_at)
    select distinct on (f.id, f.code) 'run', f.id, f.shard, f.code, f.since, v_now, v_now from (
      select t.run_id::text as id, t.shard, case t.kind when 'deadline' then 'over_deadline' else 'timer_overdue' end as code, t.due_at as since
        from unnest(v_shards) s(shard)
        cross join lateral (select x.* from tramline.timers x where x.shard = s.shard and x.due_at < v_now - p_overdue order by x.due_at limit p_limit) t
      union all
      select c.subject_id, c.shard, 'request_unanswered', c.created_at
        from unnest(v_shards) s(shard)
        cross join lateral (select x.* from tramline.commands x where x.shard = s.shard and x.subject_kind = 'run'
                              and x.created_at < v_now - p_command order by x.xid, x.command_id limit p_limit) c
      union all
      select q.run_id::text, q.shard, 'queued_too_long', q.since
        from unnest(v_shards) s(shard) join tramline.shards h on h.shard = s.shard
        cross join lateral (
          select r.run_id, r.shard, greatest(r.scheduled_at, r.queued_at) as since from (
            select x.run_id, x.shard, x.queue, x.queued_at, x.scheduled_at, x.limit_key, x.metadata
              from generate_series(0, 3) class(priority)
              cross join lateral (
                (select a.run_id, a.shard, a.queue, a.queued_at, a.scheduled_at, a.limit_key, a.metadata from tramline.runs a where a.shard = s.shard
                    and a.priority = class.priority and a.executor = 'engine' and a.enqueued_xid >= coalesce(h.low_xid, '0') order by a.enqueued_xid limit 5000)
                union all
                (select a.run_id, a.shard, a.queue, a.queued_at, a.scheduled_at, a.limit_key, a.metadata from tramline.runs_foreign a where a.shard = s.shard
                    and a.priority = class.priority and a.executor = 'engine' and a.enqueued_xid >= coalesce(h.low_xid, '0') order by a.enqueued_xid limit 5000)
              ) x) r
           where greatest(r.scheduled_at, r.queued_at) < v_now - p_queued
             and not exists (select from tramline.all_ends e where e.run_id = r.run_id)
             and not exists (select from tramline.queues q where q.name = r.queue and q.paused)
             -- put aside on purpose, such as behind another run
             and not exists (select from tramline.parked k where k.shard = r.shard and k.run_id = r.run_id and k.why not in ('woken', 'reopened', 'paused'))
             and not tramline.stands_in_line(r.run_id, r.shard, r.limit_key, r.metadata)
             and (select o.status from ops.runs o where o.run_id = r.run_id) = 'queued'
           order by 3 limit p_limit) q) f
     order by f.id, f.code, f.since
    on conflict (kind, id, code) do update set seen_at = excluded.seen_at
    returning k.id, k.code, k.since, k.found_at
  loop
    continue when v_row.found_at < v_now or v_row.id !~ '^[0-9a-f-]{36}$' or not exists (
      select from tramline.all_runs r where r.run_id = v_row.id::uuid);
    raised := raised + 1;
    perform ops.append_event(v_row.id::uuid, 'warn',
      coalesce((select w.sentence from ops.why(v_row.id::uuid) w limit 1), v_row.code),
      jsonb_build_object('code', v_row.code, 'since', v_row.since), 'run.stuck');
  end loop;
  delete from tramline.stuck k where k.kind = 'run' and k.shard = any (v_shards) and k.seen_at < v_now;
  select count(*) into stuck from tramline.stuck k
   where k.shard = any (p_shards) and k.kind = 'run' or k.kind = 'shard' and k.since < v_now - p_unowned;
end $$;

create view ops.stuck with (security_invoker = true) as
select kind, id, code, since, found_at from tramline.stuck;
