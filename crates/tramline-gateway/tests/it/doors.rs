//! Webhooks and signed links: what their proofs cover, and that a delivery is accepted once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::Response;
use sha2::Sha256;
use tramline_gateway::*;

use crate::support::*;

const KEY: &str = "a-shared-secret-of-some-length";

#[derive(Default)]
pub struct MemoryStore {
    deliveries: Mutex<BTreeMap<String, bool>>,
    leases: Mutex<Vec<Duration>>,
    pub key_reads: AtomicUsize,
    pub answers: Answers,
}

pub fn link_key(id: i32) -> LinkKey {
    LinkKey {
        id,
        secret: format!("{KEY}-{id}").into(),
    }
}

impl GateStore for MemoryStore {
    fn link_keys(&self) -> Kept<Vec<LinkKey>> {
        self.key_reads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(vec![link_key(1), link_key(2)]) })
    }

    fn sign_link(&self, link: NewLink) -> Kept<String> {
        Box::pin(async move { Ok(format!("{link:?}")) })
    }

    fn begin_delivery(&self, function: &str, id: &str, lease: Duration) -> Kept<Delivery> {
        self.leases.lock().unwrap().push(lease);
        let mut deliveries = self.deliveries.lock().unwrap();
        let state = match deliveries.get(&format!("{function}/{id}")) {
            None => Delivery::New,
            Some(false) => Delivery::Running,
            Some(true) => Delivery::Accepted,
        };
        deliveries.entry(format!("{function}/{id}")).or_insert(false);
        Box::pin(async move { Ok(state) })
    }

    fn end_delivery(&self, function: &str, id: &str, accepted: bool) -> Kept<()> {
        let mut deliveries = self.deliveries.lock().unwrap();
        let key = format!("{function}/{id}");
        if accepted {
            deliveries.insert(key, true);
        } else {
            deliveries.remove(&key);
        }
        Box::pin(async { Ok(()) })
    }

    fn begin_answer(&self, claim: &AnswerClaim, _: Duration) -> Kept<AnswerState> {
        self.answers.begin(claim)
    }

    fn renew_answer(&self, claim: &AnswerClaim, _: Duration) -> Kept<bool> {
        self.answers.renew(claim)
    }

    fn end_answer(&self, claim: &AnswerClaim, end: AnswerEnd) -> Kept<bool> {
        self.answers.end(claim, end)
    }
}

pub fn mac(key: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex_mac(message: &str) -> String {
    hex::encode(mac(KEY.as_bytes(), message))
}

type Headers = Vec<(&'static str, String)>;

fn standard(id: &str, at: i64, body: &str) -> Headers {
    let signature = STANDARD.encode(mac(KEY.as_bytes(), &format!("{id}.{at}.{body}")));
    vec![
        ("webhook-id", id.into()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", format!("v2,AAAA v1,{signature}")),
    ]
}

fn stripe(at: i64, body: &str) -> Headers {
    let signature = hex_mac(&format!("{at}.{body}"));
    vec![("stripe-signature", format!("t={at},v1={signature},v0=00"))]
}

fn slack(at: i64, body: &str) -> Headers {
    vec![
        ("x-slack-request-timestamp", at.to_string()),
        (
            "x-slack-signature",
            format!("v0={}", hex_mac(&format!("v0:{at}:{body}"))),
        ),
    ]
}

fn github(body: &str) -> Headers {
    vec![
        ("x-hub-signature-256", format!("sha256={}", hex_mac(body))),
        ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958".into()),
    ]
}

async fn hooked() -> (Gate, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    let rule = |scheme, secret: &str| WebhookRule {
        scheme,
        secrets: vec!["an-old-secret".into(), secret.into()],
        tolerance: Duration::from_secs(300),
    };
    let rules = [
        ("standard", rule(WebhookScheme::Standard, KEY)),
        ("github", rule(WebhookScheme::Github, KEY)),
        ("stripe", rule(WebhookScheme::Stripe, KEY)),
        ("slack", rule(WebhookScheme::Slack, KEY)),
    ];
    let kept = Arc::clone(&store);
    let gate = gate(|config| {
        for (name, rule) in rules {
            config.guards.insert(name.into(), Guard::new(GuardAuth::Webhook));
            config.webhooks.insert(name.into(), rule);
        }
        config.gate_store = Some(kept);
    })
    .await;
    for name in ["standard", "github", "stripe", "slack"] {
        gate.functions.on(name, echo);
    }
    (gate, store)
}

async fn deliver(gate: &Gate, function: &str, headers: &Headers, body: &str) -> Reply {
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    gate.call("POST", &format!("/functions/v1/{function}"), &headers, body)
        .await
}

#[tokio::test]
async fn webhooks_of_every_scheme_reach_the_function_once_with_the_bytes_that_came() {
    let (gate, _) = hooked().await;
    let body = "{ \"id\":\"evt_1\",\n \"b\" : 1.0 }";
    let at = now();
    let cases = [
        ("standard", standard("msg_1", at, body)),
        ("github", github(body)),
        ("stripe", stripe(at, body)),
        ("slack", slack(at, body)),
    ];
    for (function, headers) in cases {
        let first = deliver(&gate, function, &headers, body).await;
        assert_eq!(first.status, 200, "{function}");
        assert!(
            first.json()["body"].as_str() == Some(body),
            "{function}: {first:?}"
        );
        let again = deliver(&gate, function, &headers, body).await;
        assert_eq!(again.status, 200, "{function}");
        assert_eq!(again.json()["message"], "accepted before", "{function}");
    }
    // Another attempt at the same event has a new time and signature, and is still the same event.
    let later = deliver(&gate, "stripe", &stripe(at + 1, body), body).await;
    assert_eq!(later.json()["message"], "accepted before");
    // A delivery id that is not signed does not make a replay new.
    let mut headers = github(body);
    headers[1].1 = "00000000-cc78-11e3-81ab-4c9367dc0958".into();
    assert_eq!(
        deliver(&gate, "github", &headers, body).await.json()["message"],
        "accepted before"
    );
}

#[tokio::test]
async fn webhooks_that_are_not_signed_as_agreed_never_reach_the_function() {
    let (gate, store) = hooked().await;
    let called = Arc::new(AtomicUsize::new(0));
    for name in ["standard", "github", "stripe", "slack"] {
        let called = Arc::clone(&called);
        gate.functions.on(name, move |request, context| {
            called.fetch_add(1, Ordering::SeqCst);
            echo(request, context)
        });
    }
    let body = "{\"id\":\"x\"}";
    let at = now();
    let swap = |mut headers: Headers, place: usize, value: &str| {
        headers[place].1 = value.to_owned();
        headers
    };
    let drop_one = |mut headers: Headers, place: usize| {
        headers.remove(place);
        headers
    };
    let double = |mut headers: Headers, place: usize| {
        let again = headers[place].clone();
        headers.push(again);
        headers
    };
    let good = || standard("m", at, body);
    let cases: Vec<(&str, &str, Headers, &str)> = vec![
        ("nothing", "standard", vec![], body),
        ("no id", "standard", drop_one(good(), 0), body),
        ("no time", "standard", drop_one(good(), 1), body),
        ("no signature", "standard", drop_one(good(), 2), body),
        ("two ids", "standard", double(good(), 0), body),
        ("two signature headers", "standard", double(good(), 2), body),
        ("other id", "standard", swap(good(), 0, "n"), body),
        (
            "other time",
            "standard",
            swap(good(), 1, &(at + 1).to_string()),
            body,
        ),
        (
            "time with a plus",
            "standard",
            swap(good(), 1, &format!("+{at}")),
            body,
        ),
        (
            "time with zeros",
            "standard",
            swap(good(), 1, &format!("0{at}")),
            body,
        ),
        ("other body", "standard", good(), "{\"id\": \"x\"}"),
        ("old", "standard", standard("m", at - 400, body), body),
        ("from the future", "standard", standard("m", at + 400, body), body),
        ("wrong version", "standard", swap(good(), 2, "v1a,AAAA"), body),
        (
            "hex of sha1",
            "github",
            vec![("x-hub-signature", "sha1=00".into())],
            body,
        ),
        (
            "half a signature",
            "github",
            swap(github(body), 0, "sha256=00ff"),
            body,
        ),
        ("wrong signature", "github", github("other"), body),
        (
            "only v0",
            "stripe",
            vec![(
                "stripe-signature",
                format!("t={at},v0={}", hex_mac(&format!("{at}.{body}"))),
            )],
            body,
        ),
        (
            "no t",
            "stripe",
            vec![("stripe-signature", format!("v1={}", hex_mac(body)))],
            body,
        ),
        (
            "two t",
            "stripe",
            swap(stripe(at, body), 0, &format!("t=1,{}", stripe(at, body)[0].1)),
            body,
        ),
        ("old", "stripe", stripe(at - 400, body), body),
        ("old", "slack", slack(at - 400, body), body),
        ("other version", "slack", swap(slack(at, body), 1, "v1=00"), body),
    ];
    for (name, function, headers, body) in cases {
        let reply = deliver(&gate, function, &headers, body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (401, "UNAUTHORIZED_WEBHOOK"),
            "{function}: {name}"
        );
    }
    // A service role credential is no signature.
    let reply = gate
        .call("POST", "/functions/v1/github", &[("apikey", SECRET_KEY)], body)
        .await;
    assert_eq!(reply.status, 401);
    let large = "x".repeat(4 * 1024 * 1024 + 1);
    assert_eq!(
        deliver(&gate, "github", &github(&large), &large).await.status,
        413
    );
    assert_eq!(called.load(Ordering::SeqCst), 0);
    assert!(store.deliveries.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_delivery_that_failed_may_come_again_and_one_that_runs_may_not() {
    let (gate, store) = hooked().await;
    let answers = Arc::new(Mutex::new(vec![200, 500]));
    gate.functions.on("standard", move |_, _| {
        let status = answers.lock().unwrap().pop().unwrap();
        async move { Ok(Response::builder().status(status).body(full("")).unwrap()) }
    });
    let headers = standard("m", now(), "b");
    assert_eq!(deliver(&gate, "standard", &headers, "b").await.status, 500);
    assert_eq!(deliver(&gate, "standard", &headers, "b").await.status, 200);
    assert_eq!(
        deliver(&gate, "standard", &headers, "b").await.json()["message"],
        "accepted before"
    );
    store
        .deliveries
        .lock()
        .unwrap()
        .insert("standard/n".into(), false);
    let reply = deliver(&gate, "standard", &standard("n", now(), "b"), "b").await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (409, "DELIVERY_IN_PROGRESS")
    );
}

#[tokio::test]
async fn service_role_credentials_are_refused_from_browsers() {
    let gate = gate(|_| {}).await;
    let bearer = format!("Bearer {}", role_token("service_role"));
    let user = format!("Bearer {}", user_token());
    let agent = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36");
    let origin = ("origin", "https://app.example.com");
    for path in ["/functions/v1/echo", "/api/v1/runs"] {
        for sign in [agent, origin] {
            for credential in [("authorization", bearer.as_str()), ("apikey", SECRET_KEY)] {
                let reply = gate.get(path, &[credential, sign]).await;
                assert_eq!(
                    reply.code(),
                    "UNAUTHORIZED_SECRET_KEY_IN_BROWSER",
                    "{path} {sign:?}"
                );
            }
        }
    }
    let reply = gate
        .get("/functions/v1/echo", &[("authorization", user.as_str()), origin])
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_delivery_is_held_for_longer_than_its_function_may_work() {
    let (gate, store) = hooked().await;
    let long = Duration::from_secs(3_000);
    gate.functions
        .walls
        .lock()
        .unwrap()
        .insert("standard".into(), long);
    gate.functions
        .walls
        .lock()
        .unwrap()
        .insert("github".into(), Duration::from_secs(1));
    assert_eq!(
        deliver(&gate, "standard", &standard("one", now(), "{}"), "{}")
            .await
            .status,
        200
    );
    assert_eq!(deliver(&gate, "github", &github("{}"), "{}").await.status, 200);
    let leases = store.leases.lock().unwrap();
    assert!(leases[0] > long, "{leases:?}");
    // a function with a short limit of its own is called with what the gateway waits at least
    assert!(leases[1] > limits::FUNCTION_IDLE, "{leases:?}");
}
