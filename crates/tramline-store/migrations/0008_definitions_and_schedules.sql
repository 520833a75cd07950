-- Definitions and schedules by SQL. A definition inserted by hand is "submitted": only a node can compile it, and makes it published
-- or refused with the places. Publishing through a node stores the compiled outcome at once.

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

-- A plain INSERT: the next integer is the version; what the writer says about status, version and checksum is not his to say.
create function tramline.definition_insert() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  new.name := coalesce(new.name, new.definition ->> 'name');
  perform pg_advisory_xact_lock(hashtext('tramline.definition'), hashtext(new.name));
  select coalesce(max(version), 0) + 1 into new.version from tramline.workflow_definitions where name = new.name;
  new.status := case when new.status = 'draft' then 'draft' else 'submitted' end;
  new.created_by := coalesce(auth.uid()::text, session_user);
  new.created_at := now();
  insert into tramline.workflow_definitions (name, version, definition, status, created_by) values (new.name, new.version, new.definition, new.status, new.created_by);
  return new;
end $$;
create trigger definition_insert instead of insert on ops.workflow_definitions for each row execute function tramline.definition_insert();

-- Creates or changes a schedule. Owners notice by the revision; the past is not fired again.
create function tramline.store_schedule(p_name text, p_cron text, p_timezone text, p_target text, p_input jsonb, p_queue text, p_priority int,
  p_paused boolean, p_source text)
returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare v_changed boolean;
begin
  perform tramline.refuse_limited_schedule(p_name, p_target, coalesce(p_queue, 'default'));
  insert into tramline.schedules as s (name, shard, cron, timezone, target, input, queue, priority, paused, source)
  values (p_name, tramline.key_shard(p_name), p_cron, coalesce(p_timezone, 'UTC'), p_target, coalesce(p_input, '{}'), coalesce(p_queue, 'default'),
          coalesce(p_priority, 1), coalesce(p_paused, false), coalesce(p_source, 'sql'))
  on conflict (name) do update set cron = excluded.cron, timezone = excluded.timezone, target = excluded.target, input = excluded.input,
     queue = excluded.queue, priority = excluded.priority, paused = coalesce(p_paused, s.paused), source = excluded.source,
     revision = s.revision + 1, updated_at = now()
   where (s.cron, s.timezone, s.target, s.input, s.queue, s.priority, s.paused, s.source)
     is distinct from (excluded.cron, excluded.timezone, excluded.target, excluded.input, excluded.queue, excluded.priority,
                       coalesce(p_paused, s.paused), excluded.source)
  returning true into v_changed;
  return coalesce(v_changed, false);
end $$;

-- Pauses or resumes a schedule; false when there is no such schedule.
create function ops.pause_schedule(p_name text, p_paused boolean default true) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update tramline.schedules set paused = p_paused, revision = revision + 1, updated_at = now() where name = p_name;
  return found;
end $$;
