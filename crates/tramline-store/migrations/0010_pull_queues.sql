-- Pull queues: workers outside claim runs, say that they live, and finish them. Everything happens in ops.pull_runs, under the lock of
-- the run's row; no node takes part. A claim holds a lease by the database's clock and a fence that rises with every claim.
-- Lock order: the queue's row (only where its claims go one by one), then rows of ops.pull_runs, then the state of its rate.

-- A schedule's runs are started by nodes.
create function tramline.schedule_queue_guard() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from tramline.queues q where q.name = new.queue and q.mode = 'pull') then
    raise exception using errcode = 'TL400', message = format('schedule "%s" names the pull queue "%s", whose runs no node starts', new.name, new.queue),
      hint = 'schedule a function that calls ops.queue_run';
  end if;
  return new;
end $$;
create trigger schedule_queue_guard before insert or update of queue on tramline.schedules for each row
  execute function tramline.schedule_queue_guard();

alter table ops.pull_runs enable row level security;
create policy engine on ops.pull_runs to tramline_engine using (true) with check (true);
create policy api on ops.pull_runs for select to tramline_api, service_role using (true);
create policy dashboard on ops.pull_runs for select to tramline_dashboard using (true);
create policy own on ops.pull_runs for select to authenticated
  using (exists (select from tramline.all_runs r where r.run_id = pull_runs.run_id));
grant select on ops.pull_runs to authenticated;

-- Every how many claims the least urgent class comes first.
create sequence tramline.claim_turns;

-- Who does it, for the ledger.
create function tramline.acting(p_actor text) returns text language sql stable as $$
  select coalesce(p_actor, auth.uid()::text, auth.role(), session_user)
$$;

create function tramline.add_event(p_run_id uuid, p_is_foreign boolean, p_type text, p_level text, p_message text, p_payload jsonb)
returns uuid language plpgsql set search_path = pg_catalog, pg_temp as $$
declare v_id uuid := tramline.uuid_v7();
begin
  if p_is_foreign then
    insert into tramline.run_events_foreign (run_id, shard, event_id, event_type, level, message, payload, created_at)
    values (p_run_id, tramline.shard_of(p_run_id), v_id, p_type, p_level, p_message, p_payload, clock_timestamp());
  else
    insert into tramline.run_events (run_id, shard, event_id, event_type, level, message, payload, created_at)
    values (p_run_id, tramline.shard_of(p_run_id), v_id, p_type, p_level, p_message, p_payload, clock_timestamp());
  end if;
  return v_id;
end $$;

-- Ends a run whose row the caller has locked: the end goes to the ledger, the row leaves the queue. Its last version shows the end to
-- row triggers. The fence is kept with the end, so that it goes on rising when the run is retried.
create function tramline.end_pull_run(p ops.pull_runs, p_status text, p_output jsonb, p_error jsonb, p_metadata jsonb, p_worker text)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- A claim that was lost counts only when its worker ends the run after all.
  v_started timestamptz := case when p.status in ('claimed', 'running') or p_status <> 'cancelled' then p.started_at end;
begin
  update ops.pull_runs set status = p_status, lease_until = null where run_id = p.run_id;
  delete from ops.pull_runs where run_id = p.run_id;
  if not found then
    raise exception using errcode = 'TL409', message = format('the end of run %s was kept back by a trigger on ops.pull_runs', p.run_id);
  end if;
  if p.is_foreign then
    insert into tramline.run_ends_foreign (run_id, shard, generation, status, output, error, attempt, claimed_by, epoch, started_at, finished_at, metadata)
    values (p.run_id, tramline.shard_of(p.run_id), p.generation, p_status, p_output, p_error, p.attempt, p_worker, p.fence, v_started,
            clock_timestamp(), p_metadata);
  else
    insert into tramline.run_ends (run_id, shard, generation, status, output, error, attempt, claimed_by, epoch, started_at, finished_at, metadata)
    values (p.run_id, tramline.shard_of(p.run_id), p.generation, p_status, p_output, p_error, p.attempt, p_worker, p.fence, v_started,
            clock_timestamp(), p_metadata);
  end if;
end $$;

-- Takes claims back whose rows the caller has locked. A run that has lost as many claims as its queue allows is a dead letter.
-- Returns how many are queued again.
create function tramline.return_claims(p_ids uuid[], p_event text, p_why text) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  p ops.pull_runs;
  v_max int;
  v_error jsonb;
  v_returned int := 0;
begin
  for p in select * from ops.pull_runs x where x.run_id = any (p_ids) order by x.run_id loop
    perform tramline.add_event(p.run_id, p.is_foreign, p_event, 'warn', format('claim %s of "%s" %s', p.attempt, p.claimed_by, p_why),
      jsonb_build_object('worker_id', p.claimed_by, 'fence', p.fence, 'attempt', p.attempt, 'generation', p.generation,
        'started_at', p.started_at, 'lease_until', p.lease_until));
    select q.claims_max into v_max from tramline.queues q where q.name = p.queue;
    if p.attempt >= v_max then
      v_error := jsonb_build_object('code', 'claims_exhausted',
        'message', format('%s claims were lost; the queue "%s" allows no more', p.attempt, p.queue));
      perform tramline.end_pull_run(p, 'failed', null, v_error, null, p.claimed_by);
      insert into tramline.dead_letters (run_id, shard, generation, target, queue, reason, message, attempt, attempts, error, payload)
      select p.run_id, tramline.shard_of(p.run_id), p.generation, r.target, r.queue, 'claims_exhausted', v_error ->> 'message', p.attempt,
             (select coalesce(jsonb_agg(x.payload || jsonb_build_object('error', x.message, 'finished_at', x.created_at) order by x.created_at), '[]')
                from tramline.all_events x where x.run_id = p.run_id and x.event_type in ('claim.expired', 'claim.requeued')
                 and x.payload ->> 'generation' = p.generation::text),
             v_error, r.input
        from ops.runs r where r.run_id = p.run_id
      on conflict do nothing;
    else
      update ops.pull_runs set status = 'queued', lease_until = null where run_id = p.run_id;
      v_returned := v_returned + 1;
    end if;
  end loop;
  return v_returned;
end $$;

-- Takes back what is past its lease in some pull queues (in all, without an argument); at most so many in one call.
create function tramline.return_expired(p_queues text[] default null, p_limit int default 1000) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := clock_timestamp();
  v_queues text[] := coalesce(p_queues, array(select q.name from tramline.queues q where q.mode = 'pull'));
  v_ids uuid[];
begin
  v_ids := array(select p.run_id from ops.pull_runs p where p.queue = any (v_queues) and p.status in ('claimed', 'running')
                    and p.lease_until <= v_now order by p.lease_until limit p_limit for update skip locked);
  if v_ids = '{}' then
    return 0;
  end if;
  return tramline.return_claims(v_ids, 'claim.expired', 'was not renewed in time');
end $$;

-- Takes back the claims of workers that were not heard of for so long (claim or heartbeat), whatever their leases. Returns how many
-- runs are queued again.
create function ops.requeue_stale(p_older_than interval default '30 minutes', p_queue text default null) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_ids uuid[];
begin
  if p_older_than is null or p_older_than < interval '0' then
    raise exception using errcode = 'TL400', message = format('%s is no time to have been silent', coalesce(p_older_than::text, 'null'));
  end if;
  v_ids := array(select p.run_id from ops.pull_runs p where p.status in ('claimed', 'running') and (p_queue is null or p.queue = p_queue)
                    and p.heartbeat_at <= clock_timestamp() - p_older_than order by p.run_id for update skip locked);
  return tramline.return_claims(v_ids, 'claim.requeued', format('was silent for %s', p_older_than));
end $$;

create function tramline.check_lease(p_lease interval) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Below a second it is over before the worker has read the answer; beyond a week nobody waits for a worker that died.
  if p_lease is null or p_lease < interval '1 second' or p_lease > interval '7 days' then
    raise exception using errcode = 'TL400', message = format('a lease lasts 1 second to 7 days, not %s', coalesce(p_lease::text, 'null'));
  end if;
end $$;

-- What a worker is told about a run that it has claimed.
create function tramline.claimed_run(p_run_id uuid) returns jsonb language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select jsonb_build_object('run_id', r.run_id, 'kind', r.kind, 'target', r.target, 'queue', r.queue, 'priority', r.priority, 'status', r.status,
           'input', r.input, 'context', r.context, 'project_id', r.project_id, 'env', r.env, 'git_sha', r.git_sha, 'git_ref', r.git_ref,
           'function_name', r.function_name, 'correlation_id', r.correlation_id, 'source', r.source, 'metadata', r.metadata)
      || jsonb_build_object('attempt', p.attempt, 'generation', p.generation, 'fence', p.fence, 'claimed_by', p.claimed_by,
           'queued_at', r.queued_at, 'scheduled_at', r.scheduled_at, 'started_at', p.started_at, 'lease_until', p.lease_until)
    from ops.runs r, ops.pull_runs p where r.run_id = p_run_id and p.run_id = p_run_id);
end $$;

-- Claims up to so many runs for a worker: by priority, then by the time from which they may start; in a fifo queue by that time alone.
-- One call in 16 begins with the least urgent class, so that none waits for ever. Returns the runs, each with the fence and the end of
-- its lease; none when the queue is empty, paused, at its concurrency or at its rate.
create function ops.claim_runs(p_worker_id text, p_queue text default 'ops', p_count int default 1, p_lease interval default '30 minutes')
returns setof jsonb language plpgsql security definer set search_path = pg_catalog, pg_temp
-- Plans are made once per session, perhaps while the tables are empty: only index ranges are ever right here.
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c_count_max constant int := 1000;                  -- one commit, one answer
  c_expired_max constant int := 100;                 -- taken back on the way; more come with the next claim
  c_worker_max constant int := 200;                  -- a name, not a document
  v_queue tramline.queues;
  v_now timestamptz;
  v_left int := p_count;
  v_class int;
  v_got uuid[];
  v_ids uuid[] := '{}';
  v_rate record;
begin
  if coalesce(p_worker_id, '') = '' or length(p_worker_id) > c_worker_max then
    raise exception using errcode = 'TL400', message = format('a worker id has 1 to %s characters', c_worker_max);
  end if;
  if p_count is null or p_count not between 1 and c_count_max then
    raise exception using errcode = 'TL400', message = format('1 to %s runs can be claimed at once, not %s', c_count_max, coalesce(p_count::text, 'null'));
  end if;
  perform tramline.check_lease(p_lease);
  select * into v_queue from tramline.queues q where q.name = p_queue;
  if not found then
    raise exception using errcode = 'TL404', message = format('no queue named "%s"', p_queue), detail = jsonb_build_object('queue', p_queue)::text;
  end if;
  if v_queue.mode <> 'pull' then
    raise exception using errcode = 'TL400', message = format('the nodes execute the runs of queue "%s"; workers claim from pull queues', p_queue);
  end if;
  if v_queue.concurrency is not null or v_queue.rate_count is not null or v_queue.fifo then
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception using errcode = 'TL400',
        message = format('queue "%s" has a concurrency, a rate or an order: claim from it in a read committed transaction', p_queue);
    end if;
    -- Its claims go one by one, so that each sees what the others hold and have taken.
    select * into v_queue from tramline.queues q where q.name = p_queue for no key update;
  end if;
  if v_queue.paused then
    return;
  end if;
  perform tramline.return_expired(array[p_queue], c_expired_max);
  if v_queue.concurrency is not null then
    select least(p_count, v_queue.concurrency - count(*)) into v_left
      from ops.pull_runs p where p.queue = p_queue and p.status in ('claimed', 'running');
  end if;
  v_now := clock_timestamp();
  if v_queue.rate_count is not null then
    select * into v_rate from tramline.claim_room(v_queue, v_now);
    v_left := least(v_left, v_rate.room);
  end if;
  if v_queue.fifo and v_left > 0 then
    -- The four ranges of the index, merged: what is locked and not taken is nobody else's meanwhile.
    with taken as (
      update ops.pull_runs p set status = 'claimed', claimed_by = p_worker_id, fence = p.fence + 1, attempt = p.attempt + 1,
             started_at = v_now, heartbeat_at = v_now, lease = p_lease, lease_until = v_now + p_lease
       where p.run_id = any (array(
               select x.run_id from generate_series(0, 3) k(class)
                cross join lateral (select c.run_id, c.run_at from ops.pull_runs c
                                     where c.queue = p_queue and c.priority = k.class and c.status = 'queued' and c.run_at <= v_now
                                     order by c.run_at, c.run_id limit v_left for update skip locked) x
                order by x.run_at, x.run_id limit v_left))
      returning p.run_id, p.run_at)
    select coalesce(array_agg(t.run_id order by t.run_at, t.run_id), '{}') into v_ids from taken t;
    v_left := 0;
  end if;
  foreach v_class in array case when nextval('tramline.claim_turns') % 16 = 0 then array[3, 2, 1, 0] else array[0, 1, 2, 3] end loop
    exit when v_left <= 0;
    -- One range per class: what may not start yet is never stepped over. The array is the form that keeps to the index.
    with taken as (
      update ops.pull_runs p set status = 'claimed', claimed_by = p_worker_id, fence = p.fence + 1, attempt = p.attempt + 1,
             started_at = v_now, heartbeat_at = v_now, lease = p_lease, lease_until = v_now + p_lease
       where p.run_id = any (array(
               select c.run_id from ops.pull_runs c where c.queue = p_queue and c.priority = v_class and c.status = 'queued' and c.run_at <= v_now
                order by c.run_at, c.run_id limit v_left for update skip locked))
      returning p.run_id, p.run_at)
    select array_agg(t.run_id order by t.run_at, t.run_id) into v_got from taken t;
    v_ids := v_ids || v_got;
    v_left := v_left - coalesce(cardinality(v_got), 0);
  end loop;
  if v_queue.rate_count is not null and v_ids <> '{}' then
    insert into tramline.limits as l (shard, limit_key, state, expires_at)
    select tramline.key_shard('queue:' || p_queue), 'queue:' || p_queue, jsonb_build_object('empty_at_us', e.us), to_timestamp(e.us / 1000000.0) + interval '1 ms'
      from (select v_rate.from_us + v_rate.interval_us * cardinality(v_ids) as us) e
    on conflict (shard, limit_key) do update set state = excluded.state, expires_at = excluded.expires_at;
  end if;
  return query select tramline.claimed_run(u.run_id) from unnest(v_ids) with ordinality as u(run_id, n) order by u.n;
end $$;

-- Claims one run; JSON null when there is none.
create function ops.claim_next_run(p_worker_id text, p_queue text default 'ops', p_lease interval default '30 minutes') returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce((select c from ops.claim_runs(p_worker_id, p_queue, 1, p_lease) c), 'null')
$$;

-- Says what became of a claim that is not held any more.
create function tramline.raise_lost(p_run_id uuid, p_fence bigint) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r ops.runs;
  p ops.pull_runs;
  v_why text;
begin
  select * into r from ops.runs x where x.run_id = p_run_id;
  if not found then
    raise exception using errcode = 'TL404', message = format('no run %s', p_run_id);
  end if;
  if r.executor <> 'pull' then
    raise exception using errcode = 'TL400', message = format('run %s is in no pull queue (executor %s)', p_run_id, r.executor);
  end if;
  select * into p from ops.pull_runs x where x.run_id = p_run_id;
  v_why := case when not found then format('it has ended (%s)', r.status)
                when p.fence = 0 then 'nobody has claimed it yet'
                when p.status in ('claimed', 'running') then format('"%s" holds it, with fence %s', p.claimed_by, p.fence)
                else format('it is %s again', p.status) end;
  raise exception using errcode = 'TL409', message = format('the claim of run %s is not held%s: %s', p_run_id,
      coalesce(format(' (fence %s)', p_fence), ''), v_why),
    detail = jsonb_strip_nulls(jsonb_build_object('run_id', p_run_id, 'status', r.status, 'claimed_by', r.claimed_by, 'fence', p.fence))::text,
    hint = 'stop working on it; what was done is kept by whoever holds the claim now';
end $$;

-- Lengthens a lease from now on, by what the claim asked for or by p_lease. The claim is named by its fence, or by the worker that
-- holds it. Returns the end of the lease; TL409 when the claim was lost: the worker has to stop then.
create function ops.heartbeat_run(p_run_id uuid, p_worker_id text default null, p_fence bigint default null, p_lease interval default null)
returns timestamptz language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_until timestamptz;
begin
  if p_worker_id is null and p_fence is null then
    raise exception using errcode = 'TL400', message = 'a heartbeat needs the fence of the claim, or the worker''s id';
  end if;
  if p_lease is not null then
    perform tramline.check_lease(p_lease);
  end if;
  update ops.pull_runs p set heartbeat_at = clock_timestamp(), lease = coalesce(p_lease, p.lease),
         lease_until = clock_timestamp() + coalesce(p_lease, p.lease)
   where p.run_id = p_run_id and p.status in ('claimed', 'running')
     and case when p_fence is not null then p.fence = p_fence else p.claimed_by = p_worker_id end
  returning p.lease_until into v_until;
  if not found then
    perform tramline.raise_lost(p_run_id, p_fence);
  end if;
  return v_until;
end $$;

-- Ends a run that was claimed. "success" is a spelling of completed. With a fence it must be the newest claim's, held or not yet passed
-- on; without one it is accepted while the run was claimed only once, or while metadata.worker_id holds it. True when this call ended
-- it, false when the same claim had ended it so before (the answer was lost). output and error may be given in the metadata as well.
-- An external run ends like by an UPDATE.
create function ops.finish_run(p_run_id uuid, p_status text, p_metadata jsonb default '{}', p_fence bigint default null,
  p_output jsonb default null, p_error jsonb default null)
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c_result_max constant int := 1048576;              -- as large as an input; larger results are artifacts
  p ops.pull_runs;
  v_status text := case p_status when 'success' then 'completed' else p_status end;
  v_metadata jsonb := coalesce(p_metadata, '{}');
  v_worker text;
  v_output jsonb;
  v_error jsonb;
begin
  if v_status is null or v_status not in ('completed', 'failed', 'cancelled', 'skipped') then
    raise exception using errcode = 'TL400', message = format('"%s" is no end of a run', p_status),
      hint = 'completed (or success), failed, cancelled and skipped are';
  end if;
  if jsonb_typeof(v_metadata) <> 'object' then
    raise exception using errcode = 'TL400', message = 'metadata must be an object';
  end if;
  v_worker := v_metadata ->> 'worker_id';
  v_output := coalesce(p_output, v_metadata -> 'output');
  v_error := coalesce(p_error, v_metadata -> 'error', case when v_status = 'failed'
    then jsonb_build_object('code', 'failed', 'message', coalesce(v_metadata ->> 'message', 'the worker gave no reason')) end);
  if octet_length(v_metadata::text) + coalesce(octet_length(p_output::text), 0) + coalesce(octet_length(p_error::text), 0) > c_result_max then
    raise exception using errcode = 'TL400', message = format('the result of run %s has more than %s bytes', p_run_id, c_result_max),
      hint = 'store it elsewhere and add an artifact';
  end if;
  select * into p from ops.pull_runs x where x.run_id = p_run_id for update;
  if not found then
    return tramline.finish_other(p_run_id, v_status, v_output, v_error, v_metadata, p_fence);
  end if;
  if p.fence = 0 or p.status not in ('queued', 'claimed', 'running')
     or not (case when p_fence is not null then p.fence = p_fence
                  else p.fence = 1 or p.status <> 'queued' and v_worker is not distinct from p.claimed_by end) then
    perform tramline.raise_lost(p_run_id, p_fence);
  end if;
  perform tramline.end_pull_run(p, v_status, v_output, v_error, v_metadata, p.claimed_by);
  return true;
end $$;

-- finish_run of a run that is in no pull queue any more, or never was.
create function tramline.finish_other(p_run_id uuid, p_status text, p_output jsonb, p_error jsonb, p_metadata jsonb, p_fence bigint)
returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r ops.runs;
  v_fence bigint;
begin
  select * into r from ops.runs x where x.run_id = p_run_id;
  if r.executor = 'external' and r.status not in ('completed', 'failed', 'cancelled', 'skipped') then
    update ops.runs set status = p_status, output = p_output, error = p_error, metadata = r.metadata || p_metadata where run_id = p_run_id;
    return true;
  end if;
  select x.epoch into v_fence from tramline.all_ends x where x.run_id = p_run_id order by x.generation desc limit 1;
  if r.executor = 'pull' and r.status = p_status and v_fence > 0
     and (case when p_fence is not null then v_fence = p_fence else v_fence = 1 or r.claimed_by = p_metadata ->> 'worker_id' end) then
    return false;
  end if;
  if r.executor = 'external' then
    raise exception using errcode = 'TL409', message = format('run %s has ended (%s)', p_run_id, r.status);
  end if;
  perform tramline.raise_lost(p_run_id, p_fence);
end $$;
