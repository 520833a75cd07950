//! Between the store's rows and the API's types.

use jiff::Timestamp;
use serde_json::Value;
use tramline_core::schedule::{When, duration_text};
use tramline_gateway::control::{
    ControlError, Millis, NamedCalendar, Period, Problem, Run, RunEvent, Schedule, StepAttempt,
    WorkflowVersion,
};
use tramline_store::StoreError;
use tramline_store::api::{EventRow, Refused, RunRow, StepRow, WorkflowRow};
use tramline_store::calendars::CalendarRow;
use tramline_store::schedules::{PeriodRow, ScheduleRow};

use crate::exit::chain;

fn millis(at: Timestamp) -> Option<Millis> {
    Some(at.as_millisecond())
}

/// What a failed statement means for the caller.
pub(in crate::node) fn error(error: StoreError) -> ControlError {
    if let StoreError::Refused {
        code,
        message,
        detail,
    } = error
    {
        return refused(&code, &message, detail.unwrap_or_default());
    }
    let reason = chain(&error);
    if error.is_unknown_outcome() {
        ControlError::Unavailable { reason }
    } else {
        ControlError::Internal { reason }
    }
}

/// One refused item of a batch.
pub(super) fn refusal(item: Refused) -> ControlError {
    let message = match item.code.as_str() {
        "TL409" => format!(
            "correlation id {} was used for run {} with other input",
            item.detail["correlation_id"],
            item.detail["run_id"].as_str().unwrap_or("?")
        ),
        _ => "the run was refused".to_owned(),
    };
    refused(&item.code, &message, item.detail)
}

fn refused(code: &str, message: &str, detail: Value) -> ControlError {
    match code {
        "TL404" => match detail["target"].as_str() {
            Some(target) => ControlError::UnknownTarget {
                target: target.to_owned(),
            },
            None => ControlError::NotFound {
                what: "run",
                name: message.to_owned(),
            },
        },
        "TL409" => ControlError::Conflict {
            message: message.to_owned(),
            run_id: detail["run_id"].as_str().and_then(|id| id.parse().ok()),
        },
        "TL422" => ControlError::InvalidInput {
            missing: texts(&detail["missing"]),
            problems: places(&detail["problems"]),
        },
        // A limit that cannot be kept exactly for this run.
        "TL400" if detail["target"].is_string() => ControlError::InvalidInput {
            missing: Vec::new(),
            problems: vec![Problem {
                path: "limit".to_owned(),
                message: detail["message"].as_str().unwrap_or(message).to_owned(),
            }],
        },
        // Something else that cannot be, with its place.
        "TL400" if detail["path"].is_string() => ControlError::InvalidInput {
            missing: Vec::new(),
            problems: vec![Problem {
                path: detail["path"].as_str().unwrap_or_default().to_owned(),
                message: detail["message"].as_str().unwrap_or(message).to_owned(),
            }],
        },
        "TL400" => ControlError::Conflict {
            message: message.to_owned(),
            run_id: None,
        },
        _ => ControlError::Internal {
            reason: format!("{code}: {message}"),
        },
    }
}

/// What SQL found wrong with a request, with its places.
fn places(list: &Value) -> Vec<Problem> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|problem| Problem {
            path: problem["path"].as_str().unwrap_or_default().to_owned(),
            message: problem["message"].as_str().unwrap_or_default().to_owned(),
        })
        .collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// A row of `ops.runs`.
pub(super) fn run(row: RunRow) -> Result<Run, ControlError> {
    let status = row.status.parse().map_err(|_| ControlError::Internal {
        reason: format!("run {} has the unknown status {:?}", row.run_id, row.status),
    })?;
    Ok(Run {
        run_id: row.run_id,
        kind: row.kind,
        target: row.target,
        version: row.version.map(i64::from),
        executor: row.executor,
        status,
        queue: Some(row.queue),
        priority: Some(row.priority),
        input: row.input,
        output: row.output,
        error: row.error,
        error_step: row.error_step,
        correlation_id: row.correlation_id,
        concurrency_key: row.concurrency_key,
        source: row.source,
        created_by: row.created_by.map(|id| id.to_string()),
        parent_run_id: row.parent_run_id,
        root_run_id: row.root_run_id,
        attempt: row.attempt,
        generation: row.generation,
        queued_at: millis(row.queued_at),
        scheduled_at: row.scheduled_at.and_then(millis),
        started_at: row.started_at.and_then(millis),
        completed_at: row.completed_at.and_then(millis),
        metadata: row.metadata,
    })
}

pub(super) fn step(row: StepRow) -> StepAttempt {
    StepAttempt {
        name: row.step,
        // a step that is no item of a list has the index 0
        index: Some(row.step_index).filter(|index| *index != 0),
        generation: row.generation,
        attempt: row.attempt,
        status: row.status,
        output: row.output,
        error: row.error,
        started_at: millis(row.started_at),
        finished_at: millis(row.finished_at),
    }
}

pub(super) fn event(row: EventRow) -> RunEvent {
    RunEvent {
        event_type: row.event_type,
        level: row.level,
        message: row.message,
        payload: row.payload.unwrap_or_default(),
        created_at: millis(row.created_at),
    }
}

pub(super) fn workflow(row: WorkflowRow, with_definition: bool) -> WorkflowVersion {
    WorkflowVersion {
        version: i64::from(row.version),
        status: row.status,
        checksum: row.checksum.unwrap_or_default(),
        description: row.definition["description"].as_str().map(str::to_owned),
        required_inputs: row.required_inputs,
        created_at: millis(row.created_at),
        definition: with_definition.then_some(row.definition),
        name: row.name,
    }
}

pub(super) fn problems(problems: Vec<tramline_core::definition::Problem>) -> Vec<Problem> {
    problems
        .into_iter()
        .map(|problem| Problem {
            path: problem.path,
            message: problem.message,
        })
        .collect()
}

/// A schedule with its next due time.
pub(super) fn schedule(row: ScheduleRow, next: Option<Millis>) -> Schedule {
    let spec = row.rule.spec;
    let (cron, every, anchor) = match spec.when {
        When::Cron(expression) => (Some(expression), None, None),
        When::Every { step_ms, anchor } => (None, Some(duration_text(step_ms)), anchor),
    };
    Schedule {
        next_due_at: next.filter(|_| !row.rule.paused && row.problem.is_none()),
        enabled: !row.rule.paused,
        last_due_at: row.rule.last_due,
        name: row.rule.name,
        cron,
        every,
        anchor,
        timezone: spec.timezone,
        target: row.target,
        input: row.input,
        jitter: duration_text(spec.jitter_ms),
        start_at: spec.start_at,
        end_at: spec.end_at,
        exclude: spec.exclude,
        overlap: spec.overlap.as_str().to_owned(),
        catch_up: spec.catch_up.as_str().to_owned(),
        catch_up_max: spec.catch_up_max,
        late_after: duration_text(spec.late_after_ms),
        source: row.source,
        problem: row.problem,
    }
}

pub(super) fn calendar(row: CalendarRow) -> NamedCalendar {
    NamedCalendar {
        name: row.name,
        exclude: row.entries,
        timezone: row.timezone,
        source: row.source,
        problem: row.problem,
    }
}

pub(super) fn period(row: PeriodRow) -> Period {
    Period {
        due_at: millis(row.due_at),
        planned_at: millis(row.planned_at),
        started_at: row.started_at.and_then(millis),
        drift_ms: row.drift_ms,
        finished_at: row.finished_at.and_then(millis),
        run_id: row.run_id,
        outcome: row.outcome,
        reason: row.reason,
    }
}
