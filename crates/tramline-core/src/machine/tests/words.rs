//! Decisions as text: rows, then `->` and actions.

use super::super::*;

pub(super) fn words(result: &Result<Decision, Refusal>) -> String {
    match result {
        Ok(decision) => decided(decision),
        Err(refusal) => format!("refused: {refusal}"),
    }
}

pub(super) fn decided(decision: &Decision) -> String {
    let rows: Vec<String> = decision.rows.iter().map(row).collect();
    let actions: Vec<String> = decision.then.iter().map(action).collect();
    match (rows.is_empty(), actions.is_empty()) {
        (true, true) => "nothing".into(),
        (_, true) => rows.join(", "),
        (true, _) => format!("-> {}", actions.join(", ")),
        _ => format!("{} -> {}", rows.join(", "), actions.join(", ")),
    }
}

fn code(error: &Option<Arc<Value>>) -> &str {
    error
        .as_ref()
        .and_then(|e| e.get("code"))
        .and_then(Value::as_str)
        .unwrap_or("no error")
}

fn row(row: &Row) -> String {
    match row {
        Row::Step(s) if s.status == StepStatus::Failed => {
            format!("{}#{} failed {}", s.step, s.attempt, code(&s.error))
        }
        Row::Step(s) => format!("{}#{} {}", s.step, s.attempt, s.status),
        Row::End(e) => {
            let why = if e.status == RunStatus::Completed {
                String::new()
            } else {
                format!(" {}", code(&e.error))
            };
            let place = e
                .error_step
                .as_ref()
                .map(|step| format!(" at {step}"))
                .unwrap_or_default();
            format!("end {}{why}{place}", e.status)
        }
        Row::Mark { status, .. } => format!("mark {status}"),
        Row::Event { event_type, .. } => format!("event {event_type}"),
        Row::TimerSet {
            kind,
            step,
            attempt,
            due_at,
        } => format!("set {} {step}#{attempt} {due_at}", kind.as_str()),
        Row::TimerClear {
            kind,
            step,
            attempt,
            due_at,
        } => format!("clear {} {step}#{attempt} {due_at}", kind.as_str()),
        Row::Start { step, deadline } => format!("start {step} {deadline}"),
        Row::Parked { why } => format!("parked {why}"),
        Row::Unparked => "unparked".into(),
        Row::DeadLetter(letter) => format!("dead letter {}", letter.reason),
        Row::Redriven { generation, .. } => format!("redriven {generation}"),
        Row::Priority { priority } => format!("priority {priority}"),
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Call(call) => format!("call {}#{}", call.step_name, call.attempt),
        Action::AbortCalls => "abort".into(),
        Action::Begin => "begin".into(),
        Action::Settled(status) => format!("settled {status}"),
        Action::SleepUntil { due_at, .. } => format!("sleep {due_at}"),
    }
}
