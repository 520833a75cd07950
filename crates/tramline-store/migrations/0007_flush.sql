-- The flush: everything a node has to record, over all its shards, in one call and one commit. Only appended; repeatable: every row has
-- a key made by the client, so a flush whose outcome is unknown is sent again as it is, with p_again: then rows that exist are left as
-- they are ("on conflict do nothing", which costs twice as much as the insert itself: a first sending goes without).
--
-- p_epochs has the epoch of every shard that is touched, at the place of its number (the first is shard 0's); null means that it is not.
--
-- The fence: rows of the touched shards are locked in shard order for no key update. That conflicts with the update of a takeover:
-- either this commits before the epoch rises, or it waits, reads the row again and finds that it is no longer the owner.
--
-- Outputs are texts that jsonb takes, which the sender knows. Where it does not, it says p_again too: then each goes through jsonb, and what that
-- refuses fails the call.
--
-- p_foreign names the runs of this batch that live in the *_foreign siblings; null when there is none, which is nearly always.
-- p_cold holds what is rare: marks, events, timers_set, timers_clear, starts, parked, unparked, limits, commands_done, dead_letters, redriven,
-- periods, period_starts, period_ends. Answers the shards that were still held, and the ends that were not ours to write (somebody
-- else's end exists).
create function tramline.flush(
  p_owner uuid, p_node text, p_epochs bigint[],
  p_step_run uuid[], p_step_name text[], p_step_generation int[], p_step_attempt int[], p_step_status text[], p_step_function text[],
  p_step_output text[], p_step_error jsonb[], p_step_started timestamptz[], p_step_finished timestamptz[],
  p_end_run uuid[], p_end_generation int[], p_end_status text[], p_end_output text[], p_end_error jsonb[], p_end_error_step text[],
  p_end_attempt int[], p_end_started timestamptz[], p_end_finished timestamptz[],
  p_foreign uuid[], p_cold jsonb, p_again boolean,
  out held int[], out not_ended uuid[])
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rows bigint;
begin
  select array_agg(q.shard) into held from (
    select s.shard from tramline.shards s where s.epoch = p_epochs[s.shard + 1] and s.owner = p_owner order by s.shard for no key update) q;
  held := coalesce(held, '{}');
  if cardinality(held) < cardinality(array_remove(p_epochs, null)) then
    if held = '{}' then
      return;
    end if;
    -- From here on only what is held counts as touched.
    p_epochs := array(select case when u.n - 1 = any (held) then u.epoch end from unnest(p_epochs) with ordinality u(epoch, n) order by u.n);
  end if;

  -- Columns of arrays in a list are read in step, without the tables that "from unnest(…)" makes of them: a twentieth of the whole.
  if p_foreign is null and not p_again then
    if p_step_run is not null then
      insert into tramline.run_steps (run_id, shard, step, generation, attempt, status, function_name, output, error, started_at, finished_at,
             node, epoch)
      select u.run_id, u.shard, u.step, u.generation, u.attempt, u.status, u.function_name, u.output, u.error, u.started_at, u.finished_at,
             p_node, p_epochs[u.shard + 1]
        from (select x.*, tramline.shard_of(x.run_id) as shard
                from (select unnest(p_step_run) as run_id, unnest(p_step_name) as step, unnest(p_step_generation) as generation,
                             unnest(p_step_attempt) as attempt, unnest(p_step_status) as status, unnest(p_step_function) as function_name,
                             unnest(p_step_output) as output, unnest(p_step_error) as error, unnest(p_step_started) as started_at,
                             unnest(p_step_finished) as finished_at) x offset 0) u
       where p_epochs[u.shard + 1] is not null;
    end if;
    if p_end_run is not null then
      insert into tramline.run_ends (run_id, shard, generation, status, output, error, error_step, attempt, claimed_by, epoch, started_at,
             finished_at)
      select u.run_id, u.shard, u.generation, u.status, u.output, u.error, u.error_step, u.attempt, p_node, p_epochs[u.shard + 1],
             u.started_at, u.finished_at
        from (select x.*, tramline.shard_of(x.run_id) as shard
                from (select unnest(p_end_run) as run_id, unnest(p_end_generation) as generation, unnest(p_end_status) as status,
                             unnest(p_end_output) as output, unnest(p_end_error) as error, unnest(p_end_error_step) as error_step,
                             unnest(p_end_attempt) as attempt, unnest(p_end_started) as started_at, unnest(p_end_finished) as finished_at) x
              offset 0) u
       where p_epochs[u.shard + 1] is not null;
    end if;
    if p_cold is not null then
      perform tramline.flush_cold(p_node, held, p_epochs, p_foreign, p_cold);
    end if;
    return;
  end if;

  if p_step_run is not null then
    insert into tramline.run_steps (run_id, shard, step, generation, attempt, status, function_name, output, error, started_at, finished_at, node, epoch)
    select u.run_id, tramline.shard_of(u.run_id), u.step, u.generation, u.attempt, u.status, u.function_name, u.output::jsonb, u.error,
           u.started_at, u.finished_at, p_node, p_epochs[tramline.shard_of(u.run_id) + 1]
      from unnest(p_step_run, p_step_name, p_step_generation, p_step_attempt, p_step_status, p_step_function, p_step_output, p_step_error,
                  p_step_started, p_step_finished)
        as u(run_id, step, generation, attempt, status, function_name, output, error, started_at, finished_at)
     where tramline.shard_of(u.run_id) = any (held) and (p_foreign is null or u.run_id <> all (p_foreign))
    on conflict do nothing;
    if p_foreign is not null then
      insert into tramline.run_steps_foreign (run_id, shard, step, generation, attempt, status, function_name, output, error, started_at, finished_at,
             node, epoch)
      select u.run_id, tramline.shard_of(u.run_id), u.step, u.generation, u.attempt, u.status, u.function_name, u.output::jsonb, u.error,
             u.started_at, u.finished_at, p_node, p_epochs[tramline.shard_of(u.run_id) + 1]
        from unnest(p_step_run, p_step_name, p_step_generation, p_step_attempt, p_step_status, p_step_function, p_step_output, p_step_error,
                    p_step_started, p_step_finished)
          as u(run_id, step, generation, attempt, status, function_name, output, error, started_at, finished_at)
       where tramline.shard_of(u.run_id) = any (held) and u.run_id = any (p_foreign)
      on conflict do nothing;
    end if;
  end if;

  if p_end_run is not null then
    insert into tramline.run_ends (run_id, shard, generation, status, output, error, error_step, attempt, claimed_by, epoch, started_at, finished_at)
    select u.run_id, tramline.shard_of(u.run_id), u.generation, u.status, u.output::jsonb, u.error, u.error_step, u.attempt, p_node,
           p_epochs[tramline.shard_of(u.run_id) + 1], u.started_at, u.finished_at
      from unnest(p_end_run, p_end_generation, p_end_status, p_end_output, p_end_error, p_end_error_step, p_end_attempt, p_end_started, p_end_finished)
        as u(run_id, generation, status, output, error, error_step, attempt, started_at, finished_at)
     where tramline.shard_of(u.run_id) = any (held) and (p_foreign is null or u.run_id <> all (p_foreign))
    on conflict do nothing;
    get diagnostics v_rows = row_count;
    if p_foreign is not null then
      insert into tramline.run_ends_foreign (run_id, shard, generation, status, output, error, error_step, attempt, claimed_by, epoch, started_at,
             finished_at)
      select u.run_id, tramline.shard_of(u.run_id), u.generation, u.status, u.output::jsonb, u.error, u.error_step, u.attempt, p_node,
             p_epochs[tramline.shard_of(u.run_id) + 1], u.started_at, u.finished_at
        from unnest(p_end_run, p_end_generation, p_end_status, p_end_output, p_end_error, p_end_error_step, p_end_attempt, p_end_started,
                    p_end_finished)
          as u(run_id, generation, status, output, error, error_step, attempt, started_at, finished_at)
       where tramline.shard_of(u.run_id) = any (held) and u.run_id = any (p_foreign)
      on conflict do nothing;
    end if;
    if p_foreign is not null or v_rows <> cardinality(p_end_run) then
      -- Some end existed already: ours (this batch was sent before) or somebody else's, which memory must follow.
      select array_agg(u.run_id) into not_ended
        from unnest(p_end_run, p_end_generation, p_end_status) as u(run_id, generation, status)
       where tramline.shard_of(u.run_id) = any (held)
         and not exists (select from tramline.all_ends x
                          where x.run_id = u.run_id and x.shard = tramline.shard_of(u.run_id) and x.generation = u.generation
                            and x.status = u.status and x.epoch = p_epochs[tramline.shard_of(u.run_id) + 1]);
    end if;
  end if;

  if p_cold is not null then
    perform tramline.flush_cold(p_node, held, p_epochs, p_foreign, p_cold);
  end if;
end $$;

-- The rare rows of a flush, under the same locks and in the same transaction.
create function tramline.flush_cold(p_node text, p_held int[], p_epochs bigint[], p_foreign uuid[], p jsonb)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if p ? 'marks' then
    insert into tramline.run_marks (run_id, shard, generation, seq, status, at, node, input, metadata, priority)
    select r.run_id, tramline.shard_of(r.run_id), r.generation, r.seq, r.status, r.at, p_node, r.input, r.metadata, r.priority
      from jsonb_to_recordset(p -> 'marks') as r(run_id uuid, generation int, seq bigint, status text, at timestamptz, input jsonb, metadata jsonb, priority smallint)
     where tramline.shard_of(r.run_id) = any (p_held) and (p_foreign is null or r.run_id <> all (p_foreign)) on conflict do nothing;
    if p_foreign is not null then
      insert into tramline.run_marks_foreign (run_id, shard, generation, seq, status, at, node, input, metadata, priority)
      select r.run_id, tramline.shard_of(r.run_id), r.generation, r.seq, r.status, r.at, p_node, r.input, r.metadata, r.priority
        from jsonb_to_recordset(p -> 'marks') as r(run_id uuid, generation int, seq bigint, status text, at timestamptz, input jsonb, metadata jsonb, priority smallint)
       where tramline.shard_of(r.run_id) = any (p_held) and r.run_id = any (p_foreign) on conflict do nothing;
    end if;
  end if;
  if p ? 'events' then
    insert into tramline.run_events (run_id, shard, event_id, event_type, level, message, payload, created_at)
    select r.run_id, tramline.shard_of(r.run_id), r.event_id, r.event_type, r.level, r.message, r.payload, r.at
      from jsonb_to_recordset(p -> 'events') as r(run_id uuid, event_id uuid, event_type text, level text, message text, payload jsonb, at timestamptz)
     where tramline.shard_of(r.run_id) = any (p_held) and (p_foreign is null or r.run_id <> all (p_foreign)) on conflict do nothing;
    if p_foreign is not null then
      insert into tramline.run_events_foreign (run_id, shard, event_id, event_type, level, message, payload, created_at)
      select r.run_id, tramline.shard_of(r.run_id), r.event_id, r.event_type, r.level, r.message, r.payload, r.at
        from jsonb_to_recordset(p -> 'events') as r(run_id uuid, event_id uuid, event_type text, level text, message text, payload jsonb, at timestamptz)
       where tramline.shard_of(r.run_id) = any (p_held) and r.run_id = any (p_foreign) on conflict do nothing;
    end if;
  end if;
  if p ? 'starts' then
    insert into tramline.step_starts (run_id, shard, step, generation, epoch, node, started_at, deadline)
    select r.run_id, tramline.shard_of(r.run_id), r.step, r.generation, p_epochs[tramline.shard_of(r.run_id) + 1], p_node, r.at, r.deadline
      from jsonb_to_recordset(p -> 'starts') as r(run_id uuid, step text, generation int, at timestamptz, deadline timestamptz)
     where tramline.shard_of(r.run_id) = any (p_held) on conflict do nothing;
  end if;
  if p ? 'handed' then
    insert into tramline.handed_calls (run_id, shard, step, generation, attempt, node, until)
    select r.run_id, tramline.shard_of(r.run_id), r.step, r.generation, r.attempt, r.node, r.until
      from jsonb_to_recordset(p -> 'handed') as r(run_id uuid, step text, generation int, attempt int, node uuid, until timestamptz)
     where tramline.shard_of(r.run_id) = any (p_held) on conflict do nothing;
  end if;
  if p ? 'timers_clear' then
    delete from tramline.timers t using jsonb_to_recordset(p -> 'timers_clear') as r(run_id uuid, kind text, step text, attempt int, due_at timestamptz)
     where t.shard = tramline.shard_of(r.run_id) and t.due_at = r.due_at and t.run_id = r.run_id and t.kind = r.kind and t.step = r.step
       and t.attempt = r.attempt and t.shard = any (p_held);
  end if;
  if p ? 'timers_set' then
    insert into tramline.timers (shard, due_at, run_id, generation, kind, step, attempt)
    select tramline.shard_of(r.run_id), r.due_at, r.run_id, r.generation, r.kind, r.step, r.attempt
      from jsonb_to_recordset(p -> 'timers_set') as r(run_id uuid, generation int, kind text, step text, attempt int, due_at timestamptz)
     where tramline.shard_of(r.run_id) = any (p_held) on conflict do nothing;
  end if;
  if p ? 'unparked' then
    delete from tramline.parked t using jsonb_array_elements_text(p -> 'unparked') as r(run_id)
     where t.run_id = r.run_id::uuid and t.shard = tramline.shard_of(r.run_id::uuid) and t.shard = any (p_held);
  end if;
  if p ? 'parked' then
    insert into tramline.parked (shard, run_id, why)
    select tramline.shard_of(r.run_id), r.run_id, r.why from jsonb_to_recordset(p -> 'parked') as r(run_id uuid, why text)
     where tramline.shard_of(r.run_id) = any (p_held) on conflict do nothing;
  end if;
  if p ? 'limits' then
    perform tramline.flush_limits(p_node, p_held, p_epochs, p -> 'limits');
  end if;
  if p ? 'dead_letters' then
    perform tramline.file_dead_letters(p -> 'dead_letters', p_held);
  end if;
  if p ? 'redriven' then
    update tramline.dead_letters d set redriven_at = r.at, redriven_by = r.actor, redrive_reason = r.reason
      from jsonb_to_recordset(p -> 'redriven') as r(run_id uuid, generation int, at timestamptz, actor text, reason text)
     where d.run_id = r.run_id and d.shard = tramline.shard_of(r.run_id) and d.generation = r.generation and d.redriven_at is null
       and d.shard = any (p_held);
  end if;
  if p ? 'commands_done' then
    delete from tramline.commands c using jsonb_to_recordset(p -> 'commands_done') as r(shard int, command_id uuid)
     where c.shard = r.shard and c.command_id = r.command_id and c.shard = any (p_held);
  end if;
  -- Outcomes come twice: before, so that a period which was taken back can be prepared anew in the same flush; after, for periods that this
  -- flush prepares. Each names its run.
  if p ? 'period_starts' then
    perform tramline.flush_period_outcomes(p_held, p -> 'period_starts');
  end if;
  if p ? 'periods' then
    perform tramline.flush_periods(p_held, p -> 'periods');
  end if;
  if p ? 'periods' and p ? 'period_starts' then
    perform tramline.flush_period_outcomes(p_held, p -> 'period_starts');
  end if;
  if p ? 'period_ends' then
    update tramline.schedule_periods q set finished_at = r.finished_at
      from jsonb_to_recordset(p -> 'period_ends') as r(schedule text, due_at timestamptz, run_id uuid, finished_at timestamptz)
     where q.schedule = r.schedule and q.due_at = r.due_at and q.run_id = r.run_id and q.finished_at is null
       -- The run's owner says it: of a limited target that is not the schedule's.
       and tramline.shard_of(r.run_id) = any (p_held);
  end if;
end $$;

-- How prepared periods went.
create function tramline.flush_period_outcomes(p_held int[], p jsonb) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update tramline.schedule_periods q set outcome = r.outcome, started_at = r.started_at, drift_ms = r.drift_ms, reason = coalesce(r.reason, q.reason)
    from jsonb_to_recordset(p)
      as r(schedule text, due_at timestamptz, run_id uuid, outcome text, started_at timestamptz, drift_ms bigint, reason text)
   where q.schedule = r.schedule and q.due_at = r.due_at and q.run_id = r.run_id and q.outcome = 'prepared'
     and tramline.shard_of(r.run_id) = any (p_held);
end $$;
