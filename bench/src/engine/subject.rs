//! What is measured: a fresh database with targets, and a node on it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tramline_engine::{Engine, EngineConfig, EngineHandle, Handlers};
use tramline_store::api::{self, FunctionRow};
use tramline_store::{Db, POOL_MAX, SHARD_COUNT};

use super::until;
use crate::postgres::{self, Postgres};

/// A fresh database with the functions `noop` and `step` and the workflow `three`.
pub struct Subject {
    pub url: String,
    pub db: Db,
}

impl Subject {
    pub async fn new(postgres: &Postgres) -> Result<Self> {
        let subject = Self::open(postgres.fresh_tramline().await?)?;
        let functions = ["noop", "step"].map(|name| FunctionRow {
            name: name.into(),
            kind: "handler".into(),
            version: None,
            auth: None,
            state: "ready".into(),
            reason: None,
        });
        api::register_functions(&subject.db, &functions).await?;
        let definition = three_steps();
        let workflow = tramline_core::definition::parse(&definition, &|_| true)
            .map_err(|problems| anyhow::anyhow!("the workflow of the benchmark is refused: {problems:?}"))?;
        let inputs = &workflow.required_inputs;
        let (name, checksum) = (&workflow.name, &workflow.checksum);
        api::store_definition(&subject.db, name, &definition, checksum, inputs, None).await?;
        Ok(subject)
    }

    /// One that was made before.
    pub fn open(url: String) -> Result<Self> {
        let db = Db::new(&url, POOL_MAX)?;
        Ok(Self { url, db })
    }

    pub async fn engine(&self, handlers: Handlers) -> Result<EngineHandle> {
        self.engine_with(EngineConfig::default(), handlers).await
    }

    pub async fn engine_with(&self, config: EngineConfig, handlers: Handlers) -> Result<EngineHandle> {
        let config = EngineConfig {
            node_name: "bench".into(),
            ..config
        };
        Ok(Engine::start(config, self.db.clone(), Arc::new(handlers)).await?)
    }

    /// A node that owns every shard.
    pub async fn running_engine(&self, handlers: Handlers) -> Result<EngineHandle> {
        let engine = self.engine(handlers).await?;
        let owns_all = || engine.stats().shards.len() == usize::from(SHARD_COUNT) && engine.stats().polls > 0;
        until(owns_all, "the node to own every shard").await?;
        Ok(engine)
    }

    /// Every run must have ended well, as the ledger says: a figure of lost work is worth nothing.
    pub async fn finish(&self, engine: &EngineHandle, count: usize) -> Result<()> {
        engine.stop(Duration::from_secs(5)).await;
        ensure_completed(&self.url, count).await
    }
}

/// The ledger must say that so many runs completed.
pub async fn ensure_completed(url: &str, count: usize) -> Result<()> {
    let client = postgres::connect(url).await?;
    let row = client
        .query_one(
            "select count(*) from tramline.all_ends where status = 'completed'",
            &[],
        )
        .await?;
    let completed: i64 = row.get(0);
    ensure!(
        usize::try_from(completed)? == count,
        "{completed} of {count} runs completed"
    );
    Ok(())
}

fn three_steps() -> Value {
    let step = |name: &str| json!({ "name": name, "function": "step", "action": name, "payload_template": { "i": "{{i}}" } });
    json!({ "name": "three", "required_fields": ["i"], "steps": [step("one"), step("two"), step("three")] })
}
