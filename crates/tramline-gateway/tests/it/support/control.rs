//! A control that remembers what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tramline_core::status::RunStatus;
use tramline_gateway::control::*;
use uuid::Uuid;

use super::{OWN_RUN, USER, this_thread};

/// Control that remembers what it was asked and answers as told.
#[derive(Default)]
pub struct ScriptedControl {
    pub started: Mutex<Vec<NewRun>>,
    /// Of each start: its thread, and that of a task which it begins.
    pub start_threads: Mutex<Vec<(String, JoinHandle<String>)>>,
    pub filters: Mutex<Vec<RunFilter>>,
    pub changes: Mutex<Vec<(Uuid, RunVerb, Option<String>, Actor)>>,
    pub bulks: Mutex<Vec<(BulkRequest, Actor)>>,
    pub redriven: Mutex<Vec<(Uuid, Option<Value>, Option<String>, Actor)>>,
    pub letter_filters: Mutex<Vec<DeadLetterFilter>>,
    pub fail_with: Mutex<Option<ControlError>>,
    pub existing: Mutex<bool>,
    pub wait_status: Mutex<Option<RunStatus>>,
    /// What workers asked for, as text.
    pub workers: Mutex<Vec<String>>,
    /// Answers to claims, one after the other; nothing when there are none left.
    pub claims: Mutex<VecDeque<Vec<Value>>>,
}

impl ScriptedControl {
    pub fn fail(&self, error: ControlError) {
        *self.fail_with.lock().unwrap() = Some(error);
    }

    pub fn answer<T: Send + 'static>(&self, value: T) -> Answer<T> {
        let failure = self.fail_with.lock().unwrap().clone();
        Box::pin(async move { failure.map_or(Ok(value), Err) })
    }
}

pub fn sample_run(run_id: Uuid, status: RunStatus) -> Run {
    Run {
        run_id,
        kind: "function".into(),
        target: "hello".into(),
        version: None,
        executor: "engine".into(),
        status,
        queue: None,
        priority: None,
        input: json!({}),
        output: None,
        error: None,
        error_step: None,
        correlation_id: None,
        concurrency_key: None,
        source: "api".into(),
        created_by: (run_id == OWN_RUN).then(|| USER.to_owned()),
        parent_run_id: None,
        root_run_id: None,
        attempt: 1,
        generation: 1,
        queued_at: Some(1_700_000_000_000),
        scheduled_at: None,
        started_at: None,
        completed_at: None,
        metadata: json!({}),
    }
}

fn sample_workflow(name: &str) -> WorkflowVersion {
    WorkflowVersion {
        name: name.to_owned(),
        version: 1,
        status: "published".into(),
        checksum: "c".into(),
        description: None,
        required_inputs: vec![],
        created_at: None,
        definition: None,
    }
}

impl Control for ScriptedControl {
    fn start_runs(&self, runs: Vec<NewRun>, _: Actor) -> Answer<Vec<Result<Started, ControlError>>> {
        let begun = tokio::spawn(async { this_thread() });
        self.start_threads.lock().unwrap().push((this_thread(), begun));
        let existing = *self.existing.lock().unwrap();
        let started = runs
            .iter()
            .map(|run| match run.target.as_str() {
                "refused" => Err(ControlError::UnknownTarget {
                    target: run.target.clone(),
                }),
                _ => Ok(Started {
                    run_id: run.run_id.unwrap_or(OWN_RUN),
                    status: RunStatus::Queued,
                    existing,
                }),
            })
            .collect();
        self.started.lock().unwrap().extend(runs);
        self.answer(started)
    }

    fn wait_run(&self, run_id: Uuid, _: Duration) -> Answer<Run> {
        let status = self.wait_status.lock().unwrap().unwrap_or(RunStatus::Completed);
        self.answer(sample_run(run_id, status))
    }

    fn bulk_runs(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value> {
        self.bulks.lock().unwrap().push((bulk, actor));
        self.answer(json!({ "matched": 1 }))
    }

    fn list_dead_letters(&self, filter: DeadLetterFilter) -> Answer<Vec<Value>> {
        self.letter_filters.lock().unwrap().push(filter);
        self.answer(vec![json!({ "run_id": OWN_RUN })])
    }

    fn dead_letters_of(&self, run_id: Uuid) -> Answer<Vec<Value>> {
        let letters = (run_id == OWN_RUN).then(|| json!({ "run_id": run_id }));
        self.answer(letters.into_iter().collect())
    }

    fn redrive(
        &self,
        run_id: Uuid,
        input: Option<Value>,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<Run> {
        self.redriven.lock().unwrap().push((run_id, input, reason, actor));
        self.answer(sample_run(run_id, RunStatus::Queued))
    }

    fn redrive_many(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value> {
        self.bulk_runs(bulk, actor)
    }

    fn why_run(&self, run_id: Uuid) -> Answer<Why> {
        let reason = WhyReason {
            code: "sleep".into(),
            since: Some(1_700_000_000_000),
            sentence: "it sleeps".into(),
            detail: json!({ "step": "nap" }),
        };
        self.answer(Why {
            subject: run_id.to_string(),
            status: Some(RunStatus::Waiting),
            reasons: vec![reason],
        })
    }

    fn why_queue(&self, queue: String) -> Answer<Why> {
        self.answer(Why {
            subject: queue,
            status: None,
            reasons: Vec::new(),
        })
    }

    fn list_runs(&self, filter: RunFilter) -> Answer<Vec<Run>> {
        self.filters.lock().unwrap().push(filter);
        self.answer(vec![sample_run(OWN_RUN, RunStatus::Completed)])
    }

    fn get_run(&self, run_id: Uuid) -> Answer<Run> {
        self.answer(sample_run(run_id, RunStatus::Running))
    }

    fn run_steps(&self, _: Uuid) -> Answer<Vec<StepAttempt>> {
        self.answer(vec![])
    }

    fn run_events(&self, _: Uuid) -> Answer<Vec<RunEvent>> {
        self.answer(vec![])
    }

    fn change_run(&self, run_id: Uuid, verb: RunVerb, reason: Option<String>, actor: Actor) -> Answer<Run> {
        self.changes.lock().unwrap().push((run_id, verb, reason, actor));
        self.answer(sample_run(run_id, RunStatus::Cancelled))
    }

    fn list_workflows(&self) -> Answer<Vec<WorkflowVersion>> {
        self.answer(vec![sample_workflow("w")])
    }

    fn get_workflow(&self, name: String, version: Option<i64>) -> Answer<WorkflowVersion> {
        self.answer(WorkflowVersion {
            version: version.unwrap_or(1),
            ..sample_workflow(&name)
        })
    }

    fn publish_workflow(&self, definition: Value, _: Actor) -> Answer<Published> {
        let name = definition["name"].as_str().unwrap_or_default().to_owned();
        self.answer(Published {
            workflow: sample_workflow(&name),
            existing: false,
        })
    }

    fn validate_workflow(&self, _: Value) -> Answer<Checked> {
        self.answer(Checked {
            valid: true,
            problems: vec![],
            required_inputs: vec!["a".into()],
        })
    }

    fn list_schedules(&self) -> Answer<Vec<Schedule>> {
        self.answer(vec![])
    }

    fn schedule_periods(&self, _: String, _: u16) -> Answer<Vec<Period>> {
        self.answer(vec![])
    }

    fn get_schedule(&self, name: String) -> Answer<Schedule> {
        self.answer(sample_schedule(&name))
    }

    fn put_schedule(&self, name: String, document: Value, _: Actor) -> Answer<StoredSchedule> {
        let schedule = Schedule {
            cron: document["cron"].as_str().map(str::to_owned),
            ..sample_schedule(&name)
        };
        self.answer(StoredSchedule {
            schedule,
            changed: true,
        })
    }

    fn delete_schedule(&self, _: String, _: Actor) -> Answer<()> {
        self.answer(())
    }

    fn trigger_schedule(&self, name: String, period: Option<Millis>, _: Actor) -> Answer<ScheduleOutcome> {
        self.answer(ScheduleOutcome {
            name: format!("{name} {period:?}"),
            enabled: true,
            run_id: None,
        })
    }

    fn backfill_schedule(&self, name: String, span: Backfill, _: Actor) -> Answer<Backfilled> {
        self.answer(Backfilled {
            schedule: name,
            dry_run: span.dry_run,
            started: 1,
            periods: vec![BackfillPeriod {
                due_at: Some(span.from),
                start: true,
                run_id: None,
            }],
        })
    }

    fn retention(&self, apply: bool) -> Answer<Retention> {
        self.answer(Retention {
            settings: vec![],
            days: vec![],
            dropped: if apply { vec!["2026-01-01".into()] } else { vec![] },
            busy: vec![],
            removed: 0,
        })
    }

    fn list_calendars(&self) -> Answer<Vec<NamedCalendar>> {
        self.answer(vec![])
    }

    fn put_calendar(&self, name: String, _: Value, _: Actor) -> Answer<NamedCalendar> {
        self.answer(NamedCalendar {
            name,
            exclude: vec![],
            timezone: None,
            source: "api".into(),
            problem: None,
        })
    }

    fn delete_calendar(&self, _: String, _: Actor) -> Answer<()> {
        self.answer(())
    }

    fn change_schedule(
        &self,
        name: String,
        verb: ScheduleVerb,
        _: Option<String>,
        _: Actor,
    ) -> Answer<ScheduleOutcome> {
        self.answer(ScheduleOutcome {
            name,
            enabled: verb != ScheduleVerb::Pause,
            run_id: None,
        })
    }

    fn list_queues(&self, name: Option<String>) -> Answer<Vec<Queue>> {
        self.answer(vec![queue(name.unwrap_or_else(|| "default".into()), &json!({}))])
    }

    fn set_queue(
        &self,
        name: String,
        settings: Value,
        _: SetQueue,
        _: Option<String>,
        _: Actor,
    ) -> Answer<Queue> {
        self.answer(queue(name, &settings))
    }

    fn status(&self) -> Answer<NodeStatus> {
        self.answer(NodeStatus {
            version: "0.1.0".into(),
            node: "n".into(),
            shards_owned: vec![0, 1],
            shard_count: 2,
            uptime_ms: 5,
            counts: BTreeMap::new(),
        })
    }
}

fn sample_schedule(name: &str) -> Schedule {
    Schedule {
        name: name.into(),
        cron: Some("@daily".into()),
        every: None,
        anchor: None,
        timezone: "UTC".into(),
        target: "echo".into(),
        input: Value::Null,
        enabled: true,
        jitter: "0s".into(),
        start_at: None,
        end_at: None,
        exclude: vec![],
        overlap: "allow".into(),
        catch_up: "skip".into(),
        catch_up_max: 100,
        late_after: "5m".into(),
        source: "api".into(),
        problem: None,
        next_due_at: Some(0),
        last_due_at: None,
    }
}

fn queue(name: String, settings: &Value) -> Queue {
    Queue {
        name,
        mode: "engine".into(),
        paused: settings["paused"] == true,
        concurrency: settings["concurrency"]
            .as_i64()
            .and_then(|n| i32::try_from(n).ok()),
        rate: None,
        fifo: false,
        claims_max: None,
        description: None,
        waiting: 2,
        running: 1,
    }
}
