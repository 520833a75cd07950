//! Which failures are tried again, for steps and for plain functions, and what becomes of those that are not.

use super::*;

fn retried(policy: Value) -> Plan {
    Plan::Function(Arc::new(FunctionPlan {
        name: "noop".into(),
        timeout_ms: 60_000,
        retry: crate::definition::parse_retry(&policy, "retry").expect("a policy"),
    }))
}

fn fails_with(code: &str) -> Outcome {
    Outcome::Failed(Failure::new(code, "no"))
}

#[test]
fn a_function_with_a_policy_is_called_again_under_the_same_key() {
    let mut run = Driven::new(retried(twice()));
    run.begin(0);
    assert_eq!(
        run.ends("", failed(), 10),
        "#1 failed function_failed, set retry #1 1010, mark waiting -> sleep 1010"
    );
    run.recover(false);
    assert_eq!(
        run.due(TimerKind::Retry, "", 1, 1_010),
        "clear retry #1 1010, parked woken, mark running -> call #2"
    );
    assert_eq!(run.calls[0].idempotency_key, run.calls[1].idempotency_key);
    assert_eq!(
        run.ends("", failed(), 1_020),
        "dead letter attempts_exhausted, unparked, end failed function_failed -> settled failed"
    );
    assert!(run.ledger.is_balanced());
}

#[test]
fn a_function_that_succeeds_in_the_end_is_no_dead_letter() {
    let mut run = Driven::new(retried(twice()));
    run.begin(0);
    run.ends("", failed(), 10);
    run.due(TimerKind::Retry, "", 1, 1_010);
    assert_eq!(
        run.ends("", completed(json!(1)), 1_020),
        "unparked, end completed -> settled completed"
    );
}

#[test]
fn a_node_that_dies_after_the_timer_fired_repeats_the_attempt_that_was_due() {
    let mut run = Driven::new(retried(twice()));
    run.begin(0);
    run.ends("", failed(), 10);
    run.due(TimerKind::Retry, "", 1, 1_010);
    run.recover(true);
    assert_eq!(run.begin(2_000), "start  62000 -> call #2");
    assert!(
        run.ends("", failed(), 2_001)
            .contains("dead letter attempts_exhausted")
    );
}

#[test]
fn a_failure_between_attempts_does_not_end_a_paused_function() {
    let mut run = Driven::new(retried(twice()));
    run.begin(0);
    run.pause(5);
    assert_eq!(
        run.ends("", failed(), 10),
        "#1 failed function_failed, set retry #1 1010 -> sleep 1010"
    );
    assert_eq!(run.run.status, RunStatus::Paused);
    assert_eq!(run.due(TimerKind::Retry, "", 1, 1_010), "clear retry #1 1010");
    assert!(run.resume(2_000).contains("call #2"));
}

#[test]
fn what_is_not_worth_it_is_a_dead_letter_at_once() {
    for (policy, code, is_repeated) in [
        (twice(), "http_400", false),
        (twice(), "http_429", true),
        (json!({ "on": ["timeout"] }), "http_500", false),
        (json!({ "on": ["timeout", 500] }), "http_500", true),
        (json!({ "not_on": ["5xx"] }), "http_500", false),
        (json!({ "not_on": ["5xx"] }), "timeout", true),
    ] {
        let mut run = Driven::new(steps(json!([with("a", json!({ "retry": policy }))])));
        run.begin(0);
        let words = run.ends("a", fails_with(code), 10);
        assert_eq!(
            words.contains("set retry a#1"),
            is_repeated,
            "{policy} {code}: {words}"
        );
        assert_eq!(
            words.contains("dead letter not_retryable"),
            !is_repeated,
            "{policy} {code}: {words}"
        );
        // Whoever takes over comes to the same conclusion from the recorded error.
        let before = run.run.steps[0].status;
        run.recover(false);
        assert_eq!(run.run.steps[0].status, before, "{policy} {code}");
    }
}

#[test]
fn the_callees_no_is_recorded_and_holds_for_the_next_owner() {
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "retry": twice(), "on_failure": "continue" })),
        call("b"),
    ])));
    run.begin(0);
    let no = Failure {
        retryable: Some(false),
        ..Failure::new("http_503", "never")
    };
    assert_eq!(
        run.ends("a", Outcome::Failed(no), 10),
        "a#1 failed http_503 -> call b#1"
    );
    run.recover(true);
    assert_eq!(run.run.steps[0].status, StepStatus::Failed);
    assert_eq!(run.run.steps[0].error.as_ref().unwrap()["retryable"], false);
}

#[test]
fn a_callee_that_asks_for_time_gets_it_up_to_the_longest_delay() {
    for (asked, due) in [(5_000, 5_010), (900_000, 300_010), (10, 1_010)] {
        let mut run = Driven::new(steps(json!([with("a", json!({ "retry": twice() }))])));
        run.begin(0);
        let busy = Failure {
            retry_after_ms: Some(asked),
            ..Failure::new("http_429", "busy")
        };
        let words = run.ends("a", Outcome::Failed(busy), 10);
        assert!(
            words.contains(&format!("set retry a#1 {due},")),
            "{asked}: {words}"
        );
    }
}

#[test]
fn a_failure_without_a_policy_is_no_dead_letter() {
    let mut run = Driven::new(function());
    run.begin(0);
    assert_eq!(
        run.ends("", failed(), 1),
        "end failed function_failed -> settled failed"
    );
}

#[test]
fn the_dead_letter_names_the_step_its_attempts_and_the_input() {
    let mut run = Driven::with_input(
        steps(json!([with("a", json!({ "retry": twice() }))])),
        json!({ "x": 1 }),
    );
    run.begin(0);
    run.ends("a", failed(), 10);
    run.due(TimerKind::Retry, "a", 1, 1_010);
    let event = Event::CallEnded {
        step: 0,
        generation: 1,
        attempt: 2,
        outcome: failed(),
        started_at: 1_011,
        now: 1_012,
        random: 0,
    };
    let decision = run.run.decide(event).expect("a decision");
    let letter = decision.rows.iter().find_map(|row| match row {
        Row::DeadLetter(letter) => Some(letter.clone()),
        _ => None,
    });
    let letter = letter.expect("a dead letter");
    assert_eq!(
        (letter.reason, letter.message.as_str(), letter.attempts),
        ("attempts_exhausted", "no", 2)
    );
    assert_eq!(letter.step.as_deref(), Some("a"));
    assert_eq!(*letter.payload, json!({ "x": 1 }));
}
