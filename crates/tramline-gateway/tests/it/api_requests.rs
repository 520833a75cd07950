//! `/api/v1`: strict bodies and queries, and what they become.

use std::time::Duration;

use serde_json::{Value, json};
use tramline_core::status::RunStatus;
use tramline_gateway::control::{RunVerb, Start};

use crate::support::*;

#[tokio::test]
async fn all_fields_of_a_run_reach_the_control() {
    let gate = gate(|_| {}).await;
    let id = uuid::Uuid::now_v7();
    let reply = gate
        .service(
            "POST",
            "/api/v1/runs",
            &json!({ "target": "hello", "input": { "a": 1 }, "correlation_id": "c", "concurrency_key": "k",
                     "queue": "q", "priority": 3, "run_at": "2027-01-02T03:04:05Z", "run_id": id,
                     "metadata": { "m": true } }),
        )
        .await;
    assert_eq!(reply.status, 201);
    assert_eq!(
        reply.json(),
        json!({ "run_id": id, "status": "queued", "existing": false })
    );
    let started = gate.control.started.lock().unwrap();
    let run = &started[0];
    assert_eq!((run.target.as_str(), &run.input), ("hello", &json!({ "a": 1 })));
    assert_eq!(
        (run.correlation_id.as_deref(), run.concurrency_key.as_deref()),
        (Some("c"), Some("k"))
    );
    assert_eq!(
        (run.queue.as_deref(), run.priority, run.run_id),
        (Some("q"), Some(3), Some(id))
    );
    assert_eq!(run.start, Start::At(1_798_859_045_000));
    assert_eq!(run.metadata["m"], true);
    assert_eq!((run.parent_run_id, run.created_by.as_deref()), (None, None));
}

#[tokio::test]
async fn defaults_are_left_to_the_store() {
    let gate = gate(|_| {}).await;
    gate.service(
        "POST",
        "/api/v1/runs",
        &json!({ "target": "hello", "input": null }),
    )
    .await;
    let started = gate.control.started.lock().unwrap();
    assert_eq!(started[0].input, json!({}));
    assert_eq!(
        (started[0].priority, started[0].start, started[0].run_id),
        (None, Start::Now, None)
    );
}

#[tokio::test]
async fn delay_is_seconds_or_a_duration() {
    let gate = gate(|_| {}).await;
    for delay in [json!(90), json!("90s"), json!("1m30s")] {
        let reply = gate
            .service("POST", "/api/v1/runs", &json!({ "target": "x", "delay": delay }))
            .await;
        assert_eq!(reply.status, 201, "{delay}");
    }
    for run in gate.control.started.lock().unwrap().iter() {
        assert_eq!(run.start, Start::After(Duration::from_secs(90)));
    }
}

#[tokio::test]
async fn existing_run_is_200_and_an_array_is_answered_in_order() {
    let gate = gate(|_| {}).await;
    *gate.control.existing.lock().unwrap() = true;
    let reply = gate
        .service("POST", "/api/v1/runs", &json!({ "target": "x" }))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["existing"].clone()),
        (200, json!(true))
    );
    let ids = [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()];
    let body = json!([{ "target": "x", "run_id": ids[0] }, { "target": "y", "run_id": ids[1] }]);
    let reply = gate.service("POST", "/api/v1/runs", &body).await;
    assert_eq!(reply.status, 201);
    let answered: Vec<Value> = reply
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["run_id"].clone())
        .collect();
    assert_eq!(answered, ids.map(|id| json!(id)));
}

#[tokio::test]
async fn refused_item_of_an_array_does_not_touch_the_others() {
    let gate = gate(|_| {}).await;
    let body = json!([{ "target": "x" }, { "target": "refused" }]);
    let reply = gate.service("POST", "/api/v1/runs", &body).await;
    assert_eq!(reply.status, 207);
    let items = reply.json();
    assert_eq!(items[0]["status"], "queued");
    assert_eq!(items[1]["error"]["status"], 404);
    assert_eq!(items[1]["error"]["code"], "UNKNOWN_TARGET");
    let alone = gate
        .service("POST", "/api/v1/runs", &json!({ "target": "refused" }))
        .await;
    assert_eq!(
        (alone.status.as_u16(), alone.code().as_str()),
        (404, "UNKNOWN_TARGET")
    );
}

#[tokio::test]
async fn call_from_inside_a_live_run_becomes_its_child() {
    let gate = gate(|_| {}).await;
    for run in [live_call(), LIVE_RUN.to_string()] {
        let headers = [
            ("apikey", SECRET_KEY),
            ("content-type", "application/json"),
            ("x-tramline-call", run.as_str()),
        ];
        gate.call("POST", "/api/v1/runs", &headers, r#"{"target":"x"}"#)
            .await;
    }
    let started = gate.control.started.lock().unwrap();
    assert_eq!(
        (started[0].parent_run_id, started[1].parent_run_id),
        (Some(LIVE_RUN), None)
    );
    assert_eq!(
        (&started[0].calling_function, &started[1].calling_function),
        (&Some("caller".to_owned()), &None)
    );
}

#[tokio::test]
async fn waiting_answers_the_run_at_its_end_or_202() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .service("POST", "/api/v1/runs?wait=5", &json!({ "target": "x" }))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["status"].clone()),
        (200, json!("completed"))
    );
    *gate.control.wait_status.lock().unwrap() = Some(RunStatus::Running);
    let reply = gate
        .service("POST", "/api/v1/runs?wait=5", &json!({ "target": "x" }))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["status"].clone()),
        (202, json!("running"))
    );
    assert_eq!(reply.json()["queued_at"], "2023-11-14T22:13:20Z");
    for query in ["wait=61", "wait=x", "wait=-1", "wait=1&wait=2", "wat=1"] {
        let reply = gate
            .service(
                "POST",
                &format!("/api/v1/runs?{query}"),
                &json!({ "target": "x" }),
            )
            .await;
        assert_eq!(reply.status, 400, "{query}");
    }
    assert_eq!(
        gate.service("POST", "/api/v1/runs?wait=1", &json!([{ "target": "x" }]))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let gate = gate(|_| {}).await;
    let path = format!("/api/v1/runs?status=failed&target=hello%20w&limit=500&before={OTHER_RUN}");
    assert_eq!(gate.service("GET", &path, &Value::Null).await.status, 200);
    assert_eq!(
        gate.service("GET", "/api/v1/runs", &Value::Null).await.status,
        200
    );
    {
        let filters = gate.control.filters.lock().unwrap();
        assert_eq!(filters[0].status, Some(RunStatus::Failed));
        assert_eq!(
            (filters[0].target.as_deref(), filters[0].limit),
            (Some("hello w"), 500)
        );
        assert_eq!(filters[0].before, Some(OTHER_RUN));
        assert_eq!((filters[1].status, filters[1].limit), (None, 50));
    }
    for query in [
        "limit=501",
        "limit=0",
        "status=done",
        "before=x",
        "stauts=failed",
        "limit=1&limit=2",
    ] {
        let reply = gate
            .service("GET", &format!("/api/v1/runs?{query}"), &Value::Null)
            .await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "INVALID_REQUEST"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn cancel_and_retry_carry_reason_and_actor() {
    let gate = gate(|_| {}).await;
    let cancel = format!("/api/v1/runs/{OTHER_RUN}/cancel");
    assert_eq!(
        gate.service("POST", &cancel, &json!({ "reason": "wrong customer" }))
            .await
            .status,
        200
    );
    let retry = format!("/api/v1/runs/{OTHER_RUN}/retry");
    assert_eq!(gate.service("POST", &retry, &Value::Null).await.status, 200);
    assert_eq!(
        gate.service("POST", &retry, &json!({ "reasn": "x" }))
            .await
            .status,
        400
    );
    assert_eq!(
        gate.service("POST", "/api/v1/runs/7/retry", &Value::Null)
            .await
            .status,
        404
    );
    let changes = gate.control.changes.lock().unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!(
        (changes[0].0, changes[0].1, changes[0].2.as_deref()),
        (OTHER_RUN, RunVerb::Cancel, Some("wrong customer"))
    );
    assert_eq!((changes[1].1, changes[1].2.as_deref()), (RunVerb::Retry, None));
    assert_eq!(changes[0].3.role, "service_role");
}

#[tokio::test]
async fn workflows_and_schedules_are_reached_by_name() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .service("GET", "/api/v1/workflows/my%20flow?version=4", &Value::Null)
        .await;
    assert_eq!(
        (reply.json()["name"].clone(), reply.json()["version"].clone()),
        (json!("my flow"), json!(4))
    );
    assert_eq!(
        gate.service("GET", "/api/v1/workflows/w?version=0", &Value::Null)
            .await
            .status,
        400
    );
    let reply = gate
        .service("POST", "/api/v1/workflows", &json!({ "name": "w" }))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["workflow"]["name"].clone()),
        (201, json!("w"))
    );
    let reply = gate
        .service("POST", "/api/v1/workflows/validate", &json!({}))
        .await;
    assert_eq!(
        reply.json(),
        json!({ "valid": true, "problems": [], "required_inputs": ["a"] })
    );
    let reply = gate
        .service("POST", "/api/v1/schedules/nightly/pause", &Value::Null)
        .await;
    assert_eq!(reply.json(), json!({ "name": "nightly", "enabled": false }));
    assert_eq!(
        gate.service("GET", "/api/v1/schedules/nightly/periods?limit=5", &Value::Null)
            .await
            .status,
        200
    );
    assert_eq!(
        gate.service("GET", "/api/v1/status", &Value::Null).await.json()["shard_count"],
        2
    );
}

#[tokio::test]
async fn schedules_are_stored_triggered_and_backfilled_and_bad_times_are_told() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .service(
            "PUT",
            "/api/v1/schedules/nightly",
            &json!({ "cron": "0 3 * * *" }),
        )
        .await;
    let stored = reply.json();
    assert_eq!(
        (&stored["changed"], &stored["schedule"]["cron"]),
        (&json!(true), &json!("0 3 * * *"))
    );
    let reply = gate
        .service("DELETE", "/api/v1/schedules/nightly", &Value::Null)
        .await;
    assert_eq!(reply.json(), json!({ "name": "nightly", "deleted": true }));
    let trigger = "/api/v1/schedules/nightly/trigger";
    let reply = gate.service("POST", trigger, &Value::Null).await;
    assert_eq!(reply.json()["name"], "nightly None");
    let reply = gate
        .service("POST", trigger, &json!({ "period": "1970-01-01T00:00:01Z" }))
        .await;
    assert_eq!(reply.json()["name"], "nightly Some(1000)");
    let backfill = "/api/v1/schedules/nightly/backfill";
    let span = json!({ "from": "1970-01-01T00:00:00Z", "to": "1970-01-02T00:00:00+01:00", "dry_run": true });
    let done = gate.service("POST", backfill, &span).await.json();
    assert_eq!(
        (&done["dry_run"], &done["periods"][0]["due_at"]),
        (&json!(true), &json!("1970-01-01T00:00:00Z"))
    );
    for (path, body, place) in [
        (trigger, json!({ "period": "yesterday" }), "period"),
        (trigger, json!({ "perod": "1970-01-01T00:00:01Z" }), "perod"),
        (backfill, json!({ "to": "1970-01-01T00:00:00Z" }), "from"),
        (
            backfill,
            json!({ "from": "1970-01-02T00:00:00Z", "to": "1970-01-01T00:00:00Z" }),
            "to",
        ),
        (
            backfill,
            json!({ "from": "1970-01-01T00:00:00Z", "to": "1970-01-02T00:00:00Z", "dry_run": 1 }),
            "dry_run",
        ),
    ] {
        let reply = gate.service("POST", path, &body).await;
        assert_eq!(reply.status.as_u16(), 400, "{body}");
        assert_eq!(reply.json()["details"]["problems"][0]["path"], place, "{body}");
    }
    let reply = gate
        .service(
            "PUT",
            "/api/v1/calendars/holidays",
            &json!({ "exclude": ["12-25"] }),
        )
        .await;
    assert_eq!(reply.json()["name"], "holidays");
    for (method, dropped) in [("GET", json!([])), ("POST", json!(["2026-01-01"]))] {
        let reply = gate.service(method, "/api/v1/retention", &Value::Null).await;
        assert_eq!(reply.json()["dropped"], dropped);
    }
}
