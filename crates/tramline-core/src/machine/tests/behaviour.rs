//! What a run does, from its start to its end, without crashes.

use super::*;

const HOUR: Millis = 3_600_000;

fn call(name: &str) -> Value {
    json!({ "name": name, "function": "noop" })
}

fn with(name: &str, fields: Value) -> Value {
    let mut step = call(name);
    step.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    step
}

/// Two attempts, a second apart.
fn twice() -> Value {
    json!({ "max_attempts": 2, "backoff": "fixed", "initial": "1s", "jitter": false })
}

#[test]
fn a_function_run_is_one_call_and_its_output() {
    let mut run = Driven::with_input(function(), json!({ "to": "x" }));
    assert_eq!(run.begin(0), "-> call #1");
    let call = &run.calls[0];
    assert_eq!(
        (&*call.body, call.timeout_ms, call.step_name.as_str()),
        (&json!({ "to": "x" }), 60_000, "")
    );
    assert_eq!(call.idempotency_key, RUN_ID.to_string());
    let decision = run
        .run
        .decide(Event::CallEnded {
            step: 0,
            generation: 1,
            attempt: 1,
            outcome: completed(json!(5)),
            started_at: 0,
            now: 9,
            random: 0,
        })
        .unwrap();
    let end = EndRow {
        status: RunStatus::Completed,
        output: Some(Arc::new(json!(5))),
        error: None,
        error_step: None,
        attempt: 1,
        started_at: Some(0),
        finished_at: 9,
    };
    assert_eq!(decision.rows, [Row::End(end)]);
}

#[test]
fn steps_run_one_after_the_other_and_the_last_output_is_the_runs() {
    let mut run = Driven::new(steps(json!([call("a"), call("b")])));
    assert_eq!(run.begin(0), "-> call a#1");
    assert_eq!(
        run.ends("a", completed(json!({ "ok": 1 })), 5),
        "a#1 completed -> call b#1"
    );
    let b = run.step("b");
    let last = Event::CallEnded {
        step: b,
        generation: 1,
        attempt: 1,
        outcome: completed(json!("done")),
        started_at: 6,
        now: 7,
        random: 0,
    };
    let decision = run.run.decide(last).unwrap();
    assert_eq!(
        decided(&decision),
        "b#1 completed, end completed -> settled completed"
    );
    let Row::Step(step) = &decision.rows[0] else {
        panic!("{decision:?}")
    };
    assert_eq!(
        (step.started_at, step.finished_at, step.function.as_deref()),
        (6, 7, Some("noop"))
    );
    let Row::End(end) = &decision.rows[1] else {
        panic!("{decision:?}")
    };
    assert_eq!(end.output.as_deref(), Some(&json!("done")));
}

#[test]
fn a_graph_runs_in_parallel_and_joins() {
    let mut run = Driven::new(steps(json!([
        call("a"),
        with("b", json!({ "needs": ["a"] })),
        with("c", json!({ "needs": ["a"] })),
        with("d", json!({ "needs": ["b", "c"] })),
    ])));
    run.begin(0);
    assert_eq!(
        run.ends("a", completed(json!(1)), 1),
        "a#1 completed -> call b#1, call c#1"
    );
    assert_eq!(run.ends("c", completed(json!(1)), 2), "c#1 completed");
    assert_eq!(run.ends("b", completed(json!(1)), 3), "b#1 completed -> call d#1");
    assert_eq!(
        run.ends("d", completed(json!(1)), 4),
        "d#1 completed, end completed -> settled completed"
    );
}

#[test]
fn steps_may_need_steps_that_are_written_after_them() {
    let mut run = Driven::new(steps(json!([
        with("b", json!({ "needs": ["a"] })),
        with("a", json!({ "needs": [] }))
    ])));
    assert_eq!(run.begin(0), "-> call a#1");
    assert_eq!(run.ends("a", completed(json!(1)), 1), "a#1 completed -> call b#1");
}

#[test]
fn several_last_steps_make_an_object_of_the_completed_ones() {
    let free = json!({ "needs": [], "on_failure": "continue" });
    let mut run = Driven::new(steps(json!([
        with("a", free.clone()),
        with("b", free.clone()),
        with("c", free)
    ])));
    run.begin(0);
    run.ends("b", completed(json!({ "n": 2 })), 1);
    run.ends("c", failed(), 2);
    let a = Event::CallEnded {
        step: 0,
        generation: 1,
        attempt: 1,
        outcome: completed(json!(1)),
        started_at: 2,
        now: 3,
        random: 0,
    };
    let decision = run.run.decide(a).unwrap();
    let Some(Row::End(end)) = decision.rows.last() else {
        panic!("{decision:?}")
    };
    assert_eq!(end.output.as_deref(), Some(&json!({ "a": 1, "b": { "n": 2 } })));
}

#[test]
fn a_false_condition_skips_the_step_and_goes_on() {
    let mut run = Driven::with_input(
        steps(json!([
            with("a", json!({ "when": "wanted" })),
            with("b", json!({ "when": "steps.a.status == 'skipped'" }))
        ])),
        json!({ "wanted": false }),
    );
    assert_eq!(run.begin(0), "a#1 skipped -> call b#1");
}

#[test]
fn a_run_of_skipped_steps_completes_at_once() {
    let mut run = Driven::new(steps(json!([with("a", json!({ "when": "false" }))])));
    assert_eq!(run.begin(0), "a#1 skipped, end completed -> settled completed");
}

#[test]
fn a_condition_that_is_none_fails_the_step() {
    let mut run = Driven::with_input(
        steps(json!([with("a", json!({ "when": "n" }))])),
        json!({ "n": 3 }),
    );
    assert_eq!(
        run.begin(0),
        "a#1 failed not_a_boolean, end failed not_a_boolean at a -> settled failed"
    );
}

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
        "a#2 failed function_failed, unparked, end failed function_failed at a -> settled failed"
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
        "a#1 failed missing_variable, end failed missing_variable at a -> settled failed"
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
fn sleeps_last_as_long_as_they_say() {
    let plan = steps(json!([
        json!({ "name": "a", "sleep": "{{pause}}" }),
        json!({ "name": "b", "sleep_until": "{{at}}" }),
        json!({ "name": "c", "sleep_until": "{{at}}" }),
    ]));
    let mut run = Driven::with_input(plan, json!({ "pause": "90s", "at": HOUR }));
    assert_eq!(run.begin(0), "set sleep a#1 90000, mark waiting -> sleep 90000");
    assert_eq!(
        run.due(TimerKind::Sleep, "a", 1, 90_000),
        "clear sleep a#1 90000, parked woken, a#1 completed, set sleep b#1 3600000 -> sleep 3600000"
    );
    // A point in time that has passed is now.
    let words = run.due(TimerKind::Sleep, "b", 1, HOUR + 5);
    assert!(words.contains("set sleep c#1 3600005"), "{words}");
    assert_eq!(
        run.due(TimerKind::Sleep, "c", 1, HOUR + 5),
        "clear sleep c#1 3600005, c#1 completed, unparked, end completed -> settled completed"
    );
}

#[test]
fn a_sleep_of_years_is_not_cut_short() {
    const YEAR: Millis = 365 * 24 * HOUR;
    let plan = steps(json!([
        json!({ "name": "a", "sleep": "730d", "needs": [] }),
        json!({ "name": "b", "sleep_until": "{{at}}", "needs": [] }),
    ]));
    let mut run = Driven::with_input(plan.clone(), json!({ "at": 3 * YEAR }));
    let words = run.begin(0);
    assert!(words.contains(&format!("set sleep a#1 {}", 2 * YEAR)), "{words}");
    assert!(words.contains(&format!("set sleep b#1 {}", 3 * YEAR)), "{words}");
    let mut run = Driven::with_input(plan, json!({ "at": 11 * YEAR }));
    assert_eq!(
        run.begin(0),
        "b#1 failed invalid_time, end failed invalid_time at b -> settled failed"
    );
}

#[test]
fn a_sleep_that_is_none_fails_its_step() {
    let plan = steps(json!([json!({ "name": "a", "sleep": "{{pause}}" })]));
    let mut run = Driven::with_input(plan, json!({ "pause": "soon" }));
    assert_eq!(
        run.begin(0),
        "a#1 failed invalid_duration, end failed invalid_duration at a -> settled failed"
    );
}

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
fn a_person_retries_a_function_run_under_another_key() {
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
fn a_run_that_passes_its_deadline_fails() {
    let source =
        json!({ "name": "w", "timeout_seconds": 60, "steps": [call("a"), { "name": "nap", "sleep": "1h" }] });
    let mut run = Driven::new(workflow(source));
    run.begin(0);
    run.ends("a", completed(json!({})), 1);
    assert_eq!(run.feed(Event::Tick { now: 59_999 }), "nothing");
    assert_eq!(
        run.feed(Event::Tick { now: 60_000 }),
        "clear sleep nap#1 3600001, end failed run_timeout -> settled failed"
    );
    assert!(run.ledger.is_balanced());
    assert_eq!(run.feed(Event::Tick { now: 60_001 }), "nothing");
}

#[test]
fn a_long_run_is_shown_as_running_once() {
    let mut run = Driven::new(function());
    run.begin(0);
    let marks: Vec<String> = [999, 1_000, 1_500, 90_000]
        .map(|now| run.feed(Event::Tick { now }))
        .into();
    assert_eq!(marks, ["nothing", "mark running", "nothing", "nothing"]);
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
fn flat_names_are_those_of_ended_ancestors_and_later_finishers_win() {
    let free = json!({ "needs": [] });
    let mut run = Driven::with_input(
        steps(json!([
            with("a", free.clone()),
            with("b", free.clone()),
            with("other", free),
            with(
                "c",
                json!({ "needs": ["a", "b"], "payload_template": { "x": "{{x}}", "y": "{{y}}", "z": "{{z}}" } })
            ),
        ])),
        json!({ "x": 0, "y": 0, "z": 0 }),
    );
    run.begin(0);
    run.ends(
        "other",
        completed(json!({ "data": { "z": "not an ancestor" } })),
        1,
    );
    run.ends("b", completed(json!({ "data": { "x": "b", "y": "b" } })), 2);
    run.ends("a", completed(json!({ "x": "a" })), 3);
    assert_eq!(
        run.body_of_last_call(),
        &json!({ "payload": { "x": "a", "y": "b", "z": 0 } })
    );
}

#[test]
fn ends_never_go_back_in_time_whatever_the_clock_says() {
    let mut run = Driven::new(steps(json!([call("a"), call("b")])));
    run.begin(1_000);
    run.ends("a", completed(json!({})), 2_000);
    let early = Event::CallEnded {
        step: 1,
        generation: 1,
        attempt: 1,
        outcome: completed(json!({})),
        started_at: 400,
        now: 500,
        random: 0,
    };
    let decision = run.run.decide(early).unwrap();
    let times: Vec<Millis> = decision
        .rows
        .iter()
        .map(|row| match row {
            Row::Step(s) => s.finished_at,
            Row::End(e) => e.finished_at,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(times, [2_000, 2_000]);
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
        "clear sleep nap#1 3600000, unparked, end failed unstorable -> settled failed"
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
        "clear sleep nap#1 3600000, unparked, end failed unstorable -> abort, settled failed"
    );
    run.ledger.commit_loosely(1, &decision.rows);
    assert!(run.ledger.is_balanced());
}
