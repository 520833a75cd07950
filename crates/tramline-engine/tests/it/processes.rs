//! Nodes in processes of their own, which are really paused and killed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;
use tramline_engine::{EngineConfig, EngineHandle, Outcome};
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Side, TestProcess, test_db};
use uuid::Uuid;

use crate::effects::*;
use crate::support::*;

/// A node in a process of its own.
pub struct Node(pub TestProcess);

impl Node {
    /// Starts it; its functions write into the ledger of effects in `folder`.
    pub async fn start(name: &str, url: &str, folder: &Path, lease: Duration) -> Self {
        let mut process = TestProcess::start(
            "processes::node",
            &[
                ("TRAMLINE_TEST_NODE", name),
                ("TRAMLINE_TEST_URL", url),
                ("TRAMLINE_TEST_FOLDER", folder.to_str().unwrap()),
                ("TRAMLINE_TEST_LEASE_MS", &lease.as_millis().to_string()),
            ],
        );
        process.told("ready").await;
        Self(process)
    }

    /// Its shards, and how many runs its discovery has missed.
    pub async fn look(&mut self) -> (Vec<u16>, u64) {
        self.0.order("look");
        let told = self.0.told("look").await;
        serde_json::from_str(&told).unwrap()
    }

    /// Stops it in order.
    pub async fn stop(mut self) {
        self.0.order("stop");
        self.0.told("stopped").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a helper process of other tests"]
async fn node() {
    let told = |name: &str| std::env::var(format!("TRAMLINE_TEST_{name}")).unwrap();
    let mut orders = TestProcess::orders();
    let config = EngineConfig {
        lease: Duration::from_millis(told("LEASE_MS").parse().unwrap()),
        ..config(&told("NODE"))
    };
    let effects = Effects::of(Path::new(&told("FOLDER")), &told("NODE"));
    // A node that starts while its database is away comes again.
    let engine = loop {
        let db = tramline_store::Db::new(&told("URL"), 4).unwrap();
        match tramline_engine::Engine::start(config.clone(), db, Arc::new(effects.handlers())).await {
            Ok(engine) => break engine,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    TestProcess::tell("ready");
    while let Some(order) = orders.recv().await {
        if order == "stop" {
            engine.stop(Duration::from_secs(2)).await;
            return TestProcess::tell("stopped");
        }
        let stats = engine.stats();
        TestProcess::tell(&format!("look {}", json!([stats.shards, stats.missed])));
    }
    // The test is gone.
    std::process::exit(0);
}

/// Waits until the two have nothing in common and everything together.
async fn until_parted(paused: &mut Node, other: &EngineHandle) {
    let parted = async {
        loop {
            let mut all = paused.look().await.0;
            all.extend(other.stats().shards);
            all.sort_unstable();
            if all == (0..16).collect::<Vec<_>>() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, parted)
        .await
        .expect("no two nodes hold a shard");
}

/// B4, I4, F8: a node is stopped by SIGSTOP with a flush on its way. Another one takes its shards and repeats the step; then
/// the flush arrives, and the node goes on where it was. It changes nothing, and gives up what it lost.
#[tokio::test(flavor = "multi_thread")]
async fn b4_a_paused_process_that_wakes_up_after_its_lease_changes_nothing() {
    let db = test_db().await;
    let store = register(&db, &["step", "flaky", "limited", "poison"]).await;
    publish_workload(&store).await;
    let client = db.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let effects = Effects::of(folder.path(), "b");
    let proxy = ChaosProxy::start(db.url()).await;
    let mut a = Node::start("a", proxy.url(), folder.path(), LEASE).await;
    let all_owned = "select count(*) from tramline.shards where owner is not null";
    until_count(&client, all_owned, 16).await;

    // The result of the first step is held on its way, and its node stops there.
    let mut held = proxy.hold("tramline.flush(", 1, Side::Before);
    let run = NewRun {
        run_id: Some(Uuid::now_v7()),
        target: "three".into(),
        ..NewRun::default()
    };
    let id = run.run_id.unwrap();
    api::enqueue(&store, &[run]).await.unwrap();
    let late_flush = in_time(held.reached()).await;
    a.0.pause();
    assert_eq!(effects.read().len(), 1);

    // The other node has read the run, and is in its first step, when the late flush arrives.
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let (noted, opened) = (effects.clone(), gate.clone());
    let slow = effects.handlers().with("step", move |call| {
        let (called, gate, output) = (called.clone(), opened.clone(), noted.note(&call));
        async move {
            let _ = called.send(());
            gate.acquire().await.unwrap().forget();
            Outcome::completed(output)
        }
    });
    let b = engine(db.url(), "b", slow).await;
    in_time(calls.recv()).await.unwrap();
    let mut arrived = late_flush.go_on_and_hold();
    let late_answer = in_time(arrived.reached()).await;
    until_count(&client, "select count(*) from tramline.run_steps", 0).await;
    gate.add_permits(Semaphore::MAX_PERMITS);
    assert_eq!(ended(&b, id).await.status, "completed");
    let over = ends(&client, &Ends::new()).await;

    // It wakes up, hears that it is not the owner any more, and gives its shards up before it gets some of them again.
    late_answer.go_on();
    a.0.resume();
    until_parted(&mut a, &b).await;
    check(&effects, &client, &[id], 1).await;
    let runs: Vec<NewRun> = (0..100)
        .map(|_| NewRun {
            target: "three".into(),
            ..NewRun::default()
        })
        .collect();
    let answers = api::enqueue(&store, &runs).await.unwrap();
    let later: Vec<Uuid> = answers.into_iter().map(|answer| answer.unwrap().run_id).collect();
    until_count(&client, "select count(*) from tramline.run_ends", 101).await;
    ends(&client, &over).await;
    check(&effects, &client, &later, 1).await;
    let mut calls: HashMap<String, u32> = HashMap::new();
    for effect in effects.read().into_iter().filter(|effect| effect.run_id != id) {
        *calls.entry(effect.key).or_default() += 1;
    }
    assert_eq!(calls.len(), 300);
    assert!(
        calls.values().all(|count| *count == 1),
        "each step was called by one node"
    );
    a.stop().await;
    b.stop(PATIENCE).await;
}
