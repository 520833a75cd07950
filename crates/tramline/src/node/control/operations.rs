//! Bulk changes, dead letters, and why something does not move.

use serde_json::Value;
use tramline_engine::EngineHandle;
use tramline_gateway::control::{Actor, BulkRequest, ControlError, DeadLetterFilter, Run, Why, WhyReason};
use tramline_store::api::{self, Bulk, DeadLetterQuery, Reason};
use uuid::Uuid;

use super::runs::COMMAND_WAIT;
use super::{NodeControl, convert};

impl NodeControl {
    pub(super) async fn bulk(&self, bulk: BulkRequest, actor: Actor) -> Result<Value, ControlError> {
        let actor = actor.subject.unwrap_or(actor.role);
        let answer = api::bulk_runs(self.db(), &request(&bulk, &actor)).await;
        self.wake();
        answer.map_err(convert::error)
    }

    pub(super) async fn redrive_all(&self, bulk: BulkRequest, actor: Actor) -> Result<Value, ControlError> {
        let actor = actor.subject.unwrap_or(actor.role);
        let answer = api::redrive_many(self.db(), &request(&bulk, &actor)).await;
        self.wake();
        answer.map_err(convert::error)
    }

    pub(super) async fn redrive_one(
        &self,
        run_id: Uuid,
        input: Option<Value>,
        reason: Option<String>,
        actor: Actor,
    ) -> Result<Run, ControlError> {
        let before = self.run(run_id).await?;
        let actor = actor.subject.unwrap_or(actor.role);
        api::redrive(self.db(), run_id, input.as_ref(), reason.as_deref(), Some(&actor))
            .await
            .map_err(convert::error)?;
        self.wake();
        self.look_until(run_id, COMMAND_WAIT, |run| run.generation > before.generation)
            .await
    }

    pub(super) async fn letters(&self, filter: DeadLetterFilter) -> Result<Vec<Value>, ControlError> {
        let query = DeadLetterQuery {
            target: filter.target.as_deref(),
            reason: filter.reason.as_deref(),
            all: filter.all,
            before: filter.before,
            limit: i64::from(filter.limit),
        };
        api::list_dead_letters(self.db(), &query)
            .await
            .map_err(convert::error)
    }

    pub(super) async fn letters_of(&self, run_id: Uuid) -> Result<Vec<Value>, ControlError> {
        api::dead_letters_of(self.db(), run_id)
            .await
            .map_err(convert::error)
    }

    /// What the database knows, after what only this node's memory knows.
    pub(super) async fn why(&self, run_id: Uuid) -> Result<Why, ControlError> {
        let run = self.run(run_id).await?;
        let known = api::why_run(self.db(), run_id).await.map_err(convert::error)?;
        let mut reasons = match self.engine().filter(|_| !run.status.is_terminal()) {
            Some(engine) => live(engine, run_id).await,
            None => Vec::new(),
        };
        reasons.extend(known.into_iter().map(reason));
        Ok(Why {
            subject: run_id.to_string(),
            status: Some(run.status),
            reasons,
        })
    }

    pub(super) async fn why_in(&self, queue: String) -> Result<Why, ControlError> {
        let known = api::why_queue(self.db(), &queue).await.map_err(convert::error)?;
        Ok(Why {
            subject: queue,
            status: None,
            reasons: known.into_iter().map(reason).collect(),
        })
    }
}

/// An engine that has stopped knows nothing more than the database.
async fn live(engine: &EngineHandle, run_id: Uuid) -> Vec<WhyReason> {
    let reasons = engine.explain(run_id).await.unwrap_or_default();
    reasons
        .into_iter()
        .map(|reason| WhyReason {
            code: reason.code.to_owned(),
            since: None,
            sentence: reason.sentence,
            detail: reason.detail,
        })
        .collect()
}

fn reason(reason: Reason) -> WhyReason {
    WhyReason {
        code: reason.code,
        since: reason.since.map(|at| at.as_millisecond()),
        sentence: reason.sentence,
        detail: reason.detail,
    }
}

fn request<'a>(bulk: &'a BulkRequest, actor: &'a str) -> Bulk<'a> {
    Bulk {
        verb: &bulk.verb,
        filter: &bulk.filter,
        dry_run: bulk.dry_run,
        reason: bulk.reason.as_deref(),
        actor: Some(actor),
        limit: bulk.limit,
        after: bulk.after,
    }
}
