//! Calls that went on at the node that drove the run before.

use super::*;

const OLD: Uuid = Uuid::from_u128(1);
const UNTIL: Millis = 60_000;

fn handed(step: &str, generation: u32, attempt: u32) -> PastCall {
    PastCall {
        step: step.into(),
        generation,
        attempt,
        elsewhere: Elsewhere {
            node: OLD,
            until: UNTIL,
        },
    }
}

/// A run whose only call was out when its owner gave it up, as the next owner begins with it.
fn taken_over() -> Driven {
    let mut run = Driven::new(steps(json!([call("a"), call("b")])));
    run.begin(0);
    run.ledger.past.handed.push(handed("a", 1, 1));
    run.recover(false);
    run.calls.clear();
    assert_eq!(run.begin(10), "nothing", "it is out already");
    run
}

fn lost(run: &mut Driven, which: Lost, now: Millis) -> Result<Decision, Refusal> {
    let result = decide_legally(&mut run.run, Event::CallLost { which, now });
    if let Ok(decision) = &result {
        run.ledger.commit(1, &decision.rows);
        run.note_calls(decision);
    }
    result
}

fn is_start(row: &Row) -> bool {
    matches!(row, Row::Start { .. })
}

#[test]
fn its_result_is_taken_from_whoever_brings_it_and_the_run_goes_on() {
    let mut run = taken_over();
    run.ends("a", completed(json!({ "x": 1 })), 500);
    assert_eq!(run.run.steps[0].status, StepStatus::Completed);
    let next: Vec<&str> = run.calls.iter().map(|call| call.step_name.as_str()).collect();
    assert_eq!(next, ["b"]);
    // A second word about it means nothing.
    let again = Event::CallEnded {
        step: 0,
        generation: 1,
        attempt: 1,
        outcome: failed(),
        started_at: 0,
        now: 600,
        random: 0,
    };
    assert_eq!(run.run.decide(again), Err(Refusal::Stale));
}

#[test]
fn a_run_that_is_read_for_its_result_goes_on_without_being_begun() {
    let mut run = Driven::new(steps(json!([call("a"), call("b")])));
    run.begin(0);
    run.ledger.past.handed.push(handed("a", 1, 1));
    run.recover(false);
    run.calls.clear();
    run.ends("a", completed(json!({})), 500);
    assert_eq!((run.run.status, run.calls.len()), (RunStatus::Running, 1));
}

#[test]
fn when_its_node_is_gone_it_is_made_again_under_the_same_key_and_its_start_is_recorded() {
    let mut run = taken_over();
    let other = lost(&mut run, Lost::Node(Uuid::from_u128(2)), 20);
    assert_eq!(other, Err(Refusal::Stale), "another node is no matter");
    let decision = lost(&mut run, Lost::Node(OLD), 30).unwrap();
    assert!(
        decision.rows.iter().any(is_start),
        "a step that kills its nodes is counted"
    );
    let again = &run.calls[0];
    assert_eq!(
        (again.attempt, again.idempotency_key.clone()),
        (1, format!("{RUN_ID}/a"))
    );
    // If it comes after all, before the repeated one, it is as good.
    run.ends("a", completed(json!({})), 40);
    assert_eq!(run.run.steps[0].status, StepStatus::Completed);
    assert_eq!(lost(&mut run, Lost::Node(OLD), 50), Err(Refusal::Stale));
}

#[test]
fn a_result_that_is_overdue_is_waited_for_no_longer() {
    let mut run = taken_over();
    run.feed(Event::Tick { now: UNTIL });
    assert!(run.calls.is_empty(), "not over yet");
    run.feed(Event::Tick { now: UNTIL + 1 });
    assert_eq!(run.calls.len(), 1);
}

#[test]
fn a_call_that_was_never_made_is_made_without_being_counted() {
    let mut run = taken_over();
    let decision = lost(&mut run, Lost::Unmade { step: 0, attempt: 1 }, 20).unwrap();
    assert!(!decision.rows.iter().any(is_start));
    assert_eq!(run.calls.len(), 1);
}

#[test]
fn what_was_recorded_since_or_belongs_to_another_generation_is_not_waited_for() {
    for (stale, why) in [
        (handed("a", 2, 1), "another generation"),
        (handed("a", 1, 2), "an attempt that was not due"),
        (handed("gone", 1, 1), "no such step"),
    ] {
        let mut run = Driven::new(steps(json!([call("a")])));
        run.begin(0);
        run.ledger.past.handed.push(stale);
        run.recover(false);
        run.calls.clear();
        run.begin(10);
        assert_eq!(run.calls.len(), 1, "{why}");
    }
    let mut run = taken_over();
    run.ends("a", completed(json!({})), 20);
    run.recover(false);
    run.calls.clear();
    run.begin(30);
    assert_eq!(run.calls[0].step_name, "b", "its end is recorded");
}

#[test]
fn of_a_paused_run_it_is_waited_for_too() {
    let mut run = taken_over();
    run.pause(20);
    run.recover(false);
    run.ends("a", completed(json!({})), 30);
    assert_eq!(run.run.status, RunStatus::Paused);
    assert_eq!(run.run.steps[0].status, StepStatus::Completed);

    let mut run = taken_over();
    run.pause(20);
    lost(&mut run, Lost::Node(OLD), 30).unwrap();
    assert!(run.calls.is_empty(), "it is made when the run is resumed");
    run.resume(40);
    assert_eq!(run.calls.len(), 1);
}

#[test]
fn an_ended_run_waits_for_nothing() {
    let mut run = taken_over();
    run.cancel(20);
    assert!(lost(&mut run, Lost::Node(OLD), 30).is_err());
    run.recover(true);
    assert!(run.run.steps.iter().all(|slot| !slot.in_flight));
}
