-- Small, mutable tables of the engine: shards with their owners, commands, timers, parked runs, correlations; and the configuration
-- that runs refer to: definitions, functions, schedules, nodes.

create table tramline.shards (
  shard int primary key,
  owner uuid,                                        -- made at process start; null = free
  epoch bigint not null default 0,                   -- rises at every acquisition: the fence
  beat bigint not null default 0,                    -- rises while the owner lives; nobody reads a clock
  low_xid xid8,                                      -- low-water mark: below it no unfinished run is without a durable row
  system_id bigint,                                  -- of the cluster that the mark came from
  released pg_snapshot,                              -- what its owner could see when it gave the shard up in order,
  released_epoch bigint,                             -- and in which epoch that was
  load bigint not null default 0                     -- runs that its owner drives or has in line: what balancing weighs
) with (fillfactor = 50);
insert into tramline.shards (shard) select generate_series(0, {{shard_count}} - 1);

-- Gives shards up. Of a run that is not visible in `released` nothing is recorded: its owner did not know it. The snapshot is that of a
-- statement after the one that waited for the owner's last flush.
create function tramline.release_shards(p_owner uuid, p_shards int[], p_epochs bigint[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare held int[];
begin
  select array_agg(q.shard) into held from (
    select s.shard from tramline.shards s join unnest(p_shards, p_epochs) as m(shard, epoch) on m.shard = s.shard and m.epoch = s.epoch
     where s.owner = p_owner order by s.shard for update of s) q;
  update tramline.shards s set owner = null, beat = s.beat + 1, released = pg_current_snapshot(), released_epoch = s.epoch,
         system_id = (select system_identifier from pg_control_system())
   where s.shard = any (held);
end $$;

create table tramline.nodes (
  node_id uuid primary key,
  name text not null,
  version text not null,
  roles text[] not null default '{}',
  beat bigint not null default 0,
  load jsonb not null default '{}',                  -- how full it is: active, active_max, in_line, calls, calls_max, calls_waiting, full
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now()
) with (fillfactor = 50);

-- Requests to the owner of a run (or of a schedule). Discovered like runs, deleted by the flush that applies or refuses them.
create table tramline.commands (
  shard int not null,
  command_id uuid not null default tramline.uuid_v7(),
  subject_kind text not null default 'run' check (subject_kind in ('run', 'schedule')),
  subject_id text not null,
  generation int,
  verb text not null,
  args jsonb,
  actor text,
  reason text,
  created_at timestamptz not null default now(),
  xid xid8 not null default pg_current_xact_id(),
  primary key (shard, command_id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index commands_discovery on tramline.commands (shard, xid, command_id);

-- Calls that an owner had out when it gave their shard up in order: they go on at that node, which tells the next owner how they end by a
-- command. Written with its last flush of the shard, read with the run's past.
create table tramline.handed_calls (
  run_id uuid not null,
  shard int not null,
  step text not null,
  generation int not null,
  attempt int not null,
  node uuid not null,
  until timestamptz not null,                        -- its result is not waited for any longer
  primary key (run_id, shard, step, generation, attempt)
);

-- Inserted and deleted by owners only; read forward through a window.
create table tramline.timers (
  shard int not null,
  due_at timestamptz not null,
  run_id uuid not null,
  generation int not null,
  kind text not null check (kind in ('start', 'retry', 'sleep', 'deadline')),
  step text not null default '',
  attempt int not null default 0,
  created_at timestamptz not null default now(),
  primary key (shard, due_at, run_id, kind, step, attempt)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
-- A run that is loaded looks for its own timers; a million others may be waiting.
create index timers_by_run on tramline.timers (run_id);
-- The next timers of shards after a position each, in order: p_limit of them, and those that share the last one's time and run. Read in the
-- order of the key alone: for many shards the planner would rather read and sort all that waits.
create function tramline.timer_windows(p_shards int[], p_due_at timestamptz[], p_run_ids uuid[], p_limit bigint)
returns table (shard int, due_at timestamptz, run_id uuid, kind text, step text, attempt int) language sql stable
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
  select u.shard, t.due_at, t.run_id, t.kind, t.step, t.attempt
    from unnest(p_shards, p_due_at, p_run_ids) as u(shard, due_at, run_id)
   cross join lateral (select * from tramline.timers t where t.shard = u.shard and (t.due_at, t.run_id) > (u.due_at, u.run_id)
                        order by t.due_at, t.run_id fetch first (p_limit) rows with ties) t
$$;

-- A run that the low-water mark may pass although no timer or wait names it.
create table tramline.parked (
  shard int not null,
  run_id uuid not null,
  why text not null,
  at timestamptz not null default now(),
  primary key (shard, run_id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- Runs of pull queues, from their insert to their end: workers outside claim them here, and no node is needed. A real table, so that
-- users may put row triggers on it. The last version of a row carries the end; then the row is deleted and tramline.run_ends has it.
create table ops.pull_runs (
  run_id uuid primary key,
  generation int not null default 1,
  queue text not null,
  priority smallint not null check (priority between 0 and 3),
  run_at timestamptz not null,                       -- not claimed before; the order within a priority
  status text not null default 'queued'
    check (status in ('queued', 'claimed', 'running', 'paused', 'completed', 'failed', 'cancelled', 'skipped')),
  fence bigint not null default 0,                   -- rises with every claim, over all generations: what a lost worker says is refused
  attempt int not null default 0,                    -- claims of this generation
  -- Of the last claim, also after it was lost:
  claimed_by text,
  started_at timestamptz,
  heartbeat_at timestamptz,
  lease interval,
  lease_until timestamptz,                           -- by the database's clock; afterwards anybody may have the run
  is_foreign boolean not null default false          -- its ledger is in the *_foreign siblings
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index pull_runs_ready on ops.pull_runs (queue, priority, run_at, run_id) where status = 'queued';
create index pull_runs_held on ops.pull_runs (queue, lease_until) where status in ('claimed', 'running');

create table tramline.correlations (
  shard int not null,                                -- of the target and the correlation id, not of the run
  target text not null,
  correlation_id text not null,
  run_id uuid not null,
  input_hash bytea not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  primary key (shard, target, correlation_id)
);
create index correlations_expiry on tramline.correlations (expires_at);

create table tramline.workflow_definitions (
  name text not null check (name ~ '^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$'),
  version int not null,
  definition jsonb not null,
  checksum text,
  status text not null default 'submitted' check (status in ('submitted', 'draft', 'published', 'refused', 'retired')),
  problems jsonb,
  required_inputs text[] not null default '{}',
  retention interval,                                -- how long its correlation ids hold; null = 30 days
  created_by text not null default current_user,
  created_at timestamptz not null default now(),
  published_at timestamptz,
  primary key (name, version)
);

create table tramline.functions (
  name text primary key,
  kind text not null default 'edge' check (kind in ('edge', 'handler')),
  version text,
  auth text,
  state text not null default 'pending',
  reason text,
  retry jsonb,                                       -- policy of its runs, unless a run brings its own
  retention interval,                                -- how long its correlation ids hold; null = 30 days
  updated_at timestamptz not null default now()
);

-- What enqueueing asks of a target, in one row: to look it up in each table that can say something would cost more than the insert. Kept by
-- tramline.refresh_targets; nobody else writes it.
create table tramline.targets (
  name text primary key,
  version int,                                       -- of the workflow; null = a function
  required_inputs text[] not null,
  retry jsonb,                                       -- policy of its runs; a function's
  retention interval,                                -- how long its correlation ids hold; null = 30 days
  is_limited boolean not null,                       -- its runs, or those of the default queue, have a limit key
  -- Ids from here up to there have their partitions; null = none have.
  ids_from uuid,
  ids_until uuid
);

create table tramline.schedules (
  name text primary key check (name ~ '^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$'),
  shard int not null,
  cron text,
  every_ms bigint check (every_ms between 1000 and 31622400000),
  anchor timestamptz,                                -- intervals count from here, never from the last start
  timezone text not null default 'UTC',
  target text not null,
  input jsonb not null default '{}',
  queue text not null default 'default',
  priority smallint not null default 1 check (priority between 0 and 3),
  paused boolean not null default false,
  jitter_ms bigint not null default 0 check (jitter_ms between 0 and 31622400000),
  start_at timestamptz,
  end_at timestamptz,
  exclude text[] not null default '{}',              -- names of calendars
  overlap text not null default 'allow' check (overlap in ('allow', 'skip', 'queue', 'cancel_older')),
  catch_up text not null default 'skip' check (catch_up in ('skip', 'last', 'all')),
  catch_up_max int not null default 100 check (catch_up_max between 1 and 1000),
  late_after_ms bigint not null default 300000 check (late_after_ms > 0),
  source text not null default 'sql',
  last_due timestamptz,                              -- monotonic: retention of periods cannot fire one again
  active_since timestamptz not null default now(),   -- made, resumed, or its due times changed: nothing before is made up for
  paused_since timestamptz,                          -- begin of the last pause; null when its due times were changed since
  problem text,                                      -- why its owner cannot read it
  revision bigint not null default 1,                -- rises with every change, so that owners notice
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint schedules_when check ((cron is null) <> (every_ms is null)),
  constraint schedules_anchor check (every_ms is null or anchor is not null)
);

create table tramline.schedule_periods (
  schedule text not null,
  due_at timestamptz not null,                       -- the nominal instant, in UTC: the identity of the period
  run_id uuid,
  outcome text not null check (outcome in ('prepared', 'started', 'skipped', 'cancelled')),
  reason text,
  planned_at timestamptz not null,                   -- due time and jitter, or when somebody asked for it
  started_at timestamptz,
  drift_ms bigint,                                   -- start minus planned time
  finished_at timestamptz,                           -- the run's first end
  created_at timestamptz not null default now(),
  primary key (schedule, due_at)
);
-- Runs that may still go on: what a new owner must know before it starts another one of the schedule.
create index schedule_periods_open on tramline.schedule_periods (schedule, due_at)
 where finished_at is null and outcome in ('prepared', 'started');

create table tramline.project_members (
  project_id text not null,
  user_id uuid not null,
  role text not null default 'member',
  primary key (project_id, user_id)
);
