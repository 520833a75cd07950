-- Lists of runs that stay fast however many have ended. A status is written in no row of a run, so a list of one status starts where runs of
-- that status are named: ends (which have theirs), timers, parked rows, claims, and what the low-water marks have not passed.

-- By id, within what did not complete, and within what neither completed nor failed: most runs are in neither.
create index run_ends_not_completed on tramline.run_ends (run_id) where status <> 'completed';
create index run_ends_foreign_not_completed on tramline.run_ends_foreign (run_id) where status <> 'completed';
create index run_ends_given_up on tramline.run_ends (run_id) where status not in ('completed', 'failed');
create index run_ends_foreign_given_up on tramline.run_ends_foreign (run_id) where status not in ('completed', 'failed');
-- Of users with few runs among many.
create index runs_by_creator on tramline.runs (created_by, run_id) where created_by is not null;
create index runs_foreign_by_creator on tramline.runs_foreign (created_by, run_id) where created_by is not null;
-- Kept by their writers: nothing else names those that have not ended.
create index runs_external on tramline.runs (run_id) where executor = 'external';
create index runs_foreign_external on tramline.runs_foreign (run_id) where executor = 'external';

-- Ids of runs before p_before that may have an unfinished status, newest first from each place that names such: at most p_most of a place.
create function tramline.may_be(p_status text, p_before uuid, p_most int) returns setof uuid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_status in ('scheduled', 'waiting') then
    return query select t.run_id from tramline.timers t
      where t.run_id < p_before and (t.kind = 'start') = (p_status = 'scheduled') order by t.run_id desc limit p_most;
  end if;
  if p_status <> 'scheduled' then
    return query select p.run_id from tramline.shards s
      cross join lateral (select k.run_id from tramline.parked k where k.shard = s.shard and k.run_id < p_before
                             and (p_status <> 'paused' or k.why = 'paused') order by k.run_id desc limit p_most) p;
    return query (select r.run_id from tramline.runs r where r.executor = 'external' and r.run_id < p_before order by r.run_id desc limit p_most)
      union all (select r.run_id from tramline.runs_foreign r where r.executor = 'external' and r.run_id < p_before order by r.run_id desc limit p_most);
  end if;
  return query select p.run_id from ops.pull_runs p where p.run_id < p_before
     and case p_status when 'scheduled' then p.status = 'queued' else p.status = p_status end order by p.run_id desc limit p_most;
  -- What no row names is above the low-water mark of its shard.
  return query select r.run_id from tramline.shards s cross join generate_series(0, 3) as c(class)
    cross join lateral (
      (select x.run_id from tramline.runs x where x.shard = s.shard and x.priority = c.class and x.executor = 'engine'
          and x.enqueued_xid >= coalesce(s.low_xid, '0') and x.run_id < p_before
          and not exists (select from tramline.run_ends e where e.run_id = x.run_id and e.shard = x.shard)
        order by x.enqueued_xid desc, x.run_id desc limit p_most)
      union all
      (select x.run_id from tramline.runs_foreign x where x.shard = s.shard and x.priority = c.class and x.executor = 'engine'
          and x.enqueued_xid >= coalesce(s.low_xid, '0') and x.run_id < p_before
          and not exists (select from tramline.run_ends_foreign e where e.run_id = x.run_id and e.shard = x.shard)
        order by x.enqueued_xid desc, x.run_id desc limit p_most)) r;
end $$;

-- One run by its id. The plan is made once: it holds all days that are kept, and making it takes longer than reading one of them.
create function ops.get_run(p_run_id uuid) returns setof ops.runs language plpgsql stable rows 1
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set jit = off as $$
begin
  return query select * from ops.runs r where r.run_id = p_run_id;
end $$;

-- The newest runs by their ids: of a status, of a target, of a user, before a run (the last of the page before). At most 1,000.
-- Runs of a status that is not an end are first looked for among the newest 1,000 runs, then where such runs are named; behind more than
-- that many others of the same place the list may end early.
create function ops.list_runs(p_status text default null, p_target text default null, p_before uuid default null, p_limit int default 50,
  p_created_by uuid default null)
returns setof ops.runs language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
-- Partitions are read one after the other, from the newest on, until there are enough: reading all to sort them is never right here.
set enable_sort = off set max_parallel_workers_per_gather = 0 as $$
declare
  v_limit int := least(greatest(coalesce(p_limit, 50), 1), 1000);
  v_before uuid := coalesce(p_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
  v_status text := case p_status when 'success' then 'completed' else p_status end;
  v_ids uuid[];
  v_walked uuid;
  v_found int;
begin
  if v_status is null then
    return query select * from ops.runs r
      where r.run_id < v_before and (p_target is null or r.target = p_target) and (p_created_by is null or r.created_by = p_created_by)
      order by r.run_id desc limit v_limit;
    return;
  end if;
  if v_status in ('completed', 'failed', 'cancelled', 'skipped') then
    -- Its newest generation ended so: an older end of a run that was opened again does not count.
    return query select o.* from (
        select e.run_id, e.generation from tramline.all_ends e where e.status = v_status and e.run_id < v_before order by e.run_id desc) c
      cross join lateral (select * from ops.runs x where x.run_id = c.run_id offset 0) o
      where o.status = v_status and o.generation = c.generation and (p_target is null or o.target = p_target)
        and (p_created_by is null or o.created_by = p_created_by)
      limit v_limit;
    return;
  end if;
  if v_status not in ('scheduled', 'queued', 'claimed', 'running', 'waiting', 'paused', 'compensating') then
    raise exception using errcode = 'TL400', message = format('"%s" is no status of a run', p_status);
  end if;
  with page as materialized (
    select r.run_id, r.target, r.created_by from tramline.all_runs r where r.run_id < v_before order by r.run_id desc limit 1000)
  select array_agg(q.run_id), (select min(p.run_id::text)::uuid from page p), count(*) into v_ids, v_walked, v_found
    from (select p.run_id from page p cross join lateral (select x.status from ops.runs x where x.run_id = p.run_id offset 0) o
           where o.status = v_status and (p_target is null or p.target = p_target) and (p_created_by is null or p.created_by = p_created_by)
           order by p.run_id desc limit v_limit) q;
  if v_found < v_limit and v_walked is not null then
    v_ids := array_cat(v_ids, (
      select array_agg(q.run_id) from (
        select c.run_id from (select distinct m as run_id from tramline.may_be(v_status, v_walked, 1000) m) c
          cross join lateral (select x.status, x.target, x.created_by from ops.runs x where x.run_id = c.run_id offset 0) o
         where o.status = v_status and (p_target is null or o.target = p_target) and (p_created_by is null or o.created_by = p_created_by)
         order by c.run_id desc limit v_limit - v_found) q));
  end if;
  return query select o.* from unnest(v_ids) with ordinality as i(id, ord) cross join lateral (select * from ops.runs x where x.run_id = i.id offset 0) o
    order by i.ord;
end $$;
