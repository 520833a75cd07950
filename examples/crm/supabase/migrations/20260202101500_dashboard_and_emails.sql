create table public.dashboard_snapshots (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null references public.profiles (id),
  captured_at timestamptz not null,
  open_tasks integer not null,
  overdue_tasks integer not null,
  open_deals integer not null,
  pipeline_cents bigint not null,
  created_at timestamptz not null default now(),
  unique (owner_id, captured_at)
);

-- The mail catcher: send-email writes here what a mail provider would get.
create table public.sent_emails (
  id uuid primary key default gen_random_uuid(),
  idempotency_key text not null unique,
  template text not null,
  to_email text not null,
  subject text not null,
  text_body text not null,
  related_id uuid,
  sent_at timestamptz not null default now()
);
create index sent_emails_related_id_idx on public.sent_emails (related_id);
create index sent_emails_sent_at_idx on public.sent_emails (sent_at desc);

-- One row per user and hour; capturing the same hour again changes nothing. Returns the number of new rows.
create function public.capture_dashboard_snapshots(p_at timestamptz) returns integer
language sql
set search_path = ''
as $$
  with
  task_counts as (
    select assignee_id,
           count(*) as open_tasks,
           count(*) filter (where due_at < p_at) as overdue_tasks
    from public.tasks
    where status = 'open' and deleted_at is null
    group by assignee_id
  ),
  deal_counts as (
    select owner_id, count(*) as open_deals, sum(amount_cents) as pipeline_cents
    from public.deals
    where stage not in ('won', 'lost') and deleted_at is null
    group by owner_id
  ),
  captured as (
    insert into public.dashboard_snapshots
      (owner_id, captured_at, open_tasks, overdue_tasks, open_deals, pipeline_cents)
    select p.id, date_trunc('hour', p_at, 'UTC'),
           coalesce(t.open_tasks, 0), coalesce(t.overdue_tasks, 0),
           coalesce(d.open_deals, 0), coalesce(d.pipeline_cents, 0)
    from public.profiles p
    left join task_counts t on t.assignee_id = p.id
    left join deal_counts d on d.owner_id = p.id
    where p.deleted_at is null
    on conflict (owner_id, captured_at) do nothing
    returning 1
  )
  select count(*)::integer from captured;
$$;

-- What the daily digest tells each user who wants it.
create function public.digest_rows(p_day date)
returns table (user_id uuid, email text, full_name text, overdue bigint, due_today bigint)
language sql
stable
set search_path = ''
as $$
  select p.id, p.email, p.full_name,
         count(t.id) filter (where t.due_at < p_day),
         count(t.id) filter (where t.due_at >= p_day and t.due_at < p_day + 1)
  from public.profiles p
  left join public.tasks t on t.assignee_id = p.id and t.status = 'open' and t.deleted_at is null
  where p.deleted_at is null and not p.digest_opt_out
  group by p.id
  order by p.id;
$$;

revoke execute on function public.capture_dashboard_snapshots(timestamptz) from public, anon, authenticated;
revoke execute on function public.digest_rows(date) from public, anon, authenticated;
grant execute on function public.capture_dashboard_snapshots(timestamptz) to service_role;
grant execute on function public.digest_rows(date) to service_role;
