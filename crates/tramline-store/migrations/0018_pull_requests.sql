-- What people ask of runs in pull queues: cancel, retry, pause, resume, requeue, priority, metadata. Done at once, under the lock of
-- the run's row, each with an event.

-- Cancels a pull run: it ends at once. Whoever works on it hears so from its next heartbeat, event or finish.
create function tramline.cancel_pull_run(p_run_id uuid, p_reason text, p_actor text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  p ops.pull_runs;
  v_message text := coalesce(p_reason, 'cancelled on request');
begin
  select * into p from ops.pull_runs x where x.run_id = p_run_id for update;
  if not found then
    return false;
  end if;
  perform tramline.add_event(p_run_id, p.is_foreign, 'cancelled', 'info', v_message, jsonb_build_object('actor', tramline.acting(p_actor)));
  perform tramline.end_pull_run(p, 'cancelled', null,
    jsonb_build_object('code', 'cancelled', 'message', v_message, 'actor', tramline.acting(p_actor)), null,
    case when p.status in ('claimed', 'running') then p.claimed_by end);
  return true;
end $$;

-- Puts an ended pull run back into its queue as the next generation. Its fence goes on from the last end.
create function tramline.retry_pull_run(p_run_id uuid, p_input jsonb, p_from_step text, p_reason text, p_actor text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r tramline.all_runs;
  e tramline.all_ends;
  v_seq bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
begin
  if p_from_step is not null then
    raise exception using errcode = 'TL400', message = format('run %s is executed by workers and has no steps to repeat', p_run_id);
  end if;
  select * into r from tramline.all_runs x where x.run_id = p_run_id;
  select * into e from tramline.all_ends x where x.run_id = p_run_id order by x.generation desc limit 1;
  insert into ops.pull_runs (run_id, generation, queue, priority, run_at, fence, is_foreign)
  values (p_run_id, e.generation + 1, r.queue, r.priority, clock_timestamp(), e.epoch, r.is_foreign) on conflict do nothing;
  if not found then
    raise exception using errcode = 'TL409', message = format('run %s was retried by somebody else just now', p_run_id);
  end if;
  if r.is_foreign then
    insert into tramline.run_marks_foreign (run_id, shard, generation, seq, status, input) values (p_run_id, r.shard, e.generation + 1, v_seq, 'queued', p_input);
  else
    insert into tramline.run_marks (run_id, shard, generation, seq, status, input) values (p_run_id, r.shard, e.generation + 1, v_seq, 'queued', p_input);
  end if;
  perform tramline.add_event(p_run_id, r.is_foreign, 'retried', 'info', format('re-opened as generation %s', e.generation + 1),
    jsonb_build_object('actor', tramline.acting(p_actor), 'reason', p_reason));
  update tramline.dead_letters d set redriven_at = clock_timestamp(), redriven_by = tramline.acting(p_actor), redrive_reason = p_reason
   where d.run_id = p_run_id and d.generation = e.generation and d.redriven_at is null;
end $$;

-- An UPDATE of ops.runs on a pull run, done at once: status to queued (a claim is taken back, a paused run goes on, a failed or
-- cancelled one is retried, a scheduled one may start now), cancelled, paused (a claim is taken back as well), and running from claimed;
-- claimed_by to null; priority; metadata (merged). What has changed since the UPDATE read the row is left alone: the row does not count.
create function tramline.update_pull_run(p_old ops.runs, p_new ops.runs) returns ops.runs
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  p ops.pull_runs;
  r ops.runs;
  v_changed text[];
  v_asked text := case when p_new.status is distinct from p_old.status then coalesce(p_new.status, 'null')
                       when p_new.claimed_by is null and p_old.claimed_by is not null then 'queued' end;
begin
  select array_agg(n.key order by n.key) into v_changed
    from jsonb_each(to_jsonb(p_new)) n join jsonb_each(to_jsonb(p_old)) o on o.key = n.key
   where n.value is distinct from o.value and n.key not in ('status', 'priority', 'metadata', 'started_at', 'finished_at', 'completed_at')
     and not (n.key = 'claimed_by' and p_new.claimed_by is null);
  if v_changed is not null then
    raise exception using errcode = 'TL400', message = format('column %s of a run in a pull queue cannot be changed', v_changed[1]),
      hint = 'status (to queued, cancelled, paused or running), priority and metadata can, claimed_by to null';
  end if;
  if v_asked not in ('queued', 'cancelled', 'paused', 'running') then
    raise exception using errcode = 'TL400', message = format('status of a run in a pull queue cannot be set to "%s"', v_asked),
      hint = 'queued, cancelled, paused and running can be asked for; workers call ops.finish_run';
  end if;
  if v_asked = 'queued' and p_old.status in ('failed', 'cancelled') then
    perform tramline.retry_pull_run(p_old.run_id, null, null, 'update of ops.runs', null);
    v_asked := null;
  end if;
  select * into p from ops.pull_runs x where x.run_id = p_old.run_id for update;
  if not found and p_old.status in ('completed', 'failed', 'cancelled', 'skipped') then
    raise exception using errcode = 'TL400', message = format('run %s has ended (%s); its row does not change any more', p_old.run_id, p_old.status);
  end if;
  if not found or v_asked is not null and (p.attempt, p.status) is distinct from
       (p_old.attempt, case p_old.status when 'scheduled' then 'queued' else p_old.status end) then
    return null;
  end if;
  if v_asked is not null then
    perform tramline.ask_pull_run(p, v_asked);
  end if;
  if p_new.priority is distinct from p_old.priority then
    if p_new.priority is null or p_new.priority not between 0 and 3 then
      raise exception using errcode = 'TL400', message = 'a priority is 0, 1, 2 or 3';
    end if;
    update ops.pull_runs set priority = p_new.priority where run_id = p.run_id;
    perform tramline.mark_pull_run(p, null, p_new.priority);
    perform tramline.add_event(p.run_id, p.is_foreign, 'priority', 'info', format('priority set to %s', p_new.priority),
      jsonb_build_object('actor', tramline.acting(null)));
  end if;
  if p_new.metadata is distinct from p_old.metadata then
    perform tramline.mark_pull_run(p, p_new.metadata, null);
  end if;
  select * into r from ops.runs x where x.run_id = p_old.run_id;
  return r;
end $$;

-- A change of status that somebody asks for, of a live run whose row the caller has locked.
create function tramline.ask_pull_run(p ops.pull_runs, p_asked text, p_reason text default null, p_actor text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_held boolean := p.status in ('claimed', 'running');
  v_actor jsonb := jsonb_build_object('actor', tramline.acting(p_actor), 'reason', p_reason);
begin
  case
    when p_asked = 'cancelled' then
      perform tramline.cancel_pull_run(p.run_id, 'update of ops.runs', null);
    when p_asked = 'queued' and v_held then
      update ops.pull_runs set status = 'queued', lease_until = null where run_id = p.run_id;
      perform tramline.add_event(p.run_id, p.is_foreign, 'claim.requeued', 'info', format('the claim of "%s" was taken back on request', p.claimed_by),
        v_actor || jsonb_build_object('worker_id', p.claimed_by, 'fence', p.fence));
    when p_asked = 'queued' and p.status = 'paused' then
      update ops.pull_runs set status = 'queued' where run_id = p.run_id;
      perform tramline.add_event(p.run_id, p.is_foreign, 'resumed', 'info', 'resumed on request', v_actor);
    when p_asked = 'queued' then
      update ops.pull_runs set run_at = clock_timestamp() where run_id = p.run_id;
      perform tramline.add_event(p.run_id, p.is_foreign, 'resumed', 'info', 'its start time was lifted on request', v_actor);
    when p_asked = 'paused' then
      -- The claim is gone with it: what its worker says from now on is refused.
      update ops.pull_runs set status = 'paused', lease_until = null, fence = p.fence + v_held::int where run_id = p.run_id;
      perform tramline.add_event(p.run_id, p.is_foreign, 'paused', 'info', 'paused on request', v_actor);
    when p_asked = 'running' and p.status = 'claimed' then
      update ops.pull_runs set status = 'running' where run_id = p.run_id;
    else
      raise exception using errcode = 'TL400', message = format('run %s is %s and cannot become "%s"', p.run_id, p.status, p_asked),
        hint = 'claim it first';
  end case;
end $$;

-- Records metadata or a priority of a live pull run, beside its present state.
create function tramline.mark_pull_run(p ops.pull_runs, p_metadata jsonb, p_priority smallint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare v_seq bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
begin
  if p_priority is null and jsonb_typeof(p_metadata) is distinct from 'object' then
    raise exception using errcode = 'TL400', message = 'metadata must be an object';
  end if;
  if p.is_foreign then
    insert into tramline.run_marks_foreign (run_id, shard, generation, seq, status, metadata, priority)
    values (p.run_id, tramline.shard_of(p.run_id), p.generation, v_seq, p.status, p_metadata, p_priority);
  else
    insert into tramline.run_marks (run_id, shard, generation, seq, status, metadata, priority)
    values (p.run_id, tramline.shard_of(p.run_id), p.generation, v_seq, p.status, p_metadata, p_priority);
  end if;
end $$;
