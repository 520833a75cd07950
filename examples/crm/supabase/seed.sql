-- The same rows every time; only the dates move with the day of seeding, so that some tasks are overdue, some due
-- today and some ahead. Ids are fixed: …001 is the first row of its kind.
-- There are no proposals: each would start a run of the workflow proposal-created.

-- 50 users; the trigger on auth.users makes their profiles. User 1 is the administrator.
insert into auth.users (
  id, instance_id, aud, role, email, encrypted_password, email_confirmed_at,
  raw_app_meta_data, raw_user_meta_data, created_at, updated_at
)
select
  ('10000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid,
  '00000000-0000-0000-0000-000000000000',
  'authenticated',
  'authenticated',
  format('user%s@crm.example', i),
  '',
  now(),
  '{"provider": "email", "providers": ["email"]}',
  jsonb_build_object(
    'full_name',
    (array['Ada', 'Ben', 'Chloe', 'David', 'Elif', 'Farid', 'Grace', 'Hugo', 'Ines', 'Jonas'])[1 + i % 10]
      || ' ' ||
    (array['Adler', 'Brandt', 'Costa', 'Demir', 'Evans'])[1 + (i / 10) % 5],
    'title',
    (array['Account executive', 'Host manager', 'Support lead', 'Analyst'])[1 + i % 4]
  ),
  now() - interval '90 days',
  now() - interval '90 days'
from generate_series(1, 50) i;

update public.profiles set role = 'admin' where id = '10000000-0000-4000-8000-000000000001';

-- Two users do not want the digest.
update public.profiles set digest_opt_out = true
where id in ('10000000-0000-4000-8000-000000000049', '10000000-0000-4000-8000-000000000050');

insert into public.accounts (id, owner_id, name, industry, created_at, deleted_at)
select
  ('20000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid,
  ('10000000-0000-4000-8000-' || lpad((1 + i % 50)::text, 12, '0'))::uuid,
  (array['Alpine', 'Baltic', 'Coastal', 'Danube', 'Elbe', 'Forest', 'Garden', 'Harbour'])[1 + i % 8]
    || ' ' || (array['Stays', 'Homes', 'Lodges', 'Suites', 'Rentals'])[1 + i % 5] || ' ' || i,
  (array['hospitality', 'property', 'travel', 'events'])[1 + i % 4],
  now() - make_interval(days => 10 + i % 80),
  case when i % 40 = 0 then now() - interval '3 days' end
from generate_series(1, 200) i;

insert into public.contacts (id, account_id, full_name, email, phone, created_at, deleted_at)
select
  ('30000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid,
  ('20000000-0000-4000-8000-' || lpad((1 + i % 200)::text, 12, '0'))::uuid,
  (array['Kim', 'Lea', 'Marek', 'Nora', 'Oskar', 'Priya', 'Quentin', 'Rosa', 'Sami', 'Tara'])[1 + i % 10]
    || ' ' || (array['Fischer', 'Gomez', 'Hansen', 'Ivanov', 'Jensen', 'Kaya', 'Lopez'])[1 + i % 7],
  format('contact%s@guests.example', i),
  '+49 30 ' || lpad((1000000 + i)::text, 7, '0'),
  now() - make_interval(days => i % 60),
  case when i % 100 = 0 then now() - interval '1 day' end
from generate_series(1, 1000) i;

insert into public.deals (id, account_id, owner_id, name, stage, amount_cents, closes_on, created_at, deleted_at)
select
  ('40000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid,
  ('20000000-0000-4000-8000-' || lpad((1 + i % 200)::text, 12, '0'))::uuid,
  ('10000000-0000-4000-8000-' || lpad((1 + i % 50)::text, 12, '0'))::uuid,
  (array['Season contract', 'Pilot', 'Renewal', 'Expansion'])[1 + i % 4] || ' ' || i,
  (array['lead', 'qualified', 'proposal', 'won', 'lost'])[1 + (i / 7) % 5],
  (50000 + i * 3700) % 900000,
  current_date + (i % 90) - 20,
  now() - make_interval(days => i % 70),
  case when i % 75 = 0 then now() - interval '2 days' end
from generate_series(1, 600) i;

insert into public.listings (id, account_id, host_id, title, created_at)
select
  ('50000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid,
  ('20000000-0000-4000-8000-' || lpad((1 + i % 200)::text, 12, '0'))::uuid,
  ('10000000-0000-4000-8000-' || lpad((1 + i % 50)::text, 12, '0'))::uuid,
  (array['Loft', 'Cabin', 'Villa', 'Studio', 'Houseboat'])[1 + i % 5] || ' at '
    || (array['the lake', 'the old mill', 'the harbour', 'the park'])[1 + i % 4] || ', no. ' || i,
  now() - make_interval(days => i % 50)
from generate_series(1, 60) i;

-- 10,000 tasks, 200 for each user, due from 30 days ago to 30 days ahead; three of five are done.
insert into public.tasks (id, assignee_id, account_id, title, status, due_at, completed_at, created_at, deleted_at)
select
  ('60000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid,
  ('10000000-0000-4000-8000-' || lpad((1 + i % 50)::text, 12, '0'))::uuid,
  ('20000000-0000-4000-8000-' || lpad((1 + i % 200)::text, 12, '0'))::uuid,
  (array['Call', 'Write to', 'Visit', 'Prepare offer for', 'Check contract of'])[1 + (i / 50) % 5]
    || ' account ' || (1 + i % 200),
  case when (i / 3) % 5 < 2 then 'open' else 'done' end,
  current_date + make_interval(days => (i * 7) % 61 - 30, hours => 8 + i % 10),
  case when (i / 3) % 5 < 2 then null else now() - make_interval(hours => i % 48) end,
  now() - make_interval(days => 31 + i % 20),
  case when i % 97 = 0 then now() - interval '1 day' end
from generate_series(1, 10000) i;
