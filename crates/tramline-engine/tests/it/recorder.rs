//! The world outside Postgres, as the functions of a test see it: what is at work, in which order it came.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tramline_core::definition::parse_limit;
use tramline_engine::{EngineHandle, Handlers, Outcome};
use tramline_store::api::{self, NewRun};
use tramline_store::{Db, limits};
use tramline_testkit::TestDb;
use uuid::Uuid;

use crate::support::*;

/// The world outside: which runs are at work, on which node, and what was ever seen.
#[derive(Default)]
struct World {
    at_work: HashMap<(String, Uuid), String>,
    dead: HashSet<String>,
    /// Runs by key in the order of their first start.
    order: BTreeMap<String, Vec<Uuid>>,
    /// Most different runs of a key at once.
    most: BTreeMap<String, usize>,
}

#[derive(Clone)]
pub struct Recorder {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<u64>,
    /// A call ends when it gets one of these.
    pub gate: Arc<Semaphore>,
}

impl Recorder {
    /// Calls end as soon as they begin.
    pub fn open() -> Self {
        Self::with(Semaphore::MAX_PERMITS)
    }

    /// Calls end when the test lets them.
    pub fn closed() -> Self {
        Self::with(0)
    }

    pub fn with(permits: usize) -> Self {
        Self {
            world: Arc::default(),
            changed: watch::Sender::new(0),
            gate: Arc::new(Semaphore::new(permits)),
        }
    }

    /// The function `step` of a node; the key is `k` of its input.
    pub fn handlers(&self, node: &str) -> Handlers {
        let (recorder, node) = (self.clone(), node.to_owned());
        let work = move |call: tramline_engine::Call| {
            let (recorder, node) = (recorder.clone(), node.clone());
            async move {
                let key = call.body.get("k").map_or_else(String::new, |k| k.to_string());
                recorder.enter(&node, &key, call.run_id);
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                if let Ok(permit) = recorder.gate.acquire().await {
                    permit.forget();
                }
                recorder.leave(&node, call.run_id);
                Outcome::completed(json!({ "ok": true }))
            }
        };
        Handlers::default()
            .with("step", work)
            .with("free", |_| async { Outcome::completed(Value::Null) })
    }

    pub fn enter(&self, node: &str, key: &str, run: Uuid) {
        let mut world = self.world.lock().unwrap();
        if world.dead.contains(node) {
            return;
        }
        world.at_work.insert((node.to_owned(), run), key.to_owned());
        let runs: HashSet<Uuid> = world
            .at_work
            .iter()
            .filter(|(_, k)| *k == key)
            .map(|((_, run), _)| *run)
            .collect();
        let most = world.most.entry(key.to_owned()).or_default();
        *most = (*most).max(runs.len());
        let order = world.order.entry(key.to_owned()).or_default();
        if !order.contains(&run) {
            order.push(run);
        }
        drop(world);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn leave(&self, node: &str, run: Uuid) {
        self.world.lock().unwrap().at_work.remove(&(node.to_owned(), run));
        self.changed.send_modify(|n| *n += 1);
    }

    /// The node's process is gone, and its children with it.
    pub fn kill(&self, node: &str) {
        let mut world = self.world.lock().unwrap();
        world.dead.insert(node.to_owned());
        world.at_work.retain(|(n, _), _| n != node);
    }

    pub fn started(&self) -> usize {
        self.world.lock().unwrap().order.values().map(Vec::len).sum()
    }

    pub fn order(&self, key: &str) -> Vec<Uuid> {
        self.world
            .lock()
            .unwrap()
            .order
            .get(key)
            .cloned()
            .unwrap_or_default()
    }

    pub fn most(&self) -> BTreeMap<String, usize> {
        self.world.lock().unwrap().most.clone()
    }

    pub async fn until_started(&self, count: usize) {
        let mut changed = self.changed.subscribe();
        let reached = async {
            while self.started() < count {
                changed.changed().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{} of {count} have started", self.started());
    }
}

pub async fn limited(db: &TestDb, limit: Value) -> Db {
    let store = register(db, &["step", "free"]).await;
    let limit = parse_limit(&limit, "limit").unwrap();
    limits::set_target(&store, "step", Some(&limit)).await.unwrap();
    store
}

pub fn step(key: &str) -> NewRun {
    NewRun {
        target: "step".into(),
        input: json!({ "k": key }),
        ..NewRun::default()
    }
}

pub async fn enqueue(engine: &EngineHandle, runs: &[NewRun]) -> Vec<Uuid> {
    let answers = engine.enqueue(runs).await.unwrap();
    answers.into_iter().map(|answer| answer.unwrap().run_id).collect()
}

pub async fn enqueue_in(store: &Db, runs: &[NewRun]) -> Vec<Uuid> {
    let answers = api::enqueue(store, runs).await.unwrap();
    answers.into_iter().map(|answer| answer.unwrap().run_id).collect()
}

pub async fn until_blocked(engine: &EngineHandle, count: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while engine.stats().blocked != count {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", engine.stats());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn until_all_ended(db: &TestDb, count: i64) {
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.run_ends", count).await;
}
