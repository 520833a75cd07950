//! Signed links and deliveries of webhooks.

use std::time::Duration;

use tramline_store::gate::{self, DeliveryState, NewLink};
use tramline_store::{StoreError, tidy};

use crate::support::*;

fn link() -> NewLink {
    NewLink {
        function: "page".into(),
        path: "report/7%20a".into(),
        query: "x=1&y=%2F".into(),
        method: "GET".into(),
        expires_in_s: 60,
    }
}

async fn with_function() -> World {
    let w = world().await;
    w.sql
        .batch_execute("insert into tramline.functions (name) values ('page')")
        .await
        .unwrap();
    w
}

#[tokio::test]
async fn hmac_agrees_with_the_published_vectors() {
    let w = world().await;
    // RFC 4231, test cases 1, 2 and 6 (a key longer than a block).
    let cases = [
        (
            "0b".repeat(20),
            hex_of("Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            hex_of("Jefe"),
            hex_of("what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            "aa".repeat(131),
            hex_of("Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ];
    for (key, message, wanted) in cases {
        let got: String = w
            .value(
                "select encode(tramline.hmac_sha256(decode($1, 'hex'), decode($2, 'hex')), 'hex')",
                &[&key, &message],
            )
            .await;
        assert_eq!(got, wanted);
    }
}

fn hex_of(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn links_are_signed_with_the_newest_key_and_verified_with_all_that_are_not_retired() {
    let w = with_function().await;
    let first = gate::sign_link(&w.store, &link()).await.unwrap();
    assert!(
        first.starts_with("/functions/v1/page/report/7%20a?x=1&y=%2F&tramline_link=v1.1."),
        "{first}"
    );
    let token = first.rsplit('=').next().unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 4);
    // 32 bytes in base64url without padding
    assert_eq!(parts[3].len(), 43, "{token}");
    assert!(!parts[3].contains(['+', '/', '=', '\n']), "{token}");
    w.sql
        .batch_execute("insert into tramline.link_keys (secret) values (repeat('k', 40))")
        .await
        .unwrap();
    let second = gate::sign_link(&w.store, &link()).await.unwrap();
    assert!(second.contains("tramline_link=v1.2."), "{second}");
    let ids = |keys: Vec<gate::LinkKeyRow>| keys.into_iter().map(|key| key.key_id).collect::<Vec<_>>();
    assert_eq!(ids(gate::link_keys(&w.store).await.unwrap()), [1, 2]);
    w.sql
        .batch_execute("update tramline.link_keys set retired_at = now() where key_id = 1")
        .await
        .unwrap();
    assert_eq!(ids(gate::link_keys(&w.store).await.unwrap()), [2]);
}

#[tokio::test]
async fn links_that_could_mean_something_else_are_not_signed() {
    let w = with_function().await;
    let changed = |change: fn(&mut NewLink)| {
        let mut link = link();
        change(&mut link);
        link
    };
    let cases: [(NewLink, &str); 11] = [
        (changed(|l| l.function = "other".into()), "TL404"),
        (changed(|l| l.method = "get".into()), "TL400"),
        (changed(|l| l.method = "CONNECT".into()), "TL400"),
        (changed(|l| l.path = "a/../b".into()), "TL400"),
        (changed(|l| l.path = "a?b".into()), "TL400"),
        (changed(|l| l.path = "a\nb".into()), "TL400"),
        (changed(|l| l.query = "a b".into()), "TL400"),
        (changed(|l| l.query = "a=1#b".into()), "TL400"),
        (changed(|l| l.query = "a=1&tramline_link=x".into()), "TL400"),
        (changed(|l| l.expires_in_s = 0), "TL400"),
        (changed(|l| l.expires_in_s = 31 * 24 * 3600), "TL400"),
    ];
    for (link, wanted) in cases {
        match gate::sign_link(&w.store, &link).await {
            Err(StoreError::Refused { code, .. }) => assert_eq!(code, wanted, "{link:?}"),
            other => panic!("{link:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn keys_of_links_are_hidden_from_the_roles_of_the_api() {
    let w = with_function().await;
    for role in ["service_role", "authenticated", "anon", "tramline_dashboard"] {
        let refused: bool = w
            .value(
                "select not has_table_privilege($1, 'tramline.link_keys', 'select')",
                &[&role],
            )
            .await;
        assert!(refused, "{role}");
    }
    for role in ["authenticated", "anon"] {
        let refused: bool = w
            .value(
                "select not has_function_privilege($1, 'ops.sign_link(text, text, text, interval, text)', 'execute')",
                &[&role],
            )
            .await;
        assert!(refused, "{role}");
    }
}

#[tokio::test]
async fn a_delivery_is_taken_once_accepted_once_and_free_again_when_it_failed() {
    let w = world().await;
    let lease = Duration::from_secs(60);
    let begin = |id: &'static str| gate::begin_delivery(&w.store, "hook", id, lease);
    assert_eq!(begin("a").await.unwrap(), DeliveryState::New);
    assert_eq!(begin("a").await.unwrap(), DeliveryState::Running);
    assert_eq!(begin("b").await.unwrap(), DeliveryState::New, "another id");
    let other = gate::begin_delivery(&w.store, "other", "a", lease).await.unwrap();
    assert_eq!(other, DeliveryState::New, "another function");
    gate::end_delivery(&w.store, "hook", "a", false).await.unwrap();
    assert_eq!(begin("a").await.unwrap(), DeliveryState::New);
    gate::end_delivery(&w.store, "hook", "a", true).await.unwrap();
    assert_eq!(begin("a").await.unwrap(), DeliveryState::Accepted);
    gate::end_delivery(&w.store, "hook", "a", false).await.unwrap();
    assert_eq!(
        begin("a").await.unwrap(),
        DeliveryState::Accepted,
        "stays accepted"
    );
    // The node that worked on it died: its lease is over.
    w.sql
        .batch_execute("update tramline.webhook_deliveries set lease_until = now() - interval '1 second' where function = 'hook'")
        .await
        .unwrap();
    assert_eq!(begin("b").await.unwrap(), DeliveryState::New);
    assert_eq!(begin("a").await.unwrap(), DeliveryState::Accepted);
    // Long after, nobody asks for it any more.
    w.sql
        .batch_execute("update tramline.webhook_deliveries set expires_at = now() - interval '1 second'")
        .await
        .unwrap();
    assert_eq!(begin("a").await.unwrap(), DeliveryState::New);
    assert_eq!(tidy::remove_expired(&w.store).await.unwrap(), 2);
}

#[tokio::test]
async fn of_many_nodes_one_takes_a_delivery() {
    let w = world().await;
    let all = (0..8).map(|_| gate::begin_delivery(&w.store, "hook", "a", Duration::from_secs(60)));
    let states = futures_util::future::join_all(all).await;
    let new = states
        .into_iter()
        .filter(|state| matches!(state, Ok(DeliveryState::New)))
        .count();
    assert_eq!(new, 1);
}
