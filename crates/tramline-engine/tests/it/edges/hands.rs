//! The same for shards that change hands while calls of their runs are out: the flush that names the calls, the release, the
//! take, the result that the old node delivers, and the flush of the new owner that records it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tramline_core::ids::with_tail_bits;
use tramline_engine::{EngineHandle, Handlers, Outcome};
use tramline_store::SHARD_COUNT;
use tramline_store::api::{self, NewRun};
use tramline_testkit::ChaosProxy;
use uuid::Uuid;

use super::place::*;
use super::{FLUSH, RELEASE, TAKE};
use crate::effects::Effects;
use crate::support::*;

/// Two nodes that live must see each other beat: who misses a beat for half of it begins to watch anew, and gives nothing up.
const LEASE_OF_TWO: Duration = Duration::from_secs(3);

const RETIRE: &str = "set roles = array_replace(roles, 'engine', 'leaving')";
const DELIVER: &str = "insert into tramline.commands (shard, command_id, subject_id, generation, verb, args)";

/// A write of a hand-over from `a` to `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    /// Which calls go on at the old node.
    Names,
    Release,
    Take,
    /// The old node stops: it takes no shards any more.
    Retire,
    /// The result of a call, for the new owner.
    Deliver,
    /// The new owner records it.
    Record,
}

const WRITES: [Write; 6] = [
    Write::Names,
    Write::Release,
    Write::Take,
    Write::Retire,
    Write::Deliver,
    Write::Record,
];

impl Write {
    fn statement(self) -> &'static str {
        match self {
            Self::Names | Self::Record => FLUSH,
            Self::Release => RELEASE,
            Self::Take => TAKE,
            Self::Retire => RETIRE,
            Self::Deliver => DELIVER,
        }
    }

    fn is_of_the_new_owner(self) -> bool {
        matches!(self, Self::Take | Self::Record)
    }

    /// Whether shards have changed hands before it comes.
    fn is_late(self) -> bool {
        matches!(self, Self::Retire | Self::Deliver | Self::Record)
    }
}

/// First steps are told, and end when the gate is open.
struct Gate {
    made: mpsc::UnboundedSender<()>,
    open: watch::Sender<bool>,
}

impl Gate {
    fn handlers(&self, effects: &Effects) -> Handlers {
        let (made, open, noted) = (self.made.clone(), self.open.subscribe(), effects.clone());
        effects.handlers().with("step", move |call| {
            let (made, mut open, output) = (made.clone(), open.clone(), noted.note(&call));
            async move {
                if call.step == "one" {
                    let _ = made.send(());
                    let _ = open.wait_for(|open| *open).await;
                }
                Outcome::completed(output)
            }
        })
    }
}

impl Place {
    /// A run in each shard, whose first call is out.
    async fn runs_in_every_shard(&self, mut calls: mpsc::UnboundedReceiver<()>) -> Vec<Uuid> {
        let run = |shard| NewRun {
            run_id: Some(with_tail_bits(Uuid::now_v7(), shard)),
            target: "three".into(),
            ..NewRun::default()
        };
        let runs: Vec<NewRun> = (0..SHARD_COUNT).map(run).collect();
        api::enqueue(&self.store, &runs).await.unwrap();
        for _ in &runs {
            let call = tokio::time::timeout(PATIENCE, calls.recv()).await;
            call.expect("every run begins").unwrap();
        }
        runs.iter().filter_map(|run| run.run_id).collect()
    }

    async fn until_half(&self, node: &EngineHandle) {
        let owned = format!(
            "select count(*) from tramline.shards where owner = '{}'",
            node.node()
        );
        until_count(&self.client, &owned, i64::from(SHARD_COUNT / 2)).await;
    }

    async fn hand_over(&mut self, write: Write, (side, fault): Edge) {
        let _turn = turn().await;
        self.lease = LEASE_OF_TWO;
        let (made, calls) = mpsc::unbounded_channel();
        let gate = Gate {
            made,
            open: watch::Sender::new(false),
        };
        let (to_a, to_b) = (
            ChaosProxy::start(self.db.url()).await,
            ChaosProxy::start(self.db.url()).await,
        );
        let a = self
            .node_with(to_a.url(), "a", gate.handlers(&self.effects_of("a")))
            .await;
        self.until_owned(&a).await;
        let ids = self.runs_in_every_shard(calls).await;
        let proxy = if write.is_of_the_new_owner() { &to_b } else { &to_a };
        let hold = || proxy.hold(write.statement(), 1, side);
        let early = (!write.is_late()).then(hold);
        let b = self
            .node_with(to_b.url(), "b", gate.handlers(&self.effects_of("b")))
            .await;
        let mut stopping = None;
        let mut held = match early {
            Some(held) => held,
            None => {
                self.until_half(&b).await;
                hold()
            }
        };
        if write == Write::Retire {
            let a = a.clone();
            stopping = Some(tokio::spawn(async move { a.stop(PATIENCE).await }));
        } else if write.is_late() {
            gate.open.send_replace(true);
        }
        let holding = tokio::time::timeout(PATIENCE, held.reached()).await;
        let holding = holding.unwrap_or_else(|_| panic!("{write:?} was not met"));
        let struck = if write.is_of_the_new_owner() { &b } else { &a };
        let next = self.strike(fault, holding, struck).await;
        println!("{write:?} {side:?} {fault:?}: landed");
        gate.open.send_replace(true);
        for id in &ids {
            self.until_ended(*id, "completed").await;
        }
        self.drive_every_shard().await;
        // A result may be delivered once more, whenever its sender gets to it: it has when it has stopped. That is still to be taken away.
        match stopping {
            Some(stopping) => stopping.await.unwrap(),
            None => a.stop(PATIENCE).await,
        }
        until_count(&self.client, "select count(*) from tramline.commands", 0).await;
        self.check(ids, fault).await;
        for node in [Some(b), next].into_iter().flatten() {
            node.stop(PATIENCE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_with_calls_out_survives_a_fault_at_every_edge() {
    // what was stolen is taken back by both nodes, or by neither
    let edges = EDGES.iter().filter(|(_, fault)| *fault != Fault::TakenBack);
    let cases = edges.flat_map(|edge| WRITES.map(|write| (write, *edge)));
    in_lanes(cases, async |place, (write, edge)| {
        place.hand_over(write, edge).await
    })
    .await;
}
