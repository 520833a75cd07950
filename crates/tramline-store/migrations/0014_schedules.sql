-- Schedules and calendars by SQL. Only a node can read a cron expression: what it cannot read it says in ops.schedules.problem.

create table tramline.calendars (
  name text primary key check (name ~ '^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$'),
  entries text[] not null check (cardinality(entries) <= 1000),
  timezone text,                                     -- of its days; the schedule's when null
  source text not null default 'sql',
  problem text,                                      -- why owners cannot read it
  revision bigint not null default 1,
  updated_at timestamptz not null default now()
);
create view ops.calendars with (security_invoker = true) as select name, entries, timezone, source, problem, updated_at from tramline.calendars;

-- One number that rises with every change of schedules and calendars: owners compare it once a second instead of reading the tables.
-- Writers wait for each other here, so the number is as good as the order of their commits.
create table tramline.schedule_changes (
  one boolean primary key default true check (one),
  count bigint not null
) with (fillfactor = 50);
insert into tramline.schedule_changes (count) values (0);
create function tramline.note_schedule_change() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from rows_changed) then
    update tramline.schedule_changes set count = count + 1;
  end if;
  return null;
end $$;
-- What owners write themselves (last_due, problem) raises no revision and is no change.
create function tramline.note_schedule_update() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from new_rows n join old_rows o on o.name = n.name where o.revision <> n.revision) then
    update tramline.schedule_changes set count = count + 1;
  end if;
  return null;
end $$;
create trigger schedules_made after insert on tramline.schedules referencing new table as rows_changed
  for each statement execute function tramline.note_schedule_change();
create trigger schedules_gone after delete on tramline.schedules referencing old table as rows_changed
  for each statement execute function tramline.note_schedule_change();
create trigger schedules_changed after update on tramline.schedules referencing old table as old_rows new table as new_rows
  for each statement execute function tramline.note_schedule_update();
create trigger calendars_made after insert on tramline.calendars referencing new table as rows_changed
  for each statement execute function tramline.note_schedule_change();
create trigger calendars_gone after delete on tramline.calendars referencing old table as rows_changed
  for each statement execute function tramline.note_schedule_change();
create trigger calendars_changed after update on tramline.calendars referencing old table as old_rows new table as new_rows
  for each statement execute function tramline.note_schedule_update();
create trigger note_who after insert or delete on tramline.schedules for each row execute function tramline.note_who('schedule');
create trigger note_who_changes after update on tramline.schedules
  for each row when (old.revision <> new.revision) execute function tramline.note_who('schedule');
create trigger note_who after insert or delete on tramline.calendars for each row execute function tramline.note_who('calendar');
create trigger note_who_changes after update on tramline.calendars
  for each row when (old.revision <> new.revision) execute function tramline.note_who('calendar');

-- Creates or changes a schedule; true when something changed. p holds the columns by their names; p_paused null leaves a stored schedule as it
-- is. An interval keeps its anchor as long as its length stays. The past of other due times is not made up for.
create function tramline.store_schedule(p_name text, p jsonb, p_paused boolean, p_source text)
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v tramline.schedules := jsonb_populate_record(null::tramline.schedules, p);
  v_changed boolean;
begin
  perform tramline.check_schedule_limit(p_name, v.target, coalesce(v.queue, 'default'), coalesce(v.input, '{}'), coalesce(v.overlap, 'allow'));
  insert into tramline.schedules as s (name, shard, cron, every_ms, anchor, timezone, target, input, queue, priority, paused, jitter_ms, start_at, end_at,
         exclude, overlap, catch_up, catch_up_max, late_after_ms, source, paused_since)
  values (p_name, tramline.key_shard(p_name), v.cron, v.every_ms, coalesce(v.anchor, case when v.every_ms is not null then now() end),
          coalesce(v.timezone, 'UTC'), v.target, coalesce(v.input, '{}'), coalesce(v.queue, 'default'), coalesce(v.priority, 1), coalesce(p_paused, false),
          coalesce(v.jitter_ms, 0), v.start_at, v.end_at, coalesce(v.exclude, '{}'), coalesce(v.overlap, 'allow'), coalesce(v.catch_up, 'skip'),
          coalesce(v.catch_up_max, 100), coalesce(v.late_after_ms, 300000), coalesce(p_source, 'sql'), case when p_paused then now() end)
  on conflict (name) do update set cron = excluded.cron, every_ms = excluded.every_ms,
     anchor = case when v.anchor is null and s.every_ms = excluded.every_ms then s.anchor else excluded.anchor end,
     timezone = excluded.timezone, target = excluded.target, input = excluded.input, queue = excluded.queue, priority = excluded.priority,
     paused = coalesce(p_paused, s.paused), jitter_ms = excluded.jitter_ms, start_at = excluded.start_at, end_at = excluded.end_at,
     exclude = excluded.exclude, overlap = excluded.overlap, catch_up = excluded.catch_up, catch_up_max = excluded.catch_up_max,
     late_after_ms = excluded.late_after_ms, source = excluded.source,
     active_since = case when (s.cron, s.every_ms, s.timezone, s.start_at, s.end_at, s.exclude, coalesce(v.anchor, s.anchor))
                           is distinct from (excluded.cron, excluded.every_ms, excluded.timezone, excluded.start_at, excluded.end_at, excluded.exclude, s.anchor)
                           or s.paused and not coalesce(p_paused, s.paused) then now() else s.active_since end,
     paused_since = case when (s.cron, s.every_ms, s.timezone, s.start_at, s.end_at, s.exclude, coalesce(v.anchor, s.anchor))
                           is distinct from (excluded.cron, excluded.every_ms, excluded.timezone, excluded.start_at, excluded.end_at, excluded.exclude, s.anchor)
                           then case when coalesce(p_paused, s.paused) then now() end
                         when p_paused and not s.paused then now() else s.paused_since end,
     problem = null, revision = s.revision + 1, updated_at = now()
   where (s.cron, s.every_ms, s.timezone, s.target, s.input, s.queue, s.priority, s.paused, s.jitter_ms, s.start_at, s.end_at, s.exclude, s.overlap,
          s.catch_up, s.catch_up_max, s.late_after_ms, s.source, s.anchor)
     is distinct from (excluded.cron, excluded.every_ms, excluded.timezone, excluded.target, excluded.input, excluded.queue, excluded.priority,
          coalesce(p_paused, s.paused), excluded.jitter_ms, excluded.start_at, excluded.end_at, excluded.exclude, excluded.overlap,
          excluded.catch_up, excluded.catch_up_max, excluded.late_after_ms, excluded.source,
          case when v.anchor is null and s.every_ms = excluded.every_ms then s.anchor else excluded.anchor end)
  returning true into v_changed;
  return coalesce(v_changed, false);
end $$;

-- Creates or changes a schedule by plain SQL; see docs/schedules.md for the words. TL404: no such target or calendar.
create function ops.set_schedule(p_name text, p_target text, p_cron text default null, p_every interval default null, p_timezone text default 'UTC',
  p_input jsonb default '{}', p_enabled boolean default null, p_jitter interval default '0', p_start_at timestamptz default null,
  p_end_at timestamptz default null, p_exclude text[] default '{}', p_overlap text default 'allow', p_catch_up text default 'skip',
  p_catch_up_max int default 100, p_late_after interval default '5 minutes', p_anchor timestamptz default null, p_queue text default 'default',
  p_priority int default 1)
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_unknown text;
begin
  if (p_cron is null) = (p_every is null) then
    raise exception using errcode = 'TL422', message = format('schedule "%s" needs either p_cron or p_every', p_name);
  end if;
  if not exists (select from tramline.functions f where f.name = p_target)
     and not exists (select from tramline.workflow_definitions d where d.name = p_target and d.status = 'published') then
    raise exception using errcode = 'TL404', message = format('no workflow or function named "%s" is published', p_target),
      hint = 'publish the workflow or deploy the function first';
  end if;
  select x into v_unknown from unnest(p_exclude) x where not exists (select from tramline.calendars c where c.name = x) limit 1;
  if v_unknown is not null then
    raise exception using errcode = 'TL404', message = format('there is no calendar "%s"', v_unknown), hint = 'make it with ops.set_calendar first';
  end if;
  return tramline.store_schedule(p_name, jsonb_build_object('cron', p_cron, 'every_ms', (extract(epoch from p_every) * 1000)::bigint, 'anchor', p_anchor,
    'timezone', p_timezone, 'target', p_target, 'input', p_input, 'queue', p_queue, 'priority', p_priority,
    'jitter_ms', (extract(epoch from p_jitter) * 1000)::bigint, 'start_at', p_start_at, 'end_at', p_end_at, 'exclude', p_exclude, 'overlap', p_overlap,
    'catch_up', p_catch_up, 'catch_up_max', p_catch_up_max, 'late_after_ms', (extract(epoch from p_late_after) * 1000)::bigint),
    not p_enabled, 'sql');
exception when check_violation then
  raise exception using errcode = 'TL422', message = format('schedule "%s" cannot be stored: %s', p_name, sqlerrm);
end $$;

-- Pauses or resumes a schedule; false when there is no such schedule. Periods of the pause are skipped, whatever its catch-up policy.
create function ops.pause_schedule(p_name text, p_paused boolean default true, p_reason text default null, p_actor text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_said text[] := tramline.acts(p_actor, p_reason);
  v_found boolean;
begin
  update tramline.schedules s set paused = p_paused, revision = revision + 1, updated_at = now(),
         active_since = case when s.paused and not p_paused then now() else s.active_since end,
         paused_since = case when p_paused and not s.paused then now() else s.paused_since end
   where name = p_name;
  v_found := found;
  perform tramline.acts(v_said[1], v_said[2]);
  return v_found;
end $$;

-- Removes a schedule; false when there is none. What it had prepared is taken back; its periods and runs stay.
create function ops.delete_schedule(p_name text) returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  delete from tramline.schedules where name = p_name;
  return found;
end $$;

-- Creates or changes a calendar of days and times on which nothing is due.
create function ops.set_calendar(p_name text, p_entries text[], p_timezone text default null, p_source text default 'sql') returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_changed boolean;
begin
  insert into tramline.calendars as c (name, entries, timezone, source) values (p_name, p_entries, p_timezone, p_source)
  on conflict (name) do update set entries = excluded.entries, timezone = excluded.timezone, source = excluded.source, problem = null,
     revision = c.revision + 1, updated_at = now()
   where (c.entries, c.timezone, c.source) is distinct from (excluded.entries, excluded.timezone, excluded.source)
  returning true into v_changed;
  return coalesce(v_changed, false);
end $$;

-- Removes a calendar; false when there is none. TL409: schedules name it.
create function ops.delete_calendar(p_name text) returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_used text;
begin
  select string_agg(s.name, ', ' order by s.name) into v_used
    from (select name from tramline.schedules where p_name = any (exclude) order by name limit 5) s;
  if v_used is not null then
    raise exception using errcode = 'TL409', message = format('calendar "%s" is used by %s', p_name, v_used),
      hint = 'take it out of their "exclude" first';
  end if;
  delete from tramline.calendars where name = p_name;
  return found;
end $$;

-- Periods that a flush brings, under its locks and in its transaction. "prepared" and "skipped" are recorded ahead, with a run of the id that
-- was given. "due": the target has a limit, so its run is inserted when it is due, under the key that it gets now, and in the key's shard.
-- A period that exists already starts nothing: its run is inserted only with it. One that was taken back before it was due (its schedule was
-- changed) may be prepared again. A skipped period has a run too, which is ended at once: that is where its event is kept.
create function tramline.flush_periods(p_held int[], p jsonb) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare v_shards int[];
begin
  with asked as (
    select distinct on (r.schedule, r.due_at) r.schedule, r.due_at, r.run_id, r.outcome, r.reason, r.planned_at
      from rows from (jsonb_to_recordset(p) as (schedule text, due_at timestamptz, run_id uuid, outcome text, reason text, planned_at timestamptz))
             with ordinality as r(schedule, due_at, run_id, outcome, reason, planned_at, ord)
     where tramline.key_shard(r.schedule) = any (p_held) order by r.schedule, r.due_at, r.ord desc),
  judged as (
    select a.schedule, a.due_at, a.planned_at, a.outcome = 'due' as is_due, k.limit_key,
           case when a.outcome <> 'due' then a.outcome when k.problem is null then 'prepared' else 'skipped' end as outcome,
           case when a.outcome = 'due' then coalesce(k.problem, a.reason) else a.reason end as reason,
           case when k.problem is not null then null
                when k.limit_key is not null then tramline.with_tail_bits(a.run_id, tramline.key_bits(k.limit_key)) else a.run_id end as run_id
      from asked a left join tramline.schedules s on s.name = a.schedule
      left join lateral tramline.schedule_key(s.target, s.queue, s.input) k on a.outcome <> 'skipped' and s.name is not null
     -- The target has got a limit that the owner did not know when it prepared this: it is told, and comes again.
     where a.outcome <> 'prepared' or k.limit_key is null and k.problem is null),
  made as (
    insert into tramline.schedule_periods as q (schedule, due_at, run_id, outcome, reason, planned_at)
    select j.schedule, j.due_at, j.run_id, j.outcome, j.reason, j.planned_at from judged j order by j.schedule, j.due_at
    on conflict (schedule, due_at) do update
       set run_id = excluded.run_id, outcome = excluded.outcome, reason = excluded.reason, planned_at = excluded.planned_at
     where q.outcome = 'cancelled'
    returning q.schedule, q.due_at, q.run_id, q.planned_at),
  last as (
    update tramline.schedules s set last_due = greatest(s.last_due, m.due_at)
      from (select schedule, max(due_at) as due_at from made group by schedule) m where s.name = m.schedule),
  started as (
    insert into tramline.runs (run_id, shard, kind, target, version, input, queue, limit_key, priority, source, triggered_by, function_name, metadata,
           scheduled_at, retry)
    select m.run_id, tramline.shard_of(m.run_id), case when d.version is null then 'function' else 'workflow' end, s.target, d.version, s.input,
           s.queue, j.limit_key, s.priority, 'schedule:' || s.name, 'schedule', case when d.version is null then s.target end,
           jsonb_build_object('schedule', s.name, 'period', m.due_at)
             -- Who owns the key may not know the schedule.
             || case when j.limit_key is null then '{}' else jsonb_build_object('late_after_ms', s.late_after_ms) end,
           m.planned_at, case when d.version is null then (select f.retry from tramline.functions f where f.name = s.target) end
      from made m join judged j on j.schedule = m.schedule and j.due_at = m.due_at join tramline.schedules s on s.name = m.schedule
      left join lateral (select w.version from tramline.workflow_definitions w where w.name = s.target and w.status = 'published'
                          order by w.version desc limit 1) d on true
     where m.run_id is not null
    on conflict do nothing
    returning run_id)
  select array_agg(distinct tramline.shard_of(r.run_id)) into v_shards from started r join judged j on j.run_id = r.run_id where j.is_due;
  if v_shards is not null then
    perform tramline.wake_owners(v_shards);
  end if;
end $$;

-- Starts these periods of a schedule now, each at most once: one that has a run is answered with it. Which instants are periods is the caller's
-- to know. They carry the period's key; what was skipped or cancelled gets its run after all.
-- Locks: periods by due time.
create function tramline.start_periods(p_name text, p_due timestamptz[], p_actor text, p_reason text)
returns table (due_at timestamptz, run_id uuid, created boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare v tramline.schedules; k record; v_bits int;
begin
  select * into v from tramline.schedules s where s.name = p_name;
  if not found then
    raise exception using errcode = 'TL404', message = format('there is no schedule "%s"', p_name);
  end if;
  select * into k from tramline.schedule_key(v.target, v.queue, v.input);
  if k.problem is not null then
    raise exception using errcode = 'TL400', message = format('schedule "%s" cannot start "%s": %s', v.name, v.target, k.problem);
  end if;
  v_bits := tramline.key_bits(coalesce(k.limit_key, v.name));
  perform tramline.wake_owners(array[tramline.key_shard(coalesce(k.limit_key, v.name))]);
  return query
  with made as (
    insert into tramline.schedule_periods as q (schedule, due_at, run_id, outcome, reason, planned_at)
    select v.name, d.due_at, tramline.with_tail_bits(tramline.uuid_v7(), v_bits), 'prepared', p_reason, clock_timestamp()
      from (select distinct u.due_at from unnest(p_due) as u(due_at) order by 1) d
    on conflict (schedule, due_at) do update
       set run_id = excluded.run_id, outcome = 'prepared', reason = excluded.reason, planned_at = excluded.planned_at, started_at = null, drift_ms = null,
           finished_at = null, created_at = now()
     where q.outcome in ('skipped', 'cancelled')
    returning q.due_at, q.run_id),
  started as (
    insert into tramline.runs (run_id, shard, kind, target, version, input, queue, limit_key, priority, source, triggered_by, function_name, metadata, retry)
    select m.run_id, tramline.shard_of(m.run_id), case when d.version is null then 'function' else 'workflow' end, v.target, d.version, v.input, v.queue,
           k.limit_key, v.priority, 'schedule:' || v.name, coalesce(p_actor, session_user), case when d.version is null then v.target end,
           jsonb_build_object('schedule', v.name, 'period', m.due_at, 'asked_for', true),
           case when d.version is null then (select f.retry from tramline.functions f where f.name = v.target) end
      from made m
      left join lateral (select w.version from tramline.workflow_definitions w where w.name = v.target and w.status = 'published'
                          order by w.version desc limit 1) d on true
    returning run_id)
  select d.due_at, coalesce(m.run_id, q.run_id), m.run_id is not null
    from (select distinct u.due_at from unnest(p_due) as u(due_at)) d
    left join made m on m.due_at = d.due_at
    left join tramline.schedule_periods q on q.schedule = v.name and q.due_at = d.due_at
   order by 1;
end $$;

-- Starts one run of a schedule now: outside its periods, or for one of them (a due time of it: the caller must know), at most once.
create function ops.trigger_schedule(p_name text, p_period timestamptz default null, p_actor text default null) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v tramline.schedules; r record; v_actor text := coalesce(p_actor, auth.uid()::text, auth.role(), session_user);
begin
  select * into v from tramline.schedules where name = p_name;
  if not found then
    raise exception using errcode = 'TL404', message = format('there is no schedule "%s"', p_name);
  end if;
  if p_period > clock_timestamp() then
    raise exception using errcode = 'TL422', message = format('period %s of "%s" lies in the future', p_period, p_name);
  end if;
  if p_period is not null then
    select * into r from tramline.start_periods(p_name, array[p_period], v_actor, 'triggered by ' || v_actor);
    if not r.created then
      raise exception using errcode = 'TL409', message = format('period %s of "%s" has run %s', p_period, p_name, r.run_id),
        detail = jsonb_build_object('run_id', r.run_id)::text, hint = 'retry that run instead';
    end if;
    return r.run_id;
  end if;
  select * into r from tramline.enqueue_many(array[null::uuid], array[v.target], array[v.input], array[null::text],
    array[jsonb_build_object('queue', v.queue, 'priority', v.priority, 'source', 'schedule:' || p_name, 'triggered_by', v_actor,
                             'metadata', jsonb_build_object('schedule', p_name))]);
  if r.code is not null then
    perform tramline.raise_refusal(r.code, r.detail);
  end if;
  return r.run_id;
end $$;
