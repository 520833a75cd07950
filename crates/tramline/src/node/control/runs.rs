//! Starting, reading and commanding runs.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tramline_core::status::RunStatus;
use tramline_engine::{EngineError, WaitOutcome};
use tramline_gateway::control::{
    Actor, ControlError, NewRun, Run, RunEvent, RunFilter, RunVerb, Start, Started, StepAttempt,
};
use tramline_store::api;
use uuid::Uuid;

use super::{NodeControl, convert};

/// How long an answer to cancel and retry waits for the owner of the run, so that it usually shows the effect.
pub(super) const COMMAND_WAIT: Duration = Duration::from_secs(2);
/// Between two looks at a run whose owner is another node.
const LOOK: Duration = Duration::from_millis(50);

impl NodeControl {
    pub(super) async fn start(
        &self,
        runs: Vec<NewRun>,
        actor: Actor,
    ) -> Result<Vec<Result<Started, ControlError>>, ControlError> {
        let rows = runs
            .into_iter()
            .map(|run| new_run(run, &actor))
            .collect::<Result<Vec<_>, _>>()?;
        let mut answers = api::enqueue(self.db(), &rows).await.map_err(convert::error)?;
        if let Some(engine) = self.engine() {
            engine.wake_for(&mut answers);
        }
        if rows.iter().any(|row| row.queue.is_some()) {
            self.inner.queued.notify_waiters();
        }
        let now = Timestamp::now();
        let mut started: Vec<Result<Started, ControlError>> = answers
            .into_iter()
            .zip(&rows)
            .map(|(answer, row)| {
                let accepted = answer.map_err(convert::refusal)?;
                let delayed = row.run_at.is_some_and(|at| at > now) || row.delay.is_some();
                let status = if delayed {
                    RunStatus::Scheduled
                } else {
                    RunStatus::Queued
                };
                Ok(Started {
                    run_id: accepted.run_id,
                    status,
                    existing: !accepted.created,
                })
            })
            .collect();
        self.fill_status_of_existing(&mut started).await?;
        Ok(started)
    }

    async fn fill_status_of_existing(
        &self,
        started: &mut [Result<Started, ControlError>],
    ) -> Result<(), ControlError> {
        let mut existing: Vec<&mut Started> =
            started.iter_mut().flatten().filter(|run| run.existing).collect();
        if existing.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = existing.iter().map(|run| run.run_id).collect();
        let statuses = api::run_statuses(self.db(), &ids).await.map_err(convert::error)?;
        for run in &mut existing {
            if let Some(status) = statuses.get(&run.run_id).and_then(|status| status.parse().ok()) {
                run.status = status;
            }
        }
        Ok(())
    }

    pub(super) async fn wait(&self, run_id: Uuid, at_most: Duration) -> Result<Run, ControlError> {
        let Some(engine) = self.engine() else {
            return self
                .look_until(run_id, at_most, |run| run.status.is_terminal())
                .await;
        };
        match engine.wait(run_id, at_most).await {
            Ok(WaitOutcome::Ended(row) | WaitOutcome::StillRunning(row)) => convert::run(*row),
            Ok(WaitOutcome::NotFound) => Err(not_found(run_id)),
            Err(EngineError::Store(error)) => Err(convert::error(error)),
            Err(error) => Err(ControlError::Unavailable {
                reason: error.to_string(),
            }),
        }
    }

    pub(super) async fn run(&self, run_id: Uuid) -> Result<Run, ControlError> {
        let row = api::get_run(self.db(), run_id).await.map_err(convert::error)?;
        convert::run(row.ok_or_else(|| not_found(run_id))?)
    }

    pub(super) async fn list(&self, filter: RunFilter) -> Result<Vec<Run>, ControlError> {
        let created_by = match &filter.created_by {
            None => None,
            // somebody whose id is no UUID has started nothing
            Some(user) => match Uuid::try_parse(user) {
                Ok(id) => Some(id),
                Err(_) => return Ok(Vec::new()),
            },
        };
        let query = api::RunQuery {
            status: filter.status.map(|status| status.as_str()),
            target: filter.target.as_deref(),
            created_by,
            before: filter.before,
            limit: i64::from(filter.limit),
        };
        let rows = api::list_runs(self.db(), &query).await.map_err(convert::error)?;
        rows.into_iter().map(convert::run).collect()
    }

    pub(super) async fn steps(&self, run_id: Uuid) -> Result<Vec<StepAttempt>, ControlError> {
        let rows = api::run_steps(self.db(), run_id).await.map_err(convert::error)?;
        Ok(rows.into_iter().map(convert::step).collect())
    }

    pub(super) async fn events(&self, run_id: Uuid) -> Result<Vec<RunEvent>, ControlError> {
        let rows = api::run_events(self.db(), run_id).await.map_err(convert::error)?;
        Ok(rows.into_iter().map(convert::event).collect())
    }

    pub(super) async fn change(
        &self,
        run_id: Uuid,
        verb: RunVerb,
        reason: Option<String>,
        actor: Actor,
    ) -> Result<Run, ControlError> {
        let before = self.run(run_id).await?;
        let (reason, actor) = (reason.as_deref(), actor.subject.unwrap_or(actor.role));
        match verb {
            RunVerb::Cancel => {
                let accepted = api::cancel_run(self.db(), run_id, reason, Some(&actor))
                    .await
                    .map_err(convert::error)?;
                if !accepted {
                    let message = format!(
                        "run {run_id} has ended ({}) and cannot be cancelled",
                        before.status.as_str()
                    );
                    return Err(ControlError::Conflict {
                        message,
                        run_id: Some(run_id),
                    });
                }
                self.wake();
                self.look_until(run_id, COMMAND_WAIT, |run| run.status.is_terminal())
                    .await
            }
            RunVerb::Pause => {
                api::pause_run(self.db(), run_id, reason, Some(&actor))
                    .await
                    .map_err(convert::error)?;
                self.wake();
                self.look_until(run_id, COMMAND_WAIT, |run| {
                    run.status == RunStatus::Paused || run.status.is_terminal()
                })
                .await
            }
            RunVerb::Resume => {
                api::resume_run(self.db(), run_id, reason, Some(&actor))
                    .await
                    .map_err(convert::error)?;
                self.wake();
                self.look_until(run_id, COMMAND_WAIT, |run| run.status != RunStatus::Paused)
                    .await
            }
            RunVerb::Retry => {
                api::retry_run(self.db(), run_id, reason, Some(&actor), None, None)
                    .await
                    .map_err(convert::error)?;
                self.wake();
                let generation = before.generation;
                self.look_until(run_id, COMMAND_WAIT, |run| run.generation > generation)
                    .await
            }
        }
    }

    /// Looks at a run until it is as wanted or the time is over; answers its state then.
    pub(super) async fn look_until(
        &self,
        run_id: Uuid,
        at_most: Duration,
        wanted: impl Fn(&Run) -> bool,
    ) -> Result<Run, ControlError> {
        let deadline = Instant::now() + at_most;
        loop {
            let run = self.run(run_id).await?;
            if wanted(&run) || Instant::now() >= deadline {
                return Ok(run);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn not_found(run_id: Uuid) -> ControlError {
    ControlError::NotFound {
        what: "run",
        name: run_id.to_string(),
    }
}

fn new_run(run: NewRun, actor: &Actor) -> Result<api::NewRun, ControlError> {
    let (run_at, delay) = match run.start {
        Start::Now => (None, None),
        Start::At(at) => {
            let at = Timestamp::from_millisecond(at).map_err(|_| ControlError::Internal {
                reason: format!("{at} ms is no time"),
            })?;
            (Some(at), None)
        }
        Start::After(delay) => (None, Some(delay)),
    };
    Ok(api::NewRun {
        run_id: run.run_id,
        target: run.target,
        input: run.input,
        correlation_id: run.correlation_id,
        concurrency_key: run.concurrency_key,
        queue: run.queue,
        priority: run.priority,
        run_at,
        delay,
        source: Some(match run.calling_function {
            Some(function) => format!("function:{function}"),
            None => format!("api:{}", actor.role),
        }),
        created_by: run
            .created_by
            .as_deref()
            .and_then(|user| Uuid::try_parse(user).ok()),
        triggered_by: actor.subject.clone(),
        parent_run_id: run.parent_run_id,
        metadata: (!run.metadata.is_empty()).then_some(serde_json::Value::Object(run.metadata)),
        retry: run.retry,
    })
}
