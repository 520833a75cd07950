//! Fail at every edge: before and after each durable write of representative runs, in every way, one at a time.
//!
//! The proxy between node and database holds the n-th write; then the node crashes, or loses its shards, or its connection
//! breaks (with the write done or not), or the write is refused, or arrives twice. Whatever it was, the run ends as it
//! should and the invariants hold. Edges are counted, not chosen: the first number that no write reaches ends a test.

mod behind;
mod hands;
mod place;

use std::time::Duration;

use tramline_testkit::ChaosProxy;

use crate::effects::{Ends, ends};
use crate::support::*;
use place::*;

const FLUSH: &str = "tramline.flush(";
const ENQUEUE: &str = "tramline.enqueue_plain(";
const ENQUEUE_LONG: &str = "tramline.enqueue_many(";
const TAKE: &str = "set owner = $2";
const BEAT: &str = "update tramline.nodes set beat";
const RELEASE: &str = "tramline.release_shards(";
/// Runs that the node has enqueued itself, not in a plain batch, are read by their ids. It writes nothing; what it hands over is started.
const READ_NAMED: &str = "run_id = any ($1) and run_id between $2 and $3 and executor = 'engine'";

/// How long a write may come after the end of its course: the next beat, an answer that is on its way.
const GRACE: Duration = Duration::from_millis(600);

/// The same of writes that come for certain, after a lease if it has to be.
const LONG_GRACE: Duration = Duration::from_secs(20);

impl Place {
    /// One case; false when the course has fewer such writes.
    async fn case(&mut self, course: Course, write: &'static str, nth: u32, (side, fault): Edge) -> bool {
        let _turn = turn().await;
        let of_the_start = matches!(write, TAKE | BEAT);
        let (mut held, behind) = if of_the_start {
            let proxy = ChaosProxy::start(self.db.url()).await;
            let held = proxy.hold(write, nth, side);
            (held, self.behind(proxy, "a").await)
        } else {
            self.prepare(course).await;
            let behind = self.a_node().await;
            (behind.proxy.hold(write, nth, side), behind)
        };
        let (a, through) = (&behind.node, &behind.through);
        let ends_before = ends(&self.client, &Ends::new()).await;
        let grace = if write == FLUSH { GRACE } else { LONG_GRACE };
        let (b, ids) = {
            let course_ends = self.drive(course, through, a);
            tokio::pin!(course_ends);
            tokio::select! {
                biased;
                holding = held.reached() => (Some(self.strike(fault, holding, a).await), course_ends.await),
                // What ends a run is visible before its answer is held, and shards are taken beside it.
                ids = &mut course_ends => match tokio::time::timeout(grace, held.reached()).await {
                    Ok(holding) => (Some(self.strike(fault, holding, a).await), ids),
                    Err(_) => (None, ids),
                },
            }
        };
        drop(held);
        let (landed, b) = (b.is_some(), b.flatten());
        println!(
            "{course:?} {write} {nth} {side:?} {fault:?}: {}",
            if landed { "landed" } else { "not reached" }
        );
        // What belongs to an end is in its commit; of two runs the second may have ended just now.
        ends(&self.client, &ends_before).await;
        self.check(ids, fault).await;
        if write != FLUSH {
            self.drive_every_shard().await;
        }
        for node in [Some(a), b.as_ref()].into_iter().flatten() {
            assert_eq!(node.stats().missed, 0);
        }
        if let Some(b) = b {
            b.stop(PATIENCE).await;
        } else if of_the_start {
            behind.node.stop(PATIENCE).await;
        } else {
            self.keep(behind).await;
        }
        landed
    }
}

/// Every edge of the flushes of a course; `least` is how many there are for certain.
async fn every_flush_of(course: Course, least: u32) {
    let counted = std::cell::Cell::new(0);
    in_lanes([()], async |place, ()| {
        while place.case(course, FLUSH, counted.get() + 1, EDGES[0]).await {
            counted.set(counted.get() + 1);
        }
    })
    .await;
    let edges = counted.get();
    assert!(edges >= least, "{course:?} has {least} flushes, {edges} were met");
    let cases = EDGES[1..]
        .iter()
        .flat_map(|edge| (1..=edges).map(move |nth| (*edge, nth)));
    in_lanes(cases, async |place, (edge, nth)| {
        let landed = place.case(course, FLUSH, nth, edge).await;
        // How much goes into one flush is a matter of time.
        assert!(
            landed || nth > least,
            "{course:?} {edge:?}: flush {nth} was not met"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_a_fault_at_every_edge() {
    every_flush_of(Course::Job, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_steps_survive_a_fault_at_every_edge() {
    every_flush_of(Course::ThreeSteps, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_step_survives_a_fault_at_every_edge() {
    every_flush_of(Course::Retry, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_start_and_a_sleep_survive_a_fault_at_every_edge() {
    every_flush_of(Course::Sleep, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_survives_a_fault_at_every_edge() {
    every_flush_of(Course::Cancel, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_runs_survive_a_fault_at_every_edge() {
    every_flush_of(Course::Limited, 2).await;
}

/// The same of what accepts a run, with and without an id of its caller's own, and of the reading of a run by its name.
#[tokio::test(flavor = "multi_thread")]
async fn accepting_survives_a_fault_at_every_edge() {
    let writes = [
        (Course::ThreeSteps, ENQUEUE),
        (Course::Plain, ENQUEUE),
        (Course::Told, ENQUEUE),
        (Course::Named, ENQUEUE_LONG),
        (Course::Named, READ_NAMED),
    ];
    let cases = EDGES
        .iter()
        .flat_map(|edge| writes.map(|(course, write)| (course, write, *edge)));
    in_lanes(cases, async |place, (course, write, edge)| {
        let landed = place.case(course, write, 1, edge).await;
        assert!(landed, "{course:?} {write} was not met");
    })
    .await;
}

/// The same of what a node writes about its shards.
#[tokio::test(flavor = "multi_thread")]
async fn taking_and_beating_survive_a_fault_at_every_edge() {
    // all shards are taken by one statement
    let writes = [
        (Course::ThreeSteps, TAKE, 1),
        (Course::ThreeSteps, BEAT, 1),
        (Course::ThreeSteps, BEAT, 2),
    ];
    // what takes it back is what is held
    let edges = EDGES.iter().filter(|(_, fault)| *fault != Fault::TakenBack);
    let cases = edges.flat_map(|edge| writes.map(|(course, write, nth)| (course, write, nth, *edge)));
    in_lanes(cases, async |place, (course, write, nth, edge)| {
        let landed = place.case(course, write, nth, edge).await;
        assert!(landed, "{write} {nth} was not met");
    })
    .await;
}

/// Releases come last: whatever becomes of them, the next node goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_survives_a_fault_at_every_edge() {
    // a node whose releases are held takes nothing back
    let edges = EDGES.into_iter().filter(|(_, fault)| *fault != Fault::TakenBack);
    in_lanes(edges, async |place, (side, fault)| {
        let _turn = turn().await;
        let proxy = ChaosProxy::start(place.db.url()).await;
        let Behind {
            proxy,
            node: a,
            through,
        } = place.behind(proxy, "a").await;
        let ids = place.drive(Course::Job, &through, &a).await;
        let mut held = proxy.hold(RELEASE, 1, side);
        let stopping = tokio::spawn({
            let a = a.clone();
            async move { a.stop(PATIENCE).await }
        });
        let holding = in_time(held.reached()).await;
        let b = place.strike(fault, holding, &a).await;
        stopping.await.unwrap();
        let next = place.node(place.db.url(), "c").await;
        place.drive_every_shard().await;
        place.check(ids, fault).await;
        for node in [Some(next), b].into_iter().flatten() {
            node.stop(PATIENCE).await;
        }
    })
    .await;
}

/// A shard that is given up for the sake of balance, to a node that dies meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_for_balance_survives_a_fault_at_every_edge() {
    // a node whose releases are held takes nothing back
    let edges = EDGES.into_iter().filter(|(_, fault)| *fault != Fault::TakenBack);
    in_lanes(edges, async |place, (side, fault)| {
        let _turn = turn().await;
        let proxy = ChaosProxy::start(place.db.url()).await;
        let Behind { proxy, node: a, .. } = place.behind(proxy, "a").await;
        place.drive_every_shard().await;
        let mut held = proxy.hold(RELEASE, 1, side);
        let b = place.node(place.db.url(), "joins").await;
        let holding = in_time(held.reached()).await;
        b.crash().await;
        let next = place.strike(fault, holding, &a).await;
        place.drive_every_shard().await;
        place.check(Vec::new(), fault).await;
        for node in [Some(a), next].into_iter().flatten() {
            node.stop(PATIENCE).await;
        }
    })
    .await;
}
