//! `Idempotency-Key`: one run for one key, the same answer for everybody who repeats the request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tramline_gateway::*;

use crate::doors::MemoryStore;
use crate::support::*;

fn keep(config: &mut GatewayConfig, store: &Arc<MemoryStore>) {
    for name in ["pay", "open"] {
        let rules = EdgeRules {
            keep_answers: Some(Duration::from_secs(60)),
            ..EdgeRules::default()
        };
        config.edges.insert(name.into(), rules);
    }
    config
        .guards
        .insert("open".into(), Guard::new(GuardAuth::PassThrough));
    config.gate_store = Some(Arc::clone(store) as Arc<dyn GateStore>);
}

async fn node(store: &Arc<MemoryStore>) -> Gate {
    gate(|config| keep(config, store)).await
}

/// A function that counts its calls, answers with the count, and may be held back.
#[derive(Clone)]
struct Counted {
    calls: Arc<AtomicUsize>,
    begun: Arc<Semaphore>,
    gate: Arc<Semaphore>,
    statuses: Arc<Mutex<Vec<u16>>>,
}

impl Counted {
    fn new(open: usize) -> Self {
        Self {
            calls: Arc::default(),
            begun: Arc::new(Semaphore::new(0)),
            gate: Arc::new(Semaphore::new(open)),
            statuses: Arc::default(),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn on(&self, gate: &Gate, name: &str) {
        let this = self.clone();
        gate.functions.on(name, move |_, _| {
            let this = this.clone();
            async move {
                let count = this.calls.fetch_add(1, Ordering::SeqCst) + 1;
                this.begun.add_permits(1);
                this.gate.acquire().await.unwrap().forget();
                let status = this.statuses.lock().unwrap().pop().unwrap_or(201);
                Ok(Response::builder()
                    .status(status)
                    .header("x-count", count)
                    .header("content-type", "application/json")
                    .body(full(format!("{{\"count\":{count}}}")))
                    .unwrap())
            }
        });
    }

    async fn begun(&self) {
        tokio::time::timeout(PATIENCE, self.begun.acquire())
            .await
            .unwrap()
            .unwrap()
            .forget();
    }
}

const OPEN: usize = 1_000;

async fn ask(gate: &Gate, path: &str, key: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    let mut all = vec![("idempotency-key", key), ("content-type", "application/json")];
    all.extend(headers);
    gate.call("POST", &format!("/functions/v1/{path}"), &all, &body.to_string())
        .await
}

async fn pay(gate: &Gate, key: &str, body: &Value) -> Reply {
    ask(gate, "pay", key, &[("apikey", SECRET_KEY)], body).await
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_again_without_another_call() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let function = Counted::new(OPEN);
    function.on(&gate, "pay");
    let first = pay(&gate, "k-1", &json!({ "amount": 1 })).await;
    let again = pay(&gate, "k-1", &json!({ "amount": 1 })).await;
    assert_eq!(
        (first.status.as_u16(), first.json()),
        (201, json!({ "count": 1 }))
    );
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("x-count"), Some("1"));
    assert_eq!(again.header("content-type"), Some("application/json"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(function.calls(), 1);

    let other = pay(&gate, "k-1", &json!({ "amount": 2 })).await;
    assert_eq!(
        (other.status.as_u16(), other.code().as_str()),
        (422, "IDEMPOTENCY_KEY_REUSED")
    );
    let query = ask(
        &gate,
        "pay?x=1",
        "k-1",
        &[("apikey", SECRET_KEY)],
        &json!({ "amount": 1 }),
    )
    .await;
    assert_eq!(query.status, 422);
    assert_eq!(function.calls(), 1);
    assert_eq!(
        pay(&gate, "k-2", &json!({ "amount": 1 })).await.json()["count"],
        2
    );
}

#[tokio::test]
async fn a_key_belongs_to_its_caller_function_method_and_path() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let function = Counted::new(OPEN);
    function.on(&gate, "pay");
    function.on(&gate, "open");
    let user = format!("Bearer {}", user_token());
    let renewed = format!("Bearer {}", {
        let claims =
            json!({ "sub": USER, "role": "authenticated", "aud": "authenticated", "exp": now() + 900 });
        token(&claims)
    });
    let service = format!("Bearer {}", role_token("service_role"));
    let cases: [(&str, &str, Vec<(&str, &str)>, u64); 9] = [
        ("POST", "pay", vec![("authorization", &user)], 1),
        ("POST", "pay", vec![("authorization", &renewed)], 1),
        ("POST", "pay", vec![("authorization", &service)], 2),
        ("PUT", "pay", vec![("authorization", &user)], 3),
        ("POST", "pay/1", vec![("authorization", &user)], 4),
        ("POST", "open", vec![], 5),
        // The function checks for itself, so that the gateway cannot know that these two are the same person.
        ("POST", "open", vec![("authorization", &user)], 6),
        ("POST", "open", vec![("cookie", "session=1")], 7),
        ("POST", "open", vec![("cookie", "session=1")], 7),
    ];
    for (method, path, mut headers, count) in cases {
        headers.push(("idempotency-key", "same"));
        let path = format!("/functions/v1/{path}");
        let reply = gate.call(method, &path, &headers, "{}").await;
        assert_eq!(reply.json()["count"], count, "{method} {path} {headers:?}");
    }
    // Safe methods, and functions without the rule, are called as ever.
    let headers = [("idempotency-key", "same"), ("authorization", user.as_str())];
    for count in [8, 9] {
        let reply = gate.get("/functions/v1/pay", &headers).await;
        assert_eq!(reply.json()["count"], count);
    }
    for _ in 0..2 {
        let reply = gate.call("POST", "/functions/v1/echo", &headers, "{}").await;
        assert_eq!(reply.header("idempotency-replayed"), None);
        assert_eq!(reply.json()["headers"]["idempotency-key"], json!(["same"]));
    }
}

#[tokio::test]
async fn requests_at_the_same_time_on_two_nodes_call_the_function_once() {
    let store = Arc::new(MemoryStore::default());
    let nodes = [node(&store).await, node(&store).await];
    let function = Counted::new(0);
    for gate in &nodes {
        function.on(gate, "pay");
    }
    let body = json!({ "amount": 1 });
    let asks = (0..12).map(|n| pay(&nodes[n % 2], "k", &body));
    let release = async {
        function.begun().await;
        // Only when somebody has seen that the key is taken does the first one go on.
        store.answers.looks.notified().await;
        function.gate.add_permits(OPEN);
    };
    let (replies, ()) = futures_util::join!(futures_util::future::join_all(asks), release);
    assert_eq!(function.calls(), 1);
    for reply in &replies {
        assert_eq!(
            (reply.status.as_u16(), reply.json()),
            (201, json!({ "count": 1 }))
        );
    }
    let replayed = replies
        .iter()
        .filter(|reply| reply.header("idempotency-replayed").is_some());
    assert_eq!(replayed.count(), 11);
}

#[tokio::test]
async fn answers_outlive_the_node_that_gave_them() {
    let store = Arc::new(MemoryStore::default());
    let function = Counted::new(OPEN);
    let before = node(&store).await;
    function.on(&before, "pay");
    let first = pay(&before, "k", &json!({})).await;
    before.handle.stop(PATIENCE).await;
    let after = node(&store).await;
    function.on(&after, "pay");
    let again = pay(&after, "k", &json!({})).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    assert_eq!(function.calls(), 1);
}

#[tokio::test]
async fn what_failed_is_tried_again_and_what_was_refused_is_not() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let function = Counted::new(OPEN);
    function.on(&gate, "pay");
    for (status, tried_again) in [
        (500, true),
        (503, true),
        (429, true),
        (408, true),
        (400, false),
        (303, false),
    ] {
        function.statuses.lock().unwrap().push(status);
        let key = format!("k-{status}");
        let before = function.calls();
        assert_eq!(pay(&gate, &key, &json!({})).await.status, status);
        let again = pay(&gate, &key, &json!({})).await;
        assert_eq!(
            function.calls() - before,
            if tried_again { 2 } else { 1 },
            "{status}"
        );
        assert_eq!(again.status, if tried_again { 201 } else { status });
    }
}

#[tokio::test]
async fn crashes_timeouts_and_answers_that_break_off_give_the_key_back() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    gate.functions.on("pay", move |_, _| {
        let call = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let crash = || CallError::WorkerError {
                message: "crash".into(),
            };
            match call {
                0 => Err(crash()),
                1 => Err(CallError::IdleTimeout),
                2 => {
                    let frames: [Result<Frame<Bytes>, BoxError>; 2] = [
                        Ok(Frame::data(Bytes::from_static(b"half"))),
                        Err(Box::new(crash())),
                    ];
                    Ok(Response::new(boxed(StreamBody::new(stream::iter(frames)))))
                }
                _ => Ok(Response::new(full("done"))),
            }
        }
    });
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(pay(&gate, "k", &json!({})).await.status.as_u16());
    }
    assert_eq!(seen, [500, 504, 500, 200, 200]);
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_client_that_goes_away_finds_its_answer_when_it_comes_back() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let function = Counted::new(0);
    function.on(&gate, "pay");
    let body = json!({});
    {
        let mut gone = std::pin::pin!(pay(&gate, "k", &body));
        tokio::select! {
            reply = &mut gone => panic!("{reply:?}"),
            () = function.begun() => {}
        }
    }
    let again = async {
        let reply = pay(&gate, "k", &json!({})).await;
        (reply.status.as_u16(), reply.json())
    };
    let release = async {
        store.answers.looks.notified().await;
        function.gate.add_permits(OPEN);
    };
    let (again, ()) = futures_util::join!(again, release);
    assert_eq!(again, (201, json!({ "count": 1 })));
    assert_eq!(function.calls(), 1);
}

#[tokio::test]
async fn waiting_has_an_end() {
    let store = Arc::new(MemoryStore::default());
    let gate = gate(|config| {
        keep(config, &store);
        config.limits.idempotency_wait = Duration::from_millis(60);
    })
    .await;
    let function = Counted::new(0);
    function.on(&gate, "pay");
    let first = async { pay(&gate, "k", &json!({})).await.status };
    let second = async {
        function.begun().await;
        let second = pay(&gate, "k", &json!({})).await;
        function.gate.add_permits(OPEN);
        second
    };
    let (first, second) = futures_util::join!(first, second);
    assert_eq!(first, 201);
    assert_eq!(
        (
            second.status.as_u16(),
            second.code().as_str(),
            second.header("retry-after")
        ),
        (409, "IDEMPOTENCY_KEY_IN_PROGRESS", Some("5"))
    );
}

#[tokio::test]
async fn large_and_endless_answers_pass_once_and_are_never_computed_again() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    gate.functions.on("pay", move |request, _| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            let large = limits::KEPT_ANSWER_MAX / piece.len() + 1;
            let response = Response::builder();
            let wanted = request.into_body().collect().await.unwrap().to_bytes();
            Ok(match &wanted[..] {
                b"\"declared\"" => response.body(full(vec![b'x'; large * 64 * 1024])).unwrap(),
                b"\"events\"" => response
                    .header("content-type", "text/event-stream; charset=utf-8")
                    .body(full("data: 1\n\n"))
                    .unwrap(),
                _ => {
                    let frames =
                        stream::iter(0..large).map(move |_| Ok::<_, BoxError>(Frame::data(piece.clone())));
                    response.body(boxed(StreamBody::new(frames))).unwrap()
                }
            })
        }
    });
    let large = limits::KEPT_ANSWER_MAX + 64 * 1024;
    for (wanted, length) in [("declared", large), ("streamed", large), ("events", 9)] {
        let first = pay(&gate, wanted, &json!(wanted)).await;
        assert_eq!(
            (first.status.as_u16(), first.body.len()),
            (200, length),
            "{wanted}"
        );
        let again = pay(&gate, wanted, &json!(wanted)).await;
        assert_eq!(
            (again.status.as_u16(), again.code().as_str()),
            (409, "ANSWER_NOT_KEPT")
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn no_answer_is_given_that_is_not_recorded() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let function = Counted::new(0);
    function.on(&gate, "pay");
    // The database fails for a moment.
    store.answers.failing_ends.store(1, Ordering::SeqCst);
    function.gate.add_permits(1);
    assert_eq!(pay(&gate, "short", &json!({})).await.status, 201);
    assert_eq!(pay(&gate, "short", &json!({})).await.header("x-count"), Some("1"));
    // Another request got the key, since this one's lease was over.
    let body = json!({});
    let lost = pay(&gate, "lost", &body);
    let steal = async {
        function.begun().await;
        function.begun().await;
        store.answers.steal();
        function.gate.add_permits(1);
    };
    let (lost, ()) = futures_util::join!(lost, steal);
    assert_eq!(lost.code(), "IDEMPOTENCY_KEY_IN_PROGRESS");
}

#[tokio::test]
async fn odd_keys_are_refused_and_none_is_none() {
    let store = Arc::new(MemoryStore::default());
    let gate = node(&store).await;
    let function = Counted::new(OPEN);
    function.on(&gate, "pay");
    let long = "k".repeat(limits::IDEMPOTENCY_KEY_MAX + 1);
    for key in ["", long.as_str()] {
        let reply = pay(&gate, key, &json!({})).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "INVALID_IDEMPOTENCY_KEY"),
            "{key:?}"
        );
    }
    let twice = [("idempotency-key", "other"), ("apikey", SECRET_KEY)];
    assert_eq!(ask(&gate, "pay", "k", &twice, &json!({})).await.status, 400);
    assert_eq!(function.calls(), 0);
    for count in [1, 2] {
        let reply = gate
            .call("POST", "/functions/v1/pay", &[("apikey", SECRET_KEY)], "{}")
            .await;
        assert_eq!(reply.json()["count"], count);
    }
}

#[tokio::test]
async fn answers_are_not_kept_without_a_database() {
    let mut config = config(Arc::default(), Arc::default());
    keep(&mut config, &Arc::default());
    config.gate_store = None;
    let error = Gateway::start(config).await.err().unwrap();
    assert!(error.to_string().contains("need the database"), "{error}");
}
