//! Schedules and calendars.

use serde_json::json;

use super::{limit, name};
use crate::api::answers::Deleted;
use crate::api::bodies::{BackfillBody, CalendarBody, ReasonBody, ScheduleBody, TriggerBody};
use crate::api::control::{
    Backfilled, NamedCalendar, Period, Schedule, ScheduleOutcome, ScheduleVerb, StoredSchedule,
};
use crate::error::Code;
use crate::openapi::operation::{Operation, Param, Tag};

fn schedule() -> Param {
    name("Name of the schedule")
}

pub(super) fn list() -> Operation {
    Operation::new(Tag::Schedules, "listSchedules", "List schedules by name")
        .gives::<Vec<Schedule>>(200, "The schedules")
}

pub(super) fn get() -> Operation {
    Operation::new(Tag::Schedules, "getSchedule", "Look at a schedule")
        .at(schedule())
        .gives::<Schedule>(200, "The schedule")
}

pub(super) fn put() -> Operation {
    Operation::new(Tag::Schedules, "putSchedule", "Create or change a schedule")
        .about("A person's pause stays unless `enabled` says otherwise. Every wrong place is told.")
        .at(schedule())
        .takes::<ScheduleBody>(
            json!({ "cron": "0 0 8 * * *", "timezone": "Europe/Berlin", "target": "daily-digest" }),
        )
        .gives::<StoredSchedule>(200, "As it is now")
        .fails(&[Code::UnknownTarget, Code::InvalidInput, Code::Conflict])
}

pub(super) fn delete() -> Operation {
    Operation::new(Tag::Schedules, "deleteSchedule", "Remove a schedule")
        .about("Its periods and runs stay.")
        .at(schedule())
        .gives::<Deleted<'static>>(200, "It is gone")
        .fails(&[Code::Conflict])
}

pub(super) fn trigger() -> Operation {
    Operation::new(
        Tag::Schedules,
        "triggerSchedule",
        "Start one run of a schedule now",
    )
    .at(schedule())
    .may_take::<Option<TriggerBody>>(json!({ "period": "2026-01-31T08:00:00Z" }))
    .gives::<ScheduleOutcome>(200, "With the run that was started")
    .fails(&[Code::InvalidInput, Code::Conflict])
}

pub(super) fn backfill() -> Operation {
    Operation::new(
        Tag::Schedules,
        "backfillSchedule",
        "Start periods of the past that have no run",
    )
    .about("Each period at most once. `to` must be later than `from`.")
    .at(schedule())
    .takes::<BackfillBody>(
        json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-08T00:00:00Z", "dry_run": true }),
    )
    .gives::<Backfilled>(200, "What was started, or would be")
    .fails(&[Code::InvalidInput, Code::Conflict])
}

pub(super) fn change(verb: ScheduleVerb) -> Operation {
    let (id, summary) = match verb {
        ScheduleVerb::Pause => ("pauseSchedule", "Start no more periods of a schedule"),
        ScheduleVerb::Resume => ("resumeSchedule", "Let a paused schedule go on"),
    };
    Operation::new(Tag::Schedules, id, summary)
        .at(schedule())
        .may_take::<ReasonBody>(json!({ "reason": "the books are closed" }))
        .gives::<ScheduleOutcome>(200, "As it is now")
}

pub(super) fn periods() -> Operation {
    Operation::new(
        Tag::Schedules,
        "listPeriods",
        "List the last periods of a schedule",
    )
    .at(schedule())
    .query(limit())
    .gives::<Vec<Period>>(200, "Newest first")
}

pub(super) fn calendars() -> Operation {
    Operation::new(Tag::Schedules, "listCalendars", "List calendars by name")
        .gives::<Vec<NamedCalendar>>(200, "The calendars")
}

pub(super) fn put_calendar() -> Operation {
    Operation::new(Tag::Schedules, "putCalendar", "Create or change a calendar")
        .at(name("Name of the calendar"))
        .takes::<CalendarBody>(
            json!({ "exclude": ["2026-12-24/2026-12-26", "01-01"], "timezone": "Europe/Berlin" }),
        )
        .gives::<NamedCalendar>(200, "As it is now")
        .fails(&[Code::InvalidInput])
}

pub(super) fn delete_calendar() -> Operation {
    Operation::new(
        Tag::Schedules,
        "deleteCalendar",
        "Remove a calendar that no schedule names",
    )
    .at(name("Name of the calendar"))
    .gives::<Deleted<'static>>(200, "It is gone")
    .fails(&[Code::Conflict])
}
