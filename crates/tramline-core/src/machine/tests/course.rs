//! The course of a run that nothing goes wrong in.

use super::*;

#[test]
fn a_function_run_is_one_call_and_its_output() {
    let mut run = Driven::with_input(function(), json!({ "to": "x" }));
    assert_eq!(run.begin(0), "-> call #1");
    let call = &run.calls[0];
    assert_eq!(
        (call.body.value(), call.timeout_ms, call.step_name.as_str()),
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
        output: Some(Arc::new(json!(5).into())),
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
    assert_eq!(end.output.as_deref().map(Json::value), Some(&json!("done")));
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
    assert_eq!(
        end.output.as_deref().map(Json::value),
        Some(&json!({ "a": 1, "b": { "n": 2 } }))
    );
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
fn a_long_run_is_shown_as_running_once() {
    let mut run = Driven::new(function());
    run.begin(0);
    let marks: Vec<String> = [999, 1_000, 1_500, 90_000]
        .map(|now| run.feed(Event::Tick { now }))
        .into();
    assert_eq!(marks, ["nothing", "mark running", "nothing", "nothing"]);
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

/// When the step started and finished, as recorded.
fn times(decision: &Decision) -> (Millis, Millis) {
    let row = decision.rows.iter().find_map(|row| match row {
        Row::Step(step) => Some((step.started_at, step.finished_at)),
        _ => None,
    });
    row.expect("a step ended")
}

#[test]
fn a_sleep_is_recorded_with_the_time_slept() {
    let plan = steps(json!([{ "name": "nap", "sleep": "90s" }]));
    let due = |now| Event::TimerDue {
        kind: TimerKind::Sleep,
        step: 0,
        attempt: 1,
        now,
    };
    let mut run = Driven::new(plan.clone());
    run.begin(10);
    assert_eq!(times(&run.run.decide(due(90_012)).unwrap()), (10, 90_012));

    // The same after it left memory: the timer's row says since when.
    let past = Past {
        timers: vec![(TimerKind::Sleep, "nap".into(), 1, 90_010)],
        slept_from: vec![("nap".into(), 11)],
        ..Past::default()
    };
    let mut run = fresh(&plan, &json!({})).recover(past.clone(), true);
    assert_eq!(times(&run.decide(due(90_010)).unwrap()), (11, 90_010));
    // The clock of an owner before was ahead: nothing ends before it began.
    let ahead = Past {
        slept_from: vec![("nap".into(), 90_100)],
        ..past
    };
    let mut run = fresh(&plan, &json!({})).recover(ahead, false);
    assert_eq!(times(&run.decide(due(90_010)).unwrap()), (90_010, 90_010));
}
