-- Definitions by SQL. A definition inserted by hand is "submitted": only a node can compile it, and makes it published
-- or refused with the places. Publishing through a node stores the compiled outcome at once.

-- What a definition says about its correlation ids. A text that a node would refuse is nobody's promise yet.
create function tramline.definition_retention() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare v jsonb := new.definition #> '{idempotency,retention}';
begin
  new.retention := case jsonb_typeof(v) when 'number' then ((v #>> '{}') || ' seconds')::interval when 'string' then (v #>> '{}')::interval end;
  return new;
exception when others then
  new.retention := null;
  return new;
end $$;
create trigger definition_retention before insert on tramline.workflow_definitions for each row execute function tramline.definition_retention();

-- Stores a definition that a node has compiled. An equal checksum makes no new version. Returns the version and whether it is new.
create function tramline.store_definition(p_name text, p_definition jsonb, p_checksum text, p_required text[], p_by text)
returns table (version int, created boolean) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare v_version int; v_checksum text;
begin
  perform pg_advisory_xact_lock(hashtext('tramline.definition'), hashtext(p_name));
  select d.version, d.checksum into v_version, v_checksum from tramline.workflow_definitions d
   where d.name = p_name and d.status = 'published' order by d.version desc limit 1;
  if v_checksum = p_checksum then
    return query select v_version, false;
    return;
  end if;
  select coalesce(max(d.version), 0) + 1 into v_version from tramline.workflow_definitions d where d.name = p_name;
  insert into tramline.workflow_definitions (name, version, definition, checksum, status, required_inputs, created_by, published_at)
  values (p_name, v_version, p_definition, p_checksum, 'published', p_required, coalesce(p_by, session_user), now());
  return query select v_version, true;
end $$;

-- Publishes a definition that was inserted by hand and compiled by a node, unless it is settled already. One that is equal to the newest
-- published version (which a node stored meanwhile) is retired, and says so.
create function tramline.settle_definition(p_name text, p_version int, p_checksum text, p_required text[])
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_equal int;
begin
  perform pg_advisory_xact_lock(hashtext('tramline.definition'), hashtext(p_name));
  select d.version into v_equal
    from (select n.version, n.checksum from tramline.workflow_definitions n
           where n.name = p_name and n.status = 'published' order by n.version desc limit 1) d
   where d.checksum = p_checksum;
  update tramline.workflow_definitions d
     set status = case when v_equal is null then 'published' else 'retired' end, checksum = p_checksum, required_inputs = p_required,
         published_at = case when v_equal is null then now() end,
         problems = case when v_equal is not null then jsonb_build_array(jsonb_build_object('path', '',
           'message', format('it is equal to version %s, which is published', v_equal))) end
   where d.name = p_name and d.version = p_version and d.status = 'submitted';
end $$;

-- A plain INSERT: the next integer is the version; what the writer says about status, version and checksum is not his to say. What is equal
-- to the newest published or submitted version makes none: the row that exists is what the statement returns.
create function tramline.definition_insert() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v ops.workflow_definitions;
begin
  new.name := coalesce(new.name, new.definition ->> 'name');
  perform pg_advisory_xact_lock(hashtext('tramline.definition'), hashtext(new.name));
  if new.status is distinct from 'draft' then
    select * into v from ops.workflow_definitions d where d.name = new.name and d.status in ('published', 'submitted') order by d.version desc limit 1;
    if v.definition = new.definition then
      return v;
    end if;
  end if;
  select coalesce(max(version), 0) + 1 into new.version from tramline.workflow_definitions where name = new.name;
  new.status := case when new.status = 'draft' then 'draft' else 'submitted' end;
  new.created_by := coalesce(auth.uid()::text, session_user);
  new.created_at := now();
  insert into tramline.workflow_definitions (name, version, definition, status, created_by) values (new.name, new.version, new.definition, new.status, new.created_by);
  return new;
end $$;
create trigger definition_insert instead of insert on ops.workflow_definitions for each row execute function tramline.definition_insert();

-- Writes the rows of tramline.targets anew: of one name, or of all. One at a time: what another transaction is about to say of the same
-- target must be seen by the one that writes last. (The triggers of queues and limits come with these.)
create function tramline.refresh_targets(p_name text) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtext('tramline.targets'));
  delete from tramline.targets t
   where (p_name is null or t.name = p_name) and not exists (select from tramline.functions f where f.name = t.name)
     and not exists (select from tramline.workflow_definitions w where w.name = t.name and w.status = 'published');
  insert into tramline.targets as t (name, version, required_inputs, retry, retention, is_limited, ids_from, ids_until)
  select n.name, d.version, coalesce(d.required_inputs, '{}'), case when d.version is null then f.retry end,
         case when d.version is null then f.retention else d.retention end,
         exists (select from tramline.target_limits l where l.target = n.name)
           or exists (select from tramline.queues q where q.name = 'default' and (q.mode <> 'engine' or q.concurrency is not null or q.rate_count is not null)),
         i.lo, i.hi
    from (select f.name from tramline.functions f where p_name is null or f.name = p_name
          union select w.name from tramline.workflow_definitions w where w.status = 'published' and (p_name is null or w.name = p_name)) n
    left join lateral (select w.version, w.required_inputs, w.retention from tramline.workflow_definitions w
                        where w.name = n.name and w.status = 'published' order by w.version desc limit 1) d on true
    left join tramline.functions f on f.name = n.name
    -- The newest days that follow each other without a gap.
    left join (select min(x.lo::text)::uuid as lo, max(x.hi::text)::uuid as hi
                 from (select p.day, p.lo, p.hi, p.day - row_number() over (order by p.day)::int as first from tramline.partitions p) x
                group by x.first order by x.first desc limit 1) i on true
   order by n.name
  on conflict (name) do update
     set version = excluded.version, required_inputs = excluded.required_inputs, retry = excluded.retry, retention = excluded.retention,
         is_limited = excluded.is_limited, ids_from = excluded.ids_from, ids_until = excluded.ids_until
   where t is distinct from excluded;
end $$;
create function tramline.target_changed() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  case tg_table_name
    when 'functions' then
      perform tramline.refresh_targets(case tg_op when 'DELETE' then old.name else new.name end);
    when 'target_limits' then
      perform tramline.refresh_targets(case tg_op when 'DELETE' then old.target else new.target end);
    when 'workflow_definitions' then
      -- What nobody can start yet is inserted by anybody, in transactions that may be long.
      if tg_op <> 'DELETE' and new.status = 'published' or tg_op <> 'INSERT' and old.status = 'published' then
        perform tramline.refresh_targets(case tg_op when 'DELETE' then old.name else new.name end);
      end if;
    else
      perform tramline.refresh_targets(null);
  end case;
  return null;
end $$;
create trigger target_changed after insert or delete or update of retry, retention on tramline.functions
  for each row execute function tramline.target_changed();
create trigger target_changed after insert or update or delete on tramline.workflow_definitions
  for each row execute function tramline.target_changed();
create trigger target_changed after insert or delete on tramline.partitions
  for each statement execute function tramline.target_changed();
