//! Sending batches until their outcome is known.
//!
//! Of a lane one batch is in flight at a time and nothing later is sent before it is resolved; the next may be built meanwhile. A batch
//! whose answer was lost is sent again as it is: every row has a client-made key. A batch with a row that the database cannot store is split
//! until the run is found that owns the row; the others are written.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::mpsc;
use tramline_core::Millis;
use tramline_core::limit::Bucket;
use tramline_core::machine::{PastCall, Row};
use tramline_store::flush::{Batch, Flusher, Subject};
use tramline_store::{Db, StoreError};
use uuid::Uuid;

use crate::discovery::Shared;
use crate::message::Message;
use crate::trouble::FlushTrouble;

/// First and longest pause before a batch of unknown outcome is sent again.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How long the connection of a lane beyond the first is kept with nothing to send: only rushes need it.
const SPARE_KEPT: Duration = Duration::from_secs(60);

/// One row with what is needed to build it into a batch.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) shard: u16,
    pub(crate) epoch: i64,
    pub(crate) what: What,
    pub(crate) at: Millis,
    pub(crate) seq: i64,
}

/// The row.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Run(Subject, Row),
    /// A call of the run goes on here when another node owns its shard.
    Handed(Subject, PastCall),
    CommandDone {
        command_id: Uuid,
        run_id: Option<Uuid>,
    },
    Period {
        schedule: Arc<str>,
        due_at: Millis,
        run_id: Option<Uuid>,
        outcome: &'static str,
        reason: Option<String>,
        planned_at: Millis,
    },
    PeriodOutcome {
        run_id: Uuid,
        schedule: Arc<str>,
        due_at: Millis,
        /// When its run began, and by how much that was later than planned.
        started: Option<(Millis, i64)>,
        outcome: &'static str,
        reason: Option<String>,
    },
    /// The run has its place at its limit key.
    LimitClaim {
        run_id: Uuid,
        limit_key: Arc<str>,
    },
    /// The run has ended: whatever place it had is free.
    LimitDone {
        run_id: Uuid,
    },
    /// How full the rate of a key is with the start of this run.
    LimitState {
        run_id: Uuid,
        limit_key: Arc<str>,
        bucket: Bucket,
    },
    PeriodEnd {
        run_id: Uuid,
        schedule: Arc<str>,
        due_at: Millis,
        finished_at: Millis,
    },
}

impl Item {
    /// A row of the tables that nearly every run writes to.
    fn is_hot(&self) -> bool {
        matches!(&self.what, What::Run(_, Row::End(_) | Row::Step(_)))
    }

    fn key(&self) -> Option<Uuid> {
        match &self.what {
            What::Run(subject, _) | What::Handed(subject, _) => Some(subject.run_id),
            What::Period { run_id, .. } | What::CommandDone { run_id, .. } => *run_id,
            What::PeriodOutcome { run_id, .. }
            | What::PeriodEnd { run_id, .. }
            | What::LimitClaim { run_id, .. }
            | What::LimitDone { run_id }
            | What::LimitState { run_id, .. } => Some(*run_id),
        }
    }
}

/// What is to be recorded together.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) items: Vec<Item>,
    /// How many surprising answers the driver knew when it made this.
    pub(crate) after: u64,
}

/// The answer of one batch.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    /// Not all was written as it was sent: what was to follow goes back to the driver, which may want something else now.
    pub(crate) surprising: bool,
    pub(crate) held: Vec<u16>,
    pub(crate) not_ended: Vec<Uuid>,
    /// Runs whose rows cannot be stored, with the database's words.
    pub(crate) poisoned: Vec<(Uuid, String)>,
}

/// Runs until the channel closes.
pub(crate) async fn run(
    db: Db,
    node: Uuid,
    name: String,
    lane: usize,
    mut jobs: mpsc::Receiver<Job>,
    out: mpsc::Sender<Message>,
    shared: Arc<Shared>,
) {
    let trouble = &shared.trouble[lane];
    // Beside the first scan; what fails now is tried again with the first batch. The others connect when they are needed.
    let mut flusher = match lane {
        0 => Flusher::connect(&db).await.ok(),
        _ => None,
    };
    let mut surprises = 0;
    let mut ahead = None;
    loop {
        let next = match ahead.take() {
            Some(next) => next,
            None => match next_job(&mut jobs, lane, &mut flusher).await {
                Some(job) => Built::of(job),
                None => return,
            },
        };
        let told = if next.job.after == surprises {
            let flush = flush(&db, &mut flusher, node, &name, next, trouble);
            tokio::pin!(flush);
            let flushed = loop {
                tokio::select! {
                    biased;
                    flushed = &mut flush => break flushed,
                    Some(job) = jobs.recv(), if ahead.is_none() => ahead = Some(Built::of(job)),
                }
            };
            surprises += u64::from(flushed.surprising);
            Message::Flushed { lane, flushed }
        } else {
            Message::Unsent {
                lane,
                items: next.job.items,
            }
        };
        if out.send(told).await.is_err() {
            return;
        }
    }
}

/// Waits for a job; a connection that only rushes need is closed meanwhile.
async fn next_job(jobs: &mut mpsc::Receiver<Job>, lane: usize, flusher: &mut Option<Flusher>) -> Option<Job> {
    if lane > 0 && flusher.is_some() {
        if let Ok(job) = tokio::time::timeout(SPARE_KEPT, jobs.recv()).await {
            return job;
        }
        *flusher = None;
    }
    jobs.recv().await
}

/// A job that is ready to be sent.
struct Built {
    job: Job,
    batch: Batch,
}

impl Built {
    fn of(job: Job) -> Self {
        let batch = build(&job.items);
        Self { job, batch }
    }
}

/// Writes all of a job that can be written.
async fn flush(
    db: &Db,
    flusher: &mut Option<Flusher>,
    node: Uuid,
    name: &str,
    Built { job, batch }: Built,
    trouble: &FlushTrouble,
) -> Flushed {
    let mut flushed = Flushed::default();
    let mut open = vec![(job.items, batch)];
    while let Some((items, batch)) = open.pop() {
        match settle(db, flusher, node, name, &batch, trouble).await {
            Ok(part) => {
                flushed.surprising |= part.held.len() < batch.shards() || !part.not_ended.is_empty();
                flushed.held.extend(part.held);
                flushed.not_ended.extend(part.not_ended);
            }
            Err(error) => match split(&items) {
                Some(halves) => open.extend(halves.map(|items| {
                    let batch = build(&items);
                    (items, batch)
                })),
                None => {
                    let words = words_of(&error);
                    tracing::warn!(error = %words, "a row cannot be stored; its run fails");
                    let run = items.iter().find_map(Item::key);
                    flushed.poisoned.extend(run.map(|id| (id, words)));
                    flushed.held.extend(items.iter().map(|i| i.shard));
                    flushed.surprising = true;
                }
            },
        }
    }
    flushed
}

/// Sends one batch until the database has answered it. The error is always about the data.
async fn settle(
    db: &Db,
    flusher: &mut Option<Flusher>,
    node: Uuid,
    name: &str,
    batch: &Batch,
    trouble: &FlushTrouble,
) -> Result<tramline_store::flush::Flushed, StoreError> {
    let mut pause = RETRY_FIRST;
    let mut again = false;
    loop {
        let answer = match flusher.as_ref().filter(|f| !f.is_closed()) {
            Some(open) => open.send(node, name, batch, again).await,
            None => match Flusher::connect(db).await {
                Ok(new) => flusher.insert(new).send(node, name, batch, again).await,
                Err(error) => Err(error),
            },
        };
        match answer {
            Ok(flushed) => {
                tell_end(trouble);
                return Ok(flushed);
            }
            // Somebody else's row, an end for example: now the answer says which.
            Err(error) if error.is_duplicate() && !std::mem::replace(&mut again, true) => {}
            Err(error) if error.is_poison() => {
                tell_end(trouble);
                return Err(error);
            }
            Err(error) => {
                if trouble.failed() {
                    let attempts = trouble.stalled().map_or(1, |stall| stall.attempts);
                    tracing::warn!(error = %words_of(&error), rows = batch.len(), attempts, "outcome of a flush is unknown; sending it again");
                }
                *flusher = None;
                again = true;
                let jitter = Duration::from_millis(rand::rng().random_range(0..10));
                tokio::time::sleep(pause + jitter).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

fn tell_end(trouble: &FlushTrouble) {
    if let Some(stall) = trouble.settled() {
        let seconds = stall.lasting.as_secs_f64();
        tracing::info!(
            attempts = stall.attempts,
            seconds,
            "the database has answered the flush again"
        );
    }
}

fn build(items: &[Item]) -> Batch {
    let mut batch = Batch::default();
    // Ends and steps in the order of their ids, which is that of their table's key: neighbours in a batch are neighbours there, too.
    // All else in the order in which it was decided.
    let (mut hot, cold): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.is_hot());
    hot.sort_by_key(|item| item.key());
    for item in hot.into_iter().chain(cold) {
        batch.touch(item.shard, item.epoch);
        match &item.what {
            What::Run(subject, row) => batch.push(*subject, row, item.at, item.seq),
            What::Handed(subject, call) => batch.handed(*subject, call),
            What::LimitClaim { run_id, limit_key } => batch.limits().claim(*run_id, limit_key),
            What::LimitDone { run_id } => batch.limits().done(*run_id),
            What::LimitState {
                limit_key, bucket, ..
            } => batch.limits().state(limit_key, *bucket),
            What::CommandDone { command_id, .. } => batch.command_done(item.shard, *command_id),
            What::Period {
                schedule,
                due_at,
                run_id,
                outcome,
                reason,
                planned_at,
            } => {
                batch.period(
                    schedule,
                    *due_at,
                    *run_id,
                    outcome,
                    reason.as_deref(),
                    *planned_at,
                );
            }
            What::PeriodOutcome {
                run_id,
                schedule,
                due_at,
                started,
                outcome,
                reason,
            } => {
                batch.period_outcome(*run_id, schedule, *due_at, *started, outcome, reason.as_deref());
            }
            What::PeriodEnd {
                run_id,
                schedule,
                due_at,
                finished_at,
            } => batch.period_end(schedule, *due_at, *run_id, *finished_at),
        }
    }
    batch
}

/// Halves a batch without parting the rows of one run, the half to be sent first at the end; `None` when there is only one run left.
fn split(items: &[Item]) -> Option<[Vec<Item>; 2]> {
    let mut keys: Vec<Option<Uuid>> = items.iter().map(Item::key).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.len() < 2 {
        return None;
    }
    let first = &keys[..keys.len() / 2];
    let (first, second) = items
        .iter()
        .cloned()
        .partition(|i| first.binary_search(&i.key()).is_ok());
    Some([second, first])
}

/// The error with its causes, in one line.
pub(crate) fn words_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}
