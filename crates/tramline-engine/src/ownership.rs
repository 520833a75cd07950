//! Keeping, taking and releasing shards. Decisions are the pure [`Observer`]'s; this task reads, decides and writes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tramline_core::ownership::{Move, Observer, ShardRow};
use tramline_store::shards::{Beat, Keeper, Taken};
use tramline_store::{Db, StoreError};
use uuid::Uuid;

use crate::discovery::{Assign, Scan, Wake};
use crate::flushing::words_of;
use crate::message::Message;

/// How long a release waits for what is being written before the shard goes over without it.
const RELEASE_WAIT: Duration = Duration::from_secs(10);

pub(crate) struct Ownership {
    pub(crate) db: Db,
    pub(crate) node: Uuid,
    pub(crate) name: String,
    pub(crate) lease: Duration,
    pub(crate) out: mpsc::Sender<Message>,
    pub(crate) assign: mpsc::Sender<Assign>,
    pub(crate) wake: Arc<Wake>,
}

/// What a node that stops asks for.
pub(crate) enum Ask {
    /// Give everything to the other nodes, if there are any, while calls that are out go on; answered when it is theirs.
    HandOver(oneshot::Sender<()>),
    /// Release what is left and sign off; answered when it is done, and the task ends.
    Leave(oneshot::Sender<()>),
}

/// A shard to be taken, if it is still as it was seen.
struct Wanted {
    shard: u16,
    epoch: i64,
    beat: i64,
    /// Nobody owned it.
    clean: bool,
}

/// What the task holds.
struct Held {
    keeper: Option<Keeper>,
    observer: Observer,
    /// Shards with the epoch they are held by.
    owned: HashMap<u16, i64>,
    /// Shards that the driver is to let go of, and those that it has let go of.
    going: JoinSet<(u16, i64)>,
    gone: HashSet<u16>,
    /// The node is to stop: everything goes to others as soon as there are any.
    stopping: bool,
    /// It has said so: nothing is taken any more.
    leaving: bool,
    alive: HashSet<Uuid>,
}

impl Held {
    /// The driver has let go of a shard. One that was lost meanwhile, and perhaps taken again, is not given up for that.
    fn note_gone(&mut self, gone: Option<(u16, i64)>) {
        if let Some((shard, epoch)) = gone
            && self.owned.get(&shard) == Some(&epoch)
        {
            self.gone.insert(shard);
        }
    }
}

impl Ownership {
    /// Runs until told to leave, or the engine is gone.
    pub(crate) async fn run(self, mut asks: mpsc::Receiver<Ask>) {
        let start = Instant::now();
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        let mut held = Held {
            keeper: None,
            observer: Observer::new(self.node, lease_ms),
            owned: HashMap::new(),
            going: JoinSet::new(),
            gone: HashSet::new(),
            stopping: false,
            leaving: false,
            alive: HashSet::new(),
        };
        let mut last_answer = Instant::now();
        let mut trusted = true;
        // Looking more often than beating finds dead nodes sooner; of free shards a node is told.
        let every = self.lease / 5;
        let mut beat_at = Instant::now();
        loop {
            let beat = beat_at.elapsed() >= self.lease / 3 || held.owned.is_empty();
            match self.turn(&mut held, beat, start).await {
                Ok(()) => {
                    last_answer = Instant::now();
                    if beat {
                        beat_at = Instant::now();
                    }
                }
                Err(error) => {
                    if held.keeper.take().is_some() {
                        tracing::warn!(error = %words_of(&error), "ownership lost the database; connecting again");
                    }
                    held.observer.database_interrupted();
                }
            }
            // Before others may take over, stop starting: what is in flight is fenced by the epoch anyway.
            let now_trusted = last_answer.elapsed() < self.lease * 4 / 5;
            if now_trusted != trusted {
                trusted = now_trusted;
                let _ = self.out.send(Message::Trusted(trusted)).await;
            }
            let patience = if held.gone.is_empty() { every } else { every / 10 };
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(Ask::HandOver(done)) => {
                        held.stopping = true;
                        // With a fresh look at who is there; what fails is tried again by the next turn.
                        if let Err(error) = self.turn(&mut held, false, start).await {
                            tracing::warn!(error = %words_of(&error), "shards could not be handed over yet");
                            held.keeper = None;
                        }
                        let _ = done.send(());
                    }
                    Some(Ask::Leave(done)) => {
                        self.leave(held).await;
                        let _ = done.send(());
                        return;
                    }
                    None => return self.leave(held).await,
                },
                Some(gone) = held.going.join_next(), if !held.going.is_empty() => held.note_gone(gone.ok()),
                () = self.wake.shards.notified() => {}
                () = tokio::time::sleep(patience) => {}
            }
        }
    }

    async fn turn(&self, held: &mut Held, beat: bool, start: Instant) -> Result<(), StoreError> {
        if held.keeper.is_none() {
            let version = env!("CARGO_PKG_VERSION");
            let roles = ["engine".to_owned()];
            let keeper = Keeper::connect(&self.db, self.node, &self.name, version, &roles).await?;
            held.keeper = Some(keeper);
        }
        self.give_up_gone(held).await?;
        let Some(keeper) = &held.keeper else { return Ok(()) };
        if beat {
            // Without a driver there is nothing to own a shard for: the engine is about to end.
            let Some(beat) = self.driver_beat().await else {
                return Ok(());
            };
            let still = keeper.beat_with(&beat).await?;
            // Those, too, that the driver has given up already because a flush found them lost.
            let lost: Vec<u16> = held
                .owned
                .keys()
                .copied()
                .filter(|shard| !still.contains(shard))
                .collect();
            for shard in lost {
                tracing::warn!(shard, "another node has taken this shard");
                held.owned.remove(&shard);
                held.gone.remove(&shard);
                let _ = self.assign.send(Assign::Drop { shard }).await;
                let _ = self.out.send(Message::Lost { shard }).await;
            }
        }
        if held.leaving {
            return Ok(());
        }
        let (shards, nodes) = keeper.observe().await?;
        let mono_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut moves = unanswered(self.node, &shards, &held.owned);
        moves.extend(held.observer.observe(mono_ms, &shards, &nodes));
        let alive: HashSet<Uuid> = held.observer.alive().collect();
        if alive != held.alive {
            held.alive.clone_from(&alive);
            let _ = self.out.send(Message::Alive(alive)).await;
        }
        if held.stopping {
            return if held.observer.has_company() {
                self.hand_over(held).await
            } else {
                Ok(())
            };
        }
        let mut wanted = Vec::new();
        let on_the_way = !held.going.is_empty() || !held.gone.is_empty();
        for step in moves {
            match step {
                Move::Take {
                    shard,
                    epoch,
                    beat,
                    clean,
                } => wanted.push(Wanted {
                    shard,
                    epoch,
                    beat,
                    clean,
                }),
                // What is on its way is in no row yet: until it is, another look would choose as many again.
                Move::Release { .. } if on_the_way => {}
                Move::Release { shard } => {
                    if let Some(epoch) = held.owned.get(&shard).copied() {
                        self.let_go(&mut held.going, shard, epoch).await;
                    }
                }
            }
        }
        self.take(held, wanted).await
    }

    /// Takes shards: all at once, and those whose rows somebody holds by themselves, when the others are under way.
    async fn take(&self, held: &mut Held, mut wanted: Vec<Wanted>) -> Result<(), StoreError> {
        let Some(keeper) = held.keeper.as_ref().filter(|_| !wanted.is_empty()) else {
            return Ok(());
        };
        let sighted: Vec<(u16, i64, i64)> = wanted.iter().map(|w| (w.shard, w.epoch, w.beat)).collect();
        let taken = keeper.take_many(&sighted).await?;
        let got: HashSet<u16> = taken.iter().map(|taken| taken.shard).collect();
        self.begin(&mut held.owned, taken, &wanted).await;
        wanted.retain(|wanted| !got.contains(&wanted.shard));
        for one in &wanted {
            let taken = keeper.take(one.shard, one.epoch, one.beat).await?;
            self.begin(&mut held.owned, Vec::from_iter(taken), &wanted).await;
        }
        Ok(())
    }

    /// Shards are this node's from now on: the driver is told first, then they are read.
    async fn begin(&self, owned: &mut HashMap<u16, i64>, taken: Vec<Taken>, wanted: &[Wanted]) {
        if taken.is_empty() {
            return;
        }
        let mut scans = Vec::with_capacity(taken.len());
        for taken in taken {
            let clean = wanted.iter().any(|w| w.shard == taken.shard && w.clean);
            tracing::debug!(shard = taken.shard, epoch = taken.epoch, clean, "took a shard");
            owned.insert(taken.shard, taken.epoch);
            let acquired = Message::Acquired {
                shard: taken.shard,
                epoch: taken.epoch,
                low_xid: taken.low_xid,
                unclean: !clean,
            };
            let _ = self.out.send(acquired).await;
            scans.push(Scan {
                shard: taken.shard,
                epoch: taken.epoch,
                low_xid: taken.low_xid,
                untouched: taken.untouched,
            });
        }
        let _ = self.assign.send(Assign::Take(scans)).await;
    }

    /// Asks the driver to let go of a shard; the task goes on beating meanwhile.
    async fn let_go(&self, going: &mut JoinSet<(u16, i64)>, shard: u16, epoch: i64) {
        let _ = self.assign.send(Assign::Drop { shard }).await;
        let (done, released) = oneshot::channel();
        let _ = self.out.send(Message::Release { shard, done }).await;
        going.spawn(async move {
            // An error means that the shard was lost meanwhile, or that it takes too long: the fence keeps it right.
            let _ = tokio::time::timeout(RELEASE_WAIT, released).await;
            (shard, epoch)
        });
    }

    /// What the driver owns, and how much is going on; `None` when it has stopped.
    async fn driver_beat(&self) -> Option<Beat> {
        let (reply, beat) = oneshot::channel();
        self.out.send(Message::Beat { reply }).await.ok()?;
        beat.await.ok()
    }

    /// Gives everything to the other nodes.
    async fn hand_over(&self, held: &mut Held) -> Result<(), StoreError> {
        let Some(keeper) = &held.keeper else { return Ok(()) };
        keeper.retire().await?;
        held.leaving = true;
        let on_the_way = held.going.len();
        let owned: Vec<(u16, i64)> = held
            .owned
            .iter()
            .map(|(shard, epoch)| (*shard, *epoch))
            .filter(|(shard, _)| !held.gone.contains(shard))
            .collect();
        for (shard, epoch) in owned {
            self.let_go(&mut held.going, shard, epoch).await;
        }
        tracing::debug!(shards = held.going.len(), on_the_way, "handing shards over");
        while let Some(gone) = held.going.join_next().await {
            held.note_gone(gone.ok());
        }
        self.give_up_gone(held).await
    }

    /// Releases what the driver has let go of; what cannot be released is tried again by the next turn.
    async fn give_up_gone(&self, held: &mut Held) -> Result<(), StoreError> {
        let Some(keeper) = held.keeper.as_ref().filter(|_| !held.gone.is_empty()) else {
            return Ok(());
        };
        release(keeper, &held.gone, &held.owned).await?;
        for shard in held.gone.drain() {
            held.owned.remove(&shard);
            let _ = self.out.send(Message::Lost { shard }).await;
        }
        Ok(())
    }

    /// Gives everything back at once, so that another node may go on without waiting for a lease.
    async fn leave(&self, held: Held) {
        let Some(keeper) = held.keeper else { return };
        let all = held.owned.keys().copied().collect();
        for result in [release(&keeper, &all, &held.owned).await, keeper.leave().await] {
            if let Err(error) = result {
                tracing::warn!(error = %words_of(&error), "shards could not be released; others take them after a lease");
            }
        }
    }
}

/// Releases shards and tells the others. A shard that is owned by nobody any more is no matter.
async fn release(
    keeper: &Keeper,
    shards: &HashSet<u16>,
    owned: &HashMap<u16, i64>,
) -> Result<(), StoreError> {
    let epochs: Vec<(u16, i64)> = shards
        .iter()
        .filter_map(|shard| owned.get(shard).map(|epoch| (*shard, *epoch)))
        .collect();
    if epochs.is_empty() {
        return Ok(());
    }
    keeper.release(&epochs).await?;
    keeper.tell_free().await
}

/// Shards that are this node's by their rows and that it does not drive: the answer of a take or a release was lost. No other
/// node may find them silent for as long as this one is alone, so it takes them again, by an epoch that nobody has used.
fn unanswered(node: Uuid, shards: &[ShardRow], owned: &HashMap<u16, i64>) -> Vec<Move> {
    let mine = shards
        .iter()
        .filter(|row| row.owner == Some(node) && !owned.contains_key(&row.shard));
    mine.map(|row| Move::Take {
        shard: row.shard,
        epoch: row.epoch,
        beat: row.beat,
        clean: false,
    })
    .collect()
}
