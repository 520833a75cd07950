//! Dead letters: what they hold, and trying them again.

use serde_json::{Value, json};
use tramline_core::machine::{DeadLetterRow, Row};
use tramline_core::status::RunStatus;
use tramline_store::api::{self, Bulk, DeadLetterQuery, NewRun};
use uuid::Uuid;

use crate::support::*;

fn of(target: &str, queue: &str) -> NewRun {
    NewRun {
        target: target.into(),
        queue: Some(queue.into()),
        ..step_run()
    }
}

/// Fails a run as a dead letter.
async fn gives_up(owner: &Owner, id: Uuid, reason: &'static str) {
    let Row::DeadLetter(letter) = letter() else {
        panic!("a dead letter")
    };
    let row = Row::DeadLetter(DeadLetterRow { reason, ..letter });
    let mut failed = step("s");
    if let Row::Step(step) = &mut failed {
        step.status = tramline_core::status::StepStatus::Failed;
        step.error = Some(std::sync::Arc::new(
            json!({ "code": "http_503", "message": "busy" }),
        ));
    }
    let mut ended = end(RunStatus::Failed);
    if let Row::End(end) = &mut ended {
        end.error = Some(std::sync::Arc::new(
            json!({ "code": "http_503", "message": "busy" }),
        ));
    }
    owner.record(first(id), &[failed, ended, row]).await;
}

#[tokio::test]
async fn a_dead_letter_holds_attempts_error_and_input() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.accept(of("step", "mail")).await;
    gives_up(&owner, id, "attempts_exhausted").await;
    let letters = api::dead_letters_of(&w.store, id).await.unwrap();
    let letter = &letters[0];
    assert_eq!(
        json!([
            letter["target"],
            letter["queue"],
            letter["reason"],
            letter["message"],
            letter["step"],
            letter["attempt"]
        ]),
        json!(["step", "mail", "attempts_exhausted", "no", "s", 3])
    );
    assert_eq!(letter["payload"], json!({ "n": 1 }));
    assert_eq!(letter["error"]["code"], "http_503");
    assert_eq!(letter["attempts"][0]["error"]["message"], "busy");
    assert_eq!(letter["attempts"][0]["node"], "n");
    assert_eq!(letters.len(), 1);
}

#[tokio::test]
async fn a_dead_letter_is_redriven_once_and_stays() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.accept(step_run()).await;
    assert_eq!(w.refusal("select ops.redrive($1)", &[&id]).await, "TL404");
    gives_up(&owner, id, "crash_loop").await;
    api::redrive(
        &w.store,
        id,
        Some(&json!({ "n": 2 })),
        Some("mended"),
        Some("ada"),
    )
    .await
    .unwrap();
    let asked: Value = w.value("select to_jsonb(c) from tramline.commands c", &[]).await;
    assert_eq!(
        json!([asked["verb"], asked["args"], asked["actor"], asked["reason"]]),
        json!(["retry", { "generation": 1, "input": { "n": 2 } }, "ada", "mended"])
    );
    // What its owner records when it opens the next generation.
    let opened = Row::Redriven {
        generation: 1,
        actor: Some("ada".into()),
        reason: Some("mended".into()),
    };
    let subject = tramline_store::flush::Subject {
        generation: 2,
        ..first(id)
    };
    owner.record(subject, &[opened]).await;
    let letter = &api::dead_letters_of(&w.store, id).await.unwrap()[0];
    assert_eq!(
        json!([letter["redriven_by"], letter["redrive_reason"]]),
        json!(["ada", "mended"])
    );
    assert!(letter["redriven_at"].is_string());
    assert_eq!(w.refusal("select ops.redrive($1)", &[&id]).await, "TL409");
    let open = DeadLetterQuery {
        limit: 10,
        ..DeadLetterQuery::default()
    };
    assert!(api::list_dead_letters(&w.store, &open).await.unwrap().is_empty());
    let all = DeadLetterQuery { all: true, ..open };
    assert_eq!(api::list_dead_letters(&w.store, &all).await.unwrap().len(), 1);
}

#[tokio::test]
async fn dead_letters_are_redriven_by_filter() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let id = w.accept(of(if n < 4 { "step" } else { "other" }, "mail")).await;
        gives_up(
            &owner,
            id,
            if n == 0 {
                "crash_loop"
            } else {
                "attempts_exhausted"
            },
        )
        .await;
        ids.push(id);
    }
    let redrive = async |filter: Value, dry_run: bool, limit: i32| {
        let bulk = Bulk {
            verb: "redrive",
            filter: &filter,
            dry_run,
            reason: None,
            actor: Some("ada"),
            limit,
            after: None,
        };
        api::redrive_many(&w.store, &bulk).await.unwrap()
    };
    for (filter, expected) in [
        (json!({ "all": true }), 5),
        (json!({ "target": "step" }), 4),
        (json!({ "target": "step", "reason": "crash_loop" }), 1),
        (json!({ "code": "http_503" }), 5),
        (json!({ "code": "http_500" }), 0),
        (json!({ "step": "s", "queue": "mail" }), 5),
        (json!({ "until": "2020-01-01T00:00:00Z" }), 0),
        (json!({ "run_ids": [ids[4]] }), 1),
    ] {
        let answer = redrive(filter.clone(), true, 100).await;
        assert_eq!(
            (&answer["matched"], &answer["applied"]),
            (&json!(expected), &json!(0)),
            "{filter}"
        );
    }
    let answer = redrive(json!({ "target": "step" }), false, 3).await;
    assert_eq!(
        json!([answer["total"], answer["matched"], answer["applied"]]),
        json!([4, 3, 3])
    );
    assert!(answer["next"].is_string());
    assert_eq!(w.count("select count(*) from tramline.commands").await, 3);
    assert_eq!(w.refusal("select ops.redrive_many('{}')", &[]).await, "TL422");
}
