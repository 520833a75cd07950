//! Failed attempts, deadlines, and what comes too late.

use super::*;

#[test]
fn a_failed_step_ends_the_run_and_stops_its_neighbours() {
    let free = json!({ "needs": [] });
    let mut run = Driven::new(steps(json!([
        with("a", free.clone()),
        with("b", free),
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
    ])));
    assert_eq!(
        run.begin(0),
        "set sleep nap#1 3600000 -> call a#1, call b#1, sleep 3600000"
    );
    assert_eq!(
        run.ends("a", failed(), 1),
        "a#1 failed function_failed, clear sleep nap#1 3600000, end failed function_failed at a -> abort, settled failed"
    );
    assert_eq!(
        run.ends("b", completed(json!(1)), 2),
        "refused: nothing waits for this any more"
    );
    assert!(run.ledger.is_balanced());
}

#[test]
fn a_timer_set_and_moot_in_one_decision_is_never_written() {
    let mut run = Driven::new(steps(json!([
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
        with("a", json!({ "needs": [], "when": "nope" })),
    ])));
    assert_eq!(
        run.begin(0),
        "a#1 failed missing_variable, end failed missing_variable at a -> settled failed"
    );
    assert!(run.ledger.is_balanced());
}

#[test]
fn after_a_failed_continue_step_its_output_is_null_and_its_status_tells() {
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "on_failure": "continue" })),
        with(
            "b",
            json!({ "payload_template": { "was": "{{steps.a.status}}", "gave": "{{steps.a.output}}" } })
        ),
    ])));
    run.begin(0);
    assert_eq!(
        run.ends("a", failed(), 1),
        "a#1 failed function_failed -> call b#1"
    );
    assert_eq!(
        run.body_of_last_call(),
        &json!({ "payload": { "was": "failed", "gave": null } })
    );
    assert_eq!(
        run.ends("b", completed(json!(1)), 2),
        "b#1 completed, end completed -> settled completed"
    );
}

#[test]
fn retries_wait_for_their_timer_and_end_with_the_policy() {
    let mut run = Driven::new(steps(json!([with("a", json!({ "retry": twice() }))])));
    run.begin(0);
    assert_eq!(
        run.ends("a", failed(), 10),
        "a#1 failed function_failed, set retry a#1 1010, mark waiting -> sleep 1010"
    );
    assert_eq!(
        run.due(TimerKind::Retry, "a", 1, 1_010),
        "clear retry a#1 1010, parked woken, mark running -> call a#2"
    );
    let keys: Vec<&str> = run.calls.iter().map(|c| c.idempotency_key.as_str()).collect();
    assert_eq!(keys[0], keys[1], "every automatic attempt has the same key");
    assert_eq!(
        run.ends("a", failed(), 1_020),
        "a#2 failed function_failed, dead letter attempts_exhausted, unparked, end failed function_failed at a -> settled failed"
    );
}

#[test]
fn on_failure_retry_takes_its_attempts_from_max_retries_and_backs_off() {
    let source =
        json!({ "name": "w", "max_retries": 2, "steps": [with("a", json!({ "on_failure": "retry" }))] });
    let mut run = Driven::new(workflow(source));
    run.begin(0);
    // The random number is zero here: half of the cap.
    assert!(run.ends("a", failed(), 0).contains("set retry a#1 500,"));
    run.due(TimerKind::Retry, "a", 1, 500);
    assert!(run.ends("a", failed(), 500).contains("set retry a#2 1500,"));
    run.due(TimerKind::Retry, "a", 2, 1_500);
    assert!(
        run.ends("a", failed(), 1_500)
            .contains("end failed function_failed at a")
    );
}

#[test]
fn a_retried_step_that_may_fail_goes_on_after_its_last_attempt() {
    let fields = json!({ "retry": twice(), "on_failure": "continue" });
    let mut run = Driven::new(steps(json!([with("a", fields), call("b")])));
    run.begin(0);
    run.ends("a", failed(), 0);
    run.due(TimerKind::Retry, "a", 1, 1_000);
    assert_eq!(
        run.ends("a", failed(), 1_001),
        "a#2 failed function_failed -> call b#1"
    );
}

#[test]
fn a_missing_name_fails_the_step_without_another_attempt() {
    let fields = json!({ "retry": twice(), "payload_template": { "x": "{{nope}}" } });
    let mut run = Driven::new(steps(json!([with("a", fields)])));
    assert_eq!(
        run.begin(0),
        "a#1 failed missing_variable, dead letter not_retryable, end failed missing_variable at a -> settled failed"
    );
}

#[test]
fn a_function_that_answers_with_a_final_code_is_not_called_again() {
    let mut run = Driven::new(steps(json!([with("a", json!({ "retry": twice() }))])));
    run.begin(0);
    let outcome = Outcome::Failed(Failure::new("missing_variable", "says the function"));
    assert!(
        run.ends("a", outcome, 1)
            .contains("end failed missing_variable at a")
    );
}

#[test]
fn a_run_that_passes_its_deadline_fails() {
    let source =
        json!({ "name": "w", "timeout_seconds": 60, "steps": [call("a"), { "name": "nap", "sleep": "1h" }] });
    let mut run = Driven::new(workflow(source));
    run.begin(0);
    run.ends("a", completed(json!({})), 1);
    assert_eq!(run.feed(Event::Tick { now: 59_999 }), "nothing");
    assert_eq!(
        run.feed(Event::Tick { now: 60_000 }),
        "clear deadline #0 60000, clear sleep nap#1 3600001, end failed run_timeout -> settled failed"
    );
    assert!(run.ledger.is_balanced());
    assert_eq!(run.feed(Event::Tick { now: 60_001 }), "nothing");
}

#[test]
fn results_that_nobody_waits_for_are_refused_and_change_nothing() {
    let mut run = Driven::new(steps(json!([with("a", json!({ "retry": twice() })), call("b")])));
    run.begin(0);
    run.ends("a", failed(), 0);
    run.due(TimerKind::Retry, "a", 1, 1_000);
    run.ends("a", completed(json!({})), 1_001);
    let before = fingerprint(&run.run);
    let end = |step, generation, attempt| Event::CallEnded {
        step,
        generation,
        attempt,
        outcome: completed(json!("late")),
        started_at: 0,
        now: 2_000,
        random: 0,
    };
    let due = |kind, step, attempt| Event::TimerDue {
        kind,
        step,
        attempt,
        now: 2_000,
    };
    for event in [
        end(0, 1, 1),
        end(0, 1, 2),
        end(1, 2, 1),
        end(1, 0, 1),
        end(1, 1, 2),
        end(9, 1, 1),
        due(TimerKind::Retry, 0, 1),
        due(TimerKind::Start, 0, 0),
        due(TimerKind::Sleep, 9, 1),
    ] {
        let what = format!("{event:?}");
        assert_eq!(run.run.decide(event), Err(Refusal::Stale), "{what}");
        assert_eq!(fingerprint(&run.run), before, "{what}");
    }
}

#[test]
fn a_timer_of_another_kind_does_not_wake_a_step() {
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "needs": [], "retry": twice() })),
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
    ])));
    run.begin(0);
    run.ends("a", failed(), 0);
    assert_eq!(
        run.due(TimerKind::Sleep, "a", 1, 1),
        "refused: nothing waits for this any more"
    );
    assert_eq!(
        run.due(TimerKind::Retry, "nap", 1, 1),
        "refused: nothing waits for this any more"
    );
}

#[test]
fn a_run_whose_rows_cannot_be_stored_fails_and_leaves_nothing_behind() {
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "needs": [] })),
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
        with("b", json!({ "needs": [] })),
    ])));
    run.begin(0);
    run.pause(1);
    run.resume(2);
    // What this decision wants recorded is refused by the database: its timer still stands, the run is still parked.
    let unwritten = Event::CallEnded {
        step: 0,
        generation: 1,
        attempt: 1,
        outcome: failed(),
        started_at: 0,
        now: 3,
        random: 0,
    };
    run.run.decide(unwritten).unwrap();
    assert_eq!(run.run.status, RunStatus::Failed);
    let decision = run.run.give_up(&Failure::new("unstorable", "no"), 4);
    assert_eq!(
        decided(&decision),
        "clear sleep nap#1 3600000, dead letter unstorable, unparked, end failed unstorable -> settled failed"
    );
    run.ledger.commit_loosely(1, &decision.rows);
    assert!(run.ledger.is_balanced());
}

#[test]
fn giving_up_clears_what_the_unwritten_decision_had_woken() {
    let mut run = Driven::new(steps(json!([json!({ "name": "nap", "sleep": "1h" }), call("a")])));
    run.begin(0);
    run.run
        .decide(Event::TimerDue {
            kind: TimerKind::Sleep,
            step: 0,
            attempt: 1,
            now: HOUR,
        })
        .unwrap();
    let decision = run.run.give_up(&Failure::new("unstorable", "no"), HOUR);
    assert_eq!(
        decided(&decision),
        "clear sleep nap#1 3600000, dead letter unstorable, unparked, end failed unstorable -> abort, settled failed"
    );
    run.ledger.commit_loosely(1, &decision.rows);
    assert!(run.ledger.is_balanced());
}
