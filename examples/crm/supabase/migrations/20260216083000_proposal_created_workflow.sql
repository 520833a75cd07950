-- A new proposal starts the workflow proposal-created, in the transaction that inserts it: both exist or neither.
-- The correlation id makes it one run per proposal. The definer may write runs, the caller need not.

create function public.start_proposal_created() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  insert into ops.runs (kind, target, input, correlation_id, source)
  select
    'workflow',
    'proposal-created',
    jsonb_strip_nulls(jsonb_build_object(
      'proposal_id', new.id,
      'guest_id', new.guest_id,
      'host_id', new.host_id,
      'listing_id', new.listing_id,
      'status', new.status,
      'host_email', host.email,
      'guest_name', guest.full_name,
      'listing_name', listing.title,
      'reminder_delay', new.reminder_delay
    )),
    'proposal-created:' || new.id,
    'proposals trigger'
  from public.profiles host, public.contacts guest, public.listings listing
  where host.id = new.host_id and guest.id = new.guest_id and listing.id = new.listing_id;
  return new;
end;
$$;

create trigger proposals_start_workflow
  after insert on public.proposals
  for each row execute function public.start_proposal_created();
