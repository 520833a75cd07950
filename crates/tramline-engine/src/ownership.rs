//! Keeping, taking and releasing shards. Decisions are the pure [`Observer`]'s; this task reads, decides and writes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tramline_core::ownership::{Move, Observer, ShardRow};
use tramline_store::shards::{Beat, Keeper};
use tramline_store::{Db, StoreError};
use uuid::Uuid;

use crate::discovery::Assign;
use crate::flushing::words_of;
use crate::message::Message;

/// How long a release waits for calls in flight before the shard goes over without them.
const RELEASE_WAIT: Duration = Duration::from_secs(10);

pub(crate) struct Ownership {
    pub(crate) db: Db,
    pub(crate) node: Uuid,
    pub(crate) name: String,
    pub(crate) lease: Duration,
    pub(crate) out: mpsc::Sender<Message>,
    pub(crate) assign: mpsc::Sender<Assign>,
}

impl Ownership {
    /// Runs until told to stop, then releases everything; the answer says that it is done.
    pub(crate) async fn run(self, mut stop: oneshot::Receiver<oneshot::Sender<()>>) {
        let start = Instant::now();
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        let mut observer = Observer::new(self.node, lease_ms);
        let mut owned: HashSet<u16> = HashSet::new();
        let mut keeper: Option<Keeper> = None;
        let mut last_answer = Instant::now();
        let mut trusted = true;
        // Looking more often than beating finds free shards and dead nodes sooner; a look is one small read.
        let every = self.lease / 10;
        let mut beat_at = Instant::now();
        loop {
            let beat = beat_at.elapsed() >= self.lease / 3 || owned.is_empty();
            match self
                .turn(&mut keeper, &mut observer, &mut owned, beat, start)
                .await
            {
                Ok(()) => {
                    last_answer = Instant::now();
                    if beat {
                        beat_at = Instant::now();
                    }
                }
                Err(error) => {
                    if keeper.take().is_some() {
                        tracing::warn!(error = %words_of(&error), "ownership lost the database; connecting again");
                    }
                    observer.database_interrupted();
                }
            }
            // Before others may take over, stop starting: what is in flight is fenced by the epoch anyway.
            let now_trusted = last_answer.elapsed() < self.lease * 4 / 5;
            if now_trusted != trusted {
                trusted = now_trusted;
                let _ = self.out.send(Message::Trusted(trusted)).await;
            }
            tokio::select! {
                done = &mut stop => {
                    self.leave(keeper, &owned).await;
                    if let Ok(done) = done {
                        let _ = done.send(());
                    }
                    return;
                }
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    async fn turn(
        &self,
        keeper: &mut Option<Keeper>,
        observer: &mut Observer,
        owned: &mut HashSet<u16>,
        beat: bool,
        start: Instant,
    ) -> Result<(), StoreError> {
        let keeper = match keeper {
            Some(keeper) => keeper,
            None => {
                let version = env!("CARGO_PKG_VERSION");
                keeper.insert(
                    Keeper::connect(&self.db, self.node, &self.name, version, &["engine".to_owned()]).await?,
                )
            }
        };
        if beat {
            // Without a driver there is nothing to own a shard for: the engine is about to end.
            let Some(beat) = self.driver_beat().await else {
                return Ok(());
            };
            let held = keeper.beat_with(&beat).await?;
            // Those, too, that the driver has given up already because a flush found them lost.
            let lost: Vec<u16> = owned
                .iter()
                .copied()
                .filter(|shard| !held.contains(shard))
                .collect();
            for shard in lost {
                tracing::warn!(shard, "another node has taken this shard");
                owned.remove(&shard);
                let _ = self.assign.send(Assign::Drop { shard }).await;
                let _ = self.out.send(Message::Lost { shard }).await;
            }
        }
        let (shards, nodes) = keeper.observe().await?;
        let mono_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut moves = unanswered(self.node, &shards, owned);
        moves.extend(observer.observe(mono_ms, &shards, &nodes));
        for step in moves {
            match step {
                Move::Take {
                    shard,
                    epoch,
                    beat,
                    clean,
                } => {
                    let Some(taken) = keeper.take(shard, epoch, beat).await? else {
                        continue;
                    };
                    tracing::debug!(shard, epoch = taken.epoch, clean, "took a shard");
                    owned.insert(shard);
                    let _ = self
                        .out
                        .send(Message::Acquired {
                            shard,
                            epoch: taken.epoch,
                            low_xid: taken.low_xid,
                            unclean: !clean,
                        })
                        .await;
                    let _ = self
                        .assign
                        .send(Assign::Take {
                            shard,
                            epoch: taken.epoch,
                            low_xid: taken.low_xid,
                            untouched: taken.untouched,
                        })
                        .await;
                }
                Move::Release { shard } => {
                    let _ = self.assign.send(Assign::Drop { shard }).await;
                    let (done, released) = oneshot::channel();
                    let _ = self.out.send(Message::Release { shard, done }).await;
                    let _ = tokio::time::timeout(RELEASE_WAIT, released).await;
                    let epoch = shards.iter().find(|s| s.shard == shard).map_or(0, |s| s.epoch);
                    let released = keeper.release(&[(shard, epoch)]).await;
                    // Also when nobody knows whether it was released: the row tells at the next look.
                    owned.remove(&shard);
                    let _ = self.out.send(Message::Lost { shard }).await;
                    released?;
                }
            }
        }
        Ok(())
    }

    /// What the driver owns, and how much is going on; `None` when it has stopped.
    async fn driver_beat(&self) -> Option<Beat> {
        let (reply, beat) = oneshot::channel();
        self.out.send(Message::Beat { reply }).await.ok()?;
        beat.await.ok()
    }

    /// Gives everything back at once, so that another node may go on without waiting for a lease.
    async fn leave(&self, keeper: Option<Keeper>, owned: &HashSet<u16>) {
        let Some(keeper) = keeper else { return };
        let mut shards = Vec::new();
        if let Ok((rows, _)) = keeper.observe().await {
            shards = rows
                .iter()
                .filter(|r| r.owner == Some(self.node) && owned.contains(&r.shard))
                .map(|r| (r.shard, r.epoch))
                .collect();
        }
        for result in [keeper.release(&shards).await, keeper.leave().await] {
            if let Err(error) = result {
                tracing::warn!(error = %words_of(&error), "shards could not be released; others take them after a lease");
            }
        }
    }
}

/// Shards that are this node's by their rows and that it does not drive: the answer of a take or a release was lost. No other
/// node may find them silent for as long as this one is alone, so it takes them again, by an epoch that nobody has used.
fn unanswered(node: Uuid, shards: &[ShardRow], owned: &HashSet<u16>) -> Vec<Move> {
    let mine = shards
        .iter()
        .filter(|row| row.owner == Some(node) && !owned.contains(&row.shard));
    mine.map(|row| Move::Take {
        shard: row.shard,
        epoch: row.epoch,
        beat: row.beat,
        clean: false,
    })
    .collect()
}
