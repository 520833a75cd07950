//! Answers by idempotency key.

use std::time::Duration;

use tramline_store::answers::{self, AnswerClaim, AnswerState, KeptAnswer};
use tramline_store::tidy;
use uuid::Uuid;

use crate::support::*;

const LEASE: Duration = Duration::from_secs(60);

fn claim(key: u8, fingerprint: u8) -> AnswerClaim {
    AnswerClaim {
        key: [key; 32],
        function: "pay".into(),
        fingerprint: [fingerprint; 32],
        holder: Uuid::new_v4(),
        retention: Duration::from_secs(3600),
    }
}

fn answer() -> KeptAnswer {
    KeptAnswer {
        status: 201,
        headers: vec![
            ("content-type".into(), b"application/json".to_vec()),
            ("x-odd".into(), vec![0xe4, b'a']),
        ],
        body: vec![0, 255, b'{'],
    }
}

#[tokio::test]
async fn a_key_is_taken_once_kept_as_it_was_and_refused_for_another_request() {
    let w = world().await;
    let (first, second) = (claim(1, 1), claim(1, 1));
    let begin = async |claim: &AnswerClaim| answers::begin(&w.store, claim, LEASE).await.unwrap();
    assert_eq!(begin(&first).await, AnswerState::New);
    assert_eq!(begin(&second).await, AnswerState::Running);
    assert_eq!(begin(&claim(1, 2)).await, AnswerState::Other, "while it runs");
    assert_eq!(begin(&claim(2, 2)).await, AnswerState::New, "another key");
    // Who does not hold it changes nothing.
    assert!(!answers::renew(&w.store, &second, LEASE).await.unwrap());
    assert!(!answers::end(&w.store, &second, Some(&answer())).await.unwrap());
    answers::free(&w.store, &second).await.unwrap();
    assert_eq!(begin(&second).await, AnswerState::Running);

    assert!(answers::renew(&w.store, &first, LEASE).await.unwrap());
    assert!(answers::end(&w.store, &first, Some(&answer())).await.unwrap());
    assert!(
        answers::end(&w.store, &first, Some(&answer())).await.unwrap(),
        "may be repeated"
    );
    assert_eq!(begin(&second).await, AnswerState::Kept(answer()));
    assert_eq!(begin(&claim(1, 2)).await, AnswerState::Other, "when it has ended");
    answers::free(&w.store, &first).await.unwrap();
    assert_eq!(
        begin(&second).await,
        AnswerState::Kept(answer()),
        "what has ended is not given back"
    );
    assert!(!answers::renew(&w.store, &first, LEASE).await.unwrap());

    // Long after, nobody asks for it any more.
    w.sql
        .batch_execute("update tramline.idempotent_answers set expires_at = now() - interval '1 second' where key_hash = decode(repeat('01', 32), 'hex')")
        .await
        .unwrap();
    assert_eq!(begin(&claim(1, 2)).await, AnswerState::New);
    w.sql
        .batch_execute("update tramline.idempotent_answers set expires_at = now() - interval '1 second'")
        .await
        .unwrap();
    assert_eq!(tidy::remove_expired(&w.store).await.unwrap(), 2);
}

#[tokio::test]
async fn a_failed_attempt_leaves_the_key_free_and_a_large_answer_leaves_it_used() {
    let w = world().await;
    let (first, second) = (claim(1, 1), claim(1, 1));
    let begin = async |claim: &AnswerClaim| answers::begin(&w.store, claim, LEASE).await.unwrap();
    assert_eq!(begin(&first).await, AnswerState::New);
    answers::free(&w.store, &first).await.unwrap();
    assert_eq!(begin(&second).await, AnswerState::New);
    assert!(answers::end(&w.store, &second, None).await.unwrap());
    assert_eq!(begin(&first).await, AnswerState::TooLarge);
}

#[tokio::test]
async fn the_key_of_a_holder_that_died_is_taken_over_and_the_dead_one_records_nothing() {
    let w = world().await;
    let (dead, next) = (claim(1, 1), claim(1, 2));
    assert_eq!(
        answers::begin(&w.store, &dead, LEASE).await.unwrap(),
        AnswerState::New
    );
    w.sql
        .batch_execute("update tramline.idempotent_answers set lease_until = now() - interval '1 second'")
        .await
        .unwrap();
    assert_eq!(
        answers::begin(&w.store, &next, LEASE).await.unwrap(),
        AnswerState::New,
        "whatever it asked for"
    );
    assert!(!answers::end(&w.store, &dead, Some(&answer())).await.unwrap());
    assert!(!answers::renew(&w.store, &dead, LEASE).await.unwrap());
    answers::free(&w.store, &dead).await.unwrap();
    assert!(answers::end(&w.store, &next, Some(&answer())).await.unwrap());
}

#[tokio::test]
async fn of_many_nodes_one_takes_a_key() {
    let w = world().await;
    let all = (0..8).map(|_| {
        let claim = claim(1, 1);
        let store = w.store.clone();
        async move { answers::begin(&store, &claim, LEASE).await }
    });
    let states: Vec<_> = futures_util::future::join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let new = states.iter().filter(|state| **state == AnswerState::New).count();
    let running = states
        .iter()
        .filter(|state| **state == AnswerState::Running)
        .count();
    assert_eq!((new, running), (1, 7), "{states:?}");
}

#[tokio::test]
async fn answers_are_hidden_from_the_roles_of_the_api() {
    let w = world().await;
    for role in [
        "service_role",
        "authenticated",
        "anon",
        "tramline_dashboard",
        "tramline_api",
    ] {
        let refused: bool = w
            .value(
                "select not has_table_privilege($1, 'tramline.idempotent_answers', 'select')",
                &[&role],
            )
            .await;
        assert!(refused, "{role}");
    }
}
