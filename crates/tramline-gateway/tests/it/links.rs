//! Signed links.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tramline_gateway::*;

use crate::doors::{MemoryStore, link_key, mac};
use crate::support::*;

fn signed(key: &LinkKey, method: &str, path: &str, query: &str, expires_at: i64) -> String {
    let message = format!("v1\n{method}\n{path}\n{query}\n{expires_at}\n{}", key.id);
    let tag = URL_SAFE_NO_PAD.encode(mac(key.secret.expose().as_bytes(), &message));
    let before = if query.is_empty() {
        String::new()
    } else {
        format!("{query}&")
    };
    format!("{path}?{before}tramline_link=v1.{}.{expires_at}.{tag}", key.id)
}

async fn linked() -> (Gate, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    let kept = Arc::clone(&store);
    let gate = gate(|config| {
        config
            .guards
            .insert("page".into(), Guard::new(GuardAuth::SignedLink));
        config.gate_store = Some(kept);
    })
    .await;
    gate.functions.on("page", echo);
    (gate, store)
}

#[tokio::test]
async fn a_signed_link_opens_what_it_names_and_its_token_goes_no_further() {
    let (gate, store) = linked().await;
    let path = "/functions/v1/page/report/7%20a";
    for key in [link_key(1), link_key(2)] {
        for query in ["", "lang=en&x=%2F"] {
            let url = signed(&key, "GET", path, query, now() + 60);
            let reply = gate.get(&url, &[]).await;
            assert_eq!(reply.status, 200, "{url}");
            assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
            assert!(
                !String::from_utf8_lossy(&reply.body).contains("tramline_link"),
                "{reply:?}"
            );
            assert_eq!(gate.call("HEAD", &url, &[], "").await.status, 200);
        }
    }
    assert_eq!(store.key_reads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_link_is_good_for_its_method_path_query_and_time_only() {
    let (gate, _) = linked().await;
    let (key, path) = (link_key(1), "/functions/v1/page/a");
    let good = signed(&key, "GET", path, "x=1", now() + 60);
    let (before, token) = good.split_once("tramline_link=").unwrap();
    let expires = token.split('.').nth(2).unwrap().parse::<i64>().unwrap();
    let cases = [
        ("GET", good.replace("/a?", "/b?")),
        ("GET", good.replace("/a?", "/%61?")),
        ("GET", good.replace("x=1", "x=2")),
        ("GET", good.replace("x=1&", "x=1&y=2&")),
        ("GET", format!("{good}&y=2")),
        ("GET", format!("{good}&tramline_link={token}")),
        (
            "GET",
            good.replace(&expires.to_string(), &(expires + 1).to_string()),
        ),
        (
            "GET",
            format!("{before}tramline_link={}", token.replacen("v1.1", "v1.2", 1)),
        ),
        (
            "GET",
            format!("{before}tramline_link={}", token.replacen("v1.1", "v1.9", 1)),
        ),
        ("GET", format!("{before}tramline_link=v1.1.{expires}.")),
        ("GET", format!("{before}tramline_link=v1")),
        ("POST", good.clone()),
        ("DELETE", good.clone()),
    ];
    for (method, url) in cases {
        let reply = gate.call(method, &url, &[], "").await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (401, "UNAUTHORIZED_INVALID_LINK"),
            "{method} {url}"
        );
    }
    let reply = gate.get(path, &[("apikey", SECRET_KEY)]).await;
    assert_eq!(reply.code(), "UNAUTHORIZED_NO_LINK");
    let reply = gate.get(&signed(&key, "GET", path, "", now() - 1), &[]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (410, "LINK_EXPIRED")
    );
    assert_eq!(gate.get(&good, &[]).await.status, 200);
}
