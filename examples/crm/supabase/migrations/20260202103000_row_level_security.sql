-- Who may see and change what. Functions with the service role pass by these policies.
--
-- Owners keep seeing their deleted rows: otherwise `update … set deleted_at = now()` would be refused, since the
-- new row has to be visible to the one who writes it.

alter table public.profiles enable row level security;
alter table public.accounts enable row level security;
alter table public.contacts enable row level security;
alter table public.deals enable row level security;
alter table public.tasks enable row level security;
alter table public.listings enable row level security;
alter table public.proposals enable row level security;
alter table public.threads enable row level security;
alter table public.messages enable row level security;
alter table public.notifications enable row level security;
alter table public.dashboard_snapshots enable row level security;
alter table public.sent_emails enable row level security; -- no policy: the service role only

revoke all on
  public.profiles, public.accounts, public.contacts, public.deals, public.tasks, public.listings, public.proposals,
  public.threads, public.messages, public.notifications, public.dashboard_snapshots, public.sent_emails
  from anon, authenticated;
grant select, insert, update, delete on
  public.profiles, public.accounts, public.contacts, public.deals, public.tasks, public.listings, public.proposals,
  public.threads, public.messages, public.notifications, public.dashboard_snapshots, public.sent_emails
  to service_role;
grant select on
  public.profiles, public.accounts, public.contacts, public.deals, public.tasks, public.listings, public.proposals,
  public.threads, public.messages, public.notifications, public.dashboard_snapshots
  to authenticated;
grant insert, update on public.accounts, public.contacts, public.deals, public.tasks, public.proposals to authenticated;
grant update (full_name, title, digest_opt_out) on public.profiles to authenticated;
grant update (read_at, deleted_at) on public.notifications to authenticated;

create policy "colleagues see each other" on public.profiles
  for select to authenticated using (deleted_at is null or id = (select auth.uid()));
create policy "users edit themselves" on public.profiles
  for update to authenticated using (id = (select auth.uid())) with check (id = (select auth.uid()));

create policy "accounts are shared" on public.accounts
  for select to authenticated using (deleted_at is null or owner_id = (select auth.uid()));
create policy "owners add accounts" on public.accounts
  for insert to authenticated with check (owner_id = (select auth.uid()));
create policy "owners edit accounts" on public.accounts
  for update to authenticated using (owner_id = (select auth.uid())) with check (owner_id = (select auth.uid()));

create policy "contacts are shared" on public.contacts
  for select to authenticated using (
    deleted_at is null
    or exists (select 1 from public.accounts a where a.id = account_id and a.owner_id = (select auth.uid()))
  );
create policy "account owners add contacts" on public.contacts
  for insert to authenticated with check (
    exists (select 1 from public.accounts a where a.id = account_id and a.owner_id = (select auth.uid()))
  );
create policy "account owners edit contacts" on public.contacts
  for update to authenticated using (
    exists (select 1 from public.accounts a where a.id = account_id and a.owner_id = (select auth.uid()))
  );

create policy "owners see deals" on public.deals
  for select to authenticated using (owner_id = (select auth.uid()));
create policy "owners add deals" on public.deals
  for insert to authenticated with check (owner_id = (select auth.uid()));
create policy "owners edit deals" on public.deals
  for update to authenticated using (owner_id = (select auth.uid())) with check (owner_id = (select auth.uid()));

create policy "assignees see tasks" on public.tasks
  for select to authenticated using (assignee_id = (select auth.uid()));
create policy "assignees add tasks" on public.tasks
  for insert to authenticated with check (assignee_id = (select auth.uid()));
create policy "assignees edit tasks" on public.tasks
  for update to authenticated using (assignee_id = (select auth.uid())) with check (assignee_id = (select auth.uid()));

create policy "listings are shared" on public.listings
  for select to authenticated using (deleted_at is null or host_id = (select auth.uid()));

create policy "hosts and authors see proposals" on public.proposals
  for select to authenticated using ((select auth.uid()) in (host_id, created_by));
create policy "authors add proposals" on public.proposals
  for insert to authenticated with check (created_by = (select auth.uid()));
create policy "hosts and authors edit proposals" on public.proposals
  for update to authenticated using ((select auth.uid()) in (host_id, created_by));

create policy "hosts see threads" on public.threads
  for select to authenticated using (host_id = (select auth.uid()));
create policy "hosts see messages" on public.messages
  for select to authenticated using (
    exists (select 1 from public.threads t where t.id = thread_id and t.host_id = (select auth.uid()))
  );

create policy "users see notifications" on public.notifications
  for select to authenticated using (user_id = (select auth.uid()));
create policy "users read notifications" on public.notifications
  for update to authenticated using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));

create policy "owners see snapshots" on public.dashboard_snapshots
  for select to authenticated using (owner_id = (select auth.uid()));
