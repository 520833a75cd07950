use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn run(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn concurrency(n: u32) -> Rule {
    Rule {
        concurrency: Some(n),
        ..Rule::default()
    }
}

fn rate(count: u32, per_ms: u64, burst: u32) -> Rule {
    Rule {
        rate: Some(Rate { count, per_ms, burst }),
        ..Rule::default()
    }
}

/// Arrives with priority 2 and of no group.
fn arrive(limiter: &mut Limiter, rule: &Rule, n: u128, now: i64) -> Arrival {
    limiter.arrive(rule, run(n), 2, 0, now, |_| true)
}

fn starts(limiter: &mut Limiter, rule: &Rule, now: i64) -> Vec<Uuid> {
    std::iter::from_fn(|| match limiter.next(rule, now, |_| true) {
        Next::Start(run) => Some(run),
        Next::At(_) | Next::Nobody => None,
    })
    .collect()
}

#[test]
fn one_at_a_time_in_the_order_of_arrival() {
    let (mut limiter, rule) = (Limiter::default(), concurrency(1));
    for n in 1..=3 {
        assert_eq!(arrive(&mut limiter, &rule, n, 0), Arrival::default());
    }
    assert_eq!(starts(&mut limiter, &rule, 0), [run(1)]);
    assert!(!limiter.leave(run(2)), "it has no place yet");
    assert!(limiter.leave(run(1)));
    assert_eq!(starts(&mut limiter, &rule, 0), [run(2)]);
    assert!(limiter.leave(run(2)));
    assert_eq!(starts(&mut limiter, &rule, 0), [run(3)]);
}

#[test]
fn a_raised_limit_starts_more_and_a_lowered_one_waits_until_there_is_room() {
    let mut limiter = Limiter::default();
    for n in 1..=6 {
        arrive(&mut limiter, &concurrency(1), n, 0);
    }
    assert_eq!(starts(&mut limiter, &concurrency(3), 0).len(), 3);
    limiter.leave(run(1));
    assert!(
        starts(&mut limiter, &concurrency(1), 0).is_empty(),
        "two still have their place"
    );
    limiter.leave(run(2));
    limiter.leave(run(3));
    assert_eq!(starts(&mut limiter, &concurrency(1), 0), [run(4)]);
}

#[test]
fn whoever_left_the_line_is_passed_over() {
    let (mut limiter, rule) = (Limiter::default(), concurrency(1));
    for n in 1..=3 {
        arrive(&mut limiter, &rule, n, 0);
    }
    assert_eq!(
        limiter.next(&rule, 0, |id| id != run(1) && id != run(2)),
        Next::Start(run(3))
    );
}

#[test]
fn another_priority_moves_a_run_within_the_line() {
    let (mut limiter, rule) = (Limiter::default(), concurrency(9));
    for n in 1..=3 {
        arrive(&mut limiter, &rule, n, 0);
    }
    limiter.reclass(&rule, run(3), 0);
    limiter.reclass(&rule, run(1), 3);
    assert_eq!(starts(&mut limiter, &rule, 0), [run(3), run(2), run(1)]);
}

#[test]
fn a_paused_rule_starts_nobody_and_keeps_the_line() {
    let (mut limiter, rule) = (Limiter::default(), concurrency(2));
    arrive(&mut limiter, &rule, 1, 0);
    let paused = Rule {
        paused: true,
        ..rule.clone()
    };
    assert_eq!(limiter.next(&paused, 0, |_| true), Next::Nobody);
    assert_eq!(starts(&mut limiter, &rule, 0), [run(1)]);
}

#[test]
fn a_restored_run_keeps_its_place() {
    let (mut limiter, rule) = (Limiter::default(), concurrency(1));
    limiter.restore(run(9));
    limiter.restore(run(9));
    arrive(&mut limiter, &rule, 1, 0);
    assert_eq!(limiter.next(&rule, 0, |_| true), Next::Nobody);
    limiter.leave(run(9));
    assert_eq!(starts(&mut limiter, &rule, 0), [run(1)]);
}

#[test]
fn skip_ends_what_finds_no_room() {
    let (mut limiter, mut rule) = (Limiter::default(), concurrency(1));
    rule.on_conflict = OnConflict::Skip;
    assert!(!arrive(&mut limiter, &rule, 1, 0).skipped);
    // The first one stands in the line and has not got its place yet: there is no room all the same.
    assert!(arrive(&mut limiter, &rule, 2, 0).skipped);
    assert_eq!(starts(&mut limiter, &rule, 0), [run(1)]);
    assert!(arrive(&mut limiter, &rule, 3, 0).skipped);
    limiter.leave(run(1));
    assert!(!arrive(&mut limiter, &rule, 4, 0).skipped);
    assert_eq!(starts(&mut limiter, &rule, 0), [run(4)]);
}

#[test]
fn skip_under_a_rate_ends_what_comes_too_early() {
    let (mut limiter, mut rule) = (Limiter::default(), rate(1, 1_000, 1));
    rule.on_conflict = OnConflict::Skip;
    assert!(!arrive(&mut limiter, &rule, 1, 0).skipped);
    assert_eq!(starts(&mut limiter, &rule, 0), [run(1)]);
    assert!(arrive(&mut limiter, &rule, 2, 999).skipped);
    assert!(!arrive(&mut limiter, &rule, 3, 1_000).skipped);
}

#[test]
fn cancel_older_makes_room_for_the_newest() {
    let (mut limiter, mut rule) = (Limiter::default(), concurrency(1));
    rule.on_conflict = OnConflict::CancelOlder;
    assert!(arrive(&mut limiter, &rule, 1, 0).cancelled.is_empty());
    assert_eq!(starts(&mut limiter, &rule, 0), [run(1)]);
    assert_eq!(arrive(&mut limiter, &rule, 2, 0).cancelled, [run(1)]);
    assert!(
        starts(&mut limiter, &rule, 0).is_empty(),
        "not before the older one has ended"
    );
    // One that has not even started is replaced too.
    assert_eq!(arrive(&mut limiter, &rule, 3, 0).cancelled, [run(2), run(1)]);
    limiter.leave(run(1));
    assert_eq!(starts(&mut limiter, &rule, 0), [run(3)]);
}

#[test]
fn debounce_keeps_the_last_of_a_burst_and_does_not_wait_for_ever() {
    let mut limiter = Limiter::default();
    let rule = Rule {
        debounce: Some(Debounce {
            period_ms: 100,
            timeout_ms: 250,
        }),
        ..Rule::default()
    };
    assert_eq!(arrive(&mut limiter, &rule, 1, 0), Arrival::default());
    assert_eq!(arrive(&mut limiter, &rule, 2, 90).replaced, [run(1)]);
    assert_eq!(limiter.next(&rule, 100, |_| true), Next::At(190));
    assert_eq!(arrive(&mut limiter, &rule, 3, 180).replaced, [run(2)]);
    assert_eq!(arrive(&mut limiter, &rule, 4, 240).replaced, [run(3)]);
    assert_eq!(
        limiter.next(&rule, 241, |_| true),
        Next::At(250),
        "the bound counts from the first"
    );
    assert_eq!(limiter.next(&rule, 250, |_| true), Next::Start(run(4)));
    // The next burst begins anew.
    arrive(&mut limiter, &rule, 5, 260);
    assert_eq!(limiter.next(&rule, 300, |_| true), Next::At(360));
}

#[test]
fn a_rate_lets_a_burst_through_and_spreads_the_rest() {
    let (mut limiter, rule) = (Limiter::default(), rate(10, 1_000, 3));
    for n in 0..10 {
        arrive(&mut limiter, &rule, n, 0);
    }
    assert_eq!(starts(&mut limiter, &rule, 0).len(), 3);
    assert_eq!(limiter.next(&rule, 0, |_| true), Next::At(100));
    assert!(starts(&mut limiter, &rule, 99).is_empty());
    assert_eq!(starts(&mut limiter, &rule, 100).len(), 1);
    assert_eq!(starts(&mut limiter, &rule, 350).len(), 2);
}

#[test]
fn a_restored_bucket_does_not_start_anew() {
    let rule = rate(2, 1_000, 2);
    let mut first = Limiter::default();
    for n in 0..3 {
        arrive(&mut first, &rule, n, 0);
    }
    assert_eq!(starts(&mut first, &rule, 0).len(), 2);
    let stored = serde_json::to_value(first.bucket()).unwrap();
    let mut second = Limiter::default();
    second.restore_bucket(serde_json::from_value(stored).unwrap());
    arrive(&mut second, &rule, 2, 10);
    assert_eq!(second.next(&rule, 10, |_| true), Next::At(500));
}

#[test]
fn a_clock_that_was_set_back_does_not_close_a_key_for_longer_than_its_burst() {
    let rule = Rate {
        count: 1,
        per_ms: 1_000,
        burst: 2,
    };
    let mut bucket = Bucket::default();
    bucket.take(&rule, 1_000_000_000);
    assert_eq!(bucket.opens_at(&rule, 5_000), 6_000);
    assert_eq!(
        bucket.opens_at(&rule, 5_999),
        6_000,
        "and the time it was told stands"
    );
}

#[test]
fn an_idle_key_can_be_forgotten_only_when_its_rate_is_past() {
    let (mut limiter, rule) = (Limiter::default(), rate(1, 1_000, 1));
    assert!(limiter.is_idle(1));
    arrive(&mut limiter, &rule, 1, 5_000);
    assert!(!limiter.is_idle(5_000));
    assert_eq!(starts(&mut limiter, &rule, 5_000), [run(1)]);
    limiter.leave(run(1));
    assert_eq!(limiter.next(&rule, 6_000, |_| true), Next::Nobody);
    assert!(!limiter.is_idle(5_500));
    assert!(limiter.is_idle(6_001));
}

#[test]
fn fifo_ignores_priority_and_groups() {
    let (mut limiter, mut rule) = (Limiter::default(), concurrency(9));
    rule.order = Order::Fifo;
    for (n, class, group) in [(1, 3, 7), (2, 0, 0), (3, 1, 7)] {
        limiter.arrive(&rule, run(n), class, group, 0, |_| true);
    }
    assert_eq!(starts(&mut limiter, &rule, 0), [run(1), run(2), run(3)]);
}

#[test]
fn groups_take_turns_so_that_many_runs_of_one_do_not_delay_anothers() {
    let mut line = Line::default();
    for n in 0..100 {
        line.push(2, 1, run(n));
    }
    line.push(2, 2, run(1_000));
    line.push(2, 0, run(2_000));
    let first: Vec<Uuid> = (0..3).filter_map(|_| line.pop()).collect();
    assert_eq!(first, [run(0), run(1_000), run(2_000)]);
    assert_eq!(line.pop(), Some(run(1)));
}

#[test]
fn urgent_runs_go_first_and_the_least_urgent_class_still_moves() {
    let mut line = Line::default();
    for n in 0..1_000 {
        line.push(0, 0, run(n));
    }
    line.push(3, 0, run(5_000));
    let at = (0..1_000).position(|_| line.pop() == Some(run(5_000)));
    assert_eq!(at, Some(15), "the sixteenth start is the least urgent class's");
}

#[test]
fn a_run_put_in_front_is_taken_next_in_its_class() {
    let mut line = Line::default();
    line.push(1, 0, run(1));
    line.push_front(1, run(2));
    assert_eq!(line.pop(), Some(run(2)));
    line.push(1, 5, run(3));
    line.push_front(1, run(4));
    assert_eq!(line.pop(), Some(run(4)));
    assert_eq!(line.len(), 2);
}

#[test]
fn contradictions_are_named() {
    let with = |f: &dyn Fn(&mut Rule)| {
        let mut rule = Rule::default();
        f(&mut rule);
        rule.check()
    };
    let rate = |count, per_ms, burst| Some(Rate { count, per_ms, burst });
    let debounce = |period_ms, timeout_ms| {
        Some(Debounce {
            period_ms,
            timeout_ms,
        })
    };
    for (rule, expected) in [
        (with(&|_| {}), Err(RuleError::Empty)),
        (with(&|r| r.paused = true), Err(RuleError::Empty)),
        (
            with(&|r| r.concurrency = Some(0)),
            Err(RuleError::Zero("concurrency")),
        ),
        (with(&|r| r.concurrency = Some(1)), Ok(())),
        (
            with(&|r| r.rate = rate(0, 1, 1)),
            Err(RuleError::Zero("rate.count")),
        ),
        (
            with(&|r| r.rate = rate(1, 0, 1)),
            Err(RuleError::Zero("rate.per")),
        ),
        (
            with(&|r| r.rate = rate(1, 1, 0)),
            Err(RuleError::Zero("rate.burst")),
        ),
        (with(&|r| r.rate = rate(1_001, 1, 1)), Err(RuleError::TooFast)),
        (with(&|r| r.rate = rate(1_000, 1, 1)), Ok(())),
        (
            with(&|r| r.debounce = debounce(0, 1)),
            Err(RuleError::Zero("debounce.period")),
        ),
        (
            with(&|r| r.debounce = debounce(2, 1)),
            Err(RuleError::DebounceBound),
        ),
        (with(&|r| r.debounce = debounce(1, 1)), Ok(())),
        (
            with(&|r| {
                r.debounce = debounce(1, 1);
                r.concurrency = Some(1);
                r.on_conflict = OnConflict::Skip;
            }),
            Err(RuleError::DebounceConflict),
        ),
        (
            with(&|r| {
                r.debounce = debounce(1, 1);
                r.on_conflict = OnConflict::Skip;
            }),
            Err(RuleError::NothingToSkip),
        ),
        (
            with(&|r| {
                r.rate = rate(1, 1, 1);
                r.concurrency = Some(1);
                r.on_conflict = OnConflict::CancelOlder;
            }),
            Err(RuleError::CancelWithRate),
        ),
        (
            with(&|r| {
                r.debounce = debounce(1, 1);
                r.on_conflict = OnConflict::CancelOlder;
            }),
            Err(RuleError::NothingToCancel),
        ),
    ] {
        assert_eq!(rule, expected);
    }
}

#[test]
fn key_paths_are_plain() {
    for (text, parts) in [
        ("customer_id", vec!["customer_id"]),
        ("{{customer_id}}", vec!["customer_id"]),
        ("{{ input.customer.id }}", vec!["customer", "id"]),
        ("input", vec!["input"]),
    ] {
        let path: KeyPath = text.parse().unwrap();
        assert_eq!(path.parts(), parts, "{text}");
    }
    for text in [
        "",
        "a b",
        "a.",
        ".a",
        "a..b",
        "steps[0]",
        "a + b",
        "{{a}}-{{b}}",
        "{{a}",
        "1a",
        "a.b-c",
        "a.b.c.d.e.f.g.h.i",
    ] {
        assert!(text.parse::<KeyPath>().is_err(), "{text}");
    }
}

#[test]
fn a_key_belongs_to_its_queue_or_target() {
    assert_eq!(scope_of("queue:mail:eu"), "queue:mail:eu");
    assert_eq!(scope_of("target:send"), "target:send");
    assert_eq!(scope_of("target:send:a:b"), "target:send");
}

#[test]
fn a_limit_is_stored_and_read_back() {
    let limit = Limit {
        key: Some("customer.id".parse().unwrap()),
        rule: Rule {
            concurrency: Some(2),
            rate: Some(Rate {
                count: 3,
                per_ms: 4,
                burst: 5,
            }),
            order: Order::Fifo,
            ..Rule::default()
        },
    };
    let stored = serde_json::to_value(&limit).unwrap();
    assert_eq!(stored["key"], serde_json::json!(["customer", "id"]));
    assert_eq!(serde_json::from_value::<Limit>(stored).unwrap(), limit);
}

/// What may happen to a key.
#[derive(Debug, Clone)]
enum Step {
    Arrive {
        class: u8,
        group: u64,
    },
    /// A run that waits is cancelled.
    Quit(prop::sample::Index),
    /// A run that has its place ends.
    End(prop::sample::Index),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5, 0u64..4).prop_map(|(class, group)| Step::Arrive { class, group }),
        1 => any::<prop::sample::Index>().prop_map(Step::Quit),
        3 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => (0u16..500).prop_map(Step::Pass),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let rate = prop::option::of(
        (1u32..5, 1u64..400, 1u32..4).prop_map(|(count, per_ms, burst)| Rate { count, per_ms, burst }),
    );
    (prop::option::of(1u32..4), rate, any::<bool>(), 0usize..3)
        .prop_map(|(concurrency, rate, fifo, on_conflict)| Rule {
            concurrency,
            rate,
            order: if fifo { Order::Fifo } else { Order::Fair },
            on_conflict: [OnConflict::Queue, OnConflict::Skip, OnConflict::CancelOlder][on_conflict],
            ..Rule::default()
        })
        .prop_filter("a rule that can be", |rule| rule.check().is_ok())
}

proptest! {
    /// Never more than allowed at once, never faster than allowed, nobody lost, nobody twice, nobody waits while there
    /// is room; in strict order where that is asked for. The limiter is thrown away and restored in the middle.
    #[test]
    fn a_key_keeps_its_rule(rule in rule(), steps in prop::collection::vec(step(), 1..120), lost_at in 0usize..120) {
        let mut limiter = Limiter::default();
        let waiting: RefCell<Vec<Uuid>> = RefCell::default();
        let mut started: Vec<(Uuid, i64)> = Vec::new();
        let mut held: HashSet<Uuid> = HashSet::new();
        let mut over: HashSet<Uuid> = HashSet::new();
        let mut now = 0i64;
        for (i, step) in steps.into_iter().enumerate() {
            if i == lost_at {
                // A takeover: what was started is recorded, the bucket with it, the line is found again in order.
                let bucket = limiter.bucket();
                let kept: Vec<Uuid> = limiter.held().to_vec();
                limiter = Limiter::default();
                limiter.restore_bucket(bucket);
                kept.into_iter().for_each(|run| limiter.restore(run));
                let queue = Rule { on_conflict: OnConflict::Queue, ..rule.clone() };
                for run in waiting.borrow().iter() {
                    limiter.arrive(&queue, *run, 2, 0, now, |_| true);
                }
            }
            match step {
                Step::Arrive { class, group } => {
                    let id = run(i as u128 + 1);
                    waiting.borrow_mut().push(id);
                    let arrival = limiter.arrive(&rule, id, class, group, now, |w| waiting.borrow().contains(&w));
                    prop_assert!(arrival.replaced.is_empty());
                    if arrival.skipped {
                        prop_assert_eq!(rule.on_conflict, OnConflict::Skip);
                        waiting.borrow_mut().retain(|w| *w != id);
                        over.insert(id);
                    }
                    for older in arrival.cancelled {
                        waiting.borrow_mut().retain(|w| *w != older);
                        if held.remove(&older) {
                            prop_assert!(limiter.leave(older));
                        }
                        over.insert(older);
                    }
                }
                Step::Quit(at) => {
                    let mut waiting = waiting.borrow_mut();
                    if !waiting.is_empty() {
                        let at = at.index(waiting.len());
                        over.insert(waiting.remove(at));
                    }
                }
                Step::End(at) => {
                    let mut ids: Vec<Uuid> = held.iter().copied().collect();
                    ids.sort();
                    if !ids.is_empty() {
                        let id = *at.get(&ids);
                        prop_assert!(limiter.leave(id));
                        held.remove(&id);
                        over.insert(id);
                    }
                }
                Step::Pass(ms) => now += i64::from(ms),
            }
            let idle = loop {
                let next = limiter.next(&rule, now, |w| waiting.borrow().contains(&w));
                let Next::Start(id) = next else { break next };
                let at = waiting.borrow().iter().position(|w| *w == id);
                prop_assert!(at.is_some(), "only who waits starts");
                if rule.order == Order::Fifo {
                    prop_assert_eq!(at, Some(0));
                }
                waiting.borrow_mut().retain(|w| *w != id);
                prop_assert!(held.insert(id) && !over.contains(&id));
                started.push((id, now));
            };
            if let Some(max) = rule.concurrency {
                prop_assert!(held.len() <= max as usize);
            }
            if !waiting.borrow().is_empty() {
                let full = rule.concurrency.is_some_and(|n| held.len() >= n as usize);
                let later = matches!(idle, Next::At(at) if at > now);
                prop_assert!(full || later, "somebody waits though there is room: {:?}", idle);
            }
        }
        if let Some(rate) = &rule.rate {
            for (i, (_, from)) in started.iter().enumerate() {
                for (n, (_, to)) in started[i..].iter().enumerate() {
                    let allowed = u64::from(rate.burst) as f64 + (to - from) as f64 * f64::from(rate.count) / rate.per_ms as f64;
                    prop_assert!((n + 1) as f64 <= allowed + 1e-6, "{} starts within {} ms", n + 1, to - from);
                }
            }
        }
    }

    /// Whatever is pushed is popped once, in order within its group and class; no group waits for more than one turn of
    /// each other.
    #[test]
    fn a_line_loses_nobody(pushes in prop::collection::vec((0u8..5, 0u64..3), 0..100)) {
        let mut line = Line::default();
        for (n, (class, group)) in pushes.iter().enumerate() {
            line.push(*class, *group, run(n as u128));
        }
        prop_assert_eq!(line.len(), pushes.len());
        let mut last: HashMap<(u8, u64), u128> = HashMap::new();
        let mut seen = HashSet::new();
        while let Some(id) = line.pop() {
            prop_assert!(seen.insert(id));
            let n = id.as_u128();
            let (class, group) = pushes[n as usize];
            let place = (class.min(3), group);
            prop_assert!(last.insert(place, n).is_none_or(|before| before < n));
        }
        prop_assert_eq!(seen.len(), pushes.len());
        prop_assert!(line.is_empty());
    }
}
