//! Slow chores beside the hot path: the window of timers, changes of schedules, partitions of the coming days,
//! definitions that were inserted by SQL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tramline_core::Millis;
use tramline_core::definition;
use tramline_core::schedule::{Due, Patterns};
use tramline_core::spare_memory;
use tramline_store::schedules::RuleRow;
use tramline_store::tidy::Changes;
use tramline_store::timers::WindowStart;
use tramline_store::{Db, StoreError, api, calendars, limits, retention, schedules, tidy, timers};
use uuid::Uuid;

use crate::discovery::Wake;
use crate::flushing::words_of;
use crate::message::{Calendars, Message, ScheduleNews};

/// Timers of one shard kept in memory; the others stay in the database until these have fired.
pub(crate) const TIMER_WINDOW: i64 = 1_000;
/// Windows that are read by one statement: some megabytes of timers.
const WINDOWS_MAX: usize = 16;
/// How often changes of schedules and limits, and new definitions, are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So long what discovery has seen counts as a look: it looks every second while it rests, and never when it does not.
const SEEN_FOR: Duration = Duration::from_millis(1_500);
/// At which of the looks between two tidyings retention is applied: not while a node starts.
const RETENTION_AT: u32 = 60;
/// The same for expired rows of small tables.
const EXPIRED_AT: u32 = 20;
/// Every so many looks claims of pull queues that ran out are taken back: a claim does that for its own queue, so this is for
/// queues that nobody claims from, and for lists.
const CLAIMS_EVERY: u32 = 10;
/// Every so many looks partitions are made ahead and expired rows removed.
const TIDY_EVERY: u32 = 600;

/// What the driver asks for.
pub(crate) enum Chore {
    /// Read the next timers of a shard after a position.
    Timers {
        shard: u16,
        after: Option<(Millis, Uuid)>,
    },
    /// The owned shards changed: read their schedules now, and the open periods of the fresh ones.
    Shards {
        owned: Vec<u16>,
        fresh: Vec<u16>,
        asked: u64,
    },
    /// Read the limits now: a key has none that is known.
    Rules,
}

/// What the driver was last told about schedules.
#[derive(Default)]
struct Told {
    owned: Vec<u16>,
    fresh: Vec<u16>,
    asked: u64,
    /// `None` = it must be told again, whatever has changed.
    changes: Option<i64>,
}

/// Runs until the channel closes. `seen` tells what discovery sees while it rests, `wake` what it is told.
pub(crate) async fn run(
    db: Db,
    mut chores: mpsc::Receiver<Chore>,
    out: mpsc::Sender<Message>,
    mut seen: watch::Receiver<Option<Changes>>,
    wake: Arc<Wake>,
) {
    let mut told = Told::default();
    let mut limits = None;
    let mut turn = 0u32;
    let mut expired_left = false;
    // Beside the loop, because timers must not wait for it; it ends with the loop.
    let mut retention = tokio::task::JoinSet::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut seen_at: Option<Instant> = None;
    loop {
        tokio::select! {
            chore = chores.recv() => match chore {
                None => return,
                Some(first) => {
                    // Shards come one by one: what is asked about all of them is read once.
                    let mut next = Some(first);
                    let mut asked = false;
                    let mut windows = Vec::new();
                    while let Some(chore) = next {
                        match chore {
                            Chore::Shards { owned, fresh, asked: number } => {
                                told = Told { owned, fresh, asked: number, changes: None };
                                asked = true;
                            }
                            Chore::Rules => {
                                if !read_rules_at_last(&db, &mut limits, &out).await {
                                    return;
                                }
                            }
                            Chore::Timers { shard, after } => windows.push((shard, after)),
                        }
                        next = chores.try_recv().ok();
                    }
                    for windows in windows.chunks(WINDOWS_MAX) {
                        if !read_timers_at_last(&db, windows, &out).await {
                            return;
                        }
                    }
                    if asked {
                        match schedules::changes(&db).await {
                            Ok(changes) => report(look_at_schedules(&db, &mut told, changes, &out).await),
                            Err(error) => report(Err(error)),
                        }
                    }
                }
            },
            Ok(()) = seen.changed() => {
                let now = *seen.borrow_and_update();
                if let Some(now) = now {
                    seen_at = Some(Instant::now());
                    take_in(&db, now, &mut told, &mut limits, &out).await;
                }
            }
            () = wake.limits.notified() => look_for_changes(&db, &mut told, &mut limits, &out).await,
            _ = look.tick() => {
                if seen_at.is_none_or(|at| at.elapsed() >= SEEN_FOR) {
                    look_for_changes(&db, &mut told, &mut limits, &out).await;
                }
                if turn.is_multiple_of(CLAIMS_EVERY) {
                    report(tidy::return_expired_claims(&db).await.map(|_| ()));
                }
                if turn.is_multiple_of(TIDY_EVERY) {
                    report(tidy::ensure_partitions(&db).await);
                }
                if expired_left || turn % TIDY_EVERY == EXPIRED_AT {
                    // A full batch leaves more: they go one batch a look, so that neither inserts nor timers wait for them.
                    let removed = tidy::remove_expired(&db).await;
                    expired_left = removed.as_ref().is_ok_and(|removed| *removed >= tidy::EXPIRED_BATCH);
                    report(removed.map(|_| ()));
                }
                if turn % TIDY_EVERY == RETENTION_AT && retention.is_empty() {
                    retention.spawn(apply_retention(db.clone()));
                }
                // What has ended makes room for the next; a panic in it was told by the runtime.
                while retention.try_join_next().is_some() {}
                // What a backlog took while it was read.
                spare_memory::give_back();
                turn = turn.wrapping_add(1);
            }
        }
    }
}

async fn look_for_changes(
    db: &Db,
    told: &mut Told,
    limits: &mut Option<(i64, i64)>,
    out: &mpsc::Sender<Message>,
) {
    match tidy::changes(db).await {
        Ok(now) => take_in(db, now, told, limits, out).await,
        Err(error) => report(Err(error)),
    }
}

/// Reads what has changed since the last look.
async fn take_in(
    db: &Db,
    now: Changes,
    told: &mut Told,
    limits: &mut Option<(i64, i64)>,
    out: &mpsc::Sender<Message>,
) {
    report(look_at_schedules(db, told, now.schedules, out).await);
    if *limits != Some(now.limits) {
        report(read_rules(db, limits, now.limits, false, out).await);
    }
    if now.submitted {
        report(compile_submitted(db).await);
    }
}

/// Reads windows however often the database has to be asked; false when nobody waits for them any more.
async fn read_timers_at_last(db: &Db, windows: &[WindowStart], out: &mpsc::Sender<Message>) -> bool {
    while let Err(error) = read_timers(db, windows, out).await {
        tracing::warn!(error = %words_of(&error), "timers cannot be read; trying again");
        tokio::time::sleep(Duration::from_millis(200)).await;
        if out.is_closed() {
            return false;
        }
    }
    true
}

async fn apply_retention(db: Db) {
    match retention::apply(&db).await {
        Ok(applied) if applied == retention::Applied::default() => {}
        Ok(applied) => tracing::info!(
            dropped = ?applied.dropped,
            busy = ?applied.busy,
            kept_by_unfinished = ?applied.waiting,
            rows = applied.removed,
            "retention was applied"
        ),
        Err(error) => {
            tracing::warn!(error = %words_of(&error), "retention could not be applied; it is tried again")
        }
    }
}

fn report(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::debug!(error = %words_of(&error), "maintenance could not reach the database");
    }
}

async fn read_timers(
    db: &Db,
    windows: &[WindowStart],
    out: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    let found = timers::windows(db, windows, TIMER_WINDOW).await?;
    for ((shard, _), timers) in windows.iter().zip(found) {
        let complete = (timers.len() as i64) < TIMER_WINDOW;
        let _ = out
            .send(Message::Timers {
                shard: *shard,
                timers,
                complete,
            })
            .await;
    }
    Ok(())
}

/// Tells the driver of the schedules when something has changed: three statements for any number of them.
async fn look_at_schedules(
    db: &Db,
    told: &mut Told,
    changes: i64,
    out: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    if told.owned.is_empty() || told.changes == Some(changes) {
        return Ok(());
    }
    let calendars: Calendars = Arc::new(calendars::read(db).await?);
    let rules = readable(db, schedules::rules(db, &told.owned).await?, &calendars).await?;
    let open = schedules::open_periods(db, &told.fresh).await?;
    told.changes = Some(changes);
    let news = ScheduleNews {
        shards: told.owned.clone(),
        rules,
        calendars,
        fresh: std::mem::take(&mut told.fresh),
        asked: told.asked,
        open,
    };
    let _ = out.send(Message::Schedules(news)).await;
    Ok(())
}

/// Hands the limits over; `fingerprint` was read before them.
async fn read_rules(
    db: &Db,
    known: &mut Option<(i64, i64)>,
    fingerprint: (i64, i64),
    asked: bool,
    out: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    let rules = limits::rules(db).await?;
    *known = Some(fingerprint);
    let _ = out.send(Message::Rules { rules, asked }).await;
    Ok(())
}

/// The same for a driver that has asked.
async fn answer_rules(
    db: &Db,
    known: &mut Option<(i64, i64)>,
    out: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    let fingerprint = limits::fingerprint(db).await?;
    read_rules(db, known, fingerprint, true, out).await
}

/// Reads them until the database answers; false when the driver is gone.
async fn read_rules_at_last(db: &Db, known: &mut Option<(i64, i64)>, out: &mpsc::Sender<Message>) -> bool {
    while let Err(error) = answer_rules(db, known, out).await {
        tracing::warn!(error = %words_of(&error), "limits cannot be read; trying again");
        tokio::time::sleep(Duration::from_millis(200)).await;
        if out.is_closed() {
            return false;
        }
    }
    true
}

/// Without those that cannot be read; their problem is recorded where people look.
async fn readable(db: &Db, rules: Vec<RuleRow>, calendars: &Calendars) -> Result<Vec<RuleRow>, StoreError> {
    let mut patterns = Patterns::default();
    let find = |name: &str| calendars.get(name).cloned();
    let mut good = Vec::with_capacity(rules.len());
    for rule in rules {
        match Due::of(&rule.spec, &find, &mut patterns) {
            Ok(_) => good.push(rule),
            Err(error) => {
                tracing::warn!(schedule = rule.name, %error, "a schedule cannot be read and does not fire");
                schedules::set_problem(db, &rule.name, rule.revision, &format!("cannot {error}")).await?;
            }
        }
    }
    Ok(good)
}

/// Publishes or refuses what was inserted into `ops.workflow_definitions`.
async fn compile_submitted(db: &Db) -> Result<(), StoreError> {
    let submitted = api::submitted_definitions(db).await?;
    if submitted.is_empty() {
        return Ok(());
    }
    let functions = api::list_functions(db).await?;
    let known = |name: &str| functions.iter().any(|f| f.name == name);
    for row in submitted {
        match definition::parse(&row.definition, &known) {
            Ok(workflow) if workflow.name != row.name => {
                let message = format!(
                    "the definition is named \"{}\", the row \"{}\"",
                    workflow.name, row.name
                );
                let places = json!([{ "path": "name", "message": message }]);
                api::settle_definition(db, &row.name, row.version, Err(&places)).await?;
            }
            Ok(workflow) => {
                let compiled = api::Compiled {
                    checksum: &workflow.checksum,
                    required_inputs: &workflow.required_inputs,
                    limit: workflow.limit.as_ref(),
                };
                match api::settle_definition(db, &row.name, row.version, Ok(compiled)).await {
                    Err(StoreError::Refused { message, .. }) => {
                        let places = json!([{ "path": "limit", "message": message }]);
                        api::settle_definition(db, &row.name, row.version, Err(&places)).await?;
                    }
                    settled => settled?,
                }
            }
            Err(problems) => {
                let places: Vec<_> = problems
                    .iter()
                    .map(|p| json!({ "path": p.path, "message": p.message }))
                    .collect();
                api::settle_definition(db, &row.name, row.version, Err(&json!(places))).await?;
                tracing::warn!(
                    workflow = row.name,
                    version = row.version,
                    "a submitted definition was refused"
                );
            }
        }
    }
    Ok(())
}
