//! What a node asks the database when it starts, when it takes over, and when it has nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;
use tramline_core::ids::with_tail_bits;
use tramline_engine::{EngineConfig, EngineHandle};
use tramline_store::SHARD_COUNT;
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Side, TestCluster, test_db};
use uuid::Uuid;

use crate::support::*;

/// Statements by a part of their text.
const TAKE: &str = "set owner = $2";
const OVERVIEW: &str = "from seen s left join lateral";
const UNFINISHED: &str = "as untouched";
const TICK: &str = "from n left join lateral";
const GLANCE: &str = "select pg_current_snapshot()::text, clock_timestamp(), ";

fn count(statements: &BTreeMap<String, u64>, part: &str) -> u64 {
    let matching = statements.iter().filter(|(text, _)| text.contains(part));
    matching.map(|(_, count)| count).sum()
}

fn run_in(shard: u16) -> NewRun {
    NewRun {
        run_id: Some(with_tail_bits(Uuid::now_v7(), shard)),
        target: "step".into(),
        input: json!({ "shard": shard }),
        ..NewRun::default()
    }
}

async fn until_ended(client: &Client, runs: i64) {
    until_count(client, "select count(*) from tramline.run_ends", runs).await;
}

async fn until_resting(client: &Client) {
    let locks = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1953653101 and mode = 'ExclusiveLock' and granted
        and database = (select oid from pg_database where datname = current_database())";
    until_count(client, locks, 1).await;
}

/// A start, and the takeover of a node that died: all shards by one statement, what they hold by a few.
#[tokio::test(flavor = "multi_thread")]
async fn all_shards_are_taken_and_read_in_a_handful_of_statements() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    let each: Vec<NewRun> = (0..SHARD_COUNT).flat_map(|s| [run_in(s), run_in(s)]).collect();
    api::enqueue(&store, &each).await.unwrap();
    let first = ChaosProxy::start(db.url()).await;
    let a = engine(first.url(), "a", echo()).await;
    until_ended(&client, 32).await;
    a.crash().await;
    let again: Vec<NewRun> = (0..SHARD_COUNT).flat_map(|s| [run_in(s), run_in(s)]).collect();
    api::enqueue(&store, &again).await.unwrap();
    let second = ChaosProxy::start(db.url()).await;
    let b = engine(second.url(), "b", echo()).await;
    until_ended(&client, 64).await;
    for (node, proxy) in [("start", &first), ("takeover", &second)] {
        let statements = proxy.statements();
        // Once more of what is read: planned with nothing before there are shards.
        for (part, times) in [(TAKE, 1), (OVERVIEW, 2), (UNFINISHED, 2)] {
            assert_eq!(
                count(&statements, part),
                times,
                "{node}: {part} of {statements:#?}"
            );
        }
    }
    b.stop(Duration::from_secs(5)).await;
}

/// Two shards with a backlog among others that hold little: these are read first, together, and ticks come between the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_holds_much_is_read_by_itself_and_keeps_no_other_waiting() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    let (few, many) = (i64::from(SHARD_COUNT) - 2, 100);
    let mut runs: Vec<NewRun> = (2..SHARD_COUNT).map(run_in).collect();
    runs.extend((0..2 * many).map(|n| run_in(n % 2)));
    api::enqueue(&store, &runs).await.unwrap();
    let proxy = ChaosProxy::start(db.url()).await;
    // After the planning, and the shards that hold little.
    let mut held = proxy.hold(UNFINISHED, 3, Side::Before);
    let a = engine(proxy.url(), "a", echo()).await;
    let holding = in_time(held.reached()).await;
    until_ended(&client, few).await;
    let mut tick = proxy.hold(TICK, 1, Side::Before);
    holding.go_on();
    let holding = in_time(tick.reached()).await;
    until_ended(&client, few + i64::from(many)).await;
    holding.go_on();
    until_ended(&client, few + 2 * i64::from(many)).await;
    assert_eq!(a.stats().missed, 0);
    a.stop(Duration::from_secs(5)).await;
}

/// The connection of discovery breaks at each of the reads of a start: whatever was read before, each run is called once.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_breaks_off_is_made_again_and_calls_nothing_twice() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    let (handlers, mut calls) = recorded();
    let mut ended = 0;
    // The first of each is the planning.
    for (part, nth, side) in [
        (OVERVIEW, 2, Side::Before),
        (OVERVIEW, 3, Side::After),
        (UNFINISHED, 2, Side::After),
        (UNFINISHED, 3, Side::Before),
        (UNFINISHED, 4, Side::After),
    ] {
        let mut runs: Vec<NewRun> = (0..SHARD_COUNT).map(run_in).collect();
        runs.extend((0..160).map(|n| run_in(n % 2)));
        ended += i64::try_from(runs.len()).unwrap();
        api::enqueue(&store, &runs).await.unwrap();
        let proxy = ChaosProxy::start(db.url()).await;
        let mut held = proxy.hold(part, nth, side);
        let a = engine(proxy.url(), "a", handlers.clone()).await;
        in_time(held.reached()).await.cut();
        until_ended(&client, ended).await;
        assert!(a.stats().rescans >= 1);
        assert_eq!(a.stats().missed, 0);
        a.stop(PATIENCE).await;
    }
    let mut keys = Vec::new();
    while let Ok(call) = calls.try_recv() {
        keys.push(call.idempotency_key);
    }
    keys.sort_unstable();
    let made = keys.len();
    keys.dedup();
    assert_eq!((keys.len(), made), (ended as usize, ended as usize));
}

async fn until_polls(engine: &EngineHandle, polls: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while engine.stats().polls < polls {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", engine.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A node with nothing to do: one glance a second, for discovery and maintenance together, and what ownership needs. On a
/// server of its own, because the work of others moves the snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_asks_little() {
    const GLANCES: u64 = 6;
    let cluster = TestCluster::private().await;
    let url = cluster.url("postgres");
    tramline_store::migrate(&url).await.unwrap();
    let client = tramline_testkit::connect(&url).await;
    let proxy = ChaosProxy::start(&url).await;
    let config = EngineConfig {
        lease: EngineConfig::default().lease,
        ..config("a")
    };
    let a = engine_with(proxy.url(), config, echo()).await;
    until_resting(&client).await;
    // The first looks after a start are over.
    until_polls(&a, a.stats().polls + 2).await;
    let before = proxy.statements();
    let polls = a.stats().polls;
    until_polls(&a, polls + GLANCES).await;
    let after = proxy.statements();
    let sent: BTreeMap<String, u64> = after
        .into_iter()
        .map(|(text, count)| {
            let earlier = before.get(&text).copied().unwrap_or(0);
            (text, count - earlier)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    let all: u64 = sent.values().sum();
    assert!(count(&sent, GLANCE) > GLANCES / 2, "{sent:#?}");
    // A beat moves the snapshot: the glance after it is followed by a tick of two statements. How many beats there are between
    // two glances depends on the machine.
    assert!(all <= 5 * GLANCES, "{all} statements: {sent:#?}");
    a.stop(Duration::from_secs(5)).await;
}
