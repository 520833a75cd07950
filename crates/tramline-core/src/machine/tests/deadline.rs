//! The deadline of a run that is not in memory when it passes.

use super::*;

fn timed(list: Value) -> Driven {
    Driven::new(workflow(
        json!({ "name": "w", "timeout_seconds": 60, "steps": list }),
    ))
}

fn nap(length: &str) -> Value {
    json!({ "name": "nap", "sleep": length })
}

#[test]
fn a_run_that_waits_has_a_timer_for_its_deadline() {
    let mut run = timed(json!([nap("1h")]));
    assert_eq!(
        run.begin(1_000),
        "set sleep nap#1 3601000, set deadline #0 61000, mark waiting -> sleep 3601000, sleep 61000"
    );
    // It leaves memory; the timer brings it back.
    run.recover(false);
    assert_eq!(
        run.due(TimerKind::Deadline, "", 0, 61_000),
        "clear deadline #0 61000, clear sleep nap#1 3601000, end failed run_timeout -> settled failed"
    );
    assert!(run.ledger.is_balanced());
}

#[test]
fn the_timer_is_set_once_and_taken_away_with_the_end() {
    let mut run = timed(json!([nap("1s"), { "name": "again", "sleep": "1s" }]));
    run.begin(0);
    assert_eq!(
        run.due(TimerKind::Sleep, "nap", 1, 1_000),
        "clear sleep nap#1 1000, parked woken, nap#1 completed, set sleep again#1 2000 -> sleep 2000"
    );
    assert_eq!(
        run.due(TimerKind::Sleep, "again", 1, 2_000),
        "clear sleep again#1 2000, again#1 completed, clear deadline #0 60000, unparked, end completed -> settled completed"
    );
    assert!(run.ledger.is_balanced());
}

#[test]
fn a_run_without_a_deadline_has_no_such_timer() {
    let mut run = Driven::new(steps(json!([nap("1h")])));
    assert!(!run.begin(0).contains("deadline"));
    assert_eq!(
        run.due(TimerKind::Deadline, "", 0, 1),
        "refused: nothing waits for this any more"
    );
}

#[test]
fn a_wake_up_after_the_deadline_starts_nothing_more() {
    let mut run = timed(json!([nap("2m"), call("after")]));
    run.begin(0);
    run.recover(true);
    assert_eq!(
        run.due(TimerKind::Sleep, "nap", 1, 120_000),
        "clear sleep nap#1 120000, parked woken, nap#1 completed, clear deadline #0 60000, unparked, end failed run_timeout \
         -> settled failed"
    );
}

#[test]
fn a_paused_run_is_not_ended_by_its_deadline_but_when_it_is_resumed() {
    let mut run = timed(json!([nap("1h")]));
    run.begin(0);
    run.pause(10);
    assert_eq!(
        run.due(TimerKind::Deadline, "", 0, 60_000),
        "clear deadline #0 60000"
    );
    run.recover(false);
    let words = run.resume(70_000);
    assert!(words.contains("end failed run_timeout"), "{words}");
    assert!(run.ledger.is_balanced());
}

#[test]
fn the_deadline_counts_from_the_first_start_also_for_a_new_owner() {
    let mut run = timed(json!([call("a"), call("b")]));
    run.begin(0);
    // Long enough to be shown as running: the mark keeps the time.
    assert_eq!(run.feed(Event::Tick { now: 1_000 }), "mark running");
    run.recover(true);
    run.begin(30_000);
    assert_eq!(run.feed(Event::Tick { now: 59_000 }), "nothing");
    assert_eq!(
        run.feed(Event::Tick { now: 61_000 }),
        "end failed run_timeout -> abort, settled failed"
    );
}

#[test]
fn a_retry_has_its_whole_time_again() {
    let mut run = timed(json!([nap("1h")]));
    run.begin(0);
    run.due(TimerKind::Deadline, "", 0, 60_000);
    run.retry(None, 100_000);
    assert_eq!(
        run.begin(100_000),
        "set sleep nap#1 3700000, set deadline #0 160000, mark waiting -> sleep 3700000, sleep 160000"
    );
}
