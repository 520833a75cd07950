-- Signed links to public functions, and the webhooks that were accepted: what the gateways of all nodes share.

-- Keys that sign links. The newest one signs; all that are not retired verify. A new row rotates, retired_at withdraws.
-- Nobody but the owner reads them: links are made by ops.sign_link.
create table tramline.link_keys (
  key_id int generated always as identity primary key,
  secret text not null check (length(secret) >= 32),
  created_at timestamptz not null default now(),
  retired_at timestamptz
);
-- two random UUIDs: 244 random bits
insert into tramline.link_keys (secret)
  select encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex');

-- HMAC-SHA-256 (RFC 2104) from what every Postgres has; pgcrypto may be missing.
create function tramline.hmac_sha256(p_key bytea, p_message bytea) returns bytea language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp as $$
declare
  c_block constant int := 64;
  v_key bytea := case when length(p_key) > c_block then sha256(p_key) else p_key end;
  v_inner bytea;
  v_outer bytea;
begin
  v_key := v_key || decode(repeat('00', c_block - length(v_key)), 'hex');
  v_inner := v_key;
  v_outer := v_key;
  for i in 0 .. c_block - 1 loop
    v_inner := set_byte(v_inner, i, get_byte(v_key, i) # 54);
    v_outer := set_byte(v_outer, i, get_byte(v_key, i) # 92);
  end loop;
  return sha256(v_outer || sha256(v_inner || p_message));
end $$;

-- A link to a function whose guard is `public` with `signed_links`: the path and query of a URL that is good for this method until it
-- expires. p_path is what stands after the function's name, p_query the query without `?`, both encoded as in a URL.
create function ops.sign_link(p_function text, p_path text default '', p_query text default '', p_expires_in interval default '1 hour',
  p_method text default 'GET')
returns text language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c_longest constant interval := '30 days';          -- longer, a link is a password that nobody can change
  v_key tramline.link_keys;
  v_path text := '/functions/v1/' || p_function;
  v_expires bigint := floor(extract(epoch from clock_timestamp() + p_expires_in));
  v_token text;
begin
  if not exists (select from tramline.functions f where f.name = p_function and f.kind = 'edge') then
    raise exception using errcode = 'TL404', message = format('no function "%s"', p_function),
      detail = jsonb_build_object('target', p_function)::text;
  end if;
  if p_method is null or p_method not in ('GET', 'POST', 'PUT', 'PATCH', 'DELETE') then
    raise exception using errcode = 'TL400', message = 'the method of a link is GET, POST, PUT, PATCH or DELETE';
  end if;
  if p_expires_in is null or p_expires_in < interval '1 second' or p_expires_in > c_longest then
    raise exception using errcode = 'TL400', message = format('a link expires in 1 second to %s', c_longest);
  end if;
  if p_path is null or p_path !~ '^[A-Za-z0-9._~!$&''()*+,;=:@/%-]*$' or p_path ~ '(^|/)\.\.?(/|$)' then
    raise exception using errcode = 'TL400', message = 'the path of a link is encoded as in a URL, without . and .. as segments';
  end if;
  if p_query is null or p_query !~ '^[A-Za-z0-9._~!$&''()*+,;=:@/?%-]*$' or p_query ~ '(^|&)tramline_link=' then
    raise exception using errcode = 'TL400', message = 'the query of a link is encoded as in a URL and has no tramline_link yet';
  end if;
  p_query := btrim(p_query, '&');
  if ltrim(p_path, '/') <> '' then
    v_path := v_path || '/' || ltrim(p_path, '/');
  end if;
  select * into v_key from tramline.link_keys k where k.retired_at is null order by k.key_id desc limit 1;
  if not found then
    raise exception using errcode = 'TL400', message = 'all keys of links are retired', hint = 'insert one into tramline.link_keys';
  end if;
  v_token := translate(rtrim(encode(tramline.hmac_sha256(convert_to(v_key.secret, 'UTF8'),
    convert_to(concat_ws(E'\n', 'v1', p_method, v_path, p_query, v_expires, v_key.key_id), 'UTF8')), 'base64'), E'=\n'), '+/', '-_');
  return format('%s?%stramline_link=v1.%s.%s.%s', v_path, case when p_query = '' then '' else p_query || '&' end, v_key.key_id, v_expires, v_token);
end $$;

-- Deliveries of webhooks by the id that the sender signed, so that each is accepted once.
create table tramline.webhook_deliveries (
  function text not null,
  delivery_id text not null,
  lease_until timestamptz not null,                  -- until then nobody else works on it
  accepted_at timestamptz,                           -- null while it is being worked on
  expires_at timestamptz not null,                   -- forgotten from then on
  primary key (function, delivery_id)
);
create index webhook_deliveries_expiry on tramline.webhook_deliveries (expires_at);

-- Takes a delivery: 'new' for who may work on it, else 'running' or 'accepted'.
create function tramline.begin_delivery(p_function text, p_id text, p_lease interval) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_kept constant interval := '3 days';              -- senders give up before
  v_accepted boolean;
begin
  insert into tramline.webhook_deliveries as d (function, delivery_id, lease_until, expires_at)
    values (p_function, p_id, now() + p_lease, now() + p_lease + c_kept)
    on conflict (function, delivery_id) do update
      set lease_until = excluded.lease_until, expires_at = excluded.expires_at, accepted_at = null
      where d.expires_at < now() or (d.accepted_at is null and d.lease_until < now());
  if found then
    return 'new';
  end if;
  select d.accepted_at is not null into v_accepted from tramline.webhook_deliveries d where d.function = p_function and d.delivery_id = p_id;
  return case when v_accepted then 'accepted' else 'running' end;
end $$;
