-- Ids, shards and partitions. A shard is a pure function of the run id: the low 10 bits of the UUID's last two bytes, modulo the
-- shard count that was fixed at installation ({{shard_count}} below is replaced then). The same functions exist in tramline-core.

create table tramline.settings (
  name text primary key,
  value jsonb not null
);
insert into tramline.settings values ('shard_count', '{{shard_count}}');

create function tramline.tail_bits(p_id uuid) returns int language sql immutable strict parallel safe as $$
  select ((get_byte(uuid_send(p_id), 14) << 8) | get_byte(uuid_send(p_id), 15)) & 1023
$$;
create function tramline.shard_of(p_id uuid) returns int language sql immutable strict parallel safe as $$
  select (((get_byte(uuid_send(p_id), 14) << 8) | get_byte(uuid_send(p_id), 15)) & 1023) % {{shard_count}}
$$;
-- Stable, as convert_to is, and each argument named once: else they would not become part of the statements that call them, and would be
-- parsed and planned in every transaction.
create function tramline.key_bits(p_key text) returns int language sql stable strict parallel safe as $$
  select ('x' || encode(substring(sha256(convert_to(p_key, 'UTF8')) from 1 for 2), 'hex'))::bit(16)::int & 1023
$$;
create function tramline.key_shard(p_key text) returns int language sql stable strict parallel safe as $$
  select tramline.key_bits(p_key) % {{shard_count}}
$$;
create function tramline.with_tail_bits(p_id uuid, p_bits int) returns uuid language sql immutable strict parallel safe as $$
  select encode(set_byte(set_byte(uuid_send(p_id), 15, p_bits & 255),
                14, (get_byte(uuid_send(p_id), 14) & 252) | ((p_bits >> 8) & 3)), 'hex')::uuid
$$;

-- Smallest v7 id of an instant: the border of a partition, and a bound for scans.
create function tramline.uuid_at(p_at timestamptz) returns uuid language sql immutable strict parallel safe as $$
  select (lpad(to_hex(floor(extract(epoch from p_at at time zone 'UTC') * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;
-- A UUIDv7 made here, for plain SQL that gives no id. (Postgres has one of its own from 18 on.) Behind the time what the clock has of a millisecond, then bits
-- of the session's own generator, which was seeded with a strong number: asking for strong ones each time costs three times as much, and ids are no
-- secrets. Sessions whose users seeded them alike differ by their process.
create function tramline.uuid_v7() returns uuid language sql volatile parallel restricted as $$
  select encode(int8send((date_part('epoch', clock_timestamp()) * 65536000)::bigint & (-61441) | 28672)
             || int8send(hashint8extended((random() * 4503599627370496)::bigint, pg_backend_pid()) & 4611686018427387903 | (-9223372036854775808)), 'hex')::uuid
$$;

-- One row for each day that has its partitions. Runs, ends, marks, steps and events are partitioned alike, by range of run id.
create table tramline.partitions (
  day date primary key,
  lo uuid not null,
  hi uuid not null
);

-- The days that an id of about now can be of. By their date: every insert asks, and to make ids of times costs more than all else of it.
create view tramline.native_days with (security_invoker = true) as
  select p.lo, p.hi from tramline.partitions p
   where p.day between (now() at time zone 'UTC' - interval '1 day')::date and (now() at time zone 'UTC' + interval '1 day')::date;
-- Does an id belong into the partitions? Only a v7 of about now whose day exists. Every other id lives in the *_foreign siblings,
-- which the same views and ticks read: no id is refused, and no default partition can block the making of a day.
-- For one id; whoever has many reads the days once.
create function tramline.is_native(p_id uuid) returns boolean language sql stable strict as $$
  select (get_byte(uuid_send(p_id), 6) >> 4) = 7 and exists (select from tramline.native_days d where p_id >= d.lo and p_id < d.hi)
$$;
