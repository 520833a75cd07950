-- Who may do what. Row security on everything that tenants can see: "authenticated" sees runs that it created or of projects it is a
-- member of, "anon" nothing. The owner of the tables and the engine's roles get literal policies, which the planner folds away.
-- Nothing is granted to PUBLIC.

do $$
declare t text;
begin
  foreach t in array array['runs', 'runs_foreign', 'run_ends', 'run_ends_foreign', 'run_marks', 'run_marks_foreign', 'run_steps', 'run_steps_foreign',
                           'run_events', 'run_events_foreign', 'artifacts', 'dead_letters', 'timers', 'workflow_definitions', 'functions', 'schedules',
                           'schedule_periods', 'targets', 'calendars', 'schedule_changes', 'queues', 'changes', 'nodes', 'shards', 'commands', 'parked', 'correlations',
                           'step_starts', 'handed_calls', 'project_members', 'settings', 'partitions', 'migrations', 'stuck', 'retention', 'target_limits', 'limits', 'limit_claims',
                           'webhook_deliveries'] loop
    execute format('alter table tramline.%I enable row level security', t);
    execute format('create policy engine on tramline.%I to tramline_engine using (true) with check (true)', t);
    execute format('create policy api on tramline.%I to tramline_api, service_role using (true) with check (true)', t);
    execute format('create policy dashboard on tramline.%I for select to tramline_dashboard using (true)', t);
    execute format('grant select, insert, update, delete on tramline.%I to tramline_engine', t);
    execute format('grant select on tramline.%I to tramline_api, tramline_dashboard, service_role', t);
  end loop;
  foreach t in array array['runs', 'runs_foreign'] loop
    execute format($p$create policy own on tramline.%I for select to authenticated
      using (created_by = (select auth.uid())
          or project_id in (select m.project_id from tramline.project_members m where m.user_id = (select auth.uid())))$p$, t);
  end loop;
  foreach t in array array['run_ends', 'run_marks', 'run_steps', 'run_events'] loop
    execute format($p$create policy own on tramline.%1$I for select to authenticated
      using (exists (select from tramline.runs r where r.run_id = %1$I.run_id))$p$, t);
    execute format($p$create policy own on tramline.%1$I for select to authenticated
      using (exists (select from tramline.runs_foreign r where r.run_id = %1$I.run_id))$p$, t || '_foreign');
  end loop;
  foreach t in array array['artifacts', 'dead_letters'] loop
    execute format($p$create policy own on tramline.%1$I for select to authenticated
      using (exists (select from tramline.all_runs r where r.run_id = %1$I.run_id))$p$, t);
  end loop;
end $$;
-- Whoever reads these can sign: nodes only.
alter table tramline.link_keys enable row level security;
create policy engine on tramline.link_keys to tramline_engine using (true) with check (true);
grant select on tramline.link_keys to tramline_engine;
create policy own on tramline.project_members for select to authenticated using (user_id = (select auth.uid()));

grant select on tramline.runs, tramline.runs_foreign, tramline.run_ends, tramline.run_ends_foreign, tramline.run_marks, tramline.run_marks_foreign,
  tramline.run_steps, tramline.run_steps_foreign, tramline.run_events, tramline.run_events_foreign, tramline.artifacts, tramline.dead_letters,
  tramline.project_members to authenticated;
grant select on tramline.all_runs, tramline.all_ends, tramline.all_marks, tramline.all_steps, tramline.all_events
  to authenticated, service_role, tramline_engine, tramline_api, tramline_dashboard;

grant select on all tables in schema ops to service_role, tramline_engine, tramline_api, tramline_dashboard;
grant select on ops.runs, ops.run_steps, ops.run_events, ops.artifacts, ops.dead_letters, ops.workflow_executions, ops.project_members to authenticated;
grant select on public."ops.runs", public."ops.run_events", public."ops.artifacts" to authenticated, service_role, tramline_api;
grant insert, update on ops.runs, public."ops.runs" to service_role, tramline_api;
grant insert on ops.run_events, public."ops.run_events", ops.workflow_definitions to service_role, tramline_api;
grant insert, update, delete on ops.artifacts, public."ops.artifacts", tramline.artifacts, ops.project_members, tramline.project_members to service_role, tramline_api;

revoke execute on all functions in schema ops, tramline from public;
grant execute on all functions in schema tramline to tramline_engine;
grant execute on all functions in schema ops to service_role, tramline_api, tramline_engine;
-- The API takes runs by the thousand; ops.enqueue, which it may call as well, is the same for one.
grant execute on function tramline.enqueue_many(uuid[], text[], jsonb[], text[], jsonb[]),
  tramline.enqueue_plain(uuid[], text[], text[], jsonb[], boolean, text[]) to tramline_api;
-- What the view shows to whoever may read it.
grant execute on function ops.get_run(uuid) to authenticated, tramline_dashboard;
-- Pure helpers that views, defaults and policies call with the caller's rights.
grant execute on function tramline.merged(jsonb), tramline.tail_bits(uuid), tramline.shard_of(uuid), tramline.key_bits(text), tramline.key_shard(text),
  tramline.with_tail_bits(uuid, int), tramline.uuid_at(timestamptz), tramline.uuid_v7() to authenticated, service_role, tramline_api, tramline_dashboard;
