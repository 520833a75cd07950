//! Inputs and outputs are kept as texts that nobody tries with `jsonb` first: what passes for sure, `jsonb` takes.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::sync::Arc;
use tramline_core::json::Json;
use tramline_core::machine::Row;
use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::discovery::{Cursor, PAGE, Reader};

use crate::support::*;

/// Pieces of which texts are made that are JSON often enough, with all that `jsonb` is particular about.
const PIECES: [&str; 30] = [
    "\"a\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\udc00x\"",
    "\"\\ud83d\\ude00\"",
    "\"\\u0001\"",
    "\"\\n\\\\u0000\"",
    "\"é\u{7f}\u{1f600}\"",
    "1",
    "-0",
    "1e5",
    "1E400",
    "1e-20000",
    "0.00001",
    "123456789012345678901234567890",
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[1,2]",
    "{\"a\":1,\"a\":2}",
    "{\"a\":\"\\u0000\",\"a\":2}",
    "{\"\":0}",
    "{\"\\u0000\":0}",
    " 7 ",
    "\t{ \"k\" : [ null ] }\n",
    "\"\"",
    "[[[[]]]]",
    "2.50",
];

fn text(random: &mut StdRng, depth: usize) -> String {
    let piece = PIECES[random.random_range(0..PIECES.len())];
    match random.random_range(0..4) {
        _ if depth == 0 => piece.to_owned(),
        0 => piece.to_owned(),
        1 => format!("[{}, {}]", text(random, depth - 1), text(random, depth - 1)),
        2 => format!(
            "{{\"x\": {}, \"x\": {}}}",
            text(random, depth - 1),
            text(random, depth - 1)
        ),
        _ => {
            let levels = random.random_range(1..150);
            format!(
                "{}{}{}",
                "[".repeat(levels),
                text(random, depth - 1),
                "]".repeat(levels)
            )
        }
    }
}

#[tokio::test]
async fn what_is_sure_is_taken_by_jsonb_and_means_the_same_there() {
    let w = world().await;
    let mut random = StdRng::seed_from_u64(16);
    let mut sure: Vec<String> = Vec::new();
    let mut others = 0;
    for _ in 0..20_000 {
        let Ok(json) = Json::of_text(text(&mut random, 3)) else {
            continue;
        };
        // As a text of somebody else's, and as the tree that was read of it.
        for json in [Json::from(json.value().clone()), json] {
            if json.is_sure() {
                sure.push(json.text().to_owned());
            } else {
                others += 1;
            }
        }
    }
    assert!(
        sure.len() > 2_000 && others > 2_000,
        "{} sure, {others} not",
        sure.len()
    );
    let taken: Vec<Value> = w
        .sql
        .query(
            "select t::jsonb from unnest($1::text[]) with ordinality as u(t, n) order by n",
            &[&sure],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    for (text, taken) in sure.iter().zip(taken) {
        let read: Value = serde_json::from_str(text).unwrap();
        let written = serde_json::to_string(&taken).unwrap();
        // jsonb writes exponents out and knows no negative zero.
        let same = taken == read || text.contains(['e', 'E']) || text.contains("-0");
        assert!(same, "{text} became {written}");
    }
}

/// An output whose text the database has to look at: the tree does not show that a key comes twice.
#[tokio::test]
async fn what_is_not_sure_is_tried_before_it_is_kept() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let with = |text: &str| {
        let Row::End(mut row) = end(RunStatus::Completed) else {
            unreachable!()
        };
        row.output = Some(Arc::new(Json::of_text(text).unwrap()));
        Row::End(row)
    };
    let (neighbour, bad) = (w.run_in(1).await, w.run_in(2).await);
    let mut batch = owner.batch();
    batch.push(first(neighbour), &end(RunStatus::Completed), NOW, 1);
    batch.push(first(bad), &with(r#"{"a": "\u0000", "a": 1}"#), NOW, 1);
    let error = owner
        .flusher
        .send(owner.node, "n", &batch, false)
        .await
        .unwrap_err();
    assert!(error.is_poison(), "{error:?}");
    assert_eq!(w.count("select count(*) from tramline.run_ends").await, 0);
    // What jsonb takes is kept, neighbours too, and shown as jsonb.
    let mut batch = owner.batch();
    batch.push(first(neighbour), &end(RunStatus::Completed), NOW, 1);
    batch.push(first(bad), &with(r#"{"a": "\u00e9", "a": 1e2}"#), NOW, 1);
    let flushed = owner.flusher.send(owner.node, "n", &batch, false).await.unwrap();
    assert!(flushed.not_ended.is_empty());
    assert_eq!(w.row(bad).await["output"], json!({ "a": 100 }));
    assert_eq!(w.row(neighbour).await["output"], json!({ "done": true }));
}

#[tokio::test]
async fn an_input_is_kept_as_it_came_and_one_that_jsonb_refuses_is_refused() {
    let w = world().await;
    let of = |input: Value| NewRun {
        target: "step".into(),
        input,
        ..NewRun::default()
    };
    let input = json!({ "b": [1.5, -0.0, 1e30], "a": "\u{1}é", "n": { "deep": null } });
    let answers = api::enqueue(&w.store, &[of(input.clone()), of(json!(7))])
        .await
        .unwrap();
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().run_id).collect();
    // To its owner the very text, to everybody else jsonb.
    let reader = Reader::connect(&w.store).await.unwrap();
    let cursors: Vec<Cursor> = (0..16).map(|shard| Cursor::from_mark(shard, 2, None)).collect();
    let found = reader
        .unfinished(&cursors, &std::collections::HashMap::new(), PAGE, true)
        .await
        .unwrap();
    let body = found
        .iter()
        .find(|h| h.run_id == ids[0])
        .and_then(|h| h.body.as_ref())
        .unwrap();
    assert_eq!(body.input.text(), input.to_string());
    let shown: bool = w
        .value(
            "select input = $2::jsonb from ops.runs where run_id = $1",
            &[&ids[0], &input],
        )
        .await;
    assert!(shown);
    assert_eq!(w.row(ids[1]).await["input"], json!(7));
    let before = w.count("select count(*) from tramline.all_runs").await;
    let refused = api::enqueue(&w.store, &[of(json!({ "a": "x\u{0}" }))])
        .await
        .unwrap_err();
    assert!(refused.is_poison(), "{refused:?}");
    assert_eq!(w.count("select count(*) from tramline.all_runs").await, before);
}
