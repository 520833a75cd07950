//! Every status with every event, for a function and for a workflow.

use super::*;

const T: Millis = 100_000;

fn events() -> Vec<(&'static str, Event)> {
    let end = |outcome| Event::CallEnded {
        step: 0,
        generation: 1,
        attempt: 1,
        outcome,
        started_at: T - 1,
        now: T,
        random: 0,
    };
    let due = |kind, step, attempt| Event::TimerDue {
        kind,
        step,
        attempt,
        now: T,
    };
    vec![
        ("begin", Event::Begin { now: T }),
        ("delay", Event::Delay { until: 2 * T, now: T }),
        ("call ends well", end(completed(json!({ "data": { "x": 1 } })))),
        ("call fails", end(failed())),
        (
            "a call is lost",
            Event::CallLost {
                which: Lost::Overdue,
                now: T,
            },
        ),
        ("start is due", due(TimerKind::Start, 0, 0)),
        ("retry is due", due(TimerKind::Retry, 0, 1)),
        ("sleep is due", due(TimerKind::Sleep, 1, 1)),
        ("tick", Event::Tick { now: T }),
        (
            "cancel",
            Event::Cancel {
                reason: None,
                actor: None,
                now: T,
            },
        ),
        (
            "skip",
            Event::Skip {
                reason: "full".into(),
                now: T,
            },
        ),
        ("pause", Event::Pause { actor: None, now: T }),
        ("resume", Event::Resume { actor: None, now: T }),
        (
            "retry",
            Event::Retry {
                generation: Some(1),
                from_step: None,
                input: None,
                actor: None,
                now: T,
            },
        ),
    ]
}

/// A run that stands in this status, as far as the machine itself brings one there; else its status is set.
fn in_status(plan: &Plan, status: RunStatus) -> Run {
    let mut driven = Driven::new(plan.clone());
    let is_workflow = matches!(plan, Plan::Workflow(_));
    let first = plan.step_name(0).to_owned();
    match status {
        RunStatus::Queued | RunStatus::Claimed => {}
        RunStatus::Scheduled => drop(driven.feed(Event::Delay { until: 5_000, now: 0 })),
        RunStatus::Waiting if is_workflow => {
            driven.begin(0);
            driven.ends(&first, completed(json!({})), 1);
        }
        RunStatus::Running | RunStatus::Waiting | RunStatus::Compensating => drop(driven.begin(0)),
        RunStatus::Paused => {
            driven.begin(0);
            driven.pause(1);
        }
        RunStatus::Completed => {
            driven.begin(0);
            driven.ends(&first, completed(json!({})), 1);
            if is_workflow {
                driven.due(TimerKind::Sleep, "nap", 1, 3_600_001);
                driven.ends("after", completed(json!({})), 3_600_002);
            }
        }
        RunStatus::Failed => {
            driven.begin(0);
            driven.ends(&first, failed(), 1);
            if is_workflow {
                driven.due(TimerKind::Retry, &first, 1, 501);
                driven.ends(&first, failed(), 502);
            }
        }
        RunStatus::Cancelled | RunStatus::Skipped => drop(driven.cancel(0)),
    }
    let by_hand = matches!(
        status,
        RunStatus::Claimed | RunStatus::Compensating | RunStatus::Skipped
    ) || (status == RunStatus::Waiting && !is_workflow);
    if by_hand {
        driven.run.status = status;
    }
    assert_eq!(driven.run.status, status);
    driven.run
}

/// One line per event and outcome: the statuses in which it has it, then the status that follows, if another, and what
/// is recorded and done. `_` is the status itself.
fn table(plan: &Plan) -> String {
    let mut table = String::new();
    for (name, event) in events() {
        let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
        for &status in RunStatus::ALL {
            let mut run = in_status(plan, status);
            let before = fingerprint(&run);
            let result = decide_legally(&mut run, event.clone());
            assert!(
                result.is_ok() || fingerprint(&run) == before,
                "{name} was refused in {status} and changed the run"
            );
            let to = if run.status == status {
                String::new()
            } else {
                format!("{}: ", run.status)
            };
            let what = words(&result)
                .replace(&format!("({status})"), "(_)")
                .replace(&format!("`{status}` to"), "`_` to");
            let outcome = format!("{to}{what}");
            match lines.iter_mut().find(|(known, _)| *known == outcome) {
                Some((_, statuses)) => statuses.push(status.as_str()),
                None => lines.push((outcome, vec![status.as_str()])),
            }
        }
        table.push_str(&format!("{name}\n"));
        for (outcome, statuses) in lines {
            table.push_str(&format!("  {} | {outcome}\n", statuses.join(" ")));
        }
    }
    table
}

#[track_caller]
fn assert_table(plan: &Plan, expected: &str) {
    let actual = table(plan);
    let differing: Vec<_> = actual
        .lines()
        .zip(expected.lines())
        .filter(|(is, should)| is != should)
        .collect();
    assert!(actual == expected, "{differing:#?}\n{actual}");
}

#[test]
fn every_event_in_every_status_of_a_function_run() {
    assert_table(&function(), FUNCTION);
}

#[test]
fn every_event_in_every_status_of_a_workflow_run() {
    let plan = steps(json!([
        { "name": "call", "function": "noop", "retry": { "max_attempts": 2, "initial": "1s", "jitter": false } },
        { "name": "nap", "sleep": "1h" },
        { "name": "after", "function": "noop" },
    ]));
    assert_table(&plan, WORKFLOW);
}

const FUNCTION: &str = "\
begin
  scheduled | running: clear start #0 5000, parked woken -> call #1
  queued claimed | running: -> call #1
  running | nothing
  waiting | running: nothing
  paused | refused: nothing waits for this any more
  compensating | refused: change a run from `_` to `running`: no such step in its life
  completed failed cancelled skipped | refused: the run has ended (_)
delay
  scheduled | clear start #0 5000, set start #0 200000 -> sleep 200000
  queued | scheduled: set start #0 200000 -> sleep 200000
  claimed running waiting compensating | refused: change a run from `_` to `scheduled`: no such step in its life
  paused | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
call ends well
  scheduled queued claimed completed failed cancelled skipped | refused: nothing waits for this any more
  running waiting | completed: end completed -> settled completed
  paused | completed: unparked, end completed -> settled completed
  compensating | nothing
call fails
  scheduled queued claimed completed failed cancelled skipped | refused: nothing waits for this any more
  running waiting compensating | failed: end failed function_failed -> settled failed
  paused | failed: unparked, end failed function_failed -> settled failed
a call is lost
  scheduled queued claimed running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
start is due
  scheduled | running: clear start #0 5000, parked woken -> call #1
  queued claimed running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
retry is due
  scheduled queued claimed running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
sleep is due
  scheduled queued claimed running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
tick
  scheduled queued claimed waiting paused compensating completed failed cancelled skipped | nothing
  running | mark running
cancel
  scheduled | cancelled: event cancelled, clear start #0 5000, end cancelled cancelled -> settled cancelled
  queued claimed | cancelled: event cancelled, end cancelled cancelled -> settled cancelled
  running waiting compensating | cancelled: event cancelled, end cancelled cancelled -> abort, settled cancelled
  paused | cancelled: event cancelled, unparked, end cancelled cancelled -> abort, settled cancelled
  completed failed cancelled skipped | refused: the run has ended (_)
skip
  scheduled | skipped: event skipped, clear start #0 5000, end skipped limit_skipped -> settled skipped
  queued claimed | skipped: event skipped, end skipped limit_skipped -> settled skipped
  running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
pause
  scheduled queued claimed running waiting compensating | paused: mark paused, parked paused, event paused
  paused | refused: change a run from `_` to `paused`: it is already there
  completed failed cancelled skipped | refused: the run has ended (_)
resume
  scheduled queued claimed running waiting compensating | refused: the run is not paused
  paused | running: event resumed, mark queued, mark running
  completed failed cancelled skipped | refused: the run has ended (_)
retry
  scheduled queued claimed running waiting paused compensating | refused: the run has not ended; only failed and cancelled runs can be retried
  completed | refused: a completed run cannot be retried
  failed cancelled | queued: mark queued, parked reopened, event retried -> begin
  skipped | refused: the run has ended (_)
";
const WORKFLOW: &str = "\
begin
  scheduled | running: clear start #0 5000, parked woken -> call call#1
  queued claimed | running: -> call call#1
  running waiting | nothing
  paused | refused: nothing waits for this any more
  compensating | refused: change a run from `_` to `running`: no such step in its life
  completed failed cancelled skipped | refused: the run has ended (_)
delay
  scheduled | clear start #0 5000, set start #0 200000 -> sleep 200000
  queued | scheduled: set start #0 200000 -> sleep 200000
  claimed running waiting compensating | refused: change a run from `_` to `scheduled`: no such step in its life
  paused | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
call ends well
  scheduled queued claimed waiting completed failed cancelled skipped | refused: nothing waits for this any more
  running | waiting: call#1 completed, set sleep nap#1 3700000, mark waiting -> sleep 3700000
  paused compensating | call#1 completed
call fails
  scheduled queued claimed waiting completed failed cancelled skipped | refused: nothing waits for this any more
  running | waiting: call#1 failed function_failed, set retry call#1 101000, mark waiting -> sleep 101000
  paused compensating | call#1 failed function_failed, set retry call#1 101000 -> sleep 101000
a call is lost
  scheduled queued claimed running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
start is due
  scheduled | running: clear start #0 5000, parked woken -> call call#1
  queued claimed running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
retry is due
  scheduled queued claimed running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
sleep is due
  scheduled queued claimed running paused compensating | refused: nothing waits for this any more
  waiting | running: clear sleep nap#1 3600001, parked woken, nap#1 completed, mark running -> call after#1
  completed failed cancelled skipped | refused: the run has ended (_)
tick
  scheduled queued claimed waiting paused compensating completed failed cancelled skipped | nothing
  running | mark running
cancel
  scheduled | cancelled: event cancelled, clear start #0 5000, end cancelled cancelled -> settled cancelled
  queued claimed | cancelled: event cancelled, end cancelled cancelled -> settled cancelled
  running compensating | cancelled: event cancelled, end cancelled cancelled -> abort, settled cancelled
  waiting | cancelled: event cancelled, clear sleep nap#1 3600001, end cancelled cancelled -> settled cancelled
  paused | cancelled: event cancelled, unparked, end cancelled cancelled -> abort, settled cancelled
  completed failed cancelled skipped | refused: the run has ended (_)
skip
  scheduled | skipped: event skipped, clear start #0 5000, end skipped limit_skipped -> settled skipped
  queued claimed | skipped: event skipped, end skipped limit_skipped -> settled skipped
  running waiting paused compensating | refused: nothing waits for this any more
  completed failed cancelled skipped | refused: the run has ended (_)
pause
  scheduled queued claimed running waiting compensating | paused: mark paused, parked paused, event paused
  paused | refused: change a run from `_` to `paused`: it is already there
  completed failed cancelled skipped | refused: the run has ended (_)
resume
  scheduled queued claimed running waiting compensating | refused: the run is not paused
  paused | running: event resumed, mark queued, mark running
  completed failed cancelled skipped | refused: the run has ended (_)
retry
  scheduled queued claimed running waiting paused compensating | refused: the run has not ended; only failed and cancelled runs can be retried
  completed | refused: a completed run cannot be retried
  failed cancelled | queued: mark queued, parked reopened, event retried -> begin
  skipped | refused: the run has ended (_)
";
