//! Slow chores beside the hot path: the window of timers, changes of schedules, partitions of the coming days,
//! definitions that were inserted by SQL.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tramline_core::Millis;
use tramline_core::definition;
use tramline_store::{Db, StoreError, api, limits, schedules, tidy, timers};
use uuid::Uuid;

use crate::flushing::words_of;
use crate::message::Message;

/// Timers of one shard kept in memory; the others stay in the database until these have fired.
pub(crate) const TIMER_WINDOW: i64 = 1_000;
/// How often changes of schedules and new definitions are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    /// The owned shards changed: read their schedules now.
    Shards(Vec<u16>),
    /// Read the limits now: a key has none that is known.
    Rules,
}

/// Runs until the channel closes.
pub(crate) async fn run(
    db: Db,
    with_schedules: bool,
    mut chores: mpsc::Receiver<Chore>,
    out: mpsc::Sender<Message>,
) {
    let mut shards: Vec<u16> = Vec::new();
    let mut fingerprint = None;
    let mut limits = None;
    let mut turn = 0u32;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            chore = chores.recv() => match chore {
                None => return,
                Some(Chore::Shards(new)) => {
                    shards = new;
                    fingerprint = None;
                    report(look_at_schedules(&db, with_schedules, &shards, &mut fingerprint, &out).await);
                }
                Some(Chore::Rules) => {
                    while let Err(error) = read_rules(&db, &mut limits, true, &out).await {
                        tracing::warn!(error = %words_of(&error), "limits cannot be read; trying again");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        if out.is_closed() {
                            return;
                        }
                    }
                }
                Some(Chore::Timers { shard, after }) => {
                    while let Err(error) = read_timers(&db, shard, after, &out).await {
                        tracing::warn!(error = %words_of(&error), "timers cannot be read; trying again");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        if out.is_closed() {
                            return;
                        }
                    }
                }
            },
            _ = look.tick() => {
                report(look_at_schedules(&db, with_schedules, &shards, &mut fingerprint, &out).await);
                report(read_rules(&db, &mut limits, false, &out).await);
                report(compile_submitted(&db).await);
                if turn.is_multiple_of(CLAIMS_EVERY) {
                    report(tidy::return_expired_claims(&db).await.map(|_| ()));
                }
                if turn.is_multiple_of(TIDY_EVERY) {
                    report(tidy::ensure_partitions(&db).await);
                    report(tidy::remove_expired(&db).await.map(|_| ()));
                }
                turn = turn.wrapping_add(1);
            }
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
    shard: u16,
    after: Option<(Millis, Uuid)>,
    out: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    let timers = timers::window(db, shard, after, TIMER_WINDOW).await?;
    let complete = (timers.len() as i64) < TIMER_WINDOW;
    let _ = out
        .send(Message::Timers {
            shard,
            timers,
            complete,
        })
        .await;
    Ok(())
}

async fn look_at_schedules(
    db: &Db,
    wanted: bool,
    shards: &[u16],
    fingerprint: &mut Option<(i64, i64)>,
    out: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    if !wanted || shards.is_empty() {
        return Ok(());
    }
    let now = schedules::fingerprint(db).await?;
    if *fingerprint != Some(now) {
        let list = schedules::list(db, Some(shards)).await?;
        let _ = out.send(Message::Schedules(list)).await;
        *fingerprint = Some(now);
    }
    Ok(())
}

/// Hands the limits over when they changed, or when they were asked for.
async fn read_rules(
    db: &Db,
    known: &mut Option<(i64, i64)>,
    asked: bool,
    out: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    let now = limits::fingerprint(db).await?;
    if asked || *known != Some(now) {
        let rules = limits::rules(db).await?;
        *known = Some(now);
        let _ = out.send(Message::Rules { rules, asked }).await;
    }
    Ok(())
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
                // First of all: no run of it is to go unlimited.
                if let Err(error) = limits::set_target(db, &row.name, workflow.limit.as_ref()).await {
                    let StoreError::Refused { message, .. } = error else {
                        return Err(error);
                    };
                    let places = json!([{ "path": "limit", "message": message }]);
                    api::settle_definition(db, &row.name, row.version, Err(&places)).await?;
                    continue;
                }
                let outcome = Ok((workflow.checksum.as_str(), workflow.required_inputs.as_slice()));
                api::settle_definition(db, &row.name, row.version, outcome).await?;
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
