-- People, companies and work. Rows are never removed: deleted_at hides them.

create function public.set_updated_at() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;

create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text not null,
  full_name text not null,
  title text,
  role text not null default 'member' check (role in ('member', 'admin')),
  digest_opt_out boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create unique index profiles_email_key on public.profiles (lower(email));

-- Every sign-up gets a profile.
create function public.handle_new_user() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  insert into public.profiles (id, email, full_name, title)
  values (
    new.id,
    new.email,
    coalesce(new.raw_user_meta_data ->> 'full_name', split_part(new.email, '@', 1)),
    new.raw_user_meta_data ->> 'title'
  );
  return new;
end;
$$;

create trigger on_auth_user_created
  after insert on auth.users
  for each row execute function public.handle_new_user();

create table public.accounts (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null references public.profiles (id),
  name text not null check (length(name) between 1 and 200),
  industry text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index accounts_owner_id_idx on public.accounts (owner_id) where deleted_at is null;

create table public.contacts (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.accounts (id),
  full_name text not null,
  email text,
  phone text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index contacts_account_id_idx on public.contacts (account_id) where deleted_at is null;

create table public.deals (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.accounts (id),
  owner_id uuid not null references public.profiles (id),
  name text not null,
  stage text not null default 'lead' check (stage in ('lead', 'qualified', 'proposal', 'won', 'lost')),
  amount_cents bigint not null default 0 check (amount_cents >= 0),
  closes_on date,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index deals_account_id_idx on public.deals (account_id) where deleted_at is null;
create index deals_owner_stage_idx on public.deals (owner_id, stage) where deleted_at is null;

create table public.tasks (
  id uuid primary key default gen_random_uuid(),
  assignee_id uuid not null references public.profiles (id),
  account_id uuid references public.accounts (id),
  title text not null check (length(title) between 1 and 300),
  status text not null default 'open' check (status in ('open', 'done')),
  due_at timestamptz,
  completed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  constraint tasks_completed_at_matches_status check ((status = 'done') = (completed_at is not null))
);
create index tasks_assignee_id_idx on public.tasks (assignee_id, due_at) where deleted_at is null;
-- What check-overdue-tasks pages through.
create index tasks_open_id_idx on public.tasks (id) include (due_at) where status = 'open' and deleted_at is null;

create trigger profiles_set_updated_at before update on public.profiles
  for each row execute function public.set_updated_at();
create trigger accounts_set_updated_at before update on public.accounts
  for each row execute function public.set_updated_at();
create trigger contacts_set_updated_at before update on public.contacts
  for each row execute function public.set_updated_at();
create trigger deals_set_updated_at before update on public.deals
  for each row execute function public.set_updated_at();
create trigger tasks_set_updated_at before update on public.tasks
  for each row execute function public.set_updated_at();
