//! The short way of a plain batch says and stores what the long way does. Naming the queue, even the default one,
//! makes a batch take the long way.

use serde_json::{Value, json};
use tramline_store::api::NewRun;
use tramline_store::discovery::Reader;
use tramline_store::rows::JsonText;
use uuid::Uuid;

use crate::support::*;

const CALL: &str = "select jsonb_agg(to_jsonb(m) order by m.ord) from tramline.enqueue_many($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::jsonb[]) m";

struct Batch {
    ids: Vec<Option<Uuid>>,
    targets: Vec<Option<&'static str>>,
    inputs: Vec<Option<Value>>,
}

impl Batch {
    fn of(targets: &[&'static str]) -> Self {
        Self {
            ids: targets.iter().map(|_| Some(Uuid::now_v7())).collect(),
            targets: targets.iter().map(|t| Some(*t)).collect(),
            inputs: (0..targets.len()).map(|n| Some(json!({ "n": n }))).collect(),
        }
    }

    /// What one way answers and stores; everything is taken back afterwards.
    async fn outcome(&self, w: &mut World, options: Option<Value>) -> Value {
        let tx = w.sql.transaction().await.unwrap();
        let none: Vec<Option<String>> = vec![None; self.ids.len()];
        let options: Vec<Option<Value>> = vec![options; self.ids.len()];
        let answer: Value = match tx
            .query_one(CALL, &[&self.ids, &self.targets, &self.inputs, &none, &options])
            .await
        {
            Ok(row) => row.get(0),
            Err(error) => return json!(error.as_db_error().unwrap().code().code()),
        };
        let rows: Option<Value> = tx
            .query_one(
                "select jsonb_agg(to_jsonb(r) - array['queued_at', 'enqueued_xid'] || jsonb_build_object('mine', r.enqueued_xid = pg_current_xact_id())
                          order by r.run_id) from tramline.all_runs r where r.run_id = any ($1)",
                &[&self.ids],
            )
            .await
            .unwrap()
            .get(0);
        tx.rollback().await.unwrap();
        json!({ "answer": answer, "rows": rows })
    }
}

#[tokio::test]
async fn a_plain_batch_is_stored_as_any_other() {
    let mut w = world().await;
    let known = w.run_in(3).await;
    w.sql
        .batch_execute("insert into tramline.workflow_definitions (name, version, status, definition, checksum, required_inputs) \
            values ('flow', 1, 'published', '{}', 'x', '{}'), ('flow', 2, 'published', '{}', 'y', '{}')")
        .await
        .unwrap();
    let mut cases = vec![
        (
            "functions and a workflow",
            Batch::of(&["step", "flow", "other", "step"]),
        ),
        ("inputs that are missing", Batch::of(&["step", "order"])),
        ("an unknown target", Batch::of(&["step", "nobody"])),
    ];
    let with = |change: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::of(&["step", "step", "step"]);
        change(&mut batch);
        batch
    };
    cases.push(("no input", with(&|b| b.inputs[1] = None)));
    cases.push(("sent again", with(&|b| b.ids[1] = Some(known))));
    cases.push(("an id twice", with(&|b| b.ids[2] = b.ids[0])));
    cases.push((
        "an id of another kind",
        with(&|b| b.ids[1] = Some(Uuid::new_v4())),
    ));
    cases.push((
        "an id of another time",
        with(&|b| b.ids[1] = Some(Uuid::from_u128(7 << 76 | 2 << 62))),
    ));
    cases.push(("no target", with(&|b| b.targets[0] = None)));
    cases.push(("out of order", with(&|b| b.ids.reverse())));
    cases.push((
        "required inputs that are there",
        with(&|b| {
            b.targets[1] = Some("order");
            b.inputs[1] = Some(json!({ "customer": 1, "amount": null, "more": [] }));
        }),
    ));
    let who = json!({ "own_id": true, "source": "api:x", "created_by": Uuid::now_v7(), "triggered_by": "t", "metadata": { "k": [1] } });
    let options = [
        None,
        Some(json!({})),
        Some(who),
        Some(json!({ "metadata": null })),
        Some(json!({ "created_by": "nobody" })),
        Some(json!([])),
    ];
    for (name, batch) in cases {
        for options in &options {
            let short = batch.outcome(&mut w, options.clone()).await;
            let long = batch.outcome(&mut w, Some(in_queue(options.as_ref()))).await;
            assert_eq!(short, long, "{name}, {options:?}");
        }
    }
    // A function's policy goes with either way.
    let plain = Batch::of(&["step"]);
    w.sql
        .batch_execute("update tramline.functions set retry = '{\"max_attempts\": 3}' where name = 'step'")
        .await
        .unwrap();
    let short = plain.outcome(&mut w, None).await;
    assert_eq!(short["rows"][0]["retry"], json!({ "max_attempts": 3 }));
    assert_eq!(short, plain.outcome(&mut w, Some(in_queue(None))).await);
}

/// The same options for the long way.
fn in_queue(options: Option<&Value>) -> Value {
    let mut long = options.filter(|o| o.is_object()).cloned().unwrap_or(json!({}));
    long["queue"] = json!("default");
    long
}

#[tokio::test]
async fn ids_of_a_plain_batch_are_made_where_none_are_given() {
    let mut w = world().await;
    let mut batch = Batch::of(&["step"; 50]);
    batch.ids = vec![None; 50];
    let outcome = batch.outcome(&mut w, None).await;
    let ids: std::collections::BTreeSet<&str> = outcome["answer"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| {
            assert_eq!(answer["created"], json!(true));
            answer["run_id"].as_str().unwrap()
        })
        .collect();
    assert_eq!(ids.len(), 50);
}

/// A list that is not given says nothing about the others.
#[tokio::test]
async fn correlation_ids_count_whatever_else_is_left_out() {
    let w = world().await;
    let call = "select count(*) from tramline.enqueue_many(array[null::uuid, null], array['step', 'step'], array['{}'::jsonb, '{}'], array['same', 'same'], null)
                 where created";
    assert_eq!(w.count(call).await, 1);
    assert_eq!(w.count("select count(*) from tramline.runs").await, 1);
}

/// What the statement tells of a plain batch is what the owner would read.
#[tokio::test]
async fn what_is_told_of_a_plain_batch_is_what_is_read() {
    let w = world().await;
    w.sql
        .batch_execute("insert into tramline.workflow_definitions (name, version, status, definition, checksum, required_inputs) \
            values ('flow', 7, 'published', '{}', 'x', '{}'); \
            update tramline.functions set retry = '{\"max_attempts\": 3}' where name = 'other'")
        .await
        .unwrap();
    let of = |target: &str, input: Value| NewRun {
        target: target.into(),
        input,
        ..NewRun::default()
    };
    let sourced = NewRun {
        run_id: Some(Uuid::now_v7()),
        source: Some("test".into()),
        ..of("step", json!({ "bb": [1.50, "\u{1F600}"], "a": null }))
    };
    let traced = NewRun {
        metadata: Some(json!({ "traceparent": "x" })),
        ..of("flow", json!([]))
    };
    let batches = [
        vec![of("step", json!({ "n": 1 })), sourced, of("flow", json!({}))],
        vec![of("flow", json!("alone"))],
        vec![traced],
        vec![
            of("other", json!({})),
            of("step", json!({ "zero": [0, 0.5, -1, -0.25] })),
        ],
        // jsonb would write these numbers otherwise, which may make other kinds of numbers of them.
        ["1e16", "-0.0"]
            .map(|n| {
                of(
                    "step",
                    json!([{ "n": serde_json::from_str::<Value>(n).unwrap() }]),
                )
            })
            .to_vec(),
    ];
    let reader = Reader::connect(&w.store).await.unwrap();
    for batch in &batches {
        for run in w.enqueue(batch).await {
            let run = run.unwrap();
            let told = run.told.expect("a plain batch");
            assert_eq!(told.runs, batch.len(), "as many runs of one transaction");
            let mut told = told.header;
            let mut read = reader.named(&[run.run_id]).await.unwrap().remove(0);
            // An input is kept as it came. In metadata spaces and the order of keys mean nothing: it is read before anything is done with it.
            let values = [&mut told, &mut read].map(|header| {
                let body = header.body.as_mut().unwrap();
                let input = std::mem::replace(&mut body.input, JsonText::of("{}"));
                (input, body.metadata.take().map(|text| text.read().unwrap()))
            });
            assert_eq!(values[0], values[1]);
            assert_eq!(format!("{told:?}"), format!("{read:?}"));
        }
    }
    let many = vec![of("step", json!({})); 501];
    let uncommon = vec![NewRun {
        priority: Some(1),
        ..of("step", json!({}))
    }];
    for batch in [many, uncommon] {
        for run in w.enqueue(&batch).await {
            assert!(run.unwrap().told.is_none());
        }
    }
}
