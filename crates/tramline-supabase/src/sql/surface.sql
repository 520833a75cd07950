-- What the platform has besides the roles and functions that the store's migrations make. Every statement can be
-- repeated, runs on its own, and leaves alone what somebody has set. None needs a superuser; one that this role may
-- not run is left out.

create schema if not exists extensions;
grant usage on schema extensions to anon, authenticated, service_role;
create schema if not exists graphql_public;
grant usage on schema graphql_public to anon, authenticated, service_role;
create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role;
grant usage on schema public to anon, authenticated, service_role;

-- The login role of the REST service on the platform. Here it is what a REST connection becomes before it becomes
-- the caller, so that no token can name a role that was not granted to it.
do $$ begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
    create role authenticator login noinherit;
  end if;
end $$;
grant anon, authenticated, service_role to authenticator;

-- The owner becomes the API's roles as well where it is no superuser.
do $$ begin
  if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    execute format('grant anon, authenticated, service_role to %I', current_user);
  end if;
end $$;

-- Roles that exported schemas name in grants and owners. They hold nothing and nobody logs in as one.
do $$
declare
  name text;
begin
  foreach name in array array['supabase_admin', 'supabase_auth_admin', 'supabase_storage_admin',
                              'supabase_functions_admin', 'dashboard_user', 'supabase_read_only_user'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = name) then
      execute format('create role %I nologin noinherit', name);
    end if;
  end loop;
end $$;

-- Time limits of requests, as on the platform.
do $$
declare
  wanted record;
begin
  for wanted in select * from (values ('anon', '3s'), ('authenticated', '8s')) as v(role, timeout) loop
    if not exists (
      select from pg_catalog.pg_roles r, unnest(r.rolconfig) as setting
      where r.rolname = wanted.role and setting like 'statement_timeout=%') then
      execute format('alter role %I set statement_timeout = %L', wanted.role, wanted.timeout);
    end if;
  end loop;
end $$;

-- Unqualified names of extension functions are found by every session of this database.
do $$ begin
  if not exists (
    select from pg_catalog.pg_db_role_setting s, unnest(s.setconfig) as setting
    where s.setdatabase = (select oid from pg_catalog.pg_database where datname = current_database())
      and s.setrole = 0 and setting like 'search_path=%') then
    execute format('alter database %I set search_path = "$user", public, extensions', current_database());
  end if;
end $$;

-- The users of the project, with GoTrue's columns: migrations refer to them, seeds insert them.
create table if not exists auth.users (
  instance_id uuid,
  id uuid not null primary key,
  aud varchar(255),
  role varchar(255),
  email varchar(255),
  encrypted_password varchar(255),
  email_confirmed_at timestamptz,
  invited_at timestamptz,
  confirmation_token varchar(255),
  confirmation_sent_at timestamptz,
  recovery_token varchar(255),
  recovery_sent_at timestamptz,
  email_change_token_new varchar(255),
  email_change varchar(255),
  email_change_sent_at timestamptz,
  last_sign_in_at timestamptz,
  raw_app_meta_data jsonb,
  raw_user_meta_data jsonb,
  is_super_admin boolean,
  created_at timestamptz,
  updated_at timestamptz,
  phone text default null,
  phone_confirmed_at timestamptz,
  phone_change text default '',
  phone_change_token varchar(255) default '',
  phone_change_sent_at timestamptz,
  confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
  email_change_token_current varchar(255) default '',
  email_change_confirm_status smallint default 0
    constraint users_email_change_confirm_status_check check (email_change_confirm_status between 0 and 2),
  banned_until timestamptz,
  reauthentication_token varchar(255) default '',
  reauthentication_sent_at timestamptz,
  is_sso_user boolean not null default false,
  deleted_at timestamptz,
  is_anonymous boolean not null default false,
  constraint users_phone_key unique (phone)
);
create unique index if not exists users_email_partial_key on auth.users (email) where not is_sso_user;
create index if not exists users_instance_id_idx on auth.users (instance_id);
alter table auth.users enable row level security;

create table if not exists auth.identities (
  provider_id text not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  identity_data jsonb not null,
  provider text not null,
  last_sign_in_at timestamptz,
  created_at timestamptz,
  updated_at timestamptz,
  email text generated always as (lower(identity_data ->> 'email')) stored,
  id uuid not null default gen_random_uuid() primary key,
  constraint identities_provider_id_provider_unique unique (provider_id, provider)
);
create index if not exists identities_user_id_idx on auth.identities (user_id);
alter table auth.identities enable row level security;

-- Migrations add tables to it. It is empty: nothing here reads it.
do $$ begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    set local client_min_messages to error;
    create publication supabase_realtime;
  end if;
end $$;

-- A schema change made in any session reaches the REST service. Only a superuser may make event triggers.
create or replace function extensions.tramline_schema_changed() returns event_trigger
language plpgsql set search_path = '' as $$
begin
  notify pgrst, 'reload schema';
end $$;
do $$ begin
  if (select rolsuper from pg_catalog.pg_roles where rolname = current_user)
     and not exists (select from pg_catalog.pg_event_trigger where evtname = 'tramline_schema_changed') then
    create event trigger tramline_schema_changed on ddl_command_end
      when tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE VIEW', 'ALTER VIEW',
                   'CREATE MATERIALIZED VIEW', 'CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE TYPE', 'COMMENT',
                   'DROP TABLE', 'DROP VIEW', 'DROP FUNCTION')
      execute function extensions.tramline_schema_changed();
  end if;
end $$
