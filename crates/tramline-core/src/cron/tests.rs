use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Millis {
    text.parse::<Timestamp>().unwrap().as_millisecond()
}

fn due(expr: &str, tz: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = CronSchedule::parse(expr, tz).unwrap();
    let mut found = Vec::new();
    let mut last = at(after);
    for _ in 0..count {
        last = schedule.next_after(last).unwrap();
        found.push(Timestamp::from_millisecond(last).unwrap().to_string());
    }
    found
}

#[test]
fn five_fields_are_minutes_first_and_six_are_seconds_first() {
    assert_eq!(
        due("*/20 8 * * *", "UTC", "2026-03-01T08:20:00Z", 3),
        [
            "2026-03-01T08:40:00Z",
            "2026-03-02T08:00:00Z",
            "2026-03-02T08:20:00Z"
        ]
    );
    assert_eq!(
        due("*/20 * * * * *", "UTC", "2026-03-01T08:20:00Z", 2),
        ["2026-03-01T08:20:20Z", "2026-03-01T08:20:40Z"]
    );
}

#[test]
fn a_due_instant_is_not_due_again_and_fractions_do_not_matter() {
    let schedule = CronSchedule::parse("0 8 * * *", "UTC").unwrap();
    let eight = at("2026-03-01T08:00:00Z");
    assert_eq!(schedule.next_after(eight - 1), Some(eight));
    assert_eq!(schedule.next_after(eight), Some(eight + 86_400_000));
    assert_eq!(schedule.next_after(eight + 1), Some(eight + 86_400_000));
    assert_eq!(schedule.next_after(eight + 999), Some(eight + 86_400_000));
}

#[test]
fn names_nicknames_and_special_days_are_understood() {
    let from = "2026-02-10T00:00:00Z";
    assert_eq!(due("30 9 * * MON", "UTC", from, 1), ["2026-02-16T09:30:00Z"]);
    assert_eq!(due("30 9 * * 7", "UTC", from, 1), ["2026-02-15T09:30:00Z"]);
    assert_eq!(due("0 0 1 JAN *", "UTC", from, 1), ["2027-01-01T00:00:00Z"]);
    assert_eq!(
        due("0 0 L * *", "UTC", from, 2),
        ["2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"]
    );
    assert_eq!(due("0 0 $ * *", "UTC", from, 1), ["2026-02-28T00:00:00Z"]);
    assert_eq!(due("0 0 * * MON#2", "UTC", from, 1), ["2026-03-09T00:00:00Z"]);
    assert_eq!(due("@hourly", "UTC", from, 1), ["2026-02-10T01:00:00Z"]);
    assert_eq!(due("@Daily", "UTC", from, 1), ["2026-02-11T00:00:00Z"]);
    assert_eq!(due("@midnight", "UTC", from, 1), ["2026-02-11T00:00:00Z"]);
    assert_eq!(due("@weekly", "UTC", from, 1), ["2026-02-15T00:00:00Z"]);
    assert_eq!(due("@monthly", "UTC", from, 1), ["2026-03-01T00:00:00Z"]);
    assert_eq!(due("@yearly", "UTC", from, 1), ["2027-01-01T00:00:00Z"]);
    assert_eq!(due("0 0 29 2 *", "UTC", from, 1), ["2028-02-29T00:00:00Z"]);
}

#[test]
fn either_day_matches_when_both_are_restricted() {
    assert_eq!(
        due("0 0 13 * FRI", "UTC", "2026-03-01T00:00:00Z", 3),
        [
            "2026-03-06T00:00:00Z",
            "2026-03-13T00:00:00Z",
            "2026-03-20T00:00:00Z"
        ]
    );
}

#[test]
fn intervals_of_seconds_count_from_1970() {
    assert_eq!(
        due("30 seconds", "UTC", "2026-03-01T00:00:31Z", 2),
        ["2026-03-01T00:01:00Z", "2026-03-01T00:01:30Z"]
    );
    assert_eq!(
        due("1 second", "Europe/Vienna", "2026-03-01T00:00:31Z", 1),
        ["2026-03-01T00:00:32Z"]
    );
    let schedule = CronSchedule::parse("7 seconds", "UTC").unwrap();
    assert_eq!(schedule.next_after(-1), Some(0));
    assert_eq!(schedule.next_after(0), Some(7_000));
    assert_eq!(schedule.next_after(Millis::MAX), None);
}

// Vienna: on 2026-03-29 the clock jumps from 02:00 to 03:00 (01:00Z), on 2026-10-25 it goes back from 03:00 to 02:00
// (01:00Z).

#[test]
fn a_fixed_time_in_the_gap_is_due_right_after_it() {
    assert_eq!(
        due("30 2 * * *", "Europe/Vienna", "2026-03-28T00:00:00Z", 3),
        [
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z"
        ]
    );
}

#[test]
fn fixed_times_that_fall_together_after_the_gap_are_one_period() {
    assert_eq!(
        due("15,45 2,14 * * *", "Europe/Vienna", "2026-03-28T23:00:00Z", 4),
        [
            "2026-03-29T01:00:00Z",
            "2026-03-29T12:15:00Z",
            "2026-03-29T12:45:00Z",
            "2026-03-30T00:15:00Z"
        ]
    );
}

#[test]
fn a_fixed_time_in_the_repeated_hour_is_due_once_at_the_first() {
    assert_eq!(
        due("30 2 * * *", "Europe/Vienna", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    // asked between the two occurrences the answer is still tomorrow
    assert_eq!(
        due("30 2 * * *", "Europe/Vienna", "2026-10-25T01:10:00Z", 1),
        ["2026-10-26T01:30:00Z"]
    );
    assert_eq!(
        due("15,45 2 * * *", "Europe/Vienna", "2026-10-24T12:00:00Z", 3),
        [
            "2026-10-25T00:15:00Z",
            "2026-10-25T00:45:00Z",
            "2026-10-26T01:15:00Z"
        ]
    );
}

#[test]
fn a_wall_clock_schedule_skips_the_gap() {
    assert_eq!(
        due("*/30 2 * * *", "Europe/Vienna", "2026-03-28T00:00:00Z", 3),
        [
            "2026-03-28T01:00:00Z",
            "2026-03-28T01:30:00Z",
            "2026-03-30T00:00:00Z"
        ]
    );
    assert_eq!(
        due("0 * * * *", "Europe/Vienna", "2026-03-28T23:30:00Z", 3),
        [
            "2026-03-29T00:00:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-29T02:00:00Z"
        ]
    );
}

#[test]
fn a_wall_clock_schedule_runs_in_both_repeated_hours() {
    assert_eq!(
        due("*/30 2 * * *", "Europe/Vienna", "2026-10-24T12:00:00Z", 5),
        [
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-26T01:00:00Z"
        ]
    );
}

#[test]
fn a_half_hour_zone_and_a_change_at_midnight_work() {
    // Lord Howe moves by half an hour: 02:00 -> 02:30 on 2026-10-04 (15:30Z the day before)
    assert_eq!(
        due("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2),
        ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]
    );
    // Santiago has no midnight on 2026-09-06
    assert_eq!(
        due("0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", 2),
        ["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"]
    );
}

fn refused(expr: &str) -> CronError {
    CronSchedule::parse(expr, "UTC").unwrap_err()
}

#[test]
fn refusals_name_the_field_and_where_it_stands() {
    let CronError::Field {
        field,
        text,
        position,
        ..
    } = refused("0  25 * * *")
    else {
        panic!()
    };
    assert_eq!((field, text.as_str(), position), ("hour", "25", 4));
    let CronError::Field {
        field,
        text,
        position,
        ..
    } = refused("0 0 0 1 13 *")
    else {
        panic!()
    };
    assert_eq!((field, text.as_str(), position), ("month", "13", 9));
    let CronError::Field {
        field,
        text,
        position,
        ..
    } = refused("x * * * *")
    else {
        panic!()
    };
    assert_eq!((field, text.as_str(), position), ("minute", "x", 1));
    let CronError::Field { field, .. } = refused("0 0 * * 8") else {
        panic!()
    };
    assert_eq!(field, "day of week");
    assert!(
        refused("0 25 * * *")
            .to_string()
            .starts_with("read the hour `25` of the schedule (character 3): ")
    );
}

#[test]
fn other_mistakes_are_refused_by_their_kind() {
    assert_eq!(
        refused("* * *"),
        CronError::FieldCount {
            expression: "* * *".to_owned(),
            count: 3
        }
    );
    assert_eq!(
        refused(""),
        CronError::FieldCount {
            expression: String::new(),
            count: 0
        }
    );
    assert!(matches!(
        refused("0 0 0 1 1 * 2030"),
        CronError::FieldCount { count: 7, .. }
    ));
    assert_eq!(refused("@reboot"), CronError::Nickname("@reboot".to_owned()));
    assert_eq!(refused("0 seconds"), CronError::Interval("0 seconds".to_owned()));
    assert_eq!(
        refused("99999999 seconds"),
        CronError::Interval("99999999 seconds".to_owned())
    );
    assert_eq!(
        refused("0 0 30 2 *"),
        CronError::NeverDue("0 0 30 2 *".to_owned())
    );
    assert_eq!(refused(&"1,".repeat(400)), CronError::TooLong(800));
    let zone = CronSchedule::parse("* * * * *", "Europe/Wien").unwrap_err();
    assert_eq!(zone, CronError::UnknownZone("Europe/Wien".to_owned()));
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Casablanca",
];

/// Fields that may be combined freely; the day fields always match some day.
fn expression() -> impl Strategy<Value = String> {
    let second = prop_oneof![
        Just("0".to_owned()),
        Just("*/15".to_owned()),
        (0u32..60).prop_map(|n| n.to_string())
    ];
    let minute = prop_oneof![
        Just("*".to_owned()),
        (1u32..30).prop_map(|n| format!("*/{n}")),
        (0u32..60).prop_map(|n| n.to_string()),
        (0u32..30, 30u32..60).prop_map(|(a, b)| format!("{a},{b}")),
    ];
    let hour = prop_oneof![
        Just("*".to_owned()),
        (0u32..24).prop_map(|n| n.to_string()),
        (0u32..4, 4u32..24).prop_map(|(a, b)| format!("{a}-{b}")),
        (0u32..4, 4u32..24).prop_map(|(a, b)| format!("{a},{b}")),
    ];
    let day = prop_oneof![3 => Just("*".to_owned()), 1 => (1u32..29).prop_map(|n| n.to_string())];
    let weekday = prop_oneof![3 => Just("*".to_owned()), 1 => (0u32..7).prop_map(|n| n.to_string())];
    (second, minute, hour, day, weekday).prop_map(|(s, m, h, d, w)| format!("{s} {m} {h} {d} * {w}"))
}

proptest! {
    #[test]
    fn due_instants_increase_and_match(
        expr in expression(), zone in 0usize..ZONES.len(), start in 1_500_000_000_000i64..2_000_000_000_000,
    ) {
        let schedule = CronSchedule::parse(&expr, ZONES[zone]).unwrap();
        let pattern = CronParser::new().parse(&expr).unwrap();
        let tz = TimeZoneDatabase::bundled().get(ZONES[zone]).unwrap();
        let mut last = start;
        for _ in 0..20 {
            let next = schedule.next_after(last).unwrap();
            prop_assert!(next > last);
            prop_assert_eq!(next % 1_000, 0);
            let civil = Timestamp::from_millisecond(next).unwrap().to_zoned(tz.clone());
            // the one exception: the first instant after a gap stands in for a time inside it
            let offset = |ms| tz.to_offset(Timestamp::from_millisecond(ms).unwrap());
            let after_a_gap = offset(next) > offset(next - 1);
            prop_assert!(after_a_gap || pattern.is_time_matching(&civil).unwrap(), "{} is not {}", civil, expr);
            last = next;
        }
    }

    /// Against the definition, instant by instant, over the days of a change of the clock.
    #[test]
    fn wall_clock_schedules_are_due_at_exactly_the_matching_minutes(
        minute in prop_oneof![Just("*"), Just("*/7"), Just("10-20")], hour in prop_oneof![Just("*"), Just("1-3"), Just("*/2")],
        day in prop_oneof![Just("2026-03-28T20:00:00Z"), Just("2026-10-24T20:00:00Z"), Just("2026-10-03T12:00:00Z")],
        zone in 0usize..ZONES.len(),
    ) {
        let expr = format!("{minute} {hour} * * *");
        let schedule = CronSchedule::parse(&expr, ZONES[zone]).unwrap();
        let pattern = CronParser::new().parse(&expr).unwrap();
        let tz = TimeZoneDatabase::bundled().get(ZONES[zone]).unwrap();
        let (start, end) = (at(day), at(day) + 10 * 3_600_000);
        let mut expected = Vec::new();
        let mut ms = start + 60_000;
        while ms <= end {
            let civil = Timestamp::from_millisecond(ms).unwrap().to_zoned(tz.clone());
            if pattern.is_time_matching(&civil).unwrap() {
                expected.push(ms);
            }
            ms += 60_000;
        }
        let mut found = Vec::new();
        let mut last = start;
        while let Some(next) = schedule.next_after(last).filter(|next| *next <= end) {
            found.push(next);
            last = next;
        }
        prop_assert_eq!(found, expected);
    }

    /// Every local day has its fixed time exactly once, whatever the clock does.
    #[test]
    fn a_fixed_time_is_due_once_a_day(hour in 0u32..24, minute in 0u32..60, zone in 0usize..ZONES.len()) {
        let schedule = CronSchedule::parse(&format!("{minute} {hour} * * *"), ZONES[zone]).unwrap();
        let tz = TimeZoneDatabase::bundled().get(ZONES[zone]).unwrap();
        let midnight = |year| tz.to_timestamp(jiff::civil::date(year, 1, 1).at(0, 0, 0, 0)).unwrap().as_millisecond();
        let (start, end) = (midnight(2026), midnight(2027));
        let mut count = 0;
        let mut last = start - 1;
        while let Some(next) = schedule.next_after(last).filter(|next| *next < end) {
            count += 1;
            last = next;
        }
        prop_assert_eq!(count, 365);
    }

    #[test]
    fn the_answer_does_not_depend_on_when_it_is_asked(
        expr in expression(), zone in 0usize..ZONES.len(), start in 1_500_000_000_000i64..2_000_000_000_000, part in 0u32..1000,
    ) {
        let schedule = CronSchedule::parse(&expr, ZONES[zone]).unwrap();
        let next = schedule.next_after(start).unwrap();
        let between = start + (next - start) * i64::from(part) / 1_000;
        if between < next {
            prop_assert_eq!(schedule.next_after(between), Some(next));
        }
    }

    #[test]
    fn random_text_is_refused_or_parsed_without_a_panic(text in "[0-9*/,\\-LW#@a-zA-Z? +]{0,40}", any: String) {
        for text in [&text, &any] {
            if let Ok(schedule) = CronSchedule::parse(text, "America/New_York") {
                let _ = schedule.next_after(1_700_000_000_000);
                let _ = schedule.next_after(Millis::MAX);
                let _ = schedule.next_after(Millis::MIN);
            }
        }
    }
}
