-- What people do to runs: pause and resume, redrive dead letters, act on many at once. Each becomes a command to the owner, which
-- applies or refuses it with an event that says who, when and why.

-- Something is wrong with what the caller asks; p_path names the place.
create function tramline.refuse_input(p_path text, p_message text) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'TL422', message = format('%s: %s', p_path, p_message),
    detail = jsonb_build_object('problems', jsonb_build_array(jsonb_build_object('path', p_path, 'message', p_message)))::text;
end $$;

-- Asks for a change of status that the present one allows; a run that no node drives is changed at once, as its row allows.
create function tramline.ask(p_run_id uuid, p_verb text, p_to text, p_from text[], p_reason text, p_actor text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare v ops.runs; v_pull ops.pull_runs;
begin
  select * into v from ops.runs where run_id = p_run_id;
  if not found then
    raise exception using errcode = 'TL404', message = format('no run %s', p_run_id);
  end if;
  if v.executor = 'pull' then
    select * into v_pull from ops.pull_runs p where p.run_id = p_run_id for update;
  end if;
  if v.status <> all (p_from) or v.executor = 'pull' and v_pull.run_id is null then
    raise exception using errcode = 'TL409', message = format('run %s is %s and cannot be %sd', p_run_id, v.status, p_verb),
      detail = jsonb_build_object('run_id', p_run_id)::text;
  end if;
  if v.executor = 'engine' then
    perform tramline.request(p_run_id, p_verb, null, p_reason, p_actor);
  elsif v.executor = 'pull' then
    perform tramline.ask_pull_run(v_pull, p_to, p_reason, p_actor);
  else
    update ops.runs set status = p_to where run_id = p_run_id;
    perform tramline.note_act(p_run_id, p_verb || 'd', p_reason, p_actor);
  end if;
end $$;

-- Pauses a run: calls that are out end, nothing new starts. TL404, and TL409 when it has ended or is paused.
create function ops.pause_run(p_run_id uuid, p_reason text default null, p_actor text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform tramline.ask(p_run_id, 'pause', 'paused', array['scheduled', 'queued', 'claimed', 'running', 'waiting'], p_reason, p_actor);
end $$;

-- Lets a paused run go on. TL404, and TL409 when it is not paused.
create function ops.resume_run(p_run_id uuid, p_reason text default null, p_actor text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform tramline.ask(p_run_id, 'resume', 'queued', array['paused'], p_reason, p_actor);
end $$;

-- Files runs that were given up, within the flush that ended them: the steps and the end are there already.
create function tramline.file_dead_letters(p jsonb, p_held int[]) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into tramline.dead_letters (run_id, shard, generation, target, queue, reason, message, step, attempt, attempts, error, payload)
  select r.run_id, tramline.shard_of(r.run_id), r.generation, x.target, x.queue, r.reason, r.message, r.step, r.attempt,
         coalesce(a.list, '[]'), e.error, r.payload
    from jsonb_to_recordset(p) as r(run_id uuid, generation int, reason text, message text, step text, attempt int, payload jsonb)
    left join lateral (select y.target, y.queue from tramline.all_runs y where y.run_id = r.run_id limit 1) x on true
    left join lateral (select y.error, y.attempt, y.finished_at, y.claimed_by from tramline.all_ends y
                        where y.run_id = r.run_id and y.generation = r.generation limit 1) e on true
    left join lateral (
      select jsonb_agg(q.entry order by q.finished_at, q.attempt) as list from (
        select s.finished_at, s.attempt, jsonb_build_object('step', nullif(s.step, ''), 'attempt', s.attempt, 'error', s.error,
                 'started_at', s.started_at, 'finished_at', s.finished_at, 'node', s.node) as entry
          from tramline.all_steps s where s.run_id = r.run_id and s.generation = r.generation and s.status = 'failed'
        union all
        -- the last attempt of a plain function is the end of its run
        select e.finished_at, e.attempt, jsonb_build_object('step', null, 'attempt', e.attempt, 'error', e.error,
                 'finished_at', e.finished_at, 'node', e.claimed_by)
         where r.step is null and e.error is not null) q) a on true
   where tramline.shard_of(r.run_id) = any (p_held)
  on conflict do nothing;
end $$;

-- Opens the next generation of a dead letter, with its own input or another one. The letter stays and says by whom and why. TL404 when
-- the run is no dead letter, TL409 when it was redriven already.
create function ops.redrive(p_run_id uuid, p_input jsonb default null, p_reason text default null, p_actor text default null) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v tramline.dead_letters;
begin
  select * into v from tramline.dead_letters d where d.run_id = p_run_id order by d.generation desc limit 1;
  if not found then
    raise exception using errcode = 'TL404', message = format('run %s is no dead letter', p_run_id), hint = 'ops.retry_run retries any failed run';
  end if;
  if v.redriven_at is not null then
    raise exception using errcode = 'TL409', message = format('run %s was redriven at %s by %s', p_run_id, v.redriven_at, v.redriven_by),
      detail = jsonb_build_object('run_id', p_run_id)::text;
  end if;
  return ops.retry_run(p_run_id, p_reason, p_input, null, p_actor);
end $$;

-- Keys of a filter, checked: an unknown one is told, and a filter without any condition needs "all": true.
create function tramline.check_filter(p_filter jsonb, p_known text[]) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare v_key text; v_value jsonb; v_conditions int := 0;
begin
  if p_filter is null or jsonb_typeof(p_filter) <> 'object' then
    perform tramline.refuse_input('filter', 'must be an object such as {"target": "x", "status": "failed"}');
  end if;
  for v_key, v_value in select * from jsonb_each(p_filter) loop
    if v_key <> all (p_known || array['all']) then
      perform tramline.refuse_input('filter.' || v_key, format('unknown key; known are %s', array_to_string(p_known || array['all'], ', ')));
    end if;
    if v_key = 'all' and v_value <> 'true' then
      perform tramline.refuse_input('filter.all', 'can only be true');
    elsif v_key = 'metadata' and jsonb_typeof(v_value) <> 'object' then
      perform tramline.refuse_input('filter.metadata', 'must be an object: runs whose metadata holds it are meant');
    elsif v_key in ('since', 'until') then
      begin
        perform (v_value #>> '{}')::timestamptz;
      exception when others then
        perform tramline.refuse_input('filter.' || v_key, 'must be a time like 2026-01-31T12:00:00Z');
      end;
    elsif v_key = 'run_ids' then
      begin
        perform u::uuid from jsonb_array_elements_text(v_value) u;
      exception when others then
        perform tramline.refuse_input('filter.run_ids', 'must be a list of run ids');
      end;
    elsif v_key not in ('all', 'metadata') and not (jsonb_typeof(v_value) = 'string' or jsonb_typeof(v_value) = 'array'
          and not exists (select from jsonb_array_elements(v_value) u where jsonb_typeof(u) <> 'string')) then
      perform tramline.refuse_input('filter.' || v_key, 'must be a text or a list of texts');
    end if;
    v_conditions := v_conditions + (v_key <> 'all')::int;
  end loop;
  if v_conditions = 0 and not p_filter ? 'all' then
    perform tramline.refuse_input('filter', 'has no condition and so means everything: say {"all": true} if that is meant');
  end if;
end $$;

-- A condition as a list of texts; null when the filter does not have it.
create function tramline.filter_texts(p_filter jsonb, p_key text) returns text[] language sql immutable as $$
  select case jsonb_typeof(p_filter -> p_key) when 'array' then array(select jsonb_array_elements_text(p_filter -> p_key))
              when 'string' then array[p_filter ->> p_key] end
$$;

-- Redrives the dead letters that a filter names, oldest first; with p_dry_run, which is the default, it only says which. Conditions:
-- reason, target, queue, step, code (of the error), since, until (of the letter), run_ids. At most p_limit in one call; "next" goes on.
create function ops.redrive_many(p_filter jsonb, p_dry_run boolean default true, p_reason text default null, p_actor text default null,
  p_limit int default 100, p_after uuid default null)
returns jsonb language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_limit int := least(greatest(coalesce(p_limit, 100), 1), 1000);
  v_found jsonb;                                     -- one more than the limit tells whether there is more
  v_row jsonb;
  v_done int := 0;
  v_refused jsonb := '[]';
  v_total bigint;
begin
  perform tramline.check_filter(p_filter, array['reason', 'target', 'queue', 'step', 'code', 'since', 'until', 'run_ids']);
  with matching as (
    select d.* from tramline.dead_letters d
     where d.redriven_at is null
       and (not p_filter ? 'reason' or d.reason = any (tramline.filter_texts(p_filter, 'reason')))
       and (not p_filter ? 'target' or d.target = any (tramline.filter_texts(p_filter, 'target')))
       and (not p_filter ? 'queue' or d.queue = any (tramline.filter_texts(p_filter, 'queue')))
       and (not p_filter ? 'step' or d.step = any (tramline.filter_texts(p_filter, 'step')))
       and (not p_filter ? 'code' or d.error ->> 'code' = any (tramline.filter_texts(p_filter, 'code')))
       and (not p_filter ? 'since' or d.created_at >= (p_filter ->> 'since')::timestamptz)
       and (not p_filter ? 'until' or d.created_at < (p_filter ->> 'until')::timestamptz)
       and (not p_filter ? 'run_ids' or d.run_id::text = any (tramline.filter_texts(p_filter, 'run_ids')))),
  page as (select m.* from matching m where p_after is null or m.run_id > p_after order by m.run_id limit v_limit + 1)
  select (select count(*) from matching),
         (select coalesce(jsonb_agg(jsonb_build_object('run_id', g.run_id, 'generation', g.generation, 'target', g.target, 'reason', g.reason,
                   'message', g.message, 'created_at', g.created_at) order by g.run_id), '[]') from page g)
    into v_total, v_found;
  if not p_dry_run then
    for v_row in select u from jsonb_array_elements(v_found) with ordinality as e(u, n) where n <= v_limit loop
      begin
        perform ops.redrive((v_row ->> 'run_id')::uuid, null, p_reason, p_actor);
        v_done := v_done + 1;
      exception when sqlstate 'TL404' or sqlstate 'TL409' or sqlstate 'TL400' then
        v_refused := v_refused || jsonb_build_array(jsonb_build_object('run_id', v_row ->> 'run_id', 'message', sqlerrm));
      end;
    end loop;
  end if;
  return jsonb_build_object('verb', 'redrive', 'dry_run', p_dry_run, 'total', v_total,
    'matched', least(jsonb_array_length(v_found), v_limit), 'applied', v_done, 'refused', v_refused,
    'runs', (select coalesce(jsonb_agg(u order by n), '[]') from jsonb_array_elements(v_found) with ordinality as e(u, n) where n <= least(v_limit, 20)),
    'next', case when jsonb_array_length(v_found) > v_limit then v_found #> array[(v_limit - 1)::text, 'run_id'] end);
end $$;

-- Runs that a filter names, in the order of their ids after p_after, among the first p_examine that the cheap conditions leave.
create function tramline.matching_runs(p_filter jsonb, p_status text[], p_after uuid, p_examine int)
returns table (run_id uuid, target text, queue text, executor text, status text, generation int, queued_at timestamptz, examined bigint, last_id uuid)
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  v_since timestamptz := (p_filter ->> 'since')::timestamptz;
  v_until timestamptz := (p_filter ->> 'until')::timestamptz;
  -- Ids are times; a client's clock may be a day off.
  v_low uuid := tramline.uuid_at(v_since - interval '1 day');
  v_high uuid := tramline.uuid_at(v_until + interval '1 day');
  v_target text[] := tramline.filter_texts(p_filter, 'target');
  v_queue text[] := tramline.filter_texts(p_filter, 'queue');
  v_source text[] := tramline.filter_texts(p_filter, 'source');
  v_kind text[] := tramline.filter_texts(p_filter, 'kind');
  v_prefix text := p_filter ->> 'correlation_prefix';
  v_metadata jsonb := p_filter -> 'metadata';
  v_ids uuid[] := tramline.filter_texts(p_filter, 'run_ids')::uuid[];
begin
  return query
  with page as materialized (
    select r.run_id from tramline.all_runs r
     where (p_after is null or r.run_id > p_after)
       and (v_ids is null or r.run_id = any (v_ids))
       and (v_since is null or r.queued_at >= v_since and (r.is_foreign or r.run_id >= v_low))
       and (v_until is null or r.queued_at < v_until and (r.is_foreign or r.run_id < v_high))
       and (v_target is null or r.target = any (v_target))
       and (v_queue is null or r.queue = any (v_queue))
       and (v_source is null or r.source = any (v_source))
       and (v_kind is null or r.kind = any (v_kind))
       and (v_prefix is null or starts_with(r.correlation_id, v_prefix))
       and (v_metadata is null or r.metadata @> v_metadata)
     order by r.run_id limit p_examine),
  seen as (select count(*) as n, max(p.run_id::text)::uuid as last_id from page p)
  select v.run_id, v.target, v.queue, v.executor, v.status, v.generation, v.queued_at, s.n, s.last_id
    from seen s left join lateral (
      select o.run_id, o.target, o.queue, o.executor, o.status, o.generation, o.queued_at
        from page p cross join lateral (select * from ops.runs x where x.run_id = p.run_id offset 0) o
       where o.status = any (p_status)) v on true
   order by v.run_id;
end $$;

create type tramline.bulk_row as (run_id uuid, target text, queue text, executor text, status text, generation int, queued_at timestamptz);

-- Cancels, pauses, resumes or retries the runs that a filter names, oldest first; with p_dry_run, which is the default, it only says
-- which. Conditions: status, target, queue, kind, source, since, until (of the acceptance), correlation_prefix, metadata (as the run was
-- started with, by containment), run_ids. Only runs whose status the verb can change are meant. One call examines 20,000 runs and acts on
-- at most p_limit; "next" goes on from there. A run that no longer allows it when its owner looks refuses with an event.
create function ops.bulk_runs(p_verb text, p_filter jsonb, p_dry_run boolean default true, p_reason text default null, p_actor text default null,
  p_limit int default 1000, p_after uuid default null)
returns jsonb language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c_examine constant int := 20000;                   -- some tenths of a second
  v_limit int := least(greatest(coalesce(p_limit, 1000), 1), 10000);
  v_allowed text[] := case p_verb
    when 'cancel' then array['scheduled', 'queued', 'claimed', 'running', 'waiting', 'paused', 'compensating']
    when 'pause' then array['scheduled', 'queued', 'claimed', 'running', 'waiting']
    when 'resume' then array['paused']
    when 'retry' then array['failed', 'cancelled'] end;
  v_wanted text[];
  v_unknown text;
  v_actor text := tramline.acting(p_actor);
  v_page tramline.bulk_row[];
  v_answer jsonb;
  v_row record;
  v_refused jsonb := '[]';
  v_applied int := 0;
begin
  if v_allowed is null then
    perform tramline.refuse_input('verb', format('"%s" is none of cancel, pause, resume, retry', p_verb));
  end if;
  perform tramline.check_filter(p_filter, array['status', 'target', 'queue', 'kind', 'source', 'since', 'until', 'correlation_prefix',
    'metadata', 'run_ids']);
  v_wanted := tramline.filter_texts(p_filter, 'status');
  select u into v_unknown from unnest(v_wanted) u
   where u <> all (array['scheduled', 'queued', 'claimed', 'running', 'waiting', 'paused', 'compensating', 'completed', 'failed', 'cancelled', 'skipped']);
  if v_unknown is not null then
    perform tramline.refuse_input('filter.status', format('"%s" is no status of a run', v_unknown));
  end if;
  v_wanted := case when v_wanted is null then v_allowed else array(select u from unnest(v_wanted) u where u = any (v_allowed)) end;
  if v_wanted = '{}' then
    perform tramline.refuse_input('filter.status', format('%s applies to runs that are %s', p_verb, array_to_string(v_allowed, ', ')));
  end if;

  with found as materialized (select * from tramline.matching_runs(p_filter, v_wanted, p_after, c_examine)),
  numbered as (select f.*, row_number() over (order by f.run_id) as n from found f where f.run_id is not null)
  select (select array_agg(row(u.run_id, u.target, u.queue, u.executor, u.status, u.generation, u.queued_at)::tramline.bulk_row order by u.n)
            from numbered u where u.n <= v_limit or p_dry_run),
         jsonb_build_object('verb', p_verb, 'dry_run', p_dry_run, 'examined', max(f.examined),
           'next', case when not p_dry_run and count(f.run_id) > v_limit then (select u.run_id from numbered u where u.n = v_limit)
                        when max(f.examined) = c_examine then max(f.last_id::text)::uuid end)
    into v_page, v_answer from found f;

  if not p_dry_run then
    insert into tramline.commands (shard, subject_id, verb, args, actor, reason)
    select tramline.shard_of(b.run_id), b.run_id::text, p_verb,
           case when p_verb = 'retry' then jsonb_build_object('generation', b.generation) end, v_actor, p_reason
      from unnest(v_page) b where b.executor = 'engine' order by b.run_id;
    get diagnostics v_applied = row_count;
    for v_row in select * from unnest(v_page) b where b.executor <> 'engine' order by b.run_id loop
      begin
        case p_verb
          when 'cancel' then perform ops.cancel_run(v_row.run_id, p_reason, v_actor);
          when 'pause' then perform ops.pause_run(v_row.run_id, p_reason, v_actor);
          when 'resume' then perform ops.resume_run(v_row.run_id, p_reason, v_actor);
          else perform ops.retry_run(v_row.run_id, p_reason, null, null, v_actor);
        end case;
        v_applied := v_applied + 1;
      exception when sqlstate 'TL404' or sqlstate 'TL409' or sqlstate 'TL400' then
        v_refused := v_refused || jsonb_build_array(jsonb_build_object('run_id', v_row.run_id, 'message', sqlerrm));
      end;
    end loop;
  end if;
  return v_answer || jsonb_build_object('matched', coalesce(cardinality(v_page), 0), 'applied', v_applied, 'refused', v_refused,
    'by_status', (select coalesce(jsonb_object_agg(q.status, q.n), '{}') from (select b.status, count(*) as n from unnest(v_page) b group by 1) q),
    'by_target', (select coalesce(jsonb_object_agg(q.target, q.n), '{}') from
                   (select b.target, count(*) as n from unnest(v_page) b group by 1 order by 2 desc, 1 limit 20) q),
    'runs', (select coalesce(jsonb_agg(jsonb_build_object('run_id', b.run_id, 'target', b.target, 'queue', b.queue, 'status', b.status,
               'queued_at', b.queued_at) order by b.run_id), '[]') from unnest(v_page[:20]) b));
end $$;
