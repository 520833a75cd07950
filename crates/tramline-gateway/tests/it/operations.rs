//! `/api/v1`: bulk changes, dead letters, reasons.

use serde_json::{Value, json};
use tramline_gateway::control::RunVerb;

use crate::support::*;

async fn post(gate: &Gate, path: &str, body: Value) -> Reply {
    gate.service("POST", &format!("/api/v1{path}"), &body).await
}

/// Places of what is wrong with a request.
fn places(reply: &Reply) -> Vec<String> {
    let problems = reply.json()["details"]["problems"].clone();
    let places = problems.as_array().expect("a list of problems").iter();
    places
        .map(|problem| problem["path"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_bulk_request_is_a_dry_run_unless_it_says_otherwise() {
    let gate = gate(|_| {}).await;
    let filter = json!({ "target": "hello", "status": ["failed"] });
    let reply = post(&gate, "/runs/bulk", json!({ "verb": "retry", "filter": filter })).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()),
        (200, json!({ "matched": 1 }))
    );
    let after = OWN_RUN.to_string();
    post(
        &gate,
        "/runs/bulk",
        json!({ "verb": "cancel", "filter": filter, "dry_run": false, "reason": "r", "limit": 5, "after": after }),
    )
    .await;
    let bulks = gate.control.bulks.lock().unwrap();
    assert!(bulks[0].0.dry_run && bulks[0].0.limit == 1_000);
    let (bulk, actor) = &bulks[1];
    assert_eq!(
        (bulk.verb.as_str(), bulk.dry_run, bulk.limit, bulk.after),
        ("cancel", false, 5, Some(OWN_RUN))
    );
    assert_eq!((bulk.reason.as_deref(), &bulk.filter), (Some("r"), &filter));
    assert_eq!(actor.role, "service_role");
}

#[tokio::test]
async fn a_bad_bulk_request_is_refused_with_all_places() {
    let gate = gate(|_| {}).await;
    let bad = json!({ "filter": [], "dry_run": "no", "limit": 0, "after": "x", "resaon": "r" });
    let reply = post(&gate, "/runs/bulk", bad).await;
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(
        places(&reply),
        ["resaon", "verb", "filter", "dry_run", "limit", "after"]
    );
    let reply = post(
        &gate,
        "/dead-letters/redrive",
        json!({ "verb": "redrive", "filter": {} }),
    )
    .await;
    assert_eq!(places(&reply), ["verb"]);
    assert!(gate.control.bulks.lock().unwrap().is_empty());
}

#[tokio::test]
async fn runs_are_paused_and_resumed() {
    let gate = gate(|_| {}).await;
    let path = |verb: &str| format!("/runs/{OWN_RUN}/{verb}");
    assert_eq!(
        post(&gate, &path("pause"), json!({ "reason": "look" }))
            .await
            .status,
        200
    );
    assert_eq!(post(&gate, &path("resume"), Value::Null).await.status, 200);
    let changes = gate.control.changes.lock().unwrap();
    assert_eq!(
        (changes[0].1, changes[0].2.as_deref()),
        (RunVerb::Pause, Some("look"))
    );
    assert_eq!(changes[1].1, RunVerb::Resume);
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_redriven() {
    let gate = gate(|_| {}).await;
    let path = "/api/v1/dead-letters?target=hello&reason=crash_loop&all=true&limit=7";
    let reply = gate.service("GET", path, &Value::Null).await;
    assert_eq!(reply.json(), json!([{ "run_id": OWN_RUN }]));
    {
        let filters = gate.control.letter_filters.lock().unwrap();
        let filter = &filters[0];
        assert_eq!(
            (filter.target.as_deref(), filter.reason.as_deref()),
            (Some("hello"), Some("crash_loop"))
        );
        assert_eq!((filter.all, filter.limit), (true, 7));
    }
    let one = |id: uuid::Uuid| format!("/api/v1/dead-letters/{id}");
    assert_eq!(gate.service("GET", &one(OWN_RUN), &Value::Null).await.status, 200);
    assert_eq!(
        gate.service("GET", &one(OTHER_RUN), &Value::Null).await.status,
        404
    );
    let redrive = format!("/dead-letters/{OWN_RUN}/redrive");
    post(
        &gate,
        &redrive,
        json!({ "input": { "n": 2 }, "reason": "mended" }),
    )
    .await;
    post(&gate, &redrive, Value::Null).await;
    let reply = post(&gate, "/dead-letters/no-uuid/redrive", Value::Null).await;
    assert_eq!(reply.status, 404);
    let redriven = gate.control.redriven.lock().unwrap();
    assert_eq!(
        (redriven[0].1.as_ref(), redriven[0].2.as_deref()),
        (Some(&json!({ "n": 2 })), Some("mended"))
    );
    assert_eq!((redriven[1].1.as_ref(), redriven[1].2.as_deref()), (None, None));
}

#[tokio::test]
async fn reasons_are_told_with_their_times() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .service("GET", &format!("/api/v1/runs/{OWN_RUN}/why"), &Value::Null)
        .await;
    assert_eq!(
        reply.json(),
        json!({ "subject": OWN_RUN, "status": "waiting", "reasons": [
            { "code": "sleep", "since": "2023-11-14T22:13:20Z", "sentence": "it sleeps", "detail": { "step": "nap" } } ] })
    );
    let reply = gate.service("GET", "/api/v1/queues/mail/why", &Value::Null).await;
    assert_eq!(reply.json(), json!({ "subject": "mail", "reasons": [] }));
}

#[tokio::test]
async fn a_run_may_bring_its_own_policy() {
    let gate = gate(|_| {}).await;
    let retry = json!({ "max_attempts": 3, "on": ["5xx"] });
    let reply = post(&gate, "/runs", json!({ "target": "hello", "retry": retry })).await;
    assert_eq!(reply.status, 201);
    assert_eq!(gate.control.started.lock().unwrap()[0].retry, Some(retry));
    let bad = json!([{ "target": "hello", "retry": { "max_atempts": 3 } }]);
    let reply = post(&gate, "/runs", bad).await;
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(places(&reply), ["[0].retry.max_atempts"]);
}
