//! Fail at every edge of a pull run: its insert, its claim, its end, said by a worker outside that repeats what was not
//! answered. No node is needed.

use tramline_store::Db;
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Side, test_db};
use uuid::Uuid;

use crate::effects::*;
use crate::support::*;
use crate::worker::work;

const WRITES: [&str; 3] = ["tramline.enqueue_many(", "ops.claim_runs(", "ops.finish_run("];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Refused,
    Twice,
    /// The worker dies, and another one comes.
    Crash,
}

const EDGES: [(Side, Fault); 6] = [
    (Side::Before, Fault::Cut),
    (Side::Before, Fault::Refused),
    (Side::Before, Fault::Twice),
    (Side::Before, Fault::Crash),
    (Side::After, Fault::Cut),
    (Side::After, Fault::Crash),
];

/// Enqueues a run, as often as it takes, and works until it has ended.
async fn live(store: Db, effects: Effects, id: Uuid) {
    let run = NewRun {
        run_id: Some(id),
        target: "step".into(),
        queue: Some("ops".into()),
        ..NewRun::default()
    };
    while let Err(error) = api::enqueue(&store, std::slice::from_ref(&run)).await {
        assert!(error.is_unknown_outcome(), "{error:?}");
    }
    loop {
        work(&store, &effects).await;
        let over = api::get_run(&store, id)
            .await
            .is_ok_and(|row| row.is_some_and(|row| row.status == "completed"));
        if over {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_run_survives_a_fault_at_every_edge() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let effects = Effects::of(folder.path(), "worker");
    let mut accepted = Vec::new();
    for (side, fault) in EDGES {
        for write in WRITES {
            let proxy = ChaosProxy::start(db.url()).await;
            let mut held = proxy.hold(write, 1, side);
            let id = Uuid::now_v7();
            let through = Db::new(proxy.url(), 1).unwrap();
            let mut worker = tokio::spawn(live(through, effects.clone(), id));
            let holding = in_time(held.reached()).await;
            match fault {
                Fault::Cut => holding.cut(),
                Fault::Refused => holding.refuse("53100"),
                Fault::Twice => holding.twice(),
                Fault::Crash => {
                    worker.abort();
                    assert!(worker.await.unwrap_err().is_cancelled());
                    drop(holding);
                    worker = tokio::spawn(live(store.clone(), effects.clone(), id));
                }
            }
            let over = tokio::time::timeout(PATIENCE, worker).await;
            over.unwrap_or_else(|_| panic!("{write} {side:?} {fault:?}"))
                .unwrap();
            accepted.push(id);
            check(&effects, &client, &accepted, 1).await;
        }
    }
}
