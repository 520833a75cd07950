//! Fail at every edge: before and after each durable write of representative runs, in every way, one at a time.
//!
//! The proxy between node and database holds the n-th write; then the node crashes, or loses its shards, or its connection
//! breaks (with the write done or not), or the write is refused, or arrives twice. Whatever it was, the run ends as it
//! should and the invariants hold. Edges are counted, not chosen: the first number that no write reaches ends a test.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;
use tramline_core::definition::parse_limit;
use tramline_core::ids::with_tail_bits;
use tramline_engine::{EngineConfig, EngineHandle};
use tramline_store::api::{self, NewRun};
use tramline_store::{Db, SHARD_COUNT, limits};
use tramline_testkit::{ChaosProxy, Holding, Side, TestDb, test_db};
use uuid::Uuid;

use crate::effects::*;
use crate::support::*;

const FLUSH: &str = "tramline.flush(";
const ENQUEUE: &str = "tramline.enqueue_many(";
const TAKE: &str = "set owner = $2";
const BEAT: &str = "update tramline.nodes set beat";
const RELEASE: &str = "tramline.release_shards(";

/// Short, because many cases wait for one.
const SHORT_LEASE: Duration = Duration::from_millis(500);

/// What happens at an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The connection breaks; after the write that is a commit whose answer is lost.
    Cut,
    /// The node dies.
    Crash,
    /// Another owner takes the shards, and never beats.
    Lost,
    /// The same, and the node has taken them back when the write goes on.
    TakenBack,
    /// The server refuses the write for want of room.
    Refused,
    /// The server gets the write twice.
    Twice,
}

const EDGES: [(Side, Fault); 10] = [
    (Side::Before, Fault::Cut),
    (Side::Before, Fault::Crash),
    (Side::Before, Fault::Lost),
    (Side::Before, Fault::TakenBack),
    (Side::Before, Fault::Refused),
    (Side::Before, Fault::Twice),
    (Side::After, Fault::Cut),
    (Side::After, Fault::Crash),
    (Side::After, Fault::Lost),
    (Side::After, Fault::TakenBack),
];

/// A representative run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Job,
    ThreeSteps,
    Retry,
    /// A delayed start and a sleep.
    Sleep,
    Cancel,
    /// Two runs of one key that has one place.
    Limited,
}

impl Course {
    fn runs(self) -> Vec<NewRun> {
        let run = |target: &str| NewRun {
            run_id: Some(Uuid::now_v7()),
            target: target.into(),
            ..NewRun::default()
        };
        match self {
            Self::Job => vec![run("step")],
            Self::ThreeSteps => vec![run("three")],
            Self::Retry => vec![run("retried")],
            Self::Sleep => vec![NewRun {
                input: json!({ "delay": "30ms" }),
                delay: Some(Duration::from_millis(30)),
                ..run("sleepy")
            }],
            Self::Cancel => vec![run("endless")],
            Self::Limited => {
                // a key decides about the id
                let limited = NewRun {
                    run_id: None,
                    input: json!({ "k": "x" }),
                    correlation_id: Some(Uuid::now_v7().to_string()),
                    ..run("limited")
                };
                let other = NewRun {
                    correlation_id: Some(Uuid::now_v7().to_string()),
                    ..limited.clone()
                };
                vec![limited, other]
            }
        }
    }

    fn end(self) -> &'static str {
        if self == Self::Cancel {
            "cancelled"
        } else {
            "completed"
        }
    }
}

/// A database with everything that the cases need.
struct Place {
    db: TestDb,
    store: Db,
    client: Client,
    effects: Effects,
    folder: tempfile::TempDir,
    accepted: Vec<Uuid>,
}

/// Of one case.
const FAULTS: usize = 1;

/// Cases of one course that go on at once, each in a database of its own.
const LANES: usize = 3;

/// How long a write may come after the end of its course: the next beat, an answer that is on its way.
const GRACE: Duration = Duration::from_millis(400);

/// The same of writes that come for certain, after a lease if it has to be.
const LONG_GRACE: Duration = Duration::from_secs(20);

impl Place {
    async fn new() -> Self {
        let db = test_db().await;
        let store = register(&db, &["step", "flaky", "limited", "poison"]).await;
        publish_workload(&store).await;
        let limit = parse_limit(&json!({ "key": "k", "concurrency": 1 }), "limit").unwrap();
        limits::set_target(&store, "limited", Some(&limit)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let client = db.connect().await;
        let effects = Effects::of(folder.path(), "test");
        Self {
            db,
            store,
            client,
            effects,
            folder,
            accepted: Vec::new(),
        }
    }

    async fn node(&self, url: &str, name: &str) -> EngineHandle {
        let config = EngineConfig {
            lease: SHORT_LEASE,
            poll_max: Duration::from_millis(20),
            ..config(name)
        };
        engine_with(url, config, Effects::of(self.folder.path(), name).handlers()).await
    }

    /// Starts the runs through the proxy, as often as it takes, and sees them to their end.
    async fn drive(&self, course: Course, through: &Db) -> Vec<Uuid> {
        let runs = course.runs();
        let ids: Vec<Uuid> = loop {
            // An error means that nothing is known: the same is sent again.
            match api::enqueue(through, &runs).await {
                Ok(answers) => break answers.into_iter().map(|answer| answer.unwrap().run_id).collect(),
                Err(error) => assert!(error.is_unknown_outcome(), "{error:?}"),
            }
        };
        for id in &ids {
            if course == Course::Cancel {
                let slept =
                    format!("select count(*) from ops.runs where run_id = '{id}' and status = 'waiting'");
                until_count(&self.client, &slept, 1).await;
                let asked = "update ops.runs set status = 'cancelled' where run_id = $1";
                self.client.execute(asked, &[id]).await.unwrap();
            }
            let end = format!(
                "select count(*) from tramline.run_ends where run_id = '{id}' and status = '{}'",
                course.end()
            );
            until_count(&self.client, &end, 1).await;
        }
        ids
    }

    /// Another owner takes all shards that have one, and never beats; how many.
    async fn steal(&self) -> i64 {
        let theft = "update tramline.shards set owner = gen_random_uuid(), epoch = epoch + 1, beat = 0 where owner is not null";
        i64::try_from(self.client.execute(theft, &[]).await.unwrap()).unwrap()
    }

    async fn strike(&self, fault: Fault, holding: Holding, a: &EngineHandle) -> Option<EngineHandle> {
        match fault {
            Fault::Cut => holding.cut(),
            Fault::Refused => holding.refuse("53100"),
            Fault::Twice => holding.twice(),
            Fault::Lost => {
                self.steal().await;
                holding.go_on();
            }
            Fault::TakenBack => {
                let stolen = self.steal().await;
                // It may have been about to take others, too.
                let back = format!(
                    "select least({stolen}, count(*)) from tramline.shards where owner = '{}'",
                    a.node()
                );
                until_count(&self.client, &back, stolen).await;
                holding.go_on();
            }
            Fault::Crash => {
                a.crash().await;
                drop(holding);
                return Some(self.node(self.db.url(), "b").await);
            }
        }
        None
    }

    /// One case; false when the course has fewer such writes.
    async fn case(
        &mut self,
        course: Course,
        write: &'static str,
        nth: u32,
        side: Side,
        fault: Fault,
    ) -> bool {
        let proxy = ChaosProxy::start(self.db.url()).await;
        let mut held = proxy.hold(write, nth, side);
        let a = self.node(proxy.url(), "a").await;
        let through = Db::new(proxy.url(), 1).unwrap();
        let ends_before = ends(&self.client, &Ends::new()).await;
        let grace = if write == FLUSH { GRACE } else { LONG_GRACE };
        let (b, ids) = {
            let course_ends = self.drive(course, &through);
            tokio::pin!(course_ends);
            tokio::select! {
                biased;
                holding = held.reached() => (Some(self.strike(fault, holding, &a).await), course_ends.await),
                // What ends a run is visible before its answer is held, and shards are taken beside it.
                ids = &mut course_ends => match tokio::time::timeout(grace, held.reached()).await {
                    Ok(holding) => (Some(self.strike(fault, holding, &a).await), ids),
                    Err(_) => (None, ids),
                },
            }
        };
        drop(held);
        let (landed, b) = (b.is_some(), b.flatten());
        self.accepted.extend(ids);
        println!(
            "{course:?} {write} {nth} {side:?} {fault:?}: {}",
            if landed { "landed" } else { "not reached" }
        );
        // What belongs to an end is in its commit; of two runs the second may have ended just now.
        ends(&self.client, &ends_before).await;
        check(&self.effects, &self.client, &self.accepted, FAULTS).await;
        if write != FLUSH {
            self.drive_every_shard().await;
        }
        for node in [Some(a), b].into_iter().flatten() {
            assert_eq!(node.stats().missed, 0);
            node.stop(PATIENCE).await;
        }
        landed
    }

    /// A run in each shard gets to its end: none was left without an owner that reads it.
    async fn drive_every_shard(&mut self) {
        let in_shard = |shard| NewRun {
            run_id: Some(with_tail_bits(Uuid::now_v7(), shard)),
            target: "step".into(),
            ..NewRun::default()
        };
        let runs: Vec<NewRun> = (0..SHARD_COUNT).map(in_shard).collect();
        let ids: Vec<Uuid> = runs.iter().filter_map(|run| run.run_id).collect();
        api::enqueue(&self.store, &runs).await.unwrap();
        let list = ids
            .iter()
            .map(|id| format!("'{id}'"))
            .collect::<Vec<_>>()
            .join(",");
        let ended = format!("select count(*) from tramline.run_ends where run_id in ({list})");
        until_count(&self.client, &ended, ids.len() as i64).await;
        self.accepted.extend(ids);
    }
}

/// Every edge of the flushes of a course; `least` is how many there are for certain.
async fn every_flush_of(course: Course, least: u32) {
    let mut place = Place::new().await;
    let mut edges = 0;
    while place.case(course, FLUSH, edges + 1, EDGES[0].0, EDGES[0].1).await {
        edges += 1;
    }
    assert!(edges >= least, "{course:?} has {least} flushes, {edges} were met");
    // Most of a case is waiting, for a lease above all: some go on at once.
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            tokio::spawn(async move {
                let mut place = Place::new().await;
                for (side, fault) in EDGES[1..].iter().skip(lane).step_by(LANES) {
                    for nth in 1..=edges {
                        let landed = place.case(course, FLUSH, nth, *side, *fault).await;
                        // How much goes into one flush is a matter of time.
                        assert!(
                            landed || nth > least,
                            "{course:?} {side:?} {fault:?}: flush {nth} was not met"
                        );
                    }
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_a_fault_at_every_edge() {
    every_flush_of(Course::Job, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_steps_survive_a_fault_at_every_edge() {
    every_flush_of(Course::ThreeSteps, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_step_survives_a_fault_at_every_edge() {
    every_flush_of(Course::Retry, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_start_and_a_sleep_survive_a_fault_at_every_edge() {
    every_flush_of(Course::Sleep, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_survives_a_fault_at_every_edge() {
    every_flush_of(Course::Cancel, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_runs_survive_a_fault_at_every_edge() {
    every_flush_of(Course::Limited, 2).await;
}

/// The same of what a node writes about its shards, and of what accepts a run.
#[tokio::test(flavor = "multi_thread")]
async fn accepting_taking_and_beating_survive_a_fault_at_every_edge() {
    let mut place = Place::new().await;
    // all shards are taken by one statement
    let writes = [(ENQUEUE, 1), (TAKE, 1), (BEAT, 1), (BEAT, 2)];
    for (side, fault) in EDGES {
        for (write, nth) in writes {
            if fault == Fault::TakenBack && write != ENQUEUE {
                // what takes it back is what is held
                continue;
            }
            let course = if write == BEAT {
                Course::Retry
            } else {
                Course::ThreeSteps
            };
            let landed = place.case(course, write, nth, side, fault).await;
            assert!(landed, "{write} {nth} was not met");
        }
    }
}

/// Releases come last: whatever becomes of them, the next node goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_survives_a_fault_at_every_edge() {
    let mut place = Place::new().await;
    // a node whose releases are held takes nothing back
    for (side, fault) in EDGES.into_iter().filter(|(_, fault)| *fault != Fault::TakenBack) {
        let proxy = ChaosProxy::start(place.db.url()).await;
        let a = Arc::new(place.node(proxy.url(), "a").await);
        place
            .accepted
            .extend(place.drive(Course::Job, &place.store).await);
        let mut held = proxy.hold(RELEASE, 1, side);
        let stopping = tokio::spawn({
            let a = a.clone();
            async move { a.stop(PATIENCE).await }
        });
        let holding = tokio::time::timeout(PATIENCE, held.reached()).await.unwrap();
        let b = place.strike(fault, holding, &a).await;
        stopping.await.unwrap();
        let next = place.node(place.db.url(), "c").await;
        place.drive_every_shard().await;
        check(&place.effects, &place.client, &place.accepted, FAULTS).await;
        for node in [Some(next), b].into_iter().flatten() {
            node.stop(PATIENCE).await;
        }
    }
}

/// A shard that is given up for the sake of balance, to a node that dies meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_for_balance_survives_a_fault_at_every_edge() {
    let mut place = Place::new().await;
    // a node whose releases are held takes nothing back
    for (side, fault) in EDGES.into_iter().filter(|(_, fault)| *fault != Fault::TakenBack) {
        let proxy = ChaosProxy::start(place.db.url()).await;
        let a = place.node(proxy.url(), "a").await;
        place.drive_every_shard().await;
        let mut held = proxy.hold(RELEASE, 1, side);
        let b = place.node(place.db.url(), "joins").await;
        let holding = tokio::time::timeout(PATIENCE, held.reached()).await.unwrap();
        b.crash().await;
        let next = place.strike(fault, holding, &a).await;
        place.drive_every_shard().await;
        check(&place.effects, &place.client, &place.accepted, FAULTS).await;
        for node in [Some(a), next].into_iter().flatten() {
            node.stop(PATIENCE).await;
        }
    }
}
