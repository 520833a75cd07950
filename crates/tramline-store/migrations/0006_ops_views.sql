-- The public face of the ledger: security-invoker views. Plain INSERT, UPDATE and RETURNING work on ops.runs; an UPDATE of a run that
-- the engine drives becomes a command, because only the owner changes a run.

-- Objects laid one over the other: later keys win.
create aggregate tramline.merged(jsonb) (sfunc = jsonb_concat, stype = jsonb, initcond = '{}');

create view ops.runs with (security_invoker = true) as
select r.run_id, r.kind::text as kind, r.target, r.version, r.executor::text as executor,
       case when p.status = 'queued' and p.run_at > now() then 'scheduled'
            when p.status is not null then p.status
            when e.generation is not null and e.generation >= coalesce(m.generation, 1) then e.status
            when m.status is not null then m.status
            when r.scheduled_at > now() then 'scheduled'
            else 'queued' end as status,
       r.queue,
       coalesce(p.priority, m.priority, r.priority) as priority, coalesce(m.input, r.input) as input, r.context,
       e.output, e.error, e.error_step, r.correlation_id, r.concurrency_key, r.source, r.created_by, r.triggered_by,
       r.parent_run_id, r.root_run_id, r.project_id, r.env, r.git_sha, r.git_ref, r.function_name,
       coalesce(p.attempt, e.attempt, 0) as attempt, greatest(coalesce(e.generation, 1), coalesce(m.generation, 1)) as generation,
       case when p.run_id is not null then case when p.status in ('claimed', 'running') then p.claimed_by end
            else coalesce(case when e.generation >= coalesce(m.generation, 1) then e.claimed_by end, m.node) end as claimed_by,
       r.queued_at, r.scheduled_at,
       case when p.run_id is not null then case when p.status in ('claimed', 'running') then p.started_at end
            else coalesce(case when e.generation >= coalesce(m.generation, 1) then e.started_at end, m.running_at) end as started_at,
       case when e.generation >= coalesce(m.generation, 1) then e.finished_at end as finished_at,
       case when e.generation >= coalesce(m.generation, 1) then e.finished_at end as completed_at,
       -- later keys win; what was said once stays said
       coalesce(r.metadata, '{}') || coalesce(m.metadata, '{}') || coalesce(e.metadata, '{}') as metadata
  from tramline.all_runs r
  left join lateral (select * from tramline.all_ends x where x.run_id = r.run_id and x.shard = r.shard
                      order by x.generation desc limit 1) e on true
  -- All that the marks say, in one look: each look costs a plan for every day. What nobody selects is not made.
  left join lateral (
    select (array_agg(x.generation order by x.generation desc, x.seq desc) filter (where x.priority is null))[1] as generation,
           (array_agg(x.status order by x.generation desc, x.seq desc) filter (where x.priority is null))[1] as status,
           (array_agg(x.node order by x.generation desc, x.seq desc) filter (where x.priority is null))[1] as node,
           (array_agg(x.priority order by x.generation desc, x.seq desc) filter (where x.priority is not null))[1] as priority,
           (array_agg(x.input order by x.generation desc, x.seq desc) filter (where x.input is not null))[1] as input,
           (array_agg(x.at order by x.generation desc, x.seq) filter (where x.status = 'running'))[1] as running_at,
           tramline.merged(x.metadata order by x.generation, x.seq) filter (where jsonb_typeof(x.metadata) = 'object') as metadata
      from tramline.all_marks x where x.run_id = r.run_id and x.shard = r.shard) m on true
  left join lateral (select * from ops.pull_runs x where r.executor = 'pull' and x.run_id = r.run_id limit 1) p on true;

create view ops.run_steps with (security_invoker = true) as
select run_id, step, step_index, generation, attempt, status, function_name, output, error, started_at, finished_at,
       (extract(epoch from finished_at - started_at) * 1000)::bigint as duration_ms, node
  from tramline.all_steps;
create view ops.run_events with (security_invoker = true) as
select event_id, run_id, event_type, level, message, payload, created_at from tramline.all_events;
create view ops.artifacts with (security_invoker = true) as select * from tramline.artifacts;
create view ops.dead_letters with (security_invoker = true) as
select run_id, generation, target, queue, reason, message, step, attempt, attempts, error, payload, created_at, redriven_at, redriven_by, redrive_reason
  from tramline.dead_letters;
create view ops.workflow_definitions with (security_invoker = true) as
select name, version, definition, checksum, status, problems, required_inputs, created_by, created_at, published_at from tramline.workflow_definitions;
create view ops.workflow_executions with (security_invoker = true) as
select run_id as id, target as workflow_name, version as workflow_version,
       case status when 'queued' then 'pending' when 'scheduled' then 'pending' when 'claimed' then 'running' when 'waiting' then 'running'
                   else status end as status,
       input, output, error, error_step, correlation_id, started_at, completed_at, queued_at as created_at
  from ops.runs where kind = 'workflow';
create view ops.functions with (security_invoker = true) as select name, kind, version, auth, state, reason, updated_at from tramline.functions;
create view ops.schedules with (security_invoker = true) as
select name, cron, every_ms * interval '1 millisecond' as every, anchor, timezone, target, input, queue, priority, paused,
       jitter_ms * interval '1 millisecond' as jitter, start_at, end_at, exclude, overlap, catch_up, catch_up_max,
       late_after_ms * interval '1 millisecond' as late_after, source, last_due, problem, created_at, updated_at
  from tramline.schedules;
create view ops.schedule_periods with (security_invoker = true) as select * from tramline.schedule_periods;
create view ops.timers with (security_invoker = true) as
select run_id, generation, kind, nullif(step, '') as step, attempt, due_at, created_at from tramline.timers;
create view ops.nodes with (security_invoker = true) as
select n.node_id, n.name, n.version, n.roles, n.started_at, n.seen_at,
       (select array_agg(s.shard order by s.shard) from tramline.shards s where s.owner = n.node_id) as shards
  from tramline.nodes n;
create view ops.project_members with (security_invoker = true) as select * from tramline.project_members;

-- Which state of a run may follow which, within one generation: the table of tramline-core, for runs that their writer keeps.
create function tramline.may_follow(p_from text, p_to text) returns boolean language sql immutable parallel safe as $$
  select coalesce(p_to = any (case p_from
    when 'scheduled' then array['queued', 'claimed', 'running', 'paused', 'failed', 'cancelled', 'skipped']
    when 'queued' then array['scheduled', 'claimed', 'running', 'waiting', 'paused', 'completed', 'failed', 'cancelled', 'skipped']
    when 'claimed' then array['queued', 'running', 'waiting', 'paused', 'compensating', 'completed', 'failed', 'cancelled', 'skipped']
    when 'running' then array['queued', 'waiting', 'paused', 'compensating', 'completed', 'failed', 'cancelled', 'skipped']
    when 'waiting' then array['queued', 'running', 'paused', 'compensating', 'completed', 'failed', 'cancelled', 'skipped']
    when 'paused' then array['scheduled', 'queued', 'running', 'waiting', 'compensating', 'failed', 'cancelled']
    when 'compensating' then array['paused', 'failed', 'cancelled']
    end), false)
$$;

-- May an insert into ops.runs that says more than target, input and correlation id be stored as it is? Else tramline.insert_run looks at it.
create function tramline.is_plain(p ops.runs) returns boolean language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(p.status, 'queued') in ('queued', 'scheduled')
     and num_nonnulls(p.run_id, p.kind, p.concurrency_key, p.parent_run_id, p.root_run_id) = 0
     and coalesce(p.scheduled_at between '2000-01-01' and now() + interval '100 years', true) and coalesce(length(p.queue) between 1 and 128, true)
     and not exists (select from tramline.queues q where q.name = p.queue and (q.mode <> 'engine' or q.concurrency is not null or q.rate_count is not null));
end $$;

-- An insert of one run, as few plain statements as can be: each costs more to set up, in every transaction, than all that it does, and so do joins and lists of
-- columns to be returned. Takes what nearly every insert is, with the rules of tramline.enqueue_many (a test compares the two), and hands everything
-- else over to tramline.insert_run.
create function tramline.runs_insert() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid;
  v_shard int;
  v_source text := new.source;
  v_user uuid := new.created_by;
  t tramline.targets;
begin
  if (num_nonnulls(new.run_id, new.status, new.kind, new.queue, new.scheduled_at, new.concurrency_key, new.parent_run_id, new.root_run_id) = 0 or tramline.is_plain(new))
     -- What may be unfit is looked at there.
     and (new.input is null or pg_column_size(new.input) <= 262144) then
    if tramline.is_own_session() then
      v_source := coalesce(v_source, 'sql:' || session_user);
    else
      if strpos(current_setting('request.headers', true), 'x-tramline-') > 0 then
        return tramline.insert_run(new);             -- may be the child of a run
      end if;
      v_source := coalesce(v_source, tramline.derived_source());
      v_user := coalesce(v_user, auth.uid());
    end if;
    select * into t from tramline.targets x where x.name = coalesce(new.target, new.function_name);
    v_id := tramline.uuid_v7();
    if not t.is_limited and v_id >= t.ids_from and v_id < t.ids_until
       and (t.required_inputs = '{}' or jsonb_typeof(new.input) = 'object' and new.input ?& t.required_inputs) then
      if new.correlation_id is not null then
        insert into tramline.correlations (shard, target, correlation_id, run_id, input_hash, expires_at)
        select tramline.key_shard(t.name || chr(31) || new.correlation_id), t.name, new.correlation_id, v_id,
               sha256(convert_to(coalesce(new.input, '{}')::text, 'UTF8')), now() + coalesce(t.retention, interval '30 days')
         where length(new.correlation_id) <= 512
        on conflict do nothing;
      end if;
      if new.correlation_id is null or found then
        v_shard := tramline.shard_of(v_id);
        if not tramline.is_attended(v_shard) then
          perform tramline.wake_owners(array[v_shard]);
        end if;
        insert into tramline.runs (run_id, shard, kind, target, version, input, correlation_id, queue, priority, source, created_by, triggered_by,
               project_id, env, git_sha, git_ref, function_name, context, metadata, scheduled_at, retry)
        values (v_id, v_shard, case when t.version is null then 'function' else 'workflow' end, t.name, t.version, coalesce(new.input, '{}'), new.correlation_id,
               coalesce(new.queue, 'default'), coalesce(new.priority, 2::smallint), v_source, v_user, new.triggered_by, new.project_id, new.env, new.git_sha, new.git_ref,
               case when t.version is null then t.name end, nullif(new.context, 'null'), nullif(new.metadata, 'null'), new.scheduled_at, t.retry);
        -- What the view shows of a run that has just been made, without asking all the tables that can say more of older ones. Column by column
        -- as the view has them.
        return row(v_id, case when t.version is null then 'function' else 'workflow' end, t.name, t.version, 'engine',
          case when new.scheduled_at > now() then 'scheduled' else 'queued' end, coalesce(new.queue, 'default'), coalesce(new.priority, 2::smallint),
          coalesce(new.input, '{}'), nullif(new.context, 'null'), null, null, null, new.correlation_id, null, v_source, v_user, new.triggered_by, null, null,
          new.project_id, new.env, new.git_sha, new.git_ref, case when t.version is null then t.name end, 0, 1, null, now(), new.scheduled_at, null, null, null,
          coalesce(nullif(new.metadata, 'null'), '{}'))::ops.runs;
      end if;
    end if;
  end if;
  return tramline.insert_run(new);
end $$;

-- An insert into ops.runs that tramline.runs_insert does not take: by tramline.enqueue_many, or of a run that its writer keeps. Answers the row as the view
-- shows it, or refuses.
create function tramline.insert_run(p ops.runs) returns ops.runs language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan as $$
declare
  v record;
  v_made tramline.runs;
  v_status text;
  v_native boolean;
begin
  v_status := case p.status when 'success' then 'completed' else coalesce(p.status, 'queued') end;
  if v_status in ('queued', 'scheduled') then
    -- Without an id of the writer's own, the key or the parent decides about the shard.
    select * into v from tramline.enqueue_many(array[p.run_id], array[coalesce(p.target, p.function_name)], array[p.input], array[p.correlation_id],
      array[jsonb_strip_nulls(jsonb_build_object('kind', p.kind, 'queue', p.queue, 'priority', p.priority, 'run_at', p.scheduled_at,
        'concurrency_key', p.concurrency_key, 'own_id', case when p.run_id is not null then true end, 'source', p.source, 'created_by', p.created_by, 'triggered_by', p.triggered_by,
        'parent_run_id', p.parent_run_id, 'root_run_id', p.root_run_id, 'project_id', p.project_id, 'env', p.env,
        'git_sha', p.git_sha, 'git_ref', p.git_ref))
        || case when num_nonnulls(p.context, p.metadata) = 0 then '{}' else jsonb_build_object('context', p.context, 'metadata', p.metadata) end]);
    if v.code is not null then
      perform tramline.raise_refusal(v.code, v.detail);
    end if;
    p.run_id := v.run_id;
    if v.created then
      select x.* into v_made from tramline.runs x where x.run_id = v.run_id and x.shard = tramline.shard_of(v.run_id);
    end if;
    if v_made.run_id is not null then
      select v_made.kind, v_made.target, v_made.version, v_made.executor, case when v_made.scheduled_at > now() then 'scheduled' else 'queued' end, v_made.queue, v_made.priority,
             v_made.input, v_made.context, v_made.concurrency_key, v_made.source, v_made.created_by, v_made.parent_run_id, v_made.root_run_id, v_made.function_name, 0, 1, null, v_made.queued_at,
             v_made.scheduled_at, null, null, null, null, null, null, coalesce(v_made.metadata, '{}')
        into p.kind, p.target, p.version, p.executor, p.status, p.queue, p.priority,
             p.input, p.context, p.concurrency_key, p.source, p.created_by, p.parent_run_id, p.root_run_id, p.function_name, p.attempt,
             p.generation, p.claimed_by, p.queued_at, p.scheduled_at, p.started_at, p.finished_at, p.completed_at, p.output,
             p.error, p.error_step, p.metadata;
      return p;
    end if;
  else
    -- The worker pattern: the writer executes the run and keeps its row; no node takes part.
    if v_status not in ('claimed', 'running', 'waiting', 'paused', 'compensating', 'completed', 'failed', 'cancelled', 'skipped') then
      raise exception using errcode = 'TL400', message = format('"%s" is no status of a run', p.status);
    end if;
    p.run_id := coalesce(p.run_id, tramline.uuid_v7());
    v_native := tramline.is_native(p.run_id);
    if v_native then
      insert into tramline.runs (run_id, shard, kind, target, executor, queue, priority, input, correlation_id, source, created_by, triggered_by,
        parent_run_id, root_run_id, project_id, env, git_sha, git_ref, function_name, context, metadata)
      values (p.run_id, tramline.shard_of(p.run_id), coalesce(p.kind, 'external'), coalesce(p.target, p.function_name, 'external'),
        'external', coalesce(p.queue, 'default'), coalesce(p.priority, 2), coalesce(p.input, '{}'), p.correlation_id,
        coalesce(p.source, tramline.derived_source()), coalesce(p.created_by, auth.uid()), p.triggered_by,
        coalesce(p.parent_run_id, tramline.calling_run()), p.root_run_id, p.project_id, p.env, p.git_sha, p.git_ref,
        p.function_name, p.context, p.metadata);
    else
      insert into tramline.runs_foreign (run_id, shard, kind, target, executor, queue, priority, input, correlation_id, source, created_by,
        triggered_by, parent_run_id, root_run_id, project_id, env, git_sha, git_ref, function_name, context, metadata)
      values (p.run_id, tramline.shard_of(p.run_id), coalesce(p.kind, 'external'), coalesce(p.target, p.function_name, 'external'),
        'external', coalesce(p.queue, 'default'), coalesce(p.priority, 2), coalesce(p.input, '{}'), p.correlation_id,
        coalesce(p.source, tramline.derived_source()), coalesce(p.created_by, auth.uid()), p.triggered_by,
        coalesce(p.parent_run_id, tramline.calling_run()), p.root_run_id, p.project_id, p.env, p.git_sha, p.git_ref,
        p.function_name, p.context, p.metadata);
    end if;
    perform tramline.keep_external(p.run_id, v_native, v_status, null, p.output, p.error, p.error_step, p.claimed_by, null,
      p.started_at, coalesce(p.finished_at, p.completed_at));
  end if;
  select * into p from ops.runs where run_id = p.run_id;
  return p;
end $$;

-- Appends the state of an external run: a mark while it lives, an end when it ended. Terminal states never change.
create function tramline.keep_external(p_run_id uuid, p_native boolean, p_status text, p_input jsonb, p_output jsonb, p_error jsonb,
  p_error_step text, p_worker text, p_metadata jsonb, p_started_at timestamptz, p_finished_at timestamptz)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_shard int := tramline.shard_of(p_run_id);
  v_seq bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
  v_terminal boolean := p_status in ('completed', 'failed', 'cancelled', 'skipped');
begin
  if v_terminal and p_native then
    insert into tramline.run_ends (run_id, shard, generation, status, output, error, error_step, claimed_by, started_at, finished_at, metadata)
    values (p_run_id, v_shard, 1, p_status, p_output, p_error, p_error_step, p_worker,
            coalesce(p_started_at,
              (select min(at) from tramline.run_marks m where m.run_id = p_run_id and m.shard = v_shard and m.status = 'running')),
            coalesce(p_finished_at, clock_timestamp()), p_metadata) on conflict do nothing;
  elsif v_terminal then
    insert into tramline.run_ends_foreign (run_id, shard, generation, status, output, error, error_step, claimed_by, started_at, finished_at, metadata)
    values (p_run_id, v_shard, 1, p_status, p_output, p_error, p_error_step, p_worker,
            coalesce(p_started_at,
              (select min(at) from tramline.run_marks_foreign m where m.run_id = p_run_id and m.shard = v_shard and m.status = 'running')),
            coalesce(p_finished_at, clock_timestamp()), p_metadata) on conflict do nothing;
  elsif p_native then
    insert into tramline.run_marks (run_id, shard, generation, seq, status, at, node, input, metadata)
    values (p_run_id, v_shard, 1, v_seq, p_status, coalesce(p_started_at, clock_timestamp()), p_worker, p_input, p_metadata);
  else
    insert into tramline.run_marks_foreign (run_id, shard, generation, seq, status, at, node, input, metadata)
    values (p_run_id, v_shard, 1, v_seq, p_status, coalesce(p_started_at, clock_timestamp()), p_worker, p_input, p_metadata);
  end if;
  if not found then
    raise exception using errcode = 'TL400', message = format('run %s has ended meanwhile; its row does not change any more', p_run_id);
  end if;
end $$;

-- An UPDATE of ops.runs. On engine runs: status to queued, cancelled or paused, priority, metadata; each becomes a command (claimed_by to
-- null and the times are what operators write beside it). On external runs: status, claimed_by, metadata, input and the times; output and
-- error with the end. Metadata is merged. Anything else is TL400: nothing that a writer says is dropped in silence.
create function tramline.runs_update() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_native boolean;
  v_status text := case new.status when 'success' then 'completed' else new.status end;
  v_changed text[];
begin
  if old.executor = 'external' then
    if old.status in ('completed', 'failed', 'cancelled', 'skipped') then
      raise exception using errcode = 'TL400', message = format('run %s has ended (%s); its row does not change any more', old.run_id, old.status);
    end if;
    if v_status is distinct from old.status and not tramline.may_follow(old.status, v_status) then
      raise exception using errcode = 'TL400', message = format('run %s is %s and cannot become "%s"', old.run_id, old.status, new.status);
    end if;
    select array_agg(n.key order by n.key) into v_changed
      from jsonb_each(to_jsonb(new)) n join jsonb_each(to_jsonb(old)) o on o.key = n.key
     where n.value is distinct from o.value and n.key not in ('status', 'claimed_by', 'metadata', 'input', 'started_at')
       and (n.key not in ('output', 'error', 'error_step', 'finished_at', 'completed_at')
            or v_status not in ('completed', 'failed', 'cancelled', 'skipped'));
    if v_changed is not null then
      raise exception using errcode = 'TL400', message = format('column %s of run %s cannot be changed (to status %s)', v_changed[1], old.run_id, v_status),
        hint = 'status, claimed_by, metadata, input and started_at can; output, error and finished_at together with the end';
    end if;
    select not r.is_foreign into v_native from tramline.all_runs r where r.run_id = old.run_id;
    perform tramline.keep_external(old.run_id, v_native, v_status, nullif(new.input, old.input), new.output, new.error, new.error_step,
      new.claimed_by, nullif(new.metadata, old.metadata), nullif(new.started_at, old.started_at), coalesce(new.finished_at, new.completed_at));
    select * into new from ops.runs where run_id = old.run_id;
    return new;
  end if;
  if old.executor = 'pull' then
    return tramline.update_pull_run(old, new);
  end if;

  select array_agg(n.key order by n.key) into v_changed
    from jsonb_each(to_jsonb(new)) n join jsonb_each(to_jsonb(old)) o on o.key = n.key
   where n.value is distinct from o.value and n.key not in ('status', 'priority', 'metadata', 'started_at', 'finished_at', 'completed_at')
     and not (n.key = 'claimed_by' and new.claimed_by is null);
  if v_changed is not null then
    raise exception using errcode = 'TL400', message = format('column %s of a run that the engine drives cannot be changed', v_changed[1]),
      hint = 'status (to queued, cancelled or paused), priority and metadata can, claimed_by to null';
  end if;
  if v_status is distinct from old.status then
    case v_status
      when 'cancelled' then perform tramline.request(old.run_id, 'cancel', null, 'update of ops.runs');
      when 'paused' then perform tramline.request(old.run_id, 'pause', null, 'update of ops.runs');
      when 'queued' then
        perform tramline.request(old.run_id, case when old.status = 'paused' then 'resume'
          when old.status in ('failed', 'cancelled') then 'retry' else 'requeue' end, null, 'update of ops.runs');
      else
        raise exception using errcode = 'TL400', message = format('status cannot be set to "%s": only the engine does that', v_status),
          hint = 'queued, cancelled and paused can be asked for';
    end case;
  end if;
  if new.priority is distinct from old.priority then
    if new.priority is null or new.priority not between 0 and 3 then
      raise exception using errcode = 'TL400', message = format('priority %s does not exist', coalesce(new.priority::text, 'null')),
        hint = '0 (urgent) to 3';
    end if;
    perform tramline.request(old.run_id, 'priority', to_jsonb(new.priority), 'update of ops.runs');
  end if;
  if new.metadata is distinct from old.metadata then
    perform tramline.request(old.run_id, 'metadata', new.metadata, 'update of ops.runs');
  end if;
  return new;
end $$;

create trigger runs_insert instead of insert on ops.runs for each row execute function tramline.runs_insert();
create trigger runs_update instead of update on ops.runs for each row execute function tramline.runs_update();

-- Writes down what somebody did to a run that no node drives: who, when, why.
create function tramline.note_act(p_run_id uuid, p_event_type text, p_reason text, p_actor text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform ops.append_event(p_run_id, 'info', coalesce(p_reason, p_event_type || ' on request'),
    jsonb_build_object('actor', tramline.acting(p_actor), 'reason', p_reason), p_event_type);
end $$;

-- Cancels a run; true when it was still to be cancelled. An external run ends at once, any other by its owner.
create function ops.cancel_run(p_run_id uuid, p_reason text default null, p_actor text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v ops.runs;
begin
  select * into v from ops.runs where run_id = p_run_id;
  if not found then
    raise exception using errcode = 'TL404', message = format('no run %s', p_run_id);
  end if;
  if v.status in ('completed', 'failed', 'cancelled', 'skipped') then
    return false;
  end if;
  if v.executor = 'external' then
    update ops.runs set status = 'cancelled', error = jsonb_build_object('code', 'cancelled', 'message', p_reason) where run_id = p_run_id;
    perform tramline.note_act(p_run_id, 'cancelled', p_reason, p_actor);
  elsif v.executor = 'pull' then
    return tramline.cancel_pull_run(p_run_id, p_reason, p_actor);
  else
    perform tramline.request(p_run_id, 'cancel', null, p_reason, p_actor);
  end if;
  return true;
end $$;

-- Re-opens an ended run with the next generation: finished steps keep their results, the failed one is tried again. p_input replaces
-- the input, p_from_step also forgets that step and the later ones.
create function ops.retry_run(p_run_id uuid, p_reason text default null, p_input jsonb default null, p_from_step text default null,
  p_actor text default null)
returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v ops.runs;
begin
  select * into v from ops.runs where run_id = p_run_id;
  if not found then
    raise exception using errcode = 'TL404', message = format('no run %s', p_run_id);
  end if;
  if v.executor = 'external' then
    raise exception using errcode = 'TL400', message = format('run %s is kept by its own writer; only that can repeat it', p_run_id);
  end if;
  if v.status not in ('failed', 'cancelled') then
    raise exception using errcode = 'TL409', message = format('run %s is %s; only failed and cancelled runs can be retried', p_run_id, v.status);
  end if;
  if v.executor = 'pull' then
    perform tramline.retry_pull_run(p_run_id, p_input, p_from_step, p_reason, p_actor);
    return p_run_id;
  end if;
  perform tramline.request(p_run_id, 'retry', jsonb_strip_nulls(jsonb_build_object('from_step', p_from_step, 'generation', v.generation))
    || case when p_input is null then '{}' else jsonb_build_object('input', p_input) end, p_reason, p_actor);
  return p_run_id;
end $$;

-- from('ops.runs') of clients that know one schema only.
create view public."ops.runs" with (security_invoker = true) as select * from ops.runs;
create view public."ops.run_events" with (security_invoker = true) as select * from ops.run_events;
create view public."ops.artifacts" with (security_invoker = true) as select * from ops.artifacts;

-- Events and artifacts may be inserted through their views: each derives what the writer left out.
create function tramline.events_insert() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  new.level := coalesce(new.level, 'info');
  new.event_type := coalesce(new.event_type, 'log');
  new.message := coalesce(new.message, new.event_type);
  new.event_id := ops.append_event(new.run_id, new.level, new.message, new.payload, new.event_type);
  new.created_at := now();
  return new;
end $$;
create trigger events_insert instead of insert on ops.run_events for each row execute function tramline.events_insert();
