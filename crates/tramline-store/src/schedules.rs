//! Schedules and their periods.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tramline_core::Millis;
use tramline_core::schedule::{CatchUp, Document, Overlap, Spec, When};
use uuid::Uuid;

use crate::rows::{millis, timestamp};
use crate::{Db, StoreError};

/// What an owner needs to plan a schedule's periods.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleRow {
    pub name: String,
    pub shard: u16,
    pub spec: Spec,
    pub paused: bool,
    /// The newest period that is recorded.
    pub last_due: Option<Millis>,
    /// Made, resumed, or its due times changed: nothing before is made up for.
    pub active_since: Millis,
    /// Begin of the last pause; `None` when its due times were changed since.
    pub paused_since: Option<Millis>,
    pub revision: i64,
    /// Its target or its queue has a limit: a period's run is inserted when it is due, in the shard of its key.
    pub limited: bool,
}

/// A recurring trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    pub rule: RuleRow,
    pub target: String,
    pub input: Value,
    pub source: String,
    /// Why its owner cannot read it.
    pub problem: Option<String>,
}

/// A schedule as it is written by a file or a caller.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    pub name: String,
    pub spec: Spec,
    pub target: String,
    pub input: Value,
    pub queue: Option<String>,
    pub priority: Option<u8>,
    /// `None` leaves a stored schedule as it is.
    pub paused: Option<bool>,
    pub source: String,
}

impl NewSchedule {
    /// A checked document, from somewhere.
    pub fn of(document: Document, source: &str) -> Self {
        Self {
            name: document.name,
            spec: document.spec,
            target: document.target,
            input: document.input,
            queue: document.queue,
            priority: document.priority,
            paused: document.enabled.map(|enabled| !enabled),
            source: source.to_owned(),
        }
    }
}

/// One due time of a schedule.
#[derive(Debug, Clone)]
pub struct PeriodRow {
    pub due_at: Timestamp,
    pub run_id: Option<Uuid>,
    /// `prepared`, `started`, `skipped` or `cancelled`.
    pub outcome: String,
    pub reason: Option<String>,
    /// Due time and jitter, or when somebody asked for it.
    pub planned_at: Timestamp,
    pub started_at: Option<Timestamp>,
    /// Start minus planned time.
    pub drift_ms: Option<i64>,
    /// The run's first end.
    pub finished_at: Option<Timestamp>,
}

/// A period whose run may still go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPeriod {
    pub schedule: String,
    pub due_at: Millis,
    pub run_id: Uuid,
    pub planned_at: Millis,
    /// It has begun.
    pub started: bool,
}

/// A period that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedPeriod {
    pub due_at: Millis,
    pub run_id: Option<Uuid>,
    /// False when the period had a run already.
    pub created: bool,
}

const RULE: &str = "name, shard, cron, every_ms, anchor, timezone, jitter_ms, start_at, end_at, exclude, overlap, catch_up, catch_up_max, \
    late_after_ms, paused, last_due, active_since, paused_since, revision, \
    exists (select from tramline.target_limits t where t.target = schedules.target) \
      or exists (select from tramline.queues q where q.name = schedules.queue and q.mode = 'engine' and (q.concurrency is not null or q.rate_count is not null))";

fn rule(r: &Row) -> Result<RuleRow, StoreError> {
    let at = |i: usize| r.get::<_, Option<Timestamp>>(i).map(millis);
    let bad = |what: &'static str, word: &str| StoreError::Decode {
        what,
        reason: word.to_owned(),
    };
    let when = match r.get::<_, Option<i64>>(3) {
        Some(step_ms) => When::Every {
            step_ms,
            anchor: at(4),
        },
        None => When::Cron(r.get::<_, Option<String>>(2).unwrap_or_default()),
    };
    let (overlap, catch_up): (String, String) = (r.get(10), r.get(11));
    Ok(RuleRow {
        name: r.get(0),
        shard: u16::try_from(r.get::<_, i32>(1)).unwrap_or_default(),
        spec: Spec {
            when,
            timezone: r.get(5),
            jitter_ms: r.get(6),
            start_at: at(7),
            end_at: at(8),
            exclude: r.get(9),
            overlap: Overlap::parse(&overlap).ok_or_else(|| bad("an overlap policy", &overlap))?,
            catch_up: CatchUp::parse(&catch_up).ok_or_else(|| bad("a catch-up policy", &catch_up))?,
            catch_up_max: u32::try_from(r.get::<_, i32>(12)).unwrap_or_default(),
            late_after_ms: r.get(13),
        },
        paused: r.get(14),
        last_due: at(15),
        active_since: millis(r.get::<_, Timestamp>(16)),
        paused_since: at(17),
        revision: r.get(18),
        limited: r.get(19),
    })
}

/// The rules of all schedules of these shards, in one read.
///
/// # Errors
/// When the database cannot be reached.
pub async fn rules(db: &Db, shards: &[u16]) -> Result<Vec<RuleRow>, StoreError> {
    let client = db.get().await?;
    let shards: Vec<i32> = shards.iter().map(|s| i32::from(*s)).collect();
    let rows = client
        .query(
            &format!("select {RULE} from tramline.schedules where shard = any ($1) order by name"),
            &[&shards],
        )
        .await
        .map_err(|e| StoreError::query("schedules of shards", e))?;
    rows.iter().map(rule).collect()
}

/// All schedules, or the one of this name.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(db: &Db, name: Option<&str>) -> Result<Vec<ScheduleRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            &format!(
                "select {RULE}, target, input, source, problem from tramline.schedules where $1::text is null or name = $1 order by name"
            ),
            &[&name],
        )
        .await
        .map_err(|e| StoreError::query("list schedules", e))?;
    rows.iter()
        .map(|r| {
            Ok(ScheduleRow {
                rule: rule(r)?,
                target: r.get(20),
                input: r.get(21),
                source: r.get(22),
                problem: r.get(23),
            })
        })
        .collect()
}

/// A number that rises with every change of schedules and calendars.
///
/// # Errors
/// When the database cannot be reached.
pub async fn changes(db: &Db) -> Result<i64, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select count from tramline.schedule_changes", &[])
        .await
        .map_err(|e| StoreError::query("changes of schedules", e))?;
    Ok(row.get(0))
}

/// Creates or changes a schedule; true when something changed.
///
/// # Errors
/// When the database cannot be reached or refuses the name.
pub async fn store(db: &Db, s: &NewSchedule) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let at = |at: Option<Millis>| at.map(|at| timestamp(at).to_string());
    let (cron, every_ms, anchor) = match &s.spec.when {
        When::Cron(expression) => (Some(expression.as_str()), None, None),
        When::Every { step_ms, anchor } => (None, Some(*step_ms), at(*anchor)),
    };
    let columns = json!({
        "cron": cron, "every_ms": every_ms, "anchor": anchor, "timezone": s.spec.timezone, "target": s.target, "input": s.input,
        "queue": s.queue, "priority": s.priority, "jitter_ms": s.spec.jitter_ms, "start_at": at(s.spec.start_at),
        "end_at": at(s.spec.end_at), "exclude": s.spec.exclude, "overlap": s.spec.overlap.as_str(),
        "catch_up": s.spec.catch_up.as_str(), "catch_up_max": s.spec.catch_up_max, "late_after_ms": s.spec.late_after_ms,
    });
    let row = client
        .query_one(
            "select tramline.store_schedule($1, $2, $3, $4)",
            &[&s.name, &columns, &s.paused, &s.source],
        )
        .await
        .map_err(|e| StoreError::query("store schedule", e))?;
    Ok(row.get(0))
}

/// Removes the schedules that came from this kind of source (`file:` and the like) and are not among these. Their periods
/// stay in the ledger.
///
/// # Errors
/// When the database cannot be reached.
pub async fn retain(db: &Db, source_prefix: &str, names: &[String]) -> Result<u64, StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "delete from tramline.schedules using tramline.acts('node', 'not declared any more')
              where starts_with(source, $1) and name <> all ($2)",
            &[&source_prefix, &names],
        )
        .await
        .map_err(|e| StoreError::query("retain schedules", e))
}

/// Removes a schedule; false when there is none of this name.
///
/// # Errors
/// When the database cannot be reached.
pub async fn delete(db: &Db, name: &str, actor: &str) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.delete_schedule($1) from tramline.acts($2, null)",
            &[&name, &actor],
        )
        .await
        .map_err(|e| StoreError::query("delete schedule", e))?;
    Ok(row.get(0))
}

/// Pauses or resumes a schedule; false when there is none of this name.
///
/// # Errors
/// When the database cannot be reached.
pub async fn pause(
    db: &Db,
    name: &str,
    paused: bool,
    actor: &str,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.pause_schedule($1, $2, $3, $4)",
            &[&name, &paused, &reason, &actor],
        )
        .await
        .map_err(|e| StoreError::query("pause schedule", e))?;
    Ok(row.get(0))
}

/// Records what is wrong with a schedule of this revision, so that people see it.
///
/// # Errors
/// When the database cannot be reached.
pub async fn set_problem(db: &Db, name: &str, revision: i64, problem: &str) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "update tramline.schedules set problem = $3 where name = $1 and revision = $2 and problem is distinct from $3",
            &[&name, &revision, &problem],
        )
        .await
        .map_err(|e| StoreError::query("problem of a schedule", e))?;
    Ok(())
}

const PERIOD: &str = "due_at, run_id, outcome, reason, planned_at, started_at, drift_ms, finished_at";

fn period(r: &Row) -> PeriodRow {
    PeriodRow {
        due_at: r.get(0),
        run_id: r.get(1),
        outcome: r.get(2),
        reason: r.get(3),
        planned_at: r.get(4),
        started_at: r.get(5),
        drift_ms: r.get(6),
        finished_at: r.get(7),
    }
}

/// The newest periods of a schedule.
///
/// # Errors
/// When the database cannot be reached.
pub async fn periods(db: &Db, name: &str, limit: i64) -> Result<Vec<PeriodRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            &format!(
                "select {PERIOD} from tramline.schedule_periods where schedule = $1 order by due_at desc limit $2"
            ),
            &[&name, &limit],
        )
        .await
        .map_err(|e| StoreError::query("schedule periods", e))?;
    Ok(rows.iter().map(period).collect())
}

/// The functions that runs of these schedules call first: the target itself, or what the first step of the workflow calls.
///
/// # Errors
/// When the database cannot be reached.
pub async fn first_functions(db: &Db, schedules: &[String]) -> Result<Vec<String>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select distinct f.name from tramline.schedules s
               left join lateral (select d.definition from tramline.workflow_definitions d
                                   where d.name = s.target and d.status = 'published' order by d.version desc limit 1) w on true
               join tramline.functions f on f.name = coalesce(w.definition -> 'steps' -> 0 ->> 'function', s.target)
              where s.name = any ($1) order by 1",
            &[&schedules],
        )
        .await
        .map_err(|e| StoreError::query("first functions of schedules", e))?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// What is recorded of these periods.
///
/// # Errors
/// When the database cannot be reached.
pub async fn periods_at(db: &Db, name: &str, due: &[Millis]) -> Result<Vec<PeriodRow>, StoreError> {
    let client = db.get().await?;
    let due: Vec<Timestamp> = due.iter().map(|at| timestamp(*at)).collect();
    let rows = client
        .query(
            &format!(
                "select {PERIOD} from tramline.schedule_periods where schedule = $1 and due_at = any ($2) order by due_at"
            ),
            &[&name, &due],
        )
        .await
        .map_err(|e| StoreError::query("periods by due time", e))?;
    Ok(rows.iter().map(period).collect())
}

/// Periods of these shards whose run has not ended: what a new owner must know before it starts another of the same
/// schedule. The ledger's ends decide; the period's own `finished_at` keeps the read small. Runs in other shards are left out:
/// they have a limit key, and wait for nothing else.
pub const OPEN_PERIODS: &str =
    "select p.schedule, p.due_at, p.run_id, p.planned_at, p.outcome = 'started' as started
   from tramline.schedule_periods p
   left join lateral (select true as ended from tramline.all_ends e
                       where e.run_id = p.run_id and e.shard = tramline.shard_of(p.run_id) limit 1) e on true
  where p.finished_at is null and p.outcome in ('prepared', 'started') and p.run_id is not null
    and tramline.key_shard(p.schedule) = any ($1) and tramline.shard_of(p.run_id) = tramline.key_shard(p.schedule) and e.ended is null
  order by p.schedule, p.due_at";

/// Reads [`OPEN_PERIODS`].
///
/// # Errors
/// When the database cannot be reached.
pub async fn open_periods(db: &Db, shards: &[u16]) -> Result<Vec<OpenPeriod>, StoreError> {
    let client = db.get().await?;
    let shards: Vec<i32> = shards.iter().map(|s| i32::from(*s)).collect();
    let rows = client
        .query(OPEN_PERIODS, &[&shards])
        .await
        .map_err(|e| StoreError::query("open periods", e))?;
    Ok(rows
        .iter()
        .map(|r| OpenPeriod {
            schedule: r.get(0),
            due_at: millis(r.get::<_, Timestamp>(1)),
            run_id: r.get(2),
            planned_at: millis(r.get::<_, Timestamp>(3)),
            started: r.get(4),
        })
        .collect())
}

/// Starts these periods now, each at most once: one that has a run is answered with it.
///
/// # Errors
/// When the database cannot be reached, or there is no such schedule.
pub async fn start_periods(
    db: &Db,
    name: &str,
    due: &[Millis],
    actor: &str,
    reason: &str,
) -> Result<Vec<StartedPeriod>, StoreError> {
    let client = db.get().await?;
    let due: Vec<Timestamp> = due.iter().map(|at| timestamp(*at)).collect();
    let rows = client
        .query(
            "select due_at, run_id, created from tramline.start_periods($1, $2, $3, $4)",
            &[&name, &due, &actor, &reason],
        )
        .await
        .map_err(|e| StoreError::query("start periods", e))?;
    Ok(rows
        .iter()
        .map(|r| StartedPeriod {
            due_at: millis(r.get::<_, Timestamp>(0)),
            run_id: r.get(1),
            created: r.get(2),
        })
        .collect())
}

/// Starts one run outside the periods, or for one of them.
///
/// # Errors
/// When the database cannot be reached or refuses: no such schedule, a period that has a run.
pub async fn trigger(db: &Db, name: &str, period: Option<Millis>, actor: &str) -> Result<Uuid, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.trigger_schedule($1, $2, $3)",
            &[&name, &period.map(timestamp), &actor],
        )
        .await
        .map_err(|e| StoreError::query("trigger schedule", e))?;
    Ok(row.get(0))
}
