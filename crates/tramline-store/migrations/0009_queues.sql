-- Queues: the named lines that runs wait in. A name without a row here is an ordinary queue without limits. And who changed what of them.
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

-- Who changed queues, schedules and calendars, when and why: a row for every change that was one, written with it and never changed.
create table tramline.changes (
  change_id bigint generated always as identity primary key,
  kind text not null,                                -- queue, schedule or calendar
  name text not null,
  event text not null check (event in ('created', 'changed', 'paused', 'resumed', 'deleted')),
  changes jsonb not null,                            -- {"concurrency": {"from": null, "to": 5}}
  actor text not null,
  reason text,
  created_at timestamptz not null default now()
);
create index changes_of_one on tramline.changes (kind, name, change_id desc);
create view ops.changes with (security_invoker = true) as
select change_id, kind, name, event, changes, actor, reason, created_at from tramline.changes;

-- Says who changes something in this transaction, and why; null leaves what was said. Returns what was said before, to be said again.
create function tramline.acts(p_actor text, p_reason text) returns text[] language plpgsql set search_path = pg_catalog, pg_temp as $$
declare v_before text[] := array[coalesce(current_setting('tramline.actor', true), ''), coalesce(current_setting('tramline.reason', true), '')];
begin
  perform set_config('tramline.actor', coalesce(p_actor, v_before[1]), true), set_config('tramline.reason', coalesce(p_reason, v_before[2]), true);
  return v_before;
end $$;

-- Values over 4 KiB, as inputs of schedules may be, are told by their size. The newest thousand changes of each are kept.
create function tramline.note_who() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- What follows from the rest, and what owners write.
  v_follows text[] := array['name', 'shard', 'revision', 'created_at', 'updated_at', 'active_since', 'paused_since', 'last_due', 'problem'];
  v_old jsonb := coalesce(to_jsonb(old), '{}') - v_follows;
  v_new jsonb := coalesce(to_jsonb(new), '{}') - v_follows;
  v_name text := coalesce(new.name, old.name);
  v_changes jsonb;
begin
  select coalesce(jsonb_object_agg(k.key, (select jsonb_object_agg(v.side, case when octet_length(v.value::text) > 4096
                                             then to_jsonb(format('%s bytes', octet_length(v.value::text))) else v.value end)
                                             from (values ('from', v_old -> k.key), ('to', v_new -> k.key)) v(side, value))), '{}')
    into v_changes
    from jsonb_object_keys(v_old || v_new) k(key)
   where coalesce(v_old -> k.key, 'null') is distinct from coalesce(v_new -> k.key, 'null');
  if tg_op = 'UPDATE' and v_changes = '{}' then
    return null;
  end if;
  insert into tramline.changes (kind, name, event, changes, actor, reason)
  values (tg_argv[0], v_name,
          case when tg_op = 'INSERT' then 'created' when tg_op = 'DELETE' then 'deleted' when v_changes - 'paused' <> '{}' then 'changed'
               when (v_new ->> 'paused')::boolean then 'paused' else 'resumed' end,
          v_changes,
          -- Files and the API are the source of what they declare.
          left(coalesce(nullif(current_setting('tramline.actor', true), ''), nullif(regexp_replace(v_new ->> 'source', '^api:', ''), 'sql'),
                        tramline.derived_source()), 1000),
          left(nullif(current_setting('tramline.reason', true), ''), 2000));
  delete from tramline.changes c
   where c.kind = tg_argv[0] and c.name = v_name
     and c.change_id <= (select x.change_id from tramline.changes x where x.kind = tg_argv[0] and x.name = v_name order by x.change_id desc offset 1000 limit 1);
  return null;
end $$;
create trigger note_who after insert or update or delete on tramline.queues for each row execute function tramline.note_who('queue');

-- When something that is paused was paused, by whom and why.
create function tramline.paused_by(p_kind text, p_name text, out since timestamptz, out words text, out detail jsonb)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.created_at, format(' by %s', c.actor) || coalesce(': ' || c.reason, ''), jsonb_build_object('actor', c.actor, 'reason', c.reason)
    from tramline.changes c where c.kind = p_kind and c.name = p_name and c.changes #>> '{paused,to}' = 'true' order by c.change_id desc limit 1
$$;
