//! Schedules, their periods, calendars.

use jiff::Timestamp;
use serde_json::Value;
use tramline_core::schedule::{BACKFILL_MAX, Due, read_calendar};
use tramline_gateway::control::{
    Actor, Backfill, BackfillPeriod, Backfilled, ControlError, Millis, NamedCalendar, Period, Problem,
    Schedule, ScheduleOutcome, ScheduleVerb, StoredSchedule,
};
use tramline_store::schedules::{self, NewSchedule, ScheduleRow};
use tramline_store::{calendars, rows};

use super::{NodeControl, convert};
use crate::node::schedules::Known;

impl NodeControl {
    pub(super) async fn schedules(&self) -> Result<Vec<Schedule>, ControlError> {
        let rows = schedules::list(self.db(), None).await.map_err(convert::error)?;
        let known = Known::read(self.db()).await.map_err(convert::error)?;
        let now = Timestamp::now().as_millisecond();
        Ok(rows.into_iter().map(|row| shown(row, &known, now)).collect())
    }

    pub(super) async fn schedule(&self, name: String) -> Result<Schedule, ControlError> {
        let row = self.row(&name).await?;
        let known = Known::read(self.db()).await.map_err(convert::error)?;
        Ok(shown(row, &known, Timestamp::now().as_millisecond()))
    }

    pub(super) async fn store_schedule(
        &self,
        name: String,
        document: Value,
        actor: Actor,
    ) -> Result<StoredSchedule, ControlError> {
        let known = Known::read(self.db()).await.map_err(convert::error)?;
        let document = known
            .check(&document, &name)
            .map_err(|problems| refused(convert::problems(problems)))?;
        if document.name != name {
            return Err(problem(
                "name",
                format!("is {:?}, and the address says {name:?}", document.name),
            ));
        }
        let source = format!("api:{}", actor.into_name());
        let changed = schedules::store(self.db(), &NewSchedule::of(document, &source))
            .await
            .map_err(convert::error)?;
        let schedule = self.schedule(name).await?;
        Ok(StoredSchedule { schedule, changed })
    }

    pub(super) async fn remove_schedule(&self, name: String, actor: Actor) -> Result<(), ControlError> {
        match schedules::delete(self.db(), &name, &actor.into_name())
            .await
            .map_err(convert::error)?
        {
            true => Ok(()),
            false => Err(missing("schedule", &name)),
        }
    }

    pub(super) async fn periods(&self, name: String, limit: u16) -> Result<Vec<Period>, ControlError> {
        let rows = schedules::periods(self.db(), &name, i64::from(limit))
            .await
            .map_err(convert::error)?;
        if rows.is_empty() {
            self.row(&name).await?;
        }
        Ok(rows.into_iter().map(convert::period).collect())
    }

    pub(super) async fn pause_schedule(
        &self,
        name: String,
        verb: ScheduleVerb,
        reason: Option<String>,
        actor: Actor,
    ) -> Result<ScheduleOutcome, ControlError> {
        let paused = verb == ScheduleVerb::Pause;
        if !schedules::pause(self.db(), &name, paused, &actor.into_name(), reason.as_deref())
            .await
            .map_err(convert::error)?
        {
            return Err(missing("schedule", &name));
        }
        Ok(ScheduleOutcome {
            name,
            enabled: !paused,
            run_id: None,
        })
    }

    /// One run outside the schedule's periods, or for a due time that has no run yet.
    pub(super) async fn trigger(
        &self,
        name: String,
        period: Option<Millis>,
        actor: Actor,
    ) -> Result<ScheduleOutcome, ControlError> {
        let row = self.row(&name).await?;
        if let Some(at) = period {
            let due = self.due(&row).await?;
            let now = Timestamp::now().as_millisecond();
            if !due.is_due(at) {
                let next = due
                    .next_after(at)
                    .map_or_else(String::new, |at| format!("; the next is {}", rows::timestamp(at)));
                let message = format!("{} is no due time of {name}{next}", rows::timestamp(at));
                return Err(problem("period", message));
            }
            if at > now {
                return Err(problem(
                    "period",
                    format!("{} lies in the future", rows::timestamp(at)),
                ));
            }
        }
        let by = actor.into_name();
        let run_id = schedules::trigger(self.db(), &name, period, &by)
            .await
            .map_err(convert::error)?;
        self.wake();
        Ok(ScheduleOutcome {
            name,
            enabled: !row.rule.paused,
            run_id: Some(run_id),
        })
    }

    /// Periods of a span that have no run.
    pub(super) async fn backfill(
        &self,
        name: String,
        span: Backfill,
        actor: Actor,
    ) -> Result<Backfilled, ControlError> {
        let row = self.row(&name).await?;
        let due = self.due(&row).await?;
        let upto = (span.to - 1).min(Timestamp::now().as_millisecond());
        let times = due.between(span.from - 1, upto, BACKFILL_MAX + 1);
        if times.len() > BACKFILL_MAX {
            let message = format!("the span has more than {BACKFILL_MAX} periods; take a shorter one");
            return Err(problem("to", message));
        }
        let recorded = schedules::periods_at(self.db(), &name, &times)
            .await
            .map_err(convert::error)?;
        let has_run = |at: Millis| {
            recorded.iter().find(|p| {
                p.due_at.as_millisecond() == at && matches!(p.outcome.as_str(), "prepared" | "started")
            })
        };
        let mut periods: Vec<BackfillPeriod> = times
            .iter()
            .map(|at| BackfillPeriod {
                due_at: Some(*at),
                start: has_run(*at).is_none(),
                run_id: has_run(*at).and_then(|p| p.run_id),
            })
            .collect();
        if !span.dry_run {
            let open: Vec<Millis> = times.into_iter().filter(|at| has_run(*at).is_none()).collect();
            let by = actor.into_name();
            let reason = format!("backfill by {by}");
            let started = schedules::start_periods(self.db(), &name, &open, &by, &reason)
                .await
                .map_err(convert::error)?;
            self.wake();
            for period in &mut periods {
                if let Some(done) = started.iter().find(|s| Some(s.due_at) == period.due_at) {
                    (period.start, period.run_id) = (done.created, done.run_id);
                }
            }
        }
        let started = periods.iter().filter(|p| p.start).count();
        Ok(Backfilled {
            schedule: name,
            dry_run: span.dry_run,
            started,
            periods,
        })
    }

    pub(super) async fn calendars(&self) -> Result<Vec<NamedCalendar>, ControlError> {
        let rows = calendars::list(self.db()).await.map_err(convert::error)?;
        Ok(rows.into_iter().map(convert::calendar).collect())
    }

    pub(super) async fn store_calendar(
        &self,
        name: String,
        document: Value,
        actor: Actor,
    ) -> Result<NamedCalendar, ControlError> {
        let (said, entries, zone) =
            read_calendar(&document, Some(&name)).map_err(|problems| refused(convert::problems(problems)))?;
        if said != name {
            return Err(problem(
                "name",
                format!("is {said:?}, and the address says {name:?}"),
            ));
        }
        let source = format!("api:{}", actor.into_name());
        calendars::store(self.db(), &name, &entries, zone.as_deref(), &source)
            .await
            .map_err(convert::error)?;
        Ok(NamedCalendar {
            name,
            exclude: entries,
            timezone: zone,
            source,
            problem: None,
        })
    }

    pub(super) async fn remove_calendar(&self, name: String, actor: Actor) -> Result<(), ControlError> {
        match calendars::delete(self.db(), &name, &actor.into_name())
            .await
            .map_err(convert::error)?
        {
            true => Ok(()),
            false => Err(missing("calendar", &name)),
        }
    }

    async fn due(&self, row: &ScheduleRow) -> Result<Due, ControlError> {
        let known = Known::read(self.db()).await.map_err(convert::error)?;
        known.due(&row.rule.spec).ok_or_else(|| ControlError::Conflict {
            message: row
                .problem
                .clone()
                .unwrap_or_else(|| "the schedule cannot be read".to_owned()),
            run_id: None,
        })
    }

    async fn row(&self, name: &str) -> Result<ScheduleRow, ControlError> {
        let rows = schedules::list(self.db(), Some(name))
            .await
            .map_err(convert::error)?;
        rows.into_iter().next().ok_or_else(|| missing("schedule", name))
    }
}

fn shown(row: ScheduleRow, known: &Known, now: Millis) -> Schedule {
    let next = known.next_due(&row.rule.spec, now);
    convert::schedule(row, next)
}

fn missing(what: &'static str, name: &str) -> ControlError {
    ControlError::NotFound {
        what,
        name: name.to_owned(),
    }
}

fn refused(problems: Vec<Problem>) -> ControlError {
    ControlError::InvalidInput {
        missing: Vec::new(),
        problems,
    }
}

fn problem(path: &str, message: String) -> ControlError {
    refused(vec![Problem {
        path: path.to_owned(),
        message,
    }])
}
