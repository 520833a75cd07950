//! Versions of functions: numbers, activation, retention, secrets, tokens.

use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tramline_store::function_secrets::{self, NewSecret};
use tramline_store::function_versions::{self as versions, File, NewVersion, VERSIONS_KEPT};
use tramline_store::listen::{FUNCTIONS_CHANNEL, listen};
use tramline_store::{StoreError, access_tokens};

use crate::support::*;

fn hash(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// A version whose source and bundle say `text`; `_shared/a.ts` is the same in all.
fn version_of(name: &str, text: &str) -> NewVersion {
    let file = |path: &str, text: &str| {
        let file = File {
            path: path.into(),
            content: text.into(),
            is_static: path.ends_with(".html"),
        };
        let hash = hash(&file.content);
        (file, hash)
    };
    NewVersion {
        name: name.into(),
        sources_sha256: hash(format!("sources {text}").as_bytes()),
        files: vec![
            file("supabase/functions/_shared/a.ts", "shared"),
            file("supabase/functions/hello/index.ts", text),
            file("supabase/functions/hello/page.html", &format!("<p>{text}")),
        ],
        bundle: format!("bundle {text}").into(),
        bundle_sha256: hash(format!("bundle {text}").as_bytes()),
        config: json!({ "verify_jwt": true }),
        dependencies: json!([{ "name": "zod", "version": "4.0.0" }]),
        by: "tests".into(),
    }
}

async fn store(w: &World, name: &str, text: &str) -> (i32, bool) {
    versions::store(&w.store, &version_of(name, text)).await.unwrap()
}

async fn activate(w: &World, name: &str, version: i32) -> Vec<String> {
    versions::activate(&w.store, &[(name.into(), version)], "tests")
        .await
        .unwrap()
}

async fn blobs(w: &World) -> i64 {
    w.sql
        .query_one("select count(*) from tramline.function_blobs", &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn versions_are_numbered_found_again_and_never_change() {
    let w = world().await;
    assert_eq!(store(&w, "hello", "one").await, (1, true));
    assert_eq!(store(&w, "hello", "two").await, (2, true));
    assert_eq!(
        store(&w, "hello", "one").await,
        (1, false),
        "equal sources make no version"
    );
    assert_eq!(store(&w, "other", "one").await, (1, true));
    assert_eq!(
        versions::active(&w.store).await.unwrap(),
        [],
        "nothing is active by itself"
    );
    // shared, two sources, two pages, two bundles
    assert_eq!(blobs(&w).await, 7);
    let files = versions::files(&w.store, "hello", 2).await.unwrap();
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "supabase/functions/_shared/a.ts",
            "supabase/functions/hello/index.ts",
            "supabase/functions/hello/page.html"
        ]
    );
    assert_eq!(files[1].content, b"two");
    let package = versions::package(&w.store, "hello", 2).await.unwrap().unwrap();
    assert_eq!(package.bundle, b"bundle two");
    assert_eq!(
        package.static_files,
        [(
            "supabase/functions/hello/page.html".to_owned(),
            b"<p>two".to_vec()
        )]
    );
    assert_eq!(versions::package(&w.store, "hello", 9).await.unwrap(), None);
    let changed = w
        .sql
        .execute("update tramline.function_versions set config = '{}'", &[])
        .await;
    assert_eq!(changed.unwrap_err().code().unwrap().code(), "TL409");
}

#[tokio::test]
async fn activation_is_all_or_none_and_told_once() {
    let w = world().await;
    for text in ["one", "two"] {
        store(&w, "a", text).await;
        store(&w, "b", text).await;
    }
    let before = versions::change_count(&w.store).await.unwrap();
    let both = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    let refused = versions::activate(&w.store, &both(1, 9), "tests")
        .await
        .unwrap_err();
    let StoreError::Refused { code, message, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("TL404", "function \"b\" has no version 9")
    );
    assert!(versions::active(&w.store).await.unwrap().is_empty());
    assert_eq!(versions::change_count(&w.store).await.unwrap(), before);

    let mut changed = versions::activate(&w.store, &both(1, 1), "tests").await.unwrap();
    changed.sort();
    assert_eq!(changed, ["a", "b"]);
    assert_eq!(versions::change_count(&w.store).await.unwrap(), before + 1);
    assert_eq!(activate(&w, "a", 1).await, [""; 0], "it is active already");
    assert_eq!(versions::change_count(&w.store).await.unwrap(), before + 1);
    assert_eq!(versions::previous(&w.store, "a").await.unwrap(), None);
    assert_eq!(activate(&w, "a", 2).await, ["a"]);
    assert_eq!(versions::previous(&w.store, "a").await.unwrap(), Some(1));
    let list = versions::list(&w.store, "a").await.unwrap();
    let states: Vec<(i32, bool)> = list.iter().map(|row| (row.version, row.is_active)).collect();
    assert_eq!(states, [(2, true), (1, false)]);
    let events = w
        .sql
        .query(
            "select event, version, previous from ops.function_events where name = 'a' order by event_id",
            &[],
        )
        .await
        .unwrap();
    let events: Vec<(String, i32, Option<i32>)> = events
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let event = |event: &str, version, previous| (event.to_owned(), version, previous);
    assert_eq!(
        events,
        [
            event("deployed", 1, None),
            event("deployed", 2, None),
            event("activated", 1, None),
            event("activated", 2, Some(1)),
        ]
    );
}

#[tokio::test]
async fn old_versions_go_with_what_only_they_had() {
    let w = world().await;
    for number in 1..=2 {
        store(&w, "hello", &format!("text {number}")).await;
        activate(&w, "hello", number).await;
    }
    let last = VERSIONS_KEPT + 10;
    for number in 3..=last {
        assert_eq!(
            store(&w, "hello", &format!("text {number}")).await,
            (number, true)
        );
    }
    let kept: Vec<i32> = versions::list(&w.store, "hello")
        .await
        .unwrap()
        .iter()
        .map(|row| row.version)
        .collect();
    // the newest, the active one, and the one to go back to
    let mut expected: Vec<i32> = (last - VERSIONS_KEPT + 1..=last).rev().collect();
    expected.extend([2, 1]);
    assert_eq!(kept, expected);
    assert_eq!(blobs(&w).await, i64::from(VERSIONS_KEPT + 2) * 3 + 1);
    assert_eq!(versions::files(&w.store, "hello", 1).await.unwrap().len(), 3);

    assert!(versions::delete(&w.store, "hello", "tests").await.unwrap());
    assert!(!versions::delete(&w.store, "hello", "tests").await.unwrap());
    assert_eq!(blobs(&w).await, 0);
    assert_eq!(
        store(&w, "hello", "anew").await,
        (last + 1, true),
        "no number is used twice"
    );
}

#[tokio::test]
async fn two_deploys_of_one_name_at_once_are_two_versions() {
    let w = world().await;
    let stored = futures_util::future::join_all((0..8).map(|n| {
        let db = w.store.clone();
        async move {
            let (version, created) = versions::store(&db, &version_of("hello", &format!("text {n}")))
                .await
                .unwrap();
            assert!(created);
            versions::activate(&db, &[("hello".into(), version)], "tests")
                .await
                .unwrap();
            version
        }
    }))
    .await;
    let mut numbers = stored.clone();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    let active = versions::active(&w.store).await.unwrap();
    assert_eq!(active.len(), 1);
    let package = versions::package(&w.store, "hello", active[0].version)
        .await
        .unwrap()
        .unwrap();
    assert!(package.bundle.starts_with(b"bundle text "));
}

#[tokio::test]
async fn listeners_hear_of_every_change() {
    let w = world().await;
    let heard = Arc::new(tokio::sync::Semaphore::new(0));
    let (db, tell) = (w.store.clone(), Arc::clone(&heard));
    let listener = tokio::spawn(async move { listen(&db, FUNCTIONS_CHANNEL, || tell.add_permits(1)).await });
    // the first one says that it listens
    heard.acquire().await.unwrap().forget();
    store(&w, "hello", "one").await;
    activate(&w, "hello", 1).await;
    heard.acquire().await.unwrap().forget();
    // a connection that is lost is made anew, and what was missed is looked for
    w.sql
        .execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'tramline listens%'
                and datname = current_database()",
            &[],
        )
        .await
        .unwrap();
    heard.acquire().await.unwrap().forget();
    listener.abort();
}

#[tokio::test]
async fn secrets_are_bounded_and_change_what_nodes_serve() {
    let w = world().await;
    let secret = |name: &str, value: &str| NewSecret {
        name: name.into(),
        sealed: value.into(),
        digest: hex::encode(hash(value.as_bytes())),
    };
    let before = versions::change_count(&w.store).await.unwrap();
    let set = async |secrets: &[NewSecret]| function_secrets::set(&w.store, secrets, "tests", 2).await;
    set(&[secret("B", "1"), secret("A", "2")]).await.unwrap();
    set(&[secret("B", "3")]).await.unwrap();
    let refused = set(&[secret("C", "4"), secret("A", "5")]).await.unwrap_err();
    assert_eq!(refused.to_string(), "a project has at most 2 secrets");
    let list = function_secrets::list(&w.store).await.unwrap();
    let found: Vec<(&str, &[u8])> = list
        .iter()
        .map(|s| (s.name.as_str(), s.sealed.as_slice()))
        .collect();
    assert_eq!(found, [("A", b"2".as_slice()), ("B", b"3".as_slice())]);
    assert_eq!(versions::change_count(&w.store).await.unwrap(), before + 2);
    let names = ["B".to_owned(), "unknown".to_owned()];
    assert_eq!(function_secrets::unset(&w.store, &names).await.unwrap(), 1);
    assert_eq!(function_secrets::unset(&w.store, &names).await.unwrap(), 0);
    assert_eq!(versions::change_count(&w.store).await.unwrap(), before + 3);
}

#[tokio::test]
async fn tokens_end_when_they_expire_or_are_revoked() {
    let w = world().await;
    let (lasting, short) = (hash(b"lasting"), hash(b"short"));
    access_tokens::create(&w.store, "ci", &lasting, None, "tests")
        .await
        .unwrap();
    access_tokens::create(&w.store, "person", &short, Some(60), "tests")
        .await
        .unwrap();
    let find = async |hash: &[u8; 32]| access_tokens::find(&w.store, hash).await.unwrap();
    assert_eq!(find(&lasting).await.as_deref(), Some("ci"));
    assert_eq!(find(&short).await.as_deref(), Some("person"));
    assert_eq!(find(&hash(b"another")).await, None);
    w.sql
        .execute(
            "update tramline.access_tokens set expires_at = now() - interval '1 second' where name = 'person'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(find(&short).await, None);
    assert_eq!(access_tokens::revoke(&w.store, "ci").await.unwrap(), 1);
    assert_eq!(access_tokens::revoke(&w.store, "ci").await.unwrap(), 0);
    assert_eq!(find(&lasting).await, None);
    assert_eq!(access_tokens::list(&w.store).await.unwrap().len(), 2);
    let refused = access_tokens::create(&w.store, "", &hash(b"x"), None, "tests").await;
    assert!(refused.is_err(), "a token has a name");
}

#[tokio::test]
async fn the_project_has_a_name_of_twenty_letters() {
    let w = world().await;
    let name = versions::project_ref(&w.store).await.unwrap();
    assert!(
        name.len() == 20 && name.bytes().all(|b| b.is_ascii_lowercase()),
        "{name}"
    );
}
