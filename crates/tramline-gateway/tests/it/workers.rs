//! Claims and what workers say: fields, limits, waiting, and the loss of a claim.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tramline_gateway::control::{
    Answer, Artifact, Claim, ControlError, Finish, Heartbeat, Millis, NewArtifact, NewEvent, Run, Workers,
};
use uuid::Uuid;

use crate::support::*;

impl ScriptedControl {
    fn note(&self, what: impl std::fmt::Debug) {
        self.workers.lock().unwrap().push(format!("{what:?}"));
    }
}

impl Workers for ScriptedControl {
    fn claim_runs(&self, claim: Claim) -> Answer<Vec<Value>> {
        self.note(claim);
        let runs = self.claims.lock().unwrap().pop_front().unwrap_or_default();
        self.answer(runs)
    }

    fn work_queued(&self, _: Duration) -> BoxFuture<'static, ()> {
        // at once while the test has something to say, so that nothing waits for a clock
        let more = !self.claims.lock().unwrap().is_empty();
        async move {
            if !more {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    fn heartbeat_run(&self, heartbeat: Heartbeat) -> Answer<Millis> {
        self.note(heartbeat);
        self.answer(1_700_000_000_000)
    }

    fn finish_run(&self, finish: Finish) -> Answer<Run> {
        let run = sample_run(finish.run_id, finish.status);
        self.note(finish);
        self.answer(run)
    }

    fn append_event(&self, event: NewEvent) -> Answer<Uuid> {
        self.note(event);
        self.answer(OWN_RUN)
    }

    fn add_artifact(&self, artifact: NewArtifact) -> Answer<Uuid> {
        self.note(artifact);
        self.answer(OWN_RUN)
    }

    fn run_artifacts(&self, _: Uuid) -> Answer<Vec<Artifact>> {
        self.answer(vec![])
    }
}

fn run(name: &str) -> String {
    format!("/api/v1/runs/{OWN_RUN}/{name}")
}

#[tokio::test]
async fn a_claim_is_passed_on_with_its_defaults_and_limits() {
    let gate = gate(|_| {}).await;
    gate.control
        .claims
        .lock()
        .unwrap()
        .push_back(vec![json!({ "run_id": OWN_RUN, "fence": 1 })]);
    let path = "/api/v1/queues/my%20queue/claim";
    let reply = gate.service("POST", path, &json!({ "worker_id": "w1" })).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()[0]["fence"], 1);
    let body = json!({ "worker_id": "w1", "count": 100, "lease": "90s" });
    assert_eq!(gate.service("POST", path, &body).await.json(), json!([]));
    let body = json!({ "worker_id": "w1", "lease": 5 });
    gate.service("POST", path, &body).await;
    let asked = gate.control.workers.lock().unwrap().clone();
    let claim = |count: u16, lease: u64| {
        let lease = Duration::from_secs(lease);
        format!("Claim {{ queue: \"my queue\", worker_id: \"w1\", count: {count}, lease: {lease:?} }}")
    };
    assert_eq!(asked, [claim(1, 1_800), claim(100, 90), claim(1, 5)]);
}

#[tokio::test]
async fn a_claim_that_waits_looks_until_there_is_a_run() {
    let gate = gate(|_| {}).await;
    {
        let mut claims = gate.control.claims.lock().unwrap();
        claims.extend([vec![], vec![], vec![json!({ "run_id": OWN_RUN })]]);
    }
    let body = json!({ "worker_id": "w" });
    let reply = gate
        .service("POST", "/api/v1/queues/ops/claim?wait=60", &body)
        .await;
    assert_eq!(reply.json()[0]["run_id"], json!(OWN_RUN));
    assert_eq!(gate.control.workers.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_node_that_stops_answers_the_claims_that_wait() {
    let gate = gate(|_| {}).await;
    let body = json!({ "worker_id": "w" });
    let control = gate.control.clone();
    let (reply, ()) = tokio::join!(
        gate.service("POST", "/api/v1/queues/ops/claim?wait=60", &body),
        async {
            while control.workers.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            gate.handle.stop(Duration::from_secs(30)).await;
        }
    );
    assert_eq!((reply.status.as_u16(), reply.json()), (200, json!([])));
}

#[tokio::test]
async fn what_a_worker_says_is_passed_on() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .service("POST", &run("heartbeat"), &json!({ "fence": 2, "lease": "1m" }))
        .await;
    assert_eq!(reply.json(), json!({ "lease_until": "2023-11-14T22:13:20Z" }));
    let body = json!({ "status": "success", "output": { "a": 1 }, "metadata": { "m": 1 }, "worker_id": "w1", "fence": 2 });
    let reply = gate.service("POST", &run("finish"), &body).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["status"]),
        (200, &json!("completed"))
    );
    let body = json!({ "level": "warn", "message": "slow", "payload": { "ms": 1 }, "event_type": "disk", "fence": 2 });
    assert_eq!(gate.service("POST", &run("events"), &body).await.status, 201);
    let body = json!({ "kind": "image", "name": "web", "uri": "oci://x", "sha256": "a".repeat(64), "bytes": 5, "metadata": { "os": "l" }, "validated": true });
    let reply = gate.service("POST", &run("artifacts"), &body).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()),
        (201, json!({ "artifact_id": OWN_RUN }))
    );
    let said = gate.control.workers.lock().unwrap().join("\n");
    for part in [
        "fence: Some(2), lease: Some(60s)",
        "status: Completed, output: Some(Object {\"a\": Number(1)})",
        "\"worker_id\": String(\"w1\")",
        "level: \"warn\", message: \"slow\"",
        "event_type: \"disk\"",
        "kind: \"image\", name: \"web\", uri: Some(\"oci://x\")",
        "bytes: Some(5)",
        "validated: true",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test]
async fn bad_words_of_workers_are_refused_with_their_places() {
    let gate = gate(|_| {}).await;
    let claim = "/api/v1/queues/ops/claim".to_owned();
    let long = "x".repeat(20_000);
    for (path, body, place) in [
        (&claim, json!({}), "worker_id"),
        (&claim, json!({ "worker_id": "" }), "worker_id"),
        (&claim, json!({ "worker_id": long }), "worker_id"),
        (&claim, json!({ "worker_id": "w", "count": 0 }), "count"),
        (&claim, json!({ "worker_id": "w", "count": 101 }), "count"),
        (&claim, json!({ "worker_id": "w", "count": 1.5 }), "count"),
        (&claim, json!({ "worker_id": "w", "lease": 0 }), "lease"),
        (&claim, json!({ "worker_id": "w", "lease": "8d" }), "lease"),
        (&claim, json!({ "worker_id": "w", "lease": "soon" }), "lease"),
        (&claim, json!({ "worker": "w" }), "worker"),
        (&run("heartbeat"), json!({}), "fence"),
        (&run("heartbeat"), json!({ "fence": 0 }), "fence"),
        (&run("heartbeat"), json!({ "fence": "1" }), "fence"),
        (&run("finish"), json!({}), "status"),
        (&run("finish"), json!({ "status": "running" }), "status"),
        (
            &run("finish"),
            json!({ "status": "success", "metadata": [] }),
            "metadata",
        ),
        (
            &run("finish"),
            json!({ "status": "success", "output": "\u{0}" }),
            "output",
        ),
        (&run("events"), json!({}), "message"),
        (&run("events"), json!({ "message": long }), "message"),
        (
            &run("events"),
            json!({ "message": "m", "level": "loud" }),
            "level",
        ),
        (&run("artifacts"), json!({}), "name"),
        (
            &run("artifacts"),
            json!({ "name": "n", "sha256": "A".repeat(64) }),
            "sha256",
        ),
        (&run("artifacts"), json!({ "name": "n", "bytes": -1 }), "bytes"),
        (
            &run("artifacts"),
            json!({ "name": "n", "validated": "yes" }),
            "validated",
        ),
    ] {
        let reply = gate.service("POST", path, &body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "INVALID_REQUEST"),
            "{body}"
        );
        let problems = &reply.json()["details"]["problems"];
        assert_eq!(problems[0]["path"], place, "{body}: {problems}");
    }
    let wait = format!("{claim}?wait=61");
    assert_eq!(
        gate.service("POST", &wait, &json!({ "worker_id": "w" }))
            .await
            .status,
        400
    );
    let large = json!({ "status": "success", "output": "a".repeat(1 << 20) });
    assert_eq!(gate.service("POST", &run("finish"), &large).await.status, 413);
    let large = json!({ "message": "m", "payload": { "x": "a".repeat(1 << 16) } });
    assert_eq!(gate.service("POST", &run("events"), &large).await.status, 413);
    assert_eq!(
        gate.service("POST", "/api/v1/runs/x/finish", &json!({ "status": "success" }))
            .await
            .status,
        404
    );
    assert!(
        gate.control.workers.lock().unwrap().is_empty(),
        "nothing was passed on"
    );
}

#[tokio::test]
async fn a_lost_claim_has_a_code_of_its_own() {
    let gate = gate(|_| {}).await;
    gate.control.fail(ControlError::ClaimLost {
        message: "\"w2\" holds it".into(),
        run_id: Some(OWN_RUN),
    });
    let reply = gate
        .service("POST", &run("heartbeat"), &json!({ "worker_id": "w1" }))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (409, "CLAIM_LOST")
    );
    assert_eq!(reply.json()["details"]["run_id"], json!(OWN_RUN));
}
