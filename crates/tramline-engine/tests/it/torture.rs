//! Random faults under a mixed load, checked against an effect ledger outside Postgres.
//!
//! `TRAMLINE_TORTURE_SEED` repeats a run, `TRAMLINE_TORTURE_ROUNDS` makes it longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use serde_json::json;
use tramline_engine::{EngineHandle, Handlers, Outcome};
use tramline_store::Db;
use tramline_store::api::{self, FunctionRow, NewRun};
use tramline_testkit::TestCluster;
use uuid::Uuid;

use crate::support::*;

/// Effects by idempotency key, kept where no fault reaches them.
type Effects = Arc<Mutex<HashMap<String, u32>>>;

fn handlers(effects: &Effects) -> Handlers {
    let effects = effects.clone();
    Handlers::default().with("step", move |call| {
        let effects = effects.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            *effects.lock().unwrap().entry(call.idempotency_key).or_insert(0) += 1;
            Outcome::Completed(json!({ "at": call.fence }))
        }
    })
}

fn proposal() -> serde_json::Value {
    json!({ "name": "proposal", "required_fields": ["n"], "steps": [
        { "name": "thread", "function": "step", "payload_template": { "n": "{{n}}" } },
        { "name": "notify", "function": "step", "payload_template": { "n": "{{n}}" } },
        { "name": "remind", "sleep": "{{delay}}" },
        { "name": "reminder", "function": "step", "payload_template": { "n": "{{n}}" } } ] })
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_survive_killed_nodes_and_a_killed_postgres_and_no_step_succeeds_twice() {
    let seed = std::env::var("TRAMLINE_TORTURE_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    let rounds: u32 = std::env::var("TRAMLINE_TORTURE_ROUNDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(8);
    println!("TRAMLINE_TORTURE_SEED={seed} TRAMLINE_TORTURE_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = TestCluster::private().await;
    let url = cluster.url("postgres");
    tramline_store::migrate(&url).await.unwrap();
    let store = Db::new(&url, 4).unwrap();
    let function = FunctionRow {
        name: "step".into(),
        kind: "handler".into(),
        version: None,
        auth: None,
        state: "ready".into(),
        reason: None,
    };
    api::register_functions(&store, &[function]).await.unwrap();
    publish(&store, proposal()).await;

    let effects = Effects::default();
    let mut nodes: Vec<EngineHandle> = Vec::new();
    let mut accepted: Vec<Uuid> = Vec::new();
    for round in 0..rounds {
        while nodes.len() < 2 {
            nodes.push(engine(&url, &format!("node-{round}-{}", nodes.len()), handlers(&effects)).await);
        }
        let runs: Vec<NewRun> = (0..40)
            .map(|n| NewRun {
                run_id: Some(Uuid::now_v7()),
                target: "proposal".into(),
                input: json!({ "n": n, "delay": format!("{}ms", random.random_range(50..2_000)) }),
                ..NewRun::default()
            })
            .collect();
        // An error means that nothing is known: the same ids are sent again.
        while api::enqueue(&store, &runs).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        accepted.extend(runs.iter().filter_map(|r| r.run_id));
        nodes[0].wake();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        match random.random_range(0..4) {
            0 => {
                let at = random.random_range(0..nodes.len());
                nodes.swap_remove(at).crash().await;
            }
            1 => {
                let at = random.random_range(0..nodes.len());
                nodes.swap_remove(at).stop(Duration::from_millis(200)).await;
            }
            2 => {
                cluster.stop_immediate().await;
                cluster.start().await;
            }
            _ => {
                let client = tramline_testkit::connect(&url).await;
                let kill = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and application_name like 'tramline %'";
                client.execute(kill, &[]).await.unwrap();
            }
        }
    }
    while nodes.len() < 2 {
        nodes.push(engine(&url, "healer", handlers(&effects)).await);
    }

    let client = tramline_testkit::connect(&url).await;
    let count = accepted.len() as i64;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        count,
    )
    .await;
    // One terminal state per run, one success per step, no run that nobody accepted.
    until_count(&client, "select count(*) from tramline.run_ends", count).await;
    until_count(&client, "select count(*) from tramline.runs", count).await;
    until_count(
        &client,
        "select count(*) from (select from tramline.run_steps where status = 'completed' group by run_id, step having count(*) > 1) q",
        0,
    )
    .await;
    until_count(
        &client,
        "select count(*) from tramline.run_steps where status = 'completed'",
        count * 4,
    )
    .await;
    until_count(&client, "select count(*) from tramline.timers", 0).await;
    until_count(&client, "select count(*) from tramline.parked", 0).await;
    for id in &accepted {
        for step in ["thread", "notify", "reminder"] {
            assert!(
                effects.lock().unwrap().contains_key(&format!("{id}/{step}")),
                "a success without its effect: {id}/{step}"
            );
        }
    }
    assert_eq!(
        effects.lock().unwrap().len(),
        accepted.len() * 3,
        "no effect under an unknown key"
    );
    for node in nodes {
        assert_eq!(node.stats().missed, 0);
        node.stop(Duration::from_secs(5)).await;
    }
}
