-- A guest (a contact) is offered a listing by its host (a user); they talk about it in a thread.

create table public.listings (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.accounts (id),
  host_id uuid not null references public.profiles (id),
  title text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index listings_host_id_idx on public.listings (host_id) where deleted_at is null;

create table public.proposals (
  id uuid primary key default gen_random_uuid(),
  listing_id uuid not null references public.listings (id),
  guest_id uuid not null references public.contacts (id),
  host_id uuid not null references public.profiles (id),
  created_by uuid default auth.uid() references auth.users (id),
  status text not null default 'sent' check (status in ('sent', 'accepted', 'declined', 'withdrawn')),
  message text not null default '',
  -- When to remind the host, counted from the insert: '24h', '30s', '1h30m'. Null leaves it to the workflow.
  reminder_delay text check (reminder_delay ~ '^([0-9]+(ms|s|m|h|d))+$'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index proposals_host_id_idx on public.proposals (host_id, created_at desc) where deleted_at is null;
create index proposals_listing_id_idx on public.proposals (listing_id) where deleted_at is null;
create index proposals_created_by_idx on public.proposals (created_by) where deleted_at is null;

-- A thread can be about different kinds of things, hence subject_kind and subject_id and no foreign key.
create table public.threads (
  id uuid primary key default gen_random_uuid(),
  idempotency_key text not null unique,
  subject_kind text not null check (subject_kind in ('proposal', 'deal')),
  subject_id uuid not null,
  host_id uuid not null,
  guest_id uuid not null,
  listing_id uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index threads_subject_idx on public.threads (subject_kind, subject_id) where deleted_at is null;
create index threads_host_id_idx on public.threads (host_id) where deleted_at is null;

create table public.messages (
  id uuid primary key default gen_random_uuid(),
  idempotency_key text not null unique,
  thread_id uuid not null references public.threads (id),
  author text not null default 'system' check (author in ('system', 'host', 'guest')),
  body text not null check (length(body) between 1 and 5000),
  created_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index messages_thread_id_idx on public.messages (thread_id, created_at) where deleted_at is null;

create table public.notifications (
  id uuid primary key default gen_random_uuid(),
  -- The same notification is created once, however often its cause is seen.
  dedupe_key text not null unique,
  user_id uuid not null references public.profiles (id),
  kind text not null,
  title text not null,
  link text,
  read_at timestamptz,
  created_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index notifications_unread_idx on public.notifications (user_id, created_at desc)
  where read_at is null and deleted_at is null;

create trigger listings_set_updated_at before update on public.listings
  for each row execute function public.set_updated_at();
create trigger proposals_set_updated_at before update on public.proposals
  for each row execute function public.set_updated_at();
create trigger threads_set_updated_at before update on public.threads
  for each row execute function public.set_updated_at();
