//! Ticks leave out the transactions whose runs their reader has.

use tramline_store::discovery::{Cursor, Poll, Reader};
use tramline_store::{NIL, SHARD_COUNT};
use uuid::Uuid;

use crate::support::*;

const INSERT: &str = "insert into ops.runs (target) values ('step') returning run_id";

/// A run that its enqueue told of is not read again; one that nobody told of is, with its body, also when it commits late with a smaller transaction id.
#[tokio::test]
async fn a_poll_leaves_out_known_transactions_and_nothing_else() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let late = w.connect().await;
    late.batch_execute("begin").await.unwrap();
    let late_id: Uuid = late.query_one(INSERT, &[]).await.unwrap().get(0);
    // A transaction after which none has ended is not named as being in progress.
    w.accept(step_run()).await;
    let (start, _) = reader.snapshot().await.unwrap();
    let told: Vec<_> = w
        .enqueue(&[step_run(), step_run(), step_run()])
        .await
        .into_iter()
        .map(|run| *run.unwrap().told.expect("a plain batch"))
        .collect();
    let known = [told[0].header.xid];
    assert!(
        told.iter()
            .all(|told| told.header.xid == known[0] && told.runs == 3)
    );
    let stranger: Uuid = w.value(INSERT, &[]).await;
    let cursors: Vec<Cursor> = (0..SHARD_COUNT)
        .map(|shard| Cursor::after(shard, 2, &start))
        .collect();
    let read = async |known: &[u64]| {
        let poll = Poll {
            bodies: true,
            known,
            ..Poll::of(&cursors, NIL)
        };
        reader.poll(poll).await.unwrap()
    };
    let page = read(&known).await;
    assert_eq!(
        page.headers.iter().map(|h| h.run_id).collect::<Vec<_>>(),
        [stranger]
    );
    assert!(page.headers[0].body.is_some());
    let mut all: Vec<Uuid> = read(&[]).await.headers.iter().map(|h| h.run_id).collect();
    all.sort_unstable();
    let mut expected: Vec<Uuid> = told.iter().map(|told| told.header.run_id).collect();
    expected.push(stranger);
    expected.sort_unstable();
    assert_eq!(all, expected);
    late.batch_execute("commit").await.unwrap();
    let (now, _) = reader.snapshot().await.unwrap();
    let late_in = start.late_in(&now);
    assert!(late_in.iter().all(|xid| *xid < known[0]));
    let mut found = Vec::new();
    for xid in late_in {
        let cursors = cursors.iter().map(|cursor| Cursor {
            xid,
            ..cursor.clone()
        });
        found.extend(reader.late(&cursors.collect::<Vec<_>>(), NIL).await.unwrap());
    }
    assert_eq!(found.iter().map(|h| h.run_id).collect::<Vec<_>>(), [late_id]);
}
