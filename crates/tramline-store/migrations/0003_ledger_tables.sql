-- The ledger: everything hot is inserted once and never updated or deleted. No foreign keys between hot tables.
--
-- What runs get and give is kept as the text of its jsonb: nearly always it is written and read whole, and taking a value of 300 bytes apart and
-- writing it out again takes as long as storing it. Whoever writes such a text without jsonb in between has to know that jsonb takes it; the views
-- show jsonb.

-- As domains, not as checks of the table: a table's checks are read and planned anew by every statement, a tenth of what an insert of one
-- run costs.
create domain tramline.run_kind as text check (value in ('function', 'workflow', 'pipeline', 'external'));
create domain tramline.run_executor as text check (value in ('engine', 'pull', 'external'));
create domain tramline.run_priority as smallint check (value between 0 and 3);
create domain tramline.end_status as text check (value in ('completed', 'failed', 'cancelled', 'skipped'));
create domain tramline.step_status as text
  check (value in ('pending', 'running', 'waiting', 'completed', 'failed', 'skipped', 'cancelled', 'compensated'));

create table tramline.runs (
  run_id uuid not null,
  shard int not null,
  kind tramline.run_kind not null,
  target text not null,
  version int,                                       -- of the workflow; pinned at the start
  executor tramline.run_executor not null default 'engine',
  queue text not null default 'default',
  priority tramline.run_priority not null default 2,
  input text not null default '{}',                  -- jsonb's
  correlation_id text,
  concurrency_key text,
  limit_key text,                                    -- what its owner limits it by; null = nothing
  source text not null,
  created_by uuid,
  triggered_by text,
  parent_run_id uuid,
  root_run_id uuid,
  project_id text,
  env text,
  git_sha text,
  git_ref text,
  function_name text,
  context jsonb,
  metadata jsonb,
  retry jsonb,                                       -- policy of a function's run, pinned at the start: the run's own, else its function's
  queued_at timestamptz not null default now(),
  scheduled_at timestamptz,
  enqueued_xid xid8 not null default pg_current_xact_id(),
  primary key (run_id, shard)
) partition by range (run_id);
-- Discovery; immutable columns only. Nobody indexes a status: there is none here.
create index runs_discovery on tramline.runs (shard, priority, enqueued_xid, run_id);
create index runs_by_target on tramline.runs (target, run_id);
create table tramline.runs_foreign (like tramline.runs including all);

create table tramline.run_ends (
  run_id uuid not null,
  shard int not null,
  generation int not null,
  status tramline.end_status not null,
  output text,                                       -- jsonb's
  error jsonb,
  error_step text,
  attempt int not null default 0,
  claimed_by text,
  epoch bigint,                                      -- the ownership that wrote it; null when written by an external worker
  started_at timestamptz,
  finished_at timestamptz not null default now(),
  metadata jsonb,
  primary key (run_id, shard, generation)
) partition by range (run_id);
create table tramline.run_ends_foreign (like tramline.run_ends including all);

-- What lives between start and end: parked, paused, waiting, re-opened, running for longer than a second.
create table tramline.run_marks (
  run_id uuid not null,
  shard int not null,
  generation int not null,
  seq bigint not null,                               -- microseconds of the database's clock: rises within a run
  status text not null check (status in ('scheduled', 'queued', 'claimed', 'running', 'waiting', 'paused', 'compensating')),
  at timestamptz not null default now(),
  node text,
  input jsonb,
  metadata jsonb,
  priority smallint check (priority between 0 and 3), -- set: the run was given this class before it began; the mark says nothing else
  primary key (run_id, shard, generation, seq)
) partition by range (run_id);
create table tramline.run_marks_foreign (like tramline.run_marks including all);

-- Ends of step attempts: the checkpoints.
create table tramline.run_steps (
  run_id uuid not null,
  shard int not null,
  step text not null,
  step_index int not null default 0,                 -- item of a map step
  generation int not null,
  attempt int not null,
  status tramline.step_status not null,
  function_name text,
  output text,                                       -- jsonb's
  error jsonb,
  started_at timestamptz not null,
  finished_at timestamptz not null default now(),
  node text,
  epoch bigint,
  primary key (run_id, shard, step, step_index, generation, attempt)
) partition by range (run_id);
create table tramline.run_steps_foreign (like tramline.run_steps including all);

create table tramline.run_events (
  run_id uuid not null,
  shard int not null,
  event_id uuid not null,
  event_type text not null,
  level text not null default 'info' check (level in ('debug', 'info', 'warn', 'error')),
  message text not null,
  payload jsonb,
  created_at timestamptz not null default now(),
  primary key (run_id, shard, event_id)
) partition by range (run_id);
create table tramline.run_events_foreign (like tramline.run_events including all);

-- Starts that must be durable before the call: repeated after an unclean takeover, so that a step which kills its node is counted.
create table tramline.step_starts (
  run_id uuid not null,
  shard int not null,
  step text not null,
  generation int not null,
  epoch bigint not null,
  node text,
  started_at timestamptz not null default now(),
  deadline timestamptz,
  primary key (run_id, shard, step, generation, epoch)
);

create table tramline.artifacts (
  artifact_id uuid primary key default tramline.uuid_v7(),
  run_id uuid not null,
  kind text not null default 'file',
  name text not null,
  uri text,
  sha256 text,
  bytes bigint,
  metadata jsonb,
  created_at timestamptz not null default now(),
  validated boolean not null default false           -- somebody has checked that the uri holds what sha256 and bytes say
);
create index artifacts_by_run on tramline.artifacts (run_id);

-- What was given up and waits for a person: complete in itself, so that it outlives the partitions of its run.
create table tramline.dead_letters (
  run_id uuid not null,
  shard int not null,
  generation int not null,
  target text,
  queue text,
  reason text not null,                              -- attempts_exhausted, not_retryable, crash_loop, unstorable, claims_exhausted
  message text,
  step text,
  attempt int,                                       -- attempts of that step
  attempts jsonb not null default '[]',              -- every failed attempt of the generation
  error jsonb,
  payload jsonb,                                     -- the input
  created_at timestamptz not null default now(),
  redriven_at timestamptz,                           -- when the next generation was opened
  redriven_by text,
  redrive_reason text,
  primary key (run_id, shard, generation)
);
create index dead_letters_open on tramline.dead_letters (run_id) where redriven_at is null;

-- Makes the partitions of one day; true when it made them. Run ahead of time by every node, and at installation.
-- With the rights of the schema's owner, because the engine's role makes no tables.
create function tramline.ensure_partitions(p_day date) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_lo uuid := tramline.uuid_at(p_day::timestamp at time zone 'UTC');
  v_hi uuid := tramline.uuid_at((p_day + 1)::timestamp at time zone 'UTC');
  t text;
  v_name text;
begin
  perform pg_advisory_xact_lock(hashtext('tramline.partitions'));
  if exists (select from tramline.partitions where day = p_day) then
    return false;
  end if;
  foreach t in array array['runs', 'run_ends', 'run_marks', 'run_steps', 'run_events'] loop
    v_name := t || '_' || to_char(p_day, 'YYYYMMDD');
    -- Made by itself and attached: "partition of" would lock the parent against everybody, and with five parents in one transaction
    -- against whoever has written to one of them and goes on to another.
    execute format('create table tramline.%I (like tramline.%I including all)', v_name, t);
    -- The parent's policies decide for whoever asks the parent; nobody asks a partition, whatever default privileges grant.
    execute format('alter table tramline.%I enable row level security', v_name);
    execute format('alter table tramline.%I attach partition tramline.%I for values from (%L) to (%L)', t, v_name, v_lo, v_hi);
  end loop;
  insert into tramline.partitions values (p_day, v_lo, v_hi);
  return true;
end $$;
select tramline.ensure_partitions((now() at time zone 'UTC')::date + d) from generate_series(-1, 3) d;

create view tramline.all_runs with (security_invoker = true) as
  select run_id, shard, kind, target, version, executor, queue, priority, input::jsonb as input, correlation_id, concurrency_key, limit_key, source,
         created_by, triggered_by, parent_run_id, root_run_id, project_id, env, git_sha, git_ref, function_name, context, metadata, retry, queued_at,
         scheduled_at, enqueued_xid, false as is_foreign
    from tramline.runs
  union all
  select run_id, shard, kind, target, version, executor, queue, priority, input::jsonb as input, correlation_id, concurrency_key, limit_key, source,
         created_by, triggered_by, parent_run_id, root_run_id, project_id, env, git_sha, git_ref, function_name, context, metadata, retry, queued_at,
         scheduled_at, enqueued_xid, true
    from tramline.runs_foreign;
create view tramline.all_ends with (security_invoker = true) as
  select run_id, shard, generation, status, output::jsonb as output, error, error_step, attempt, claimed_by, epoch, started_at, finished_at, metadata
    from tramline.run_ends
  union all
  select run_id, shard, generation, status, output::jsonb as output, error, error_step, attempt, claimed_by, epoch, started_at, finished_at, metadata
    from tramline.run_ends_foreign;
create view tramline.all_marks with (security_invoker = true) as
  select * from tramline.run_marks union all select * from tramline.run_marks_foreign;
create view tramline.all_steps with (security_invoker = true) as
  select run_id, shard, step, step_index, generation, attempt, status, function_name, output::jsonb as output, error, started_at, finished_at, node,
         epoch
    from tramline.run_steps
  union all
  select run_id, shard, step, step_index, generation, attempt, status, function_name, output::jsonb as output, error, started_at, finished_at, node,
         epoch
    from tramline.run_steps_foreign;
create view tramline.all_events with (security_invoker = true) as
  select * from tramline.run_events union all select * from tramline.run_events_foreign;
