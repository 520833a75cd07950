//! A worker outside: claims runs of a pull queue, does them, and says so until it is heard.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tramline_store::{Db, StoreError, api};
use uuid::Uuid;

use crate::effects::Effects;
use crate::support::in_time;

/// How long a claim is held: an answer that was lost costs this much.
const CLAIM: Duration = Duration::from_secs(2);

pub struct Worker {
    stop: watch::Sender<bool>,
    task: JoinHandle<Effects>,
}

impl Worker {
    /// Works on the queue `ops` until it is stopped.
    pub fn start(url: &str, effects: Effects) -> Self {
        let (stop, stopped) = watch::channel(false);
        let store = Db::new(url, 1).unwrap();
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                if !work(&store, &effects).await {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            effects
        });
        Self { stop, task }
    }

    /// Ends it; the ledger that it has written to.
    pub async fn stop(self) -> Effects {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// Claims some runs and ends them; false when there was nothing, or no database.
pub async fn work(store: &Db, effects: &Effects) -> bool {
    let claim = api::Claim {
        worker_id: "worker",
        queue: "ops",
        count: 5,
        lease: CLAIM,
    };
    let Ok(claimed) = api::claim_runs(store, &claim).await else {
        return false;
    };
    for run in &claimed {
        let run_id: Uuid = run["run_id"].as_str().unwrap().parse().unwrap();
        let fence = run["fence"].as_i64().unwrap();
        finish(store, run_id, fence, &effects.note_claim(run_id, fence)).await;
    }
    !claimed.is_empty()
}

/// Says it until the database has answered: yes, or that the claim is lost.
async fn finish(store: &Db, run_id: Uuid, fence: i64, output: &Value) {
    let finish = api::Finish {
        run_id,
        status: "completed",
        output: Some(output),
        error: None,
        metadata: &json!({}),
        fence: Some(fence),
    };
    in_time(async {
        loop {
            match api::finish_run(store, &finish).await {
                Ok(_) => return,
                Err(StoreError::Refused { code, .. }) if code == "TL409" => return,
                Err(error) => assert!(error.is_unknown_outcome(), "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
