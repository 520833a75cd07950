-- Retention: a day of the ledger is dropped, not deleted, once all its runs have ended and are past what their targets keep. What lies
-- outside the partitions (foreign ids, periods, side rows of dropped runs) is deleted in bounded batches.

-- How long ended runs are kept: by target, and '*' for all others. A definition's own "retention" counts where there is no row for it.
create table tramline.retention (
  target text primary key,
  keep interval not null check (keep between interval '1 day' and interval '100 years'),
  source text not null default 'sql',
  updated_at timestamptz not null default now()
);
insert into tramline.retention (target, keep, source) values ('*', '30 days', 'default');
create view ops.retention with (security_invoker = true) as select target, keep, source, updated_at from tramline.retention;

-- A day that is being dropped: its runs are gone, the rest follows. No run of it may be found unfinished in between.
alter table tramline.partitions add column dropping boolean not null default false;

create index run_ends_foreign_age on tramline.run_ends_foreign (finished_at);
create index schedule_periods_age on tramline.schedule_periods (due_at);

-- Sets how long ended runs of a target ('*': of all that say nothing) are kept; null goes back to the default. Partitions are of days, so
-- nothing is kept for less than one.
create function ops.set_retention(p_target text, p_keep interval, p_source text default 'sql') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if p_keep is null then
    delete from tramline.retention where target = p_target and target <> '*';
    update tramline.retention set keep = '30 days', source = 'default', updated_at = now() where target = p_target;
    return;
  end if;
  insert into tramline.retention as r (target, keep, source) values (p_target, p_keep, p_source)
  on conflict (target) do update set keep = excluded.keep, source = excluded.source, updated_at = now()
   where (r.keep, r.source) is distinct from (excluded.keep, excluded.source);
exception when check_violation then
  raise exception using errcode = 'TL422', message = format('runs of "%s" cannot be kept for %s: it must be 1 day to 100 years', p_target, p_keep);
end $$;

create function tramline.keep_of(p_target text) returns interval language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce((select r.keep from tramline.retention r where r.target = p_target),
                  (select greatest((d.definition ->> 'retention')::interval, interval '1 day') from tramline.workflow_definitions d
                    where d.name = p_target and d.status = 'published' order by d.version desc limit 1),
                  (select r.keep from tramline.retention r where r.target = '*'), interval '30 days')
$$;

-- The longest that any target of a range of runs is kept: one look at the index per target.
create function tramline.longest_keep(p_lo uuid, p_hi uuid) returns interval language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive t as (
    (select r.target from tramline.runs r where r.run_id >= p_lo and r.run_id < p_hi order by r.target, r.run_id limit 1)
    union all
    select (select r.target from tramline.runs r where r.run_id >= p_lo and r.run_id < p_hi and r.target > t.target order by r.target, r.run_id limit 1)
      from t where t.target is not null)
  select coalesce(max(tramline.keep_of(t.target)), interval '0') from t where t.target is not null
$$;

-- Runs of a range that have not ended in their newest generation, or that somebody has asked for something: at most p_limit.
create function tramline.unfinished_between(p_lo uuid, p_hi uuid, p_limit int) returns setof uuid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.run_id from tramline.runs r
    left join (select e.run_id, e.shard, max(e.generation) as generation from tramline.run_ends e
                where e.run_id >= p_lo and e.run_id < p_hi group by e.run_id, e.shard) e using (run_id, shard)
    left join (select m.run_id, m.shard, max(m.generation) as generation from tramline.run_marks m
                where m.run_id >= p_lo and m.run_id < p_hi and m.generation > 1 group by m.run_id, m.shard) m using (run_id, shard)
   where r.run_id >= p_lo and r.run_id < p_hi and (e.generation is null or e.generation < m.generation)
  union
  select c.subject_id::uuid from tramline.commands c
   where c.subject_kind = 'run' and c.subject_id >= p_lo::text and c.subject_id < p_hi::text
  limit p_limit
$$;

-- How a day stands: current (its time is not over), kept (until expires_at), waiting (expired, but runs of it have not ended), expired,
-- dropping. A day expires as a whole: when its last run to end is past the longest that any of its targets is kept.
create function tramline.day_state(p_day date, out state text, out expires_at timestamptz, out unfinished uuid[])
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare p tramline.partitions; v_end timestamptz := (p_day + 1)::timestamp at time zone 'UTC'; v_keep interval;
begin
  select * into p from tramline.partitions where day = p_day;
  if not found then
    return;
  end if;
  if p.dropping then
    state := 'dropping';
    return;
  end if;
  -- Ids are native for a day around their own; nothing younger than that is looked at.
  if v_end > now() - interval '1 day' then
    state := 'current';
    return;
  end if;
  v_keep := tramline.longest_keep(p.lo, p.hi);
  expires_at := v_end + v_keep;
  if expires_at <= now() then
    expires_at := greatest(v_end, (select max(e.finished_at) from tramline.run_ends e where e.run_id >= p.lo and e.run_id < p.hi)) + v_keep;
  end if;
  if expires_at > now() then
    state := 'kept';
    return;
  end if;
  select array_agg(u) into unfinished from tramline.unfinished_between(p.lo, p.hi, 1000) u;
  state := case when unfinished is null then 'expired' else 'waiting' end;
end $$;

-- Begins to drop a day: its runs go first, in a transaction of their own, so that nothing of it can be taken for unfinished. False when it is
-- not expired. The lock on the parent is waited for 200 ms at most (55P03: try again later) and held for the moment of the drop.
create function tramline.begin_drop(p_day date) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
declare p tramline.partitions; v_table text := 'runs_' || to_char(p_day, 'YYYYMMDD');
begin
  select * into p from tramline.partitions where day = p_day;
  if (select state from tramline.day_state(p_day)) is distinct from 'expired' then
    return coalesce(p.dropping, false);
  end if;
  perform pg_advisory_xact_lock(hashtext('tramline.partitions'));
  execute format('lock table tramline.%I in access exclusive mode', v_table);
  -- Whoever asked for a retry before this lock has committed: look once more at what can have changed.
  if exists (select from tramline.commands c where c.subject_kind = 'run' and c.subject_id >= p.lo::text and c.subject_id < p.hi::text)
     or exists (select from tramline.run_marks m where m.run_id >= p.lo and m.run_id < p.hi and m.generation > 1
                  and not exists (select from tramline.run_ends e where e.run_id = m.run_id and e.shard = m.shard and e.generation >= m.generation)) then
    return false;
  end if;
  execute format('drop table tramline.%I', v_table);
  update tramline.partitions set dropping = true where day = p_day;
  return true;
end $$;

-- Drops one more table of a day whose runs are gone.
create function tramline.drop_part(p_day date, p_table text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
begin
  if p_table not in ('run_ends', 'run_marks', 'run_steps', 'run_events')
     or not exists (select from tramline.partitions where day = p_day and dropping) then
    raise exception using errcode = 'TL400', message = format('%s of %s is not to be dropped', p_table, p_day);
  end if;
  execute format('drop table if exists tramline.%I', p_table || '_' || to_char(p_day, 'YYYYMMDD'));
end $$;

-- Deletes rows beside the partitions that name runs of a dropped day, at most p_limit of each kind; the day is over when nothing is left.
create function tramline.end_drop(p_day date, p_limit int) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare p tramline.partitions; v_rows bigint; v_all bigint := 0; t text;
begin
  select * into p from tramline.partitions where day = p_day and dropping;
  if not found then
    return 0;
  end if;
  foreach t in array array['tramline.timers', 'tramline.parked', 'tramline.step_starts', 'tramline.dead_letters', 'tramline.artifacts',
                           'ops.pull_runs', 'tramline.stuck'] loop
    if to_regclass(t) is not null and exists (select from pg_attribute where attrelid = to_regclass(t) and attname = 'run_id' and not attisdropped) then
      execute format('delete from %s where ctid = any (array(select x.ctid from %1$s x where x.run_id >= $1 and x.run_id < $2 limit $3))', t)
        using p.lo, p.hi, p_limit;
      get diagnostics v_rows = row_count;
      v_all := v_all + v_rows;
    end if;
  end loop;
  if v_all = 0 then
    delete from tramline.partitions where day = p_day;
  end if;
  return v_all;
end $$;

-- Deletes ended runs with foreign ids that are past what their target keeps: one page by the time they ended. Answers how many, and where
-- the page ended (null: there is no more).
create function tramline.prune_foreign(p_after timestamptz, p_limit int, out removed bigint, out upto timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_ids uuid[]; v_least interval := least((select min(keep) from tramline.retention), interval '1 day');
begin
  with page as (
    select e.run_id, e.shard, e.generation, e.finished_at from tramline.run_ends_foreign e
     where e.finished_at > p_after and e.finished_at <= now() - v_least order by e.finished_at limit p_limit)
  select max(g.finished_at), array_agg(g.run_id) filter (where
           g.finished_at + tramline.keep_of(r.target) <= now()
           and not exists (select from tramline.run_ends_foreign x where x.run_id = g.run_id and x.shard = g.shard and x.generation > g.generation)
           and not exists (select from tramline.run_marks_foreign m where m.run_id = g.run_id and m.shard = g.shard and m.generation > g.generation)
           and not exists (select from tramline.commands c where c.shard = g.shard and c.subject_id = g.run_id::text))
    into upto, v_ids
    from page g left join tramline.runs_foreign r on r.run_id = g.run_id and r.shard = g.shard;
  delete from tramline.runs_foreign r where r.run_id = any (v_ids);
  get diagnostics removed = row_count;
  delete from tramline.run_marks_foreign r where r.run_id = any (v_ids);
  delete from tramline.run_steps_foreign r where r.run_id = any (v_ids);
  delete from tramline.run_events_foreign r where r.run_id = any (v_ids);
  delete from tramline.timers r where r.run_id = any (v_ids);
  delete from tramline.parked r where r.run_id = any (v_ids) and r.shard = tramline.shard_of(r.run_id);
  delete from tramline.step_starts r where r.run_id = any (v_ids);
  delete from tramline.dead_letters r where r.run_id = any (v_ids);
  delete from tramline.artifacts r where r.run_id = any (v_ids);
  delete from tramline.run_ends_foreign r where r.run_id = any (v_ids);
end $$;

-- Deletes periods that are older than the default retention and whose run, if any, is not waiting or going on. The schedule's last_due keeps
-- them from being fired again.
create function tramline.prune_periods(p_limit int) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_rows bigint;
begin
  delete from tramline.schedule_periods where ctid = any (array(
    select q.ctid from tramline.schedule_periods q
     where q.due_at < now() - (select r.keep from tramline.retention r where r.target = '*')
       and q.created_at < now() - interval '1 day'
       and (q.finished_at is not null or q.outcome in ('skipped', 'cancelled')
            or not exists (select from tramline.all_runs r where r.run_id = q.run_id))
     order by q.due_at limit p_limit));
  get diagnostics v_rows = row_count;
  return v_rows;
end $$;

-- Tells the runs that keep an expired day, each once: an event in their own ledger.
create function tramline.tell_survivors(p_day date, p_runs uuid[]) returns int language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v uuid; v_told int := 0;
begin
  foreach v in array coalesce(p_runs, '{}') loop
    if exists (select from tramline.runs r where r.run_id = v)
       and not exists (select from tramline.run_events e where e.run_id = v and e.event_type = 'retention.blocked') then
      insert into tramline.run_events (run_id, shard, event_id, event_type, level, message, payload)
      values (v, tramline.shard_of(v), tramline.uuid_v7(), 'retention.blocked', 'warn',
              format('the run has not ended and keeps the expired day %s of the ledger', p_day), jsonb_build_object('day', p_day));
      v_told := v_told + 1;
    end if;
  end loop;
  return v_told;
end $$;

-- Every day of the ledger: how it stands, since when or until when, about how much it holds, and which runs keep it.
create function ops.retention_report()
returns table (day date, state text, expires_at timestamptz, runs bigint, bytes bigint, unfinished int, examples uuid[])
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select p.day, s.state, s.expires_at,
         (select greatest(c.reltuples, 0)::bigint from pg_class c where c.oid = to_regclass('tramline.runs_' || to_char(p.day, 'YYYYMMDD'))),
         (select sum(pg_total_relation_size(to_regclass('tramline.' || t || '_' || to_char(p.day, 'YYYYMMDD'))))::bigint
            from unnest(array['runs', 'run_ends', 'run_marks', 'run_steps', 'run_events']) t),
         coalesce(cardinality(s.unfinished), 0), s.unfinished[1:10]
    from tramline.partitions p cross join lateral tramline.day_state(p.day) s
   order by p.day
$$;
