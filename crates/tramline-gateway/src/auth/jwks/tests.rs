//! Rotation of an issuer's keys by a clock that the test moves: new ones are found once for all, unknown ones cost the
//! issuer nothing, old ones end.

use std::sync::Mutex as Guarded;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::*;

/// The public key of RFC 7515, appendix A.3, and that of RFC 7517, appendix A.1.
const POINTS: [(&str, &str); 2] = [
    (
        "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    ),
    (
        "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    ),
];

fn key(kid: &str, point: usize) -> Value {
    let (x, y) = POINTS[point];
    json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y })
}

/// An issuer whose document and clock the test sets.
struct Scene {
    document: Guarded<Result<Value, String>>,
    reads: AtomicUsize,
    /// Each read takes one.
    leave: Semaphore,
    now: Guarded<Instant>,
}

impl Scene {
    fn new(keys: &[Value]) -> (Arc<Self>, Arc<IssuerKeys>) {
        let scene = Arc::new(Self {
            document: Guarded::new(Ok(json!({ "keys": keys }))),
            reads: AtomicUsize::new(0),
            leave: Semaphore::new(1_000),
            now: Guarded::new(Instant::now()),
        });
        let (source, clock) = (Arc::clone(&scene), Arc::clone(&scene));
        let issuer = Issuer {
            issuer: "https://id.example".into(),
            audiences: vec!["authenticated".into()],
            roles: vec!["authenticated".into()],
            keys: Arc::new(move || {
                let source = Arc::clone(&source);
                Box::pin(async move {
                    source.reads.fetch_add(1, Ordering::SeqCst);
                    source.leave.acquire().await.unwrap().forget();
                    let document = source.document.lock().unwrap().clone();
                    document.map(|document| document.to_string().into_bytes())
                })
            }),
        };
        let keys = IssuerKeys::with_clock(&issuer, Box::new(move || *clock.now.lock().unwrap()));
        (scene, keys)
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    fn later(&self, by: Duration) {
        *self.now.lock().unwrap() += by;
    }

    fn serve(&self, document: Result<&[Value], &str>) {
        *self.document.lock().unwrap() = match document {
            Ok(keys) => Ok(json!({ "keys": keys })),
            Err(reason) => Err(reason.to_owned()),
        };
    }
}

async fn ensure(keys: &Arc<IssuerKeys>, kid: &str) {
    keys.ensure(Algorithm::ES256, Some(kid)).await;
}

fn knows(keys: &IssuerKeys, kid: &str) -> bool {
    keys.keys()
        .is_some_and(|keys| keys.find(Algorithm::ES256, Some(kid)).is_some())
}

/// Waits until no fetch is under way any more.
async fn settled(keys: &IssuerKeys) {
    let _turn = keys.fetching.lock().await;
}

#[tokio::test]
async fn a_new_key_is_fetched_once_for_all_who_need_it() {
    let (scene, keys) = Scene::new(&[key("old", 0)]);
    ensure(&keys, "old").await;
    assert_eq!((scene.reads(), knows(&keys, "old")), (1, true));

    scene.serve(Ok(&[key("old", 0), key("new", 1)]));
    scene.later(KEY_SET_UNKNOWN_KID_PAUSE);
    scene.leave.forget_permits(1_000);
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let keys = Arc::clone(&keys);
            tokio::spawn(async move {
                ensure(&keys, "new").await;
                knows(&keys, "new")
            })
        })
        .collect();
    while scene.reads() < 2 {
        tokio::task::yield_now().await;
    }
    scene.leave.add_permits(1_000);
    for caller in callers {
        assert!(caller.await.unwrap(), "all who asked get the key");
    }
    assert_eq!(scene.reads(), 2, "one fetch for all");
    assert!(knows(&keys, "old"), "the old key works beside the new one");
}

#[tokio::test]
async fn names_that_nobody_knows_cost_the_issuer_one_question_per_pause() {
    let (scene, keys) = Scene::new(&[key("old", 0)]);
    ensure(&keys, "old").await;
    for round in 2..5 {
        scene.later(KEY_SET_UNKNOWN_KID_PAUSE);
        for invented in 0..100 {
            ensure(&keys, &format!("invented-{invented}")).await;
        }
        assert_eq!(scene.reads(), round);
    }
    scene.later(KEY_SET_UNKNOWN_KID_PAUSE - Duration::from_millis(1));
    ensure(&keys, "invented").await;
    assert_eq!(scene.reads(), 4, "not before the pause is over");
    assert!(knows(&keys, "old"), "what is known goes on");
}

#[tokio::test]
async fn an_issuer_that_fails_is_asked_once_per_pause() {
    let (scene, keys) = Scene::new(&[]);
    scene.serve(Err("connection refused"));
    for round in 1..4 {
        for _ in 0..100 {
            ensure(&keys, "any").await;
        }
        assert_eq!(scene.reads(), round);
        scene.later(KEY_SET_RETRY);
    }
    scene.serve(Ok(&[key("any", 0)]));
    ensure(&keys, "any").await;
    assert!(knows(&keys, "any"), "it is believed again at once");
}

#[tokio::test]
async fn a_key_that_was_taken_back_ends_with_the_next_renewal() {
    let (scene, keys) = Scene::new(&[key("old", 0), key("new", 1)]);
    ensure(&keys, "old").await;
    scene.serve(Ok(&[key("new", 1)]));
    scene.later(KEY_SET_FRESH - Duration::from_millis(1));
    ensure(&keys, "new").await;
    settled(&keys).await;
    assert_eq!((scene.reads(), knows(&keys, "old")), (1, true), "fresh");

    scene.later(Duration::from_millis(1));
    ensure(&keys, "new").await;
    while scene.reads() < 2 {
        tokio::task::yield_now().await;
    }
    settled(&keys).await;
    assert_eq!((knows(&keys, "old"), knows(&keys, "new")), (false, true));
}

#[tokio::test]
async fn keys_that_cannot_be_renewed_are_believed_for_a_bounded_time() {
    let (scene, keys) = Scene::new(&[key("old", 0)]);
    ensure(&keys, "old").await;
    scene.serve(Err("no route to host"));
    scene.later(KEY_SET_STALE_MAX - Duration::from_millis(1));
    ensure(&keys, "old").await;
    while scene.reads() < 2 {
        tokio::task::yield_now().await;
    }
    settled(&keys).await;
    assert!(knows(&keys, "old"), "an outage of the issuer locks nobody out");

    scene.later(Duration::from_millis(1));
    assert!(
        !knows(&keys, "old"),
        "and a key that was taken back does not work for ever"
    );
}
