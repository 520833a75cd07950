-- Queues: the named lines that runs wait in. A name without a row here is an ordinary queue without limits.
create table tramline.queues (
  name text primary key check (name ~ '^[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,127}$'),
  mode text not null default 'engine' check (mode in ('engine', 'pull')),  -- who executes its runs: our nodes, or workers that claim them
  paused boolean not null default false,
  concurrency int check (concurrency > 0),           -- of its runs at once, over all nodes; null = no limit
  rate_count int check (rate_count > 0),             -- starts per rate_per_ms; null = no limit
  rate_per_ms bigint check (rate_per_ms > 0),
  rate_burst int check (rate_burst > 0),             -- starts at once after a quiet time; null = rate_count
  fifo boolean not null default false,               -- strictly in the order of discovery, whatever priority and key
  -- Of a pull queue: so many claims of a run may be lost before it is a dead letter; null = any number. A run that ends its worker
  -- each time would go round for ever; ten leaves room for a day of restarts.
  claims_max int default 10 check (claims_max > 0),
  description text,
  revision bigint not null default 1,                -- rises with every change, so that owners notice
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check ((rate_count is null) = (rate_per_ms is null)),
  check (rate_count is not null or rate_burst is null)
);
insert into tramline.queues (name, mode) values ('default', 'engine'), ('ops', 'pull');

-- The mode decides where a run is kept from its insert on: it cannot change under the runs that are there.
create function tramline.queue_guard() returns trigger language plpgsql as $$
begin
  if new.mode <> old.mode then
    raise exception using errcode = 'TL400', message = format('the mode of queue "%s" is %s and cannot be changed', old.name, old.mode),
      hint = 'make another queue';
  end if;
  new.revision := old.revision + 1;
  new.updated_at := now();
  return new;
end $$;
create trigger queue_guard before update on tramline.queues for each row execute function tramline.queue_guard();

-- A limit of the default queue is one of nearly all runs.
create trigger default_queue_made after insert on tramline.queues
  for each row when (new.name = 'default') execute function tramline.target_changed();
create trigger default_queue_changed after update on tramline.queues
  for each row when (new.name = 'default' and (new.concurrency, new.rate_count) is distinct from (old.concurrency, old.rate_count))
  execute function tramline.target_changed();
create trigger default_queue_gone after delete on tramline.queues
  for each row when (old.name = 'default') execute function tramline.target_changed();

create view ops.queues with (security_invoker = true) as
select name, mode, paused, concurrency, rate_count, rate_per_ms, rate_burst, fifo, claims_max, description, created_at, updated_at from tramline.queues;
