//! What a new owner makes of the rows.

use super::*;

#[test]
fn a_call_that_was_out_is_made_again_under_the_same_key() {
    let mut run = Driven::new(steps(json!([call("a"), call("b")])));
    run.begin(0);
    run.ends("a", completed(json!({ "data": { "x": 1 } })), 1);
    run.recover(false);
    assert_eq!(run.run.status, RunStatus::Queued);
    assert_eq!(run.begin(10), "-> call b#1");
    assert_eq!(run.calls[1], run.calls[2]);
    assert_eq!(
        run.run.started_at,
        Some(0),
        "the deadline still counts from the first start"
    );
}

#[test]
fn after_an_unclean_takeover_starts_are_recorded_before_calls_once() {
    let plan = steps(json!([with("a", json!({ "timeout": "30s" })), call("b")]));
    let mut run = Driven::new(plan);
    run.begin(0);
    run.recover(true);
    assert_eq!(run.begin(10), "start a 30010 -> call a#1");
    assert_eq!(
        run.ends("a", completed(json!({})), 11),
        "a#1 completed -> call b#1"
    );
}

#[test]
fn a_step_that_kills_its_node_three_times_more_is_a_dead_letter() {
    for (plan, step, place) in [(function(), "", ""), (steps(json!([call("a")])), "a", " at a")] {
        let mut run = Driven::new(plan);
        run.begin(0);
        for now in 1..=CRASHES_MAX {
            run.recover(true);
            let words = run.begin(now.into());
            assert!(words.starts_with(&format!("start {step} ")), "{words}");
        }
        run.recover(true);
        assert_eq!(
            run.begin(10),
            format!("dead letter crash_loop, end failed crash_loop{place} -> settled failed")
        );
        assert_eq!((run.ledger.dead_letters.len(), run.calls.len()), (1, 4));
        // A person may try again: the count is the generation's.
        run.retry(None, 11);
        run.recover(true);
        assert!(run.begin(12).contains("-> call"));
    }
}

#[test]
fn clean_takeovers_are_no_crashes() {
    let mut run = Driven::new(function());
    run.begin(0);
    for now in 1..10 {
        run.recover(false);
        assert_eq!(run.begin(now), "-> call #1");
    }
}

#[test]
fn a_crash_loop_beside_a_sleep_takes_its_timer_away() {
    let mut run = Driven::new(steps(json!([
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
        with("a", json!({ "needs": [] })),
    ])));
    run.begin(0);
    for now in 1..=CRASHES_MAX {
        run.recover(true);
        run.begin(now.into());
    }
    run.recover(true);
    assert_eq!(
        run.begin(10),
        "dead letter crash_loop, clear sleep nap#1 3600000, end failed crash_loop at a -> settled failed"
    );
}

#[test]
fn waiting_steps_wait_on() {
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "needs": [], "retry": twice() })),
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
    ])));
    run.begin(0);
    run.ends("a", failed(), 1);
    run.recover(true);
    assert_eq!(run.run.status, RunStatus::Waiting);
    assert_eq!(run.begin(10), "nothing");
    assert_eq!(
        run.due(TimerKind::Retry, "a", 1, 1_001),
        "clear retry a#1 1001, parked woken, mark running -> call a#2"
    );
}

#[test]
fn an_attempt_whose_timer_had_fired_is_made_at_once() {
    let mut run = Driven::new(steps(json!([with("a", json!({ "retry": twice() }))])));
    run.begin(0);
    run.ends("a", failed(), 1);
    run.due(TimerKind::Retry, "a", 1, 1_001);
    run.recover(false);
    assert_eq!(run.begin(2_000), "-> call a#2");
}

#[test]
fn a_timer_drives_a_run_that_was_not_begun_since_its_recovery() {
    // A short run is not marked: the ledger shows it as queued while one step is out and another sleeps.
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "needs": [] })),
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
    ])));
    run.begin(0);
    run.recover(true);
    assert_eq!(run.run.status, RunStatus::Queued);
    let words = run.due(TimerKind::Sleep, "nap", 1, 3_600_000);
    assert_eq!(
        words,
        "clear sleep nap#1 3600000, parked woken, nap#1 completed, start a 3750000 -> call a#1"
    );
    assert_eq!(run.run.started_at, Some(3_600_000));
    assert_eq!(
        run.ends("a", completed(json!(1)), 3_600_001),
        "a#1 completed, unparked, end completed -> settled completed"
    );
}

#[test]
fn a_delayed_run_is_still_scheduled() {
    let mut run = Driven::new(steps(json!([call("a")])));
    run.feed(Event::Delay { until: 500, now: 0 });
    run.recover(true);
    assert_eq!(run.run.status, RunStatus::Scheduled);
    assert_eq!(
        run.due(TimerKind::Start, "", 0, 500),
        "clear start #0 500, parked woken, start a 150500 -> call a#1"
    );
}

#[test]
fn a_paused_run_is_still_paused() {
    let mut run = Driven::new(steps(json!([call("a")])));
    run.feed(Event::Delay { until: 500, now: 0 });
    run.pause(1);
    run.recover(false);
    assert_eq!(run.run.status, RunStatus::Paused);
    assert_eq!(run.resume(2), "event resumed, mark scheduled -> sleep 500");
    run.due(TimerKind::Start, "", 0, 500);
    run.pause(501);
    run.recover(true);
    assert_eq!(
        run.resume(502),
        "event resumed, mark queued, start a 150502, mark running -> call a#1"
    );
}

#[test]
fn a_run_shown_as_scheduled_whose_timer_is_gone_is_queued() {
    // Somebody noted something about it while it waited for its start; then it started, and its owner died.
    let mut run = Driven::new(function());
    run.feed(Event::Delay { until: 500, now: 0 });
    run.ledger.commit(
        1,
        &[Row::Mark {
            status: RunStatus::Scheduled,
            input: None,
            metadata: None,
        }],
    );
    run.due(TimerKind::Start, "", 0, 500);
    run.recover(false);
    assert_eq!(
        run.run.status,
        RunStatus::Queued,
        "only the timer could start a scheduled run"
    );
    assert_eq!(run.begin(501), "mark running -> call #1");
}

#[test]
fn a_claimed_run_is_queued_again() {
    let mut run = Driven::new(function());
    run.ledger.commit(
        1,
        &[Row::Mark {
            status: RunStatus::Claimed,
            input: None,
            metadata: None,
        }],
    );
    run.recover(false);
    assert_eq!(run.begin(0), "mark running -> call #1");
}

#[test]
fn an_ended_run_stays_ended_until_it_is_retried() {
    let mut run = Driven::new(steps(json!([call("a"), call("b")])));
    run.begin(0);
    run.ends("a", completed(json!({})), 1);
    run.ends("b", failed(), 2);
    run.recover(false);
    assert_eq!(run.begin(3), "refused: the run has ended (failed)");
    run.retry(None, 4);
    run.recover(true);
    assert_eq!((run.run.generation, run.run.status), (2, RunStatus::Queued));
    assert_eq!(run.begin(5), "start b 150005, mark running -> call b#1");
    assert_eq!(run.calls.last().unwrap().idempotency_key, format!("{RUN_ID}/b~2"));
}

#[test]
fn a_retry_from_a_step_with_another_input_is_read_back() {
    let plan = steps(json!([
        with("a", json!({ "payload_template": { "x": "{{x}}" } })),
        call("b"),
        call("c"),
    ]));
    let mut run = Driven::with_input(plan, json!({ "x": 1 }));
    run.begin(0);
    run.ends("a", completed(json!({})), 1);
    run.ends("b", completed(json!({})), 2);
    run.ends("c", failed(), 3);
    let input = Some(json!({ "x": 2 }));
    run.feed(Event::Retry {
        generation: Some(1),
        from_step: Some("a".into()),
        input,
        actor: None,
        now: 4,
    });
    run.recover(false);
    run.begin(5);
    assert_eq!(run.body_of_last_call(), &json!({ "payload": { "x": 2 } }));
    // The steps of the generation before do not count any more.
    assert_eq!(
        run.ends("a", completed(json!({})), 6),
        "a#1 completed -> call b#1"
    );
    run.recover(false);
    assert_eq!(run.begin(7), "-> call b#1");
}

#[test]
fn steps_that_ended_in_one_millisecond_keep_their_order() {
    let fields = json!({ "needs": ["b"], "payload_template": { "who": "{{who}}" } });
    // Written against the order of the graph: the place in the list must not decide.
    let plan = steps(json!([
        with("c", fields),
        with("b", json!({ "needs": ["a"] })),
        with(
            "a",
            json!({ "needs": [], "retry": { "max_attempts": 2, "initial": 0, "max": 0 } })
        ),
    ]));
    let mut run = Driven::new(plan);
    run.begin(5);
    run.ends("a", failed(), 5);
    run.due(TimerKind::Retry, "a", 1, 5);
    run.ends("a", completed(json!({ "who": "a" })), 5);
    run.ends("b", completed(json!({ "who": "b" })), 5);
    let live = run.body_of_last_call().clone();
    assert_eq!(live, json!({ "payload": { "who": "b" } }));
    // Rows come in any order.
    run.ledger.past.steps.reverse();
    run.recover(false);
    run.begin(6);
    assert_eq!(run.body_of_last_call(), &live);
}

#[test]
fn a_success_is_final_even_if_a_failed_attempt_seems_later() {
    // Two owners, two clocks: the failed attempt was recorded with the later time.
    let plan = steps(json!([with("a", json!({ "retry": twice() })), call("b")]));
    let mut run = Driven::new(plan);
    let step = |attempt, status, finished_at| PastStep {
        step: "a".into(),
        generation: 1,
        attempt,
        status,
        output: None,
        error: None,
        started_at: 0,
        finished_at,
    };
    run.ledger.past.steps = vec![
        step(2, StepStatus::Completed, 50),
        step(1, StepStatus::Failed, 100),
    ];
    run.recover(false);
    assert_eq!(run.begin(200), "-> call b#1");
}

#[test]
fn the_code_that_a_function_answers_with_decides_alike_before_and_after_a_crash() {
    let plan = steps(json!([
        with("a", json!({ "retry": twice(), "on_failure": "continue" })),
        call("b"),
    ]));
    let mut run = Driven::new(plan);
    run.begin(0);
    let outcome = Outcome::Failed(Failure::new("expression_failed", "says the function"));
    assert_eq!(
        run.ends("a", outcome, 1),
        "a#1 failed expression_failed -> call b#1"
    );
    run.recover(false);
    assert_eq!(run.begin(2), "-> call b#1");
}
