//! What the cases of edges need: databases, nodes behind proxies, runs, faults.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::Client;
use tramline_core::definition::parse_limit;
use tramline_core::ids::with_tail_bits;
use tramline_engine::{EngineConfig, EngineError, EngineHandle, Handlers};
use tramline_store::api::{self, NewRun};
use tramline_store::{Db, SHARD_COUNT, StoreError, limits};
use tramline_testkit::{ChaosProxy, Holding, Side, TestDb, test_db};
use uuid::Uuid;

use crate::effects::*;
use crate::support::*;

/// Short, because many cases wait for one. On a machine that is so busy that two looks at the shards lie half of it apart, nobody
/// takes a lost shard.
const SHORT_LEASE: Duration = Duration::from_secs(1);

/// Of one case.
pub const FAULTS: usize = 1;

/// Cases of one test that may go on at once, each lane in a database of its own: most of a case is waiting.
const LANES: usize = 4;

/// Cases of all tests that go on at once. More would make nodes that are alive miss their beats.
const CASES_MAX: usize = 6;

static CASES: Semaphore = Semaphore::const_new(CASES_MAX);

/// What happens at an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
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

impl Fault {
    /// Whether a call that was out, or whose result was not recorded, may have to be made again.
    fn repeats_calls(self) -> bool {
        matches!(self, Self::Crash | Self::Lost | Self::TakenBack)
    }
}

pub type Edge = (Side, Fault);

pub const EDGES: [Edge; 10] = [
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
pub enum Course {
    Job,
    /// Some runs without anything special: inserted by one plain statement, whose ids nobody knows before.
    Plain,
    /// A run that its own node enqueues: told by the answer.
    Told,
    /// The same with a priority, of which the answer does not tell all: read by its name.
    Named,
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
            Self::Plain => {
                let unnamed = |target: &str| NewRun {
                    run_id: None,
                    ..run(target)
                };
                vec![unnamed("step"), unnamed("three"), unnamed("step")]
            }
            Self::Told | Self::ThreeSteps => vec![run("three")],
            Self::Named => vec![NewRun {
                priority: Some(1),
                ..run("three")
            }],
            Self::Retry => vec![run("retried")],
            Self::Sleep => vec![NewRun {
                input: json!({ "delay": "30ms" }),
                delay: Some(Duration::from_millis(30)),
                ..run("sleepy")
            }],
            Self::Cancel => vec![run("endless")],
            Self::Limited => {
                // a key decides about the id
                let limited = || NewRun {
                    run_id: None,
                    input: json!({ "k": "x" }),
                    correlation_id: Some(Uuid::now_v7().to_string()),
                    ..run("limited")
                };
                vec![limited(), limited()]
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

/// Does something for each of the items, some at once, each lane in a place of its own.
pub async fn in_lanes<T>(items: impl IntoIterator<Item = T>, one: impl AsyncFn(&mut Place, T)) {
    let items: Vec<T> = items.into_iter().collect();
    let lanes = LANES.min(items.len());
    let left = RefCell::new(items.into_iter());
    let lane = async || {
        let mut place = Place::new().await;
        loop {
            let next = left.borrow_mut().next();
            let Some(item) = next else {
                return place.stop().await;
            };
            one(&mut place, item).await;
        }
    };
    join_all((0..lanes).map(|_| lane())).await;
}

/// A node behind a proxy, and the way that enqueues through it.
pub struct Behind {
    pub proxy: ChaosProxy,
    pub node: EngineHandle,
    pub through: Db,
}

/// A database with everything that the cases need.
pub struct Place {
    pub db: TestDb,
    pub store: Db,
    pub client: Client,
    pub effects: Effects,
    folder: tempfile::TempDir,
    pub accepted: Vec<Uuid>,
    /// Of the nodes that are started here.
    pub lease: Duration,
    /// The node of the case before, if it is alive: starting one is most of the work of a case.
    kept: Option<Behind>,
}

impl Place {
    async fn new() -> Self {
        let db = test_db().await;
        let store = register(&db, &["step", "flaky", "limited", "poison"]).await;
        publish_workload(&store).await;
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
            lease: SHORT_LEASE,
            kept: None,
        }
    }

    /// The node of the case before, or a new one; it has all shards.
    pub async fn a_node(&mut self) -> Behind {
        match self.kept.take() {
            Some(kept) => kept,
            None => {
                let proxy = ChaosProxy::start(self.db.url()).await;
                let behind = self.behind(proxy, "a").await;
                self.until_owned(&behind.node).await;
                behind
            }
        }
    }

    /// Keeps a node for the next case, when it has its shards again.
    pub async fn keep(&mut self, behind: Behind) {
        self.until_owned(&behind.node).await;
        self.kept = Some(behind);
    }

    async fn stop(self) {
        if let Some(kept) = self.kept {
            kept.node.stop(PATIENCE).await;
        }
    }

    /// Declares what a course needs. Where nothing is limited, batches are inserted as nearly all are.
    pub async fn prepare(&self, course: Course) {
        if course == Course::Limited {
            let limit = parse_limit(&json!({ "key": "k", "concurrency": 1 }), "limit").unwrap();
            limits::set_target(&self.store, "limited", Some(&limit))
                .await
                .unwrap();
        }
    }

    /// The ledger, as the functions of a node write it.
    pub fn effects_of(&self, node: &str) -> Effects {
        Effects::of(self.folder.path(), node)
    }

    pub async fn node(&self, url: &str, name: &str) -> EngineHandle {
        self.node_with(url, name, self.effects_of(name).handlers()).await
    }

    pub async fn node_with(&self, url: &str, name: &str, handlers: Handlers) -> EngineHandle {
        let config = EngineConfig {
            lease: self.lease,
            poll_max: Duration::from_millis(20),
            ..config(name)
        };
        engine_with(url, config, handlers).await
    }

    /// Waits until a node has all shards.
    pub async fn until_owned(&self, node: &EngineHandle) {
        let owned = format!(
            "select count(*) from tramline.shards where owner = '{}'",
            node.node()
        );
        until_count(&self.client, &owned, i64::from(SHARD_COUNT)).await;
    }

    /// Starts the runs of a course, as often as it takes: through the proxy, or at the node itself.
    async fn start(&self, course: Course, through: &Db, node: &EngineHandle) -> Vec<Uuid> {
        if matches!(course, Course::Told | Course::Named) {
            self.until_owned(node).await;
        }
        let runs = course.runs();
        in_time(async {
            loop {
                let answers = match course {
                    Course::Told | Course::Named => node.enqueue(&runs).await,
                    _ => api::enqueue(through, &runs).await.map_err(EngineError::from),
                };
                // An error means that nothing is known: the same is sent again.
                match answers {
                    Ok(answers) => return answers.into_iter().map(|a| a.unwrap().run_id).collect(),
                    Err(EngineError::Store(error)) => assert_unknown(&error),
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
        .await
    }

    /// Starts the runs and sees them to their end.
    pub async fn drive(&self, course: Course, through: &Db, node: &EngineHandle) -> Vec<Uuid> {
        let ids = self.start(course, through, node).await;
        for id in &ids {
            if course == Course::Cancel {
                let slept =
                    format!("select count(*) from ops.runs where run_id = '{id}' and status = 'waiting'");
                until_count(&self.client, &slept, 1).await;
                let asked = "update ops.runs set status = 'cancelled' where run_id = $1";
                self.client.execute(asked, &[id]).await.unwrap();
            }
            self.until_ended(*id, course.end()).await;
        }
        ids
    }

    pub async fn until_ended(&self, id: Uuid, status: &str) {
        let end =
            format!("select count(*) from tramline.run_ends where run_id = '{id}' and status = '{status}'");
        until_count(&self.client, &end, 1).await;
    }

    /// Another owner takes all shards that have one, and never beats; how many.
    async fn steal(&self) -> i64 {
        // in the order in which nodes lock them
        let theft = "with taken as (select shard from tramline.shards where owner is not null order by shard for update)
                     update tramline.shards s set owner = gen_random_uuid(), epoch = s.epoch + 1, beat = 0 from taken t where t.shard = s.shard";
        i64::try_from(self.client.execute(theft, &[]).await.unwrap()).unwrap()
    }

    /// Lets a fault happen to what is held of a node; the node that comes after it, when it dies.
    pub async fn strike(&self, fault: Fault, holding: Holding, a: &EngineHandle) -> Option<EngineHandle> {
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

    /// Nothing is under way any more: the invariants hold, and no call of these runs was made again without a reason.
    pub async fn check(&mut self, ids: Vec<Uuid>, fault: Fault) {
        let open = "select count(*) from tramline.runs r where not exists (select from tramline.run_ends e where e.run_id = r.run_id)";
        // Of a plain batch whose answer was lost there are runs that nobody knows of.
        until_count(&self.client, open, 0).await;
        if !fault.repeats_calls() {
            let mut seen = HashSet::new();
            for effect in self
                .effects
                .read()
                .into_iter()
                .filter(|e| ids.contains(&e.run_id))
            {
                let call = (effect.key, effect.attempt);
                assert!(!seen.contains(&call), "{call:?} was made again after {fault:?}");
                seen.insert(call);
            }
        }
        self.accepted.extend(ids);
        check(&self.effects, &self.client, &self.accepted, FAULTS).await;
    }

    /// A run in each shard gets to its end: none was left without an owner that reads it.
    pub async fn drive_every_shard(&mut self) {
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

    pub async fn behind(&self, proxy: ChaosProxy, name: &str) -> Behind {
        let node = self.node(proxy.url(), name).await;
        let through = Db::new(proxy.url(), 1).unwrap();
        Behind { proxy, node, through }
    }
}

/// Waits until another case may begin.
pub async fn turn() -> SemaphorePermit<'static> {
    CASES.acquire().await.unwrap()
}

fn assert_unknown(error: &StoreError) {
    assert!(error.is_unknown_outcome(), "{error:?}");
}
