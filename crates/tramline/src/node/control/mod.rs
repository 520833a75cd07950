//! What the HTTP API asks, answered by the store and the engine.

mod catalog;
pub(super) mod convert;
mod operations;
mod queues;
mod retention;
mod runs;
mod schedules;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::Value;
use tramline_engine::EngineHandle;
use tramline_gateway::control::{
    Actor, Answer, Backfill, Backfilled, BulkRequest, Checked, Control, ControlError, DeadLetterFilter,
    Millis, NamedCalendar, NewRun, NodeStatus, Period, Published, Queue, Retention, Run, RunEvent, RunFilter,
    RunVerb, Schedule, ScheduleOutcome, ScheduleVerb, SetQueue, Started, StepAttempt, StoredSchedule, Why,
    WorkflowVersion,
};
use tramline_store::{Db, SHARD_COUNT, api};
use uuid::Uuid;

/// Runs, workflows and schedules of one node. Clones share it.
#[derive(Clone)]
pub struct NodeControl {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    /// None on a node without the engine role: runs are driven elsewhere.
    engine: Option<EngineHandle>,
    started: Instant,
    /// Told when runs were queued through this node.
    queued: tokio::sync::Notify,
}

impl NodeControl {
    pub fn new(db: Db, engine: Option<EngineHandle>) -> Self {
        Self {
            inner: Arc::new(Inner {
                db,
                engine,
                started: Instant::now(),
                queued: tokio::sync::Notify::new(),
            }),
        }
    }

    fn db(&self) -> &Db {
        &self.inner.db
    }

    fn engine(&self) -> Option<&EngineHandle> {
        self.inner.engine.as_ref()
    }

    fn wake(&self) {
        if let Some(engine) = self.engine() {
            engine.wake();
        }
    }

    async fn node_status(&self) -> Result<NodeStatus, ControlError> {
        let stats = self.engine().map(EngineHandle::stats).unwrap_or_default();
        let runs = api::count_by_status(self.db()).await.map_err(convert::error)?;
        let mut counts: std::collections::BTreeMap<String, u64> = runs
            .into_iter()
            .map(|(status, count)| {
                (
                    format!("runs_last_hour_{status}"),
                    u64::try_from(count).unwrap_or_default(),
                )
            })
            .collect();
        counts.extend([
            ("runs_active_here".to_owned(), stats.active),
            ("runs_known_here".to_owned(), stats.known),
            ("runs_ended_here".to_owned(), stats.ended),
            ("discovery_missed".to_owned(), stats.missed),
            ("stuck".to_owned(), stats.stuck),
        ]);
        Ok(NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self
                .engine()
                .map_or_else(|| "gateway".to_owned(), |engine| engine.node().to_string()),
            shards_owned: stats.shards,
            shard_count: SHARD_COUNT,
            uptime_ms: u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            counts,
        })
    }
}

/// Turns a method of [`NodeControl`] into the trait's boxed answer.
macro_rules! answer {
    ($self:ident, $control:ident => $future:expr) => {{
        let $control = $self.clone();
        async move { $future.await }.boxed()
    }};
}

impl Control for NodeControl {
    fn start_runs(&self, runs: Vec<NewRun>, actor: Actor) -> Answer<Vec<Result<Started, ControlError>>> {
        answer!(self, control => control.start(runs, actor))
    }

    fn wait_run(&self, run_id: Uuid, at_most: Duration) -> Answer<Run> {
        answer!(self, control => control.wait(run_id, at_most))
    }

    fn list_runs(&self, filter: RunFilter) -> Answer<Vec<Run>> {
        answer!(self, control => control.list(filter))
    }

    fn get_run(&self, run_id: Uuid) -> Answer<Run> {
        answer!(self, control => control.run(run_id))
    }

    fn run_steps(&self, run_id: Uuid) -> Answer<Vec<StepAttempt>> {
        answer!(self, control => control.steps(run_id))
    }

    fn run_events(&self, run_id: Uuid) -> Answer<Vec<RunEvent>> {
        answer!(self, control => control.events(run_id))
    }

    fn change_run(&self, run_id: Uuid, verb: RunVerb, reason: Option<String>, actor: Actor) -> Answer<Run> {
        answer!(self, control => control.change(run_id, verb, reason, actor))
    }

    fn bulk_runs(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value> {
        answer!(self, control => control.bulk(bulk, actor))
    }

    fn list_dead_letters(&self, filter: DeadLetterFilter) -> Answer<Vec<Value>> {
        answer!(self, control => control.letters(filter))
    }

    fn dead_letters_of(&self, run_id: Uuid) -> Answer<Vec<Value>> {
        answer!(self, control => control.letters_of(run_id))
    }

    fn redrive(
        &self,
        run_id: Uuid,
        input: Option<Value>,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<Run> {
        answer!(self, control => control.redrive_one(run_id, input, reason, actor))
    }

    fn redrive_many(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value> {
        answer!(self, control => control.redrive_all(bulk, actor))
    }

    fn why_run(&self, run_id: Uuid) -> Answer<Why> {
        answer!(self, control => control.why(run_id))
    }

    fn why_queue(&self, queue: String) -> Answer<Why> {
        answer!(self, control => control.why_in(queue))
    }

    fn list_workflows(&self) -> Answer<Vec<WorkflowVersion>> {
        answer!(self, control => control.workflows())
    }

    fn get_workflow(&self, name: String, version: Option<i64>) -> Answer<WorkflowVersion> {
        answer!(self, control => control.workflow(name, version))
    }

    fn publish_workflow(&self, definition: Value, actor: Actor) -> Answer<Published> {
        answer!(self, control => control.publish(definition, actor))
    }

    fn validate_workflow(&self, definition: Value) -> Answer<Checked> {
        answer!(self, control => control.validate(definition))
    }

    fn list_schedules(&self) -> Answer<Vec<Schedule>> {
        answer!(self, control => control.schedules())
    }

    fn schedule_periods(&self, name: String, limit: u16) -> Answer<Vec<Period>> {
        answer!(self, control => control.periods(name, limit))
    }

    fn change_schedule(
        &self,
        name: String,
        verb: ScheduleVerb,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<ScheduleOutcome> {
        answer!(self, control => control.pause_schedule(name, verb, reason, actor))
    }

    fn get_schedule(&self, name: String) -> Answer<Schedule> {
        answer!(self, control => control.schedule(name))
    }

    fn put_schedule(&self, name: String, document: Value, actor: Actor) -> Answer<StoredSchedule> {
        answer!(self, control => control.store_schedule(name, document, actor))
    }

    fn delete_schedule(&self, name: String, actor: Actor) -> Answer<()> {
        answer!(self, control => control.remove_schedule(name, actor))
    }

    fn trigger_schedule(
        &self,
        name: String,
        period: Option<Millis>,
        actor: Actor,
    ) -> Answer<ScheduleOutcome> {
        answer!(self, control => control.trigger(name, period, actor))
    }

    fn backfill_schedule(&self, name: String, span: Backfill, actor: Actor) -> Answer<Backfilled> {
        answer!(self, control => control.backfill(name, span, actor))
    }

    fn retention(&self, apply: bool) -> Answer<Retention> {
        answer!(self, control => control.ledger_days(apply))
    }

    fn list_calendars(&self) -> Answer<Vec<NamedCalendar>> {
        answer!(self, control => control.calendars())
    }

    fn put_calendar(&self, name: String, document: Value, actor: Actor) -> Answer<NamedCalendar> {
        answer!(self, control => control.store_calendar(name, document, actor))
    }

    fn delete_calendar(&self, name: String, actor: Actor) -> Answer<()> {
        answer!(self, control => control.remove_calendar(name, actor))
    }

    fn list_queues(&self, name: Option<String>) -> Answer<Vec<Queue>> {
        answer!(self, control => control.queues(name))
    }

    fn set_queue(
        &self,
        name: String,
        settings: Value,
        how: SetQueue,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<Queue> {
        answer!(self, control => control.store_queue(name, settings, how, reason, actor))
    }

    fn status(&self) -> Answer<NodeStatus> {
        answer!(self, control => control.node_status())
    }
}
