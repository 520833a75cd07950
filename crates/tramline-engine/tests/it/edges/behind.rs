//! The same for a flush that has another behind it, built while the first was in flight: it goes on only when the answer to the first
//! was no surprise. And for one that has another beside it, of the other lane's shards: that one goes on whatever becomes of it.

use tokio::sync::mpsc;
use tramline_core::ids::with_tail_bits;
use tramline_engine::{EngineHandle, LiveReason, Outcome};
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Holding, Side};
use uuid::Uuid;

use super::FLUSH;
use super::place::*;
use crate::support::*;

/// More than a node sends at once when nothing is in flight, and of each lane more than goes behind or beside a flush at the least.
const BEHIND: usize = 1_200;

/// What becomes of the first flush.
#[derive(Clone, Copy, Debug)]
enum First {
    Meets(Edge),
    /// Its run has an end by somebody else.
    HasEnded,
    /// Its row cannot be stored.
    IsPoison,
}

/// Which flush is struck: the first, which another is behind, or one of the two lanes' that follow it.
#[derive(Clone, Copy, Debug)]
enum At {
    Front(First),
    Lane(Edge),
}

impl First {
    fn edge(self) -> Edge {
        match self {
            Self::Meets(edge) => edge,
            Self::HasEnded | Self::IsPoison => EDGES[0],
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Meets(_) => "completed",
            Self::HasEnded => "cancelled",
            Self::IsPoison => "failed",
        }
    }
}

impl Place {
    async fn strike_first(
        &self,
        first: First,
        run: Uuid,
        holding: Holding,
        a: &EngineHandle,
    ) -> Option<EngineHandle> {
        match first {
            First::Meets((_, fault)) => return self.strike(fault, holding, a).await,
            First::HasEnded => {
                let end = "insert into tramline.run_ends (run_id, shard, generation, status)
                           select run_id, shard, 1, 'cancelled' from tramline.runs where run_id = $1";
                self.client.execute(end, &[&run]).await.unwrap();
                holding.go_on();
            }
            First::IsPoison => holding.refuse("23514"),
        }
        None
    }

    /// With an id of the caller's for the only one.
    async fn jobs(&self, run_id: Option<Uuid>, count: usize) -> Vec<Uuid> {
        let job = NewRun {
            run_id,
            target: "step".into(),
            ..NewRun::default()
        };
        let answers = api::enqueue(&self.store, &vec![job; count]).await.unwrap();
        answers.into_iter().map(|answer| answer.unwrap().run_id).collect()
    }

    async fn one_of_many(&mut self, at: At) {
        let _turn = turn().await;
        let ((side, fault), end) = match at {
            At::Front(first) => (first.edge(), first.end()),
            At::Lane((_, fault)) => ((Side::Before, fault), "completed"),
        };
        let proxy = ChaosProxy::start(self.db.url()).await;
        let (made, mut calls) = mpsc::unbounded_channel();
        let effects = self.effects_of("a");
        let handlers = effects.clone().handlers().with("step", move |call| {
            let output = effects.note(&call);
            let _ = made.send(());
            async move { Outcome::completed(output) }
        });
        let a = self.node_with(proxy.url(), "a", handlers).await;
        self.until_owned(&a).await;
        // The connection is made and its statement planned: what is held is a batch.
        let before = self.jobs(None, 1).await;
        self.until_ended(before[0], "completed").await;
        let mut held = proxy.hold(FLUSH, 1, side);
        // Of the second lane: a batch that is in the way of both.
        let run = self.jobs(Some(with_tail_bits(Uuid::now_v7(), 1)), 1).await;
        let holding = in_time(held.reached()).await;
        let ids = self.jobs(None, BEHIND).await;
        for _ in 0..BEHIND + 2 {
            let call = tokio::time::timeout(PATIENCE, calls.recv()).await;
            call.expect("all are called").unwrap();
        }
        // What waits to be recorded is all there: else the batch that follows the first may be of both lanes.
        for id in &ids {
            in_time(until_written(&a, *id)).await;
        }
        let b = match at {
            At::Front(first) => self.strike_first(first, run[0], holding, &a).await,
            At::Lane((side, fault)) => {
                let mut held = proxy.hold(FLUSH, 1, side);
                holding.go_on();
                let holding = in_time(held.reached()).await;
                // What the other lane has to record is not held up.
                let whole = format!("select count(*) from (select from tramline.runs r left join tramline.run_ends e using (run_id)
                    where {} group by r.shard % 2 having count(e.run_id) = count(*)) q", with(ids[0]));
                until_count(&self.client, &format!("select least(({whole}), 1)"), 1).await;
                self.strike(fault, holding, &a).await
            }
        };
        println!("{at:?}: landed");
        let ended = "select count(*) from tramline.run_ends e join tramline.runs r using (run_id) where status = 'completed' and ";
        until_count(&self.client, &format!("{ended}{}", with(ids[0])), BEHIND as i64).await;
        self.until_ended(run[0], end).await;
        self.check([before, run, ids].concat(), fault).await;
        for node in [Some(a), b].into_iter().flatten() {
            node.stop(PATIENCE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_behind_another_survives_a_fault_of_the_first() {
    let edges = EDGES.map(First::Meets);
    let cases = edges.into_iter().chain([First::HasEnded, First::IsPoison]);
    in_lanes(cases.map(At::Front), async |place, at| {
        place.one_of_many(at).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_beside_another_survives_a_fault_and_does_not_hold_the_other_up() {
    in_lanes(EDGES.map(At::Lane), async |place, at| place.one_of_many(at).await).await;
}

/// Returns when what a run has decided is on its way to the database.
async fn until_written(node: &EngineHandle, run_id: Uuid) {
    let is_written = |reasons: Vec<LiveReason>| reasons.iter().any(|reason| reason.code == "being_written");
    while !is_written(node.explain(run_id).await.unwrap()) {
        tokio::task::yield_now().await;
    }
}

/// The runs of the transaction that made this one.
fn with(run: Uuid) -> String {
    format!("r.enqueued_xid = (select enqueued_xid from tramline.runs where run_id = '{run}')")
}
