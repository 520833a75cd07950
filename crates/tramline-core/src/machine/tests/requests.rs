//! What people and the enqueuer ask for: delay, cancel, pause, resume, retry.

use super::*;

#[test]
fn a_delayed_run_waits_for_its_start_and_is_then_parked() {
    let mut run = Driven::new(steps(json!([call("a")])));
    assert_eq!(
        run.feed(Event::Delay { until: 500, now: 0 }),
        "set start #0 500 -> sleep 500"
    );
    assert_eq!(run.run.status, RunStatus::Scheduled);
    assert_eq!(
        run.due(TimerKind::Start, "", 0, 500),
        "clear start #0 500, parked woken -> call a#1"
    );
    assert_eq!(
        run.due(TimerKind::Start, "", 0, 500),
        "refused: nothing waits for this any more"
    );
    assert_eq!(
        run.run.started_at,
        Some(500),
        "its deadline counts from the start, not from the enqueue"
    );
}

#[test]
fn a_delay_can_be_set_anew_and_cut_short() {
    let mut run = Driven::new(function());
    run.feed(Event::Delay { until: 500, now: 0 });
    assert_eq!(
        run.feed(Event::Delay { until: 900, now: 0 }),
        "clear start #0 500, set start #0 900 -> sleep 900"
    );
    assert_eq!(run.begin(100), "clear start #0 900, parked woken -> call #1");
    run.ends("", completed(json!(1)), 101);
    assert!(run.ledger.is_balanced());
}

#[test]
fn a_cancel_clears_timers_aborts_calls_and_takes_the_parked_row_away() {
    let mut scheduled = Driven::new(function());
    scheduled.feed(Event::Delay { until: 500, now: 0 });
    let mut paused_before_its_start = Driven::new(steps(json!([call("a")])));
    paused_before_its_start.feed(Event::Delay { until: 500, now: 0 });
    paused_before_its_start.pause(1);
    let mut busy = Driven::new(steps(json!([
        with("a", json!({ "needs": [], "retry": twice() })),
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
        with("b", json!({ "needs": [] })),
    ])));
    busy.begin(0);
    busy.ends("a", failed(), 1);
    busy.pause(2);
    for (mut run, expected) in [
        (
            scheduled,
            "event cancelled, clear start #0 500, end cancelled cancelled -> settled cancelled",
        ),
        (
            paused_before_its_start,
            "event cancelled, clear start #0 500, unparked, end cancelled cancelled -> settled cancelled",
        ),
        (
            busy,
            "event cancelled, clear retry a#1 1001, clear sleep nap#1 3600000, unparked, end cancelled cancelled \
             -> abort, settled cancelled",
        ),
    ] {
        assert_eq!(run.cancel(3), expected);
        assert!(run.ledger.is_balanced());
        assert_eq!(run.cancel(4), "refused: the run has ended (cancelled)");
    }
}

#[test]
fn a_cancel_says_who_and_why() {
    let mut run = Driven::new(function());
    let event = Event::Cancel {
        reason: Some("too late".into()),
        actor: Some("ana".into()),
        now: 5,
    };
    let decision = run.run.decide(event).unwrap();
    let Some(Row::End(end)) = decision.rows.last() else {
        panic!("{decision:?}")
    };
    let error = json!({ "code": "cancelled", "message": "too late", "actor": "ana" });
    assert_eq!(end.error.as_deref(), Some(&error));
    assert_eq!((end.attempt, end.started_at), (0, None), "nothing was called");
}

#[test]
fn results_and_timers_are_recorded_while_paused_and_nothing_starts() {
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "needs": [] })),
        json!({ "name": "nap", "sleep": "1h", "needs": [] }),
        with("b", json!({ "needs": ["a", "nap"] })),
    ])));
    run.begin(0);
    assert_eq!(run.pause(1), "mark paused, parked paused, event paused");
    assert_eq!(run.ends("a", completed(json!(1)), 2), "a#1 completed");
    assert_eq!(
        run.due(TimerKind::Sleep, "nap", 1, HOUR),
        "clear sleep nap#1 3600000, nap#1 completed"
    );
    assert_eq!(run.begin(HOUR), "refused: nothing waits for this any more");
    assert_eq!(
        run.resume(HOUR),
        "event resumed, mark queued, mark running -> call b#1"
    );
}

#[test]
fn a_paused_run_does_not_end_well_before_it_is_resumed() {
    let mut run = Driven::new(steps(json!([call("a")])));
    run.begin(0);
    run.pause(1);
    assert_eq!(run.ends("a", completed(json!(1)), 2), "a#1 completed");
    assert_eq!(
        run.resume(3),
        "event resumed, mark queued, unparked, end completed -> settled completed"
    );
}

#[test]
fn a_failure_while_paused_ends_the_run() {
    let mut run = Driven::new(steps(json!([call("a")])));
    run.begin(0);
    run.pause(1);
    assert_eq!(
        run.ends("a", failed(), 2),
        "a#1 failed function_failed, unparked, end failed function_failed at a -> settled failed"
    );
}

#[test]
fn a_function_run_paused_during_its_only_call_ends_with_it() {
    // There is no step row that could keep the result: forgotten, the call would be made again.
    let mut run = Driven::new(function());
    run.begin(0);
    run.pause(1);
    assert_eq!(
        run.ends("", completed(json!(1)), 2),
        "unparked, end completed -> settled completed"
    );
}

#[test]
fn a_retry_that_is_due_while_paused_is_made_after_the_resume() {
    let mut run = Driven::new(steps(json!([with("a", json!({ "retry": twice() }))])));
    run.begin(0);
    run.ends("a", failed(), 0);
    run.pause(1);
    assert_eq!(run.due(TimerKind::Retry, "a", 1, 1_000), "clear retry a#1 1000");
    assert_eq!(
        run.resume(2_000),
        "event resumed, mark queued, mark running -> call a#2"
    );
}

#[test]
fn a_run_paused_before_its_start_is_scheduled_again_by_the_resume() {
    let mut run = Driven::new(function());
    run.feed(Event::Delay { until: 500, now: 0 });
    run.pause(1);
    assert_eq!(
        run.due(TimerKind::Start, "", 0, 500),
        "refused: nothing waits for this any more"
    );
    assert_eq!(run.resume(600), "event resumed, mark scheduled -> sleep 500");
    assert_eq!(
        run.due(TimerKind::Start, "", 0, 600),
        "clear start #0 500, mark running -> call #1"
    );
}

#[test]
fn c6_a_person_retries_a_function_run_under_another_key() {
    let mut run = Driven::new(function());
    run.begin(0);
    run.ends("", failed(), 1);
    assert_eq!(
        run.retry(None, 2),
        "mark queued, parked reopened, event retried -> begin"
    );
    assert_eq!(run.begin(3), "mark running -> call #1");
    assert_eq!(run.calls[1].idempotency_key, format!("{RUN_ID}~2"));
    assert_eq!(
        run.ends("", completed(json!(1)), 4),
        "unparked, end completed -> settled completed"
    );
    assert_eq!(run.retry(None, 5), "refused: a completed run cannot be retried");
    assert_eq!(
        run.ledger.past.ends,
        [(1, RunStatus::Failed), (2, RunStatus::Completed)]
    );
}

#[test]
fn completed_steps_stand_in_the_next_generation() {
    let mut run = Driven::new(steps(json!([
        call("a"),
        with("b", json!({ "when": "false" })),
        call("c"),
        call("d")
    ])));
    run.begin(0);
    run.ends("a", completed(json!({ "x": 1 })), 1);
    run.ends("c", failed(), 2);
    run.retry(None, 3);
    assert_eq!(run.begin(4), "mark running -> call c#1");
    assert_eq!(run.calls.last().unwrap().idempotency_key, format!("{RUN_ID}/c~2"));
}

#[test]
fn a_retry_from_a_step_repeats_it_and_what_depends_on_it() {
    let mut run = Driven::new(steps(json!([
        with("a", json!({ "needs": [] })),
        with("b", json!({ "needs": ["a"] })),
        with("other", json!({ "needs": [] })),
        with("c", json!({ "needs": ["b", "other"] })),
    ])));
    run.begin(0);
    for (at, step) in ["a", "b", "other"].iter().enumerate() {
        run.ends(step, completed(json!({})), at as Millis);
    }
    run.ends("c", failed(), 4);
    assert_eq!(
        run.retry(Some("nope"), 5),
        "refused: the workflow has no step \"nope\""
    );
    run.retry(Some("a"), 5);
    assert_eq!(run.begin(6), "mark running -> call a#1");
    assert_eq!(
        run.ends("a", completed(json!({})), 7),
        "a#1 completed -> call b#1"
    );
    assert_eq!(
        run.ends("b", completed(json!({})), 8),
        "b#1 completed -> call c#1"
    );
}

#[test]
fn a_failed_step_that_others_have_built_on_stands_too() {
    let may_fail = |needs: Value| json!({ "needs": needs, "on_failure": "continue" });
    let mut run = Driven::new(steps(json!([
        with("built_on", may_fail(json!([]))),
        with("free", may_fail(json!([]))),
        with("b", json!({ "needs": ["built_on"] })),
        with(
            "c",
            json!({ "needs": ["b"], "payload_template": { "was": "{{steps.built_on.status}}" } })
        ),
    ])));
    run.begin(0);
    run.ends("built_on", failed(), 1);
    run.ends("free", failed(), 2);
    run.ends("b", completed(json!({})), 3);
    run.ends("c", failed(), 4);
    run.retry(None, 5);
    assert_eq!(run.begin(6), "mark running -> call free#1, call c#1");
    assert_eq!(
        run.body_of_last_call(),
        &json!({ "payload": { "was": "failed" } })
    );
}

#[test]
fn a_retry_may_bring_another_input() {
    let plan = steps(json!([with(
        "a",
        json!({ "payload_template": { "x": "{{x}}" } })
    )]));
    let mut run = Driven::with_input(plan, json!({ "x": 1 }));
    run.begin(0);
    run.ends("a", failed(), 1);
    let input = Some(json!({ "x": 2 }));
    run.feed(Event::Retry {
        generation: Some(1),
        from_step: None,
        input: input.clone(),
        actor: None,
        now: 2,
    });
    run.begin(3);
    assert_eq!(run.body_of_last_call(), &json!({ "payload": { "x": 2 } }));
    let again = Event::Retry {
        generation: Some(1),
        from_step: None,
        input,
        actor: None,
        now: 4,
    };
    assert_eq!(
        run.feed(again),
        "refused: the request is for generation 1, the run is in generation 2"
    );
}

#[test]
fn a_gated_run_that_is_resumed_asks_before_it_begins() {
    let mut driven = Driven::new(function());
    driven.run.gated = true;
    driven.pause(1);
    assert_eq!(
        driven.feed(Event::Resume { actor: None, now: 2 }),
        "event resumed, mark queued -> begin"
    );
    assert_eq!(driven.run.status, RunStatus::Queued);
}

#[test]
fn the_priority_can_change_until_the_run_is_started() {
    let ask = |run: &mut Driven| run.feed(Event::Priority { priority: 0 });
    let mut run = Driven::new(steps(json!([call("a")])));
    assert_eq!(ask(&mut run), "priority 0, parked priority");
    assert_eq!(ask(&mut run), "priority 0", "it is named already");
    run.feed(Event::Delay { until: 500, now: 0 });
    assert_eq!(ask(&mut run), "priority 0");
    run.pause(1);
    assert_eq!(ask(&mut run), "priority 0");
    let started = "refused: the run has been started; only the priority of a run that waits for its start can be changed";
    let mut run = Driven::new(steps(json!([call("a")])));
    run.begin(0);
    assert_eq!(ask(&mut run), started);
    run.pause(1);
    assert_eq!(ask(&mut run), started, "also while it is paused");
    run.ends("a", failed(), 2);
    assert_eq!(ask(&mut run), "refused: the run has ended (failed)");
    run.retry(None, 4);
    assert_eq!(ask(&mut run), started, "it goes on, it does not start");
}

/// A mark has no status of an end: one beside it could not be stored.
#[test]
fn something_can_be_noted_until_the_run_ends() {
    let note = |run: &Driven| run.run.noted(Some(json!({ "k": 1 })));
    let mark = |status| {
        let metadata = Some(json!({ "k": 1 }));
        Ok(vec![Row::Mark {
            status,
            input: None,
            metadata,
        }])
    };
    let mut run = Driven::new(steps(json!([call("a")])));
    assert_eq!(note(&run).map(|d| d.rows), mark(RunStatus::Queued));
    run.begin(0);
    assert_eq!(note(&run).map(|d| d.rows), mark(RunStatus::Running));
    run.pause(1);
    assert_eq!(note(&run).map(|d| d.rows), mark(RunStatus::Paused));
    run.feed(Event::Cancel {
        reason: None,
        actor: None,
        now: 2,
    });
    let ended = Err(Refusal::AlreadyEnded(RunStatus::Cancelled));
    assert_eq!(note(&run).map(|d| d.rows), ended);
}

#[test]
fn a_priority_is_a_number_of_a_class() {
    assert_eq!(asked_priority(Some(&json!(0))), Ok(0));
    assert_eq!(asked_priority(Some(&json!(PRIORITY_MAX))), Ok(PRIORITY_MAX));
    for wrong in [
        None,
        Some(json!(4)),
        Some(json!(-1)),
        Some(json!(260)),
        Some(json!("1")),
        Some(json!(null)),
    ] {
        assert_eq!(
            asked_priority(wrong.as_ref()),
            Err(Refusal::UnknownPriority { max: 3 }),
            "{wrong:?}"
        );
    }
}
