-- Definitions by SQL. A definition inserted by hand is "submitted": only a node can compile it, and makes it published
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
