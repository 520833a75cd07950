//! Engines, workflows and waiting, for the tests of this crate.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tramline_engine::{Engine, EngineConfig, EngineHandle, Failure, Handlers, Invoke, Outcome, WaitOutcome};
use tramline_store::Db;
use tramline_store::api::{self, FunctionRow, RunRow};
use tramline_testkit::TestDb;
use uuid::Uuid;

/// Longest wait for something that must happen; reached only when it does not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A lease short enough for tests of takeover.
pub const LEASE: Duration = Duration::from_millis(1_500);

/// What is waited for, with an end: what does not come makes a red test that names the line, not one that hangs.
#[track_caller]
pub fn in_time<T>(waited: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = Location::caller();
    async move {
        let came = tokio::time::timeout(PATIENCE, waited).await;
        came.unwrap_or_else(|_| panic!("{place}: what is waited for did not come in {PATIENCE:?}"))
    }
}

pub fn config(name: &str) -> EngineConfig {
    EngineConfig {
        node_name: name.into(),
        lease: LEASE,
        ..EngineConfig::default()
    }
}

/// For tests in which no node dies: on a machine that stands still for a moment none is taken for dead, which would be right, but
/// makes calls twice.
pub fn unhurried(name: &str) -> EngineConfig {
    EngineConfig {
        lease: Duration::from_secs(10),
        ..config(name)
    }
}

pub async fn engine(url: &str, name: &str, invoke: impl Invoke) -> EngineHandle {
    engine_with(url, config(name), invoke).await
}

pub async fn engine_with(url: &str, config: EngineConfig, invoke: impl Invoke) -> EngineHandle {
    Engine::start(config, Db::new(url, 4).unwrap(), Arc::new(invoke))
        .await
        .unwrap()
}

pub async fn register(db: &TestDb, names: &[&str]) -> Db {
    register_at(db.url(), names).await
}

pub async fn register_at(url: &str, names: &[&str]) -> Db {
    let store = Db::new(url, 4).unwrap();
    let functions: Vec<_> = names
        .iter()
        .map(|name| FunctionRow {
            name: (*name).into(),
            kind: "handler".into(),
            version: None,
            auth: None,
            state: "ready".into(),
            reason: None,
        })
        .collect();
    api::register_functions(&store, &functions).await.unwrap();
    store
}

pub async fn publish(store: &Db, definition: Value) {
    let workflow = tramline_core::definition::parse(&definition, &|_| true).expect("a definition that works");
    api::store_definition(
        store,
        &workflow.name,
        &definition,
        &workflow.checksum,
        &workflow.required_inputs,
        None,
    )
    .await
    .unwrap();
}

/// Three steps, each calling the handler `step`.
pub fn three_steps() -> Value {
    let step = |name: &str| json!({ "name": name, "function": "step", "action": name, "payload_template": { "n": "{{n}}" } });
    json!({ "name": "three", "required_fields": ["n"], "steps": [step("one"), step("two"), step("three")] })
}

/// Answers with the body it got.
pub fn echo() -> Handlers {
    Handlers::default().with("step", |call| async move {
        Outcome::completed(json!({ "got": call.body.value() }))
    })
}

/// Every call is told to the test, which may count and look; the answer is given at once.
pub fn recorded() -> (Handlers, mpsc::UnboundedReceiver<tramline_engine::Call>) {
    let (seen, calls) = mpsc::unbounded_channel();
    let handlers = Handlers::default().with("step", move |call| {
        let seen = seen.clone();
        async move {
            let _ = seen.send(call);
            Outcome::completed(json!({ "ok": true }))
        }
    });
    (handlers, calls)
}

pub fn failed(message: &str) -> Outcome {
    Outcome::Failed(Failure::new("function_failed", message))
}

pub async fn ended(engine: &EngineHandle, run_id: Uuid) -> RunRow {
    match engine.wait(run_id, PATIENCE).await.unwrap() {
        WaitOutcome::Ended(row) => *row,
        other => panic!(
            "run {run_id} did not end: {other:?}; its node says {:?} of it and {:?} of itself",
            engine.explain(run_id).await,
            engine.stats()
        ),
    }
}

/// Polls until a query gives the expected number.
pub async fn until_count(client: &tokio_postgres::Client, sql: &str, expected: i64) {
    if !becomes(client, sql, expected).await {
        let last: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        panic!("{sql}: expected {expected}, last {last}");
    }
}

/// The same; false when it does not in time.
pub async fn becomes(client: &tokio_postgres::Client, sql: &str, expected: i64) -> bool {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == expected {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}
