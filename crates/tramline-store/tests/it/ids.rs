//! What exists twice, in SQL and in Rust, is the same in both.

use std::collections::{BTreeSet, HashSet};

use rand::RngExt as _;
use tramline_core::ids::{key_bits, shard_of, tail_bits, v7_millis, with_tail_bits};
use tramline_core::machine::TimerKind;
use tramline_core::status::{RunStatus, StepStatus, run_transition};
use tramline_store::SHARD_COUNT;
use uuid::Uuid;

use crate::support::shared;

fn random_ids(count: usize) -> Vec<Uuid> {
    (0..count)
        .map(|n| match n % 3 {
            0 => Uuid::now_v7(),
            1 => Uuid::new_v4(),
            _ => Uuid::from_u128(rand::rng().random()),
        })
        .collect()
}

fn random_key() -> String {
    let length = rand::rng().random_range(1..40);
    (0..length)
        .map(|_| match rand::rng().random::<char>() {
            '\0' => '0',
            other => other,
        })
        .collect()
}

#[tokio::test]
async fn ids_have_the_same_bits_and_shards_in_sql_and_rust() {
    let client = shared().await.sql;
    let mut ids = random_ids(3_000);
    ids.extend([Uuid::nil(), Uuid::max()]);
    let sql = "select id, tramline.tail_bits(id), tramline.shard_of(id) from unnest($1::uuid[]) id";
    for row in client.query(sql, &[&ids]).await.unwrap() {
        let id: Uuid = row.get(0);
        assert_eq!(row.get::<_, i32>(1), i32::from(tail_bits(id)), "{id}");
        assert_eq!(row.get::<_, i32>(2), i32::from(shard_of(id, SHARD_COUNT)), "{id}");
    }
}

#[tokio::test]
async fn keys_have_the_same_bits_and_shards_in_sql_and_rust() {
    let client = shared().await.sql;
    let mut keys: Vec<String> = (0..1_000).map(|_| random_key()).collect();
    keys.extend(["", "abc", "Straße 7", "\u{1f980}", "a'b\"c\\d", "a\u{1f}b"].map(str::to_owned));
    let sql = "select key, tramline.key_bits(key), tramline.key_shard(key) from unnest($1::text[]) key";
    for row in client.query(sql, &[&keys]).await.unwrap() {
        let key: String = row.get(0);
        assert_eq!(row.get::<_, i32>(1), i32::from(key_bits(&key)), "{key:?}");
        assert_eq!(
            row.get::<_, i32>(2),
            i32::from(key_bits(&key) % SHARD_COUNT),
            "{key:?}"
        );
    }
}

#[tokio::test]
async fn tail_bits_are_set_alike_in_sql_and_rust() {
    let client = shared().await.sql;
    let ids = random_ids(2_000);
    let bits: Vec<i32> = ids.iter().map(|_| rand::rng().random_range(0..1024)).collect();
    let sql =
        "select id, bits, tramline.with_tail_bits(id, bits) from unnest($1::uuid[], $2::int[]) u(id, bits)";
    for row in client.query(sql, &[&ids, &bits]).await.unwrap() {
        let (id, bits): (Uuid, i32) = (row.get(0), row.get(1));
        let moved = with_tail_bits(id, u16::try_from(bits).unwrap());
        assert_eq!(row.get::<_, Uuid>(2), moved, "{id} {bits}");
    }
}

#[tokio::test]
async fn ids_made_in_sql_are_unique_v7_that_sort_by_time_and_fill_all_shards() {
    let client = shared().await.sql;
    let ms = "floor(extract(epoch from clock_timestamp()) * 1000)::bigint";
    let sql = format!("select {ms}, tramline.uuid_v7(), {ms} from generate_series(1, 5000)");
    let rows = client.query(&sql, &[]).await.unwrap();
    let mut shards = HashSet::new();
    let mut last = (0, Uuid::nil());
    for row in &rows {
        let (before, id, after): (i64, Uuid, i64) = (row.get(0), row.get(1), row.get(2));
        let made = v7_millis(id).expect("version 7");
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        assert!((before..=after).contains(&made), "{before} {made} {after}");
        assert!(made == last.0 || id > last.1, "{id} was made after {}", last.1);
        last = (made, id);
        shards.insert(shard_of(id, SHARD_COUNT));
    }
    let unique: HashSet<Uuid> = rows.iter().map(|r| r.get(1)).collect();
    assert_eq!(unique.len(), rows.len());
    assert_eq!(shards.len(), usize::from(SHARD_COUNT));
}

#[tokio::test]
async fn the_border_of_an_instant_is_not_above_any_id_made_then() {
    let client = shared().await.sql;
    let sql = "select id, tramline.uuid_at(to_timestamp(ms / 1000.0)) from unnest($1::uuid[], $2::bigint[]) u(id, ms)";
    let ids: Vec<Uuid> = (0..500).map(|_| Uuid::now_v7()).collect();
    let millis: Vec<i64> = ids.iter().map(|id| v7_millis(*id).unwrap()).collect();
    for row in client.query(sql, &[&ids, &millis]).await.unwrap() {
        let (id, border): (Uuid, Uuid) = (row.get(0), row.get(1));
        assert!(border <= id, "{border} {id}");
        assert_eq!(border.as_bytes()[..6], id.as_bytes()[..6]);
    }
}

#[tokio::test]
async fn the_installed_shard_count_is_the_one_of_this_build() {
    let client = shared().await.sql;
    let sql =
        "select count(*) from tramline.settings where name = 'shard_count' and value = to_jsonb($1::int)";
    let row = client.query_one(sql, &[&i32::from(SHARD_COUNT)]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let sql = "select array_agg(shard order by shard) from tramline.shards";
    let shards: Vec<i32> = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(shards, (0..i32::from(SHARD_COUNT)).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_statuses_of_every_check_are_those_of_the_enums() {
    let client = shared().await.sql;
    let words = |of: &[&'static str]| of.iter().map(|w| (*w).to_owned()).collect::<BTreeSet<_>>();
    let runs = |terminal: bool| {
        let of: Vec<_> = RunStatus::ALL
            .iter()
            .filter(|s| s.is_terminal() == terminal)
            .collect();
        words(&of.iter().map(|s| s.as_str()).collect::<Vec<_>>())
    };
    let steps = words(&StepStatus::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>());
    let timers = words(&TimerKind::ALL.map(TimerKind::as_str));
    // A check of the table, or of the domain of its column.
    let sql = "select a.attrelid::regclass::text, a.attname::text, array(select m[1] from regexp_matches(pg_get_constraintdef(c.oid), '''([a-z_]+)''', 'g') m)
                 from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1] or a.atttypid = c.contypid
                where c.contype = 'c' and c.connamespace = 'tramline'::regnamespace and not a.attrelid::regclass::text ~ '_[0-9]{8}$'
                  and (a.attname, a.attrelid) in (select 'status', oid from pg_class where relkind in ('r', 'p') and relname like 'run\\_%'
                                                  union all select 'kind', 'tramline.timers'::regclass)";
    let mut seen = BTreeSet::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let table: String = row.get(0);
        let found: BTreeSet<String> = row.get::<_, Vec<String>>(2).into_iter().collect();
        let expected = match table.as_str() {
            "tramline.run_ends" | "tramline.run_ends_foreign" => runs(true),
            "tramline.run_marks" | "tramline.run_marks_foreign" => runs(false),
            "tramline.run_steps" | "tramline.run_steps_foreign" => steps.clone(),
            "tramline.timers" => timers.clone(),
            other => panic!("unexpected table {other}"),
        };
        assert_eq!(found, expected, "{table}");
        seen.insert(table);
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}

#[tokio::test]
async fn the_legality_table_in_sql_is_the_one_of_the_core() {
    let client = shared().await.sql;
    let words: Vec<&str> = RunStatus::ALL.iter().map(|s| s.as_str()).collect();
    let sql = "select f, t, tramline.may_follow(f, t) from unnest($1::text[]) f, unnest($1::text[]) t";
    let rows = client.query(sql, &[&words]).await.unwrap();
    assert_eq!(rows.len(), words.len() * words.len());
    for row in rows {
        let (from, to): (String, String) = (row.get(0), row.get(1));
        let allowed = run_transition(from.parse().unwrap(), to.parse().unwrap()).is_ok();
        assert_eq!(row.get::<_, bool>(2), allowed, "{from} -> {to}");
    }
}
