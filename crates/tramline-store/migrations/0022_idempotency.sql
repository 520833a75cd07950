-- Answers of functions to requests with an idempotency key, so that the same request gets the same answer again, from every node.
-- A key is a hash: what callers send as keys, and who they are, is not kept.
create table tramline.idempotent_answers (
  key_hash bytea primary key,                        -- SHA-256 of function, method, path, caller and key
  function text not null,
  fingerprint bytea not null,                        -- SHA-256 of query, content type and body
  holder uuid not null,                              -- the request that works, or worked, on it
  lease_until timestamptz not null,                  -- until then nobody else works on it; renewed while somebody does
  ended_at timestamptz,                              -- null while it is being worked on
  status int,                                        -- of the answer; null with ended_at: too large to be kept
  header_names text[],
  header_values bytea[],
  body bytea,
  expires_at timestamptz not null                    -- forgotten from then on
);
create index idempotent_answers_expiry on tramline.idempotent_answers (expires_at);

-- Takes a key: 'new' for who may work on it, else 'running', 'other' (it was used for another request), 'too_large', or 'kept' with the
-- answer. Reads first, so that those who wait and ask again and again do not write.
create function tramline.begin_answer(p_key bytea, p_function text, p_fingerprint bytea, p_holder uuid, p_lease interval, p_retention interval,
  out state text, out status int, out header_names text[], out header_values bytea[], out body bytea)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v tramline.idempotent_answers;
begin
  select * into v from tramline.idempotent_answers a
   where a.key_hash = p_key and a.expires_at >= now() and (a.ended_at is not null or a.lease_until >= now());
  if found then
    if v.fingerprint <> p_fingerprint then
      state := 'other';
    elsif v.ended_at is null then
      state := 'running';
    elsif v.status is null then
      state := 'too_large';
    else
      state := 'kept';
      status := v.status;
      header_names := v.header_names;
      header_values := v.header_values;
      body := v.body;
    end if;
    return;
  end if;
  insert into tramline.idempotent_answers as a (key_hash, function, fingerprint, holder, lease_until, expires_at)
    values (p_key, p_function, p_fingerprint, p_holder, now() + p_lease, now() + p_lease + p_retention)
    on conflict (key_hash) do update
      set function = excluded.function, fingerprint = excluded.fingerprint, holder = excluded.holder, lease_until = excluded.lease_until,
          expires_at = excluded.expires_at, ended_at = null, status = null, header_names = null, header_values = null, body = null
      where a.expires_at < now() or (a.ended_at is null and a.lease_until < now());
  -- Where somebody was quicker, the next look tells more.
  state := case when found then 'new' else 'running' end;
end $$;

-- Nodes only: an answer may hold what only its caller may see.
alter table tramline.idempotent_answers enable row level security;
create policy engine on tramline.idempotent_answers to tramline_engine using (true) with check (true);
grant select, insert, update, delete on tramline.idempotent_answers to tramline_engine;
revoke execute on function tramline.begin_answer(bytea, text, bytea, uuid, interval, interval) from public;
grant execute on function tramline.begin_answer(bytea, text, bytea, uuid, interval, interval) to tramline_engine;
