//! Tokens of issuers with key pairs: ES256 and RS256, rotation, outages, attacks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tramline_gateway::Issuer;

use crate::support::*;

const ISSUER: &str = "https://id.example.com/auth/v1";

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

impl Pair {
    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn rsa() -> Self {
        Self::Rsa(rsa::KeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Ec(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
                        "x": b64(&point[1..33]), "y": b64(&point[33..65]) })
            }
            Self::Rsa(pair) => {
                let public = pair.public_key();
                json!({ "kty": "RSA", "alg": "RS256", "kid": kid,
                        "n": b64(public.modulus().big_endian_without_leading_zero()),
                        "e": b64(public.exponent().big_endian_without_leading_zero()) })
            }
        }
    }

    fn raw_signature(&self, message: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        format!("{message}.{}", b64(&self.raw_signature(&message)))
    }

    fn token(&self, kid: &str) -> String {
        self.sign(&json!({ "alg": self.alg(), "kid": kid }), &claims())
    }
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "authenticated", "sub": USER, "role": "authenticated", "exp": now() + 600 })
}

/// An issuer whose document the test sets, and which counts how often it was read.
struct Served {
    document: Mutex<Result<String, String>>,
    reads: AtomicUsize,
    /// Answers wait for it when it is there.
    held: Mutex<Option<Arc<Notify>>>,
}

impl Served {
    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

async fn served(keys: &[Value]) -> (Gate, Arc<Served>) {
    let served = Arc::new(Served {
        document: Mutex::new(Ok(json!({ "keys": keys }).to_string())),
        reads: AtomicUsize::new(0),
        held: Mutex::default(),
    });
    let source = Arc::clone(&served);
    let issuer = Issuer {
        issuer: ISSUER.into(),
        audiences: vec!["authenticated".into()],
        roles: vec!["anon".into(), "authenticated".into()],
        keys: Arc::new(move || {
            let source = Arc::clone(&source);
            Box::pin(async move {
                source.reads.fetch_add(1, Ordering::SeqCst);
                let held = source.held.lock().unwrap().clone();
                if let Some(held) = held {
                    held.notified().await;
                }
                source.document.lock().unwrap().clone().map(String::into_bytes)
            })
        }),
    };
    (gate(|config| config.issuers = vec![issuer]).await, served)
}

async fn status(gate: &Gate, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let reply = gate
        .get("/functions/v1/echo", &[("authorization", bearer.as_str())])
        .await;
    reply.status.as_u16()
}

#[tokio::test]
async fn tokens_of_both_kinds_of_keys_are_verified_with_one_fetch() {
    let (ec, rsa) = (Pair::ec(), Pair::rsa());
    let (gate, served) = served(&[ec.jwk("e"), rsa.jwk("r")]).await;
    for token in [ec.token("e"), rsa.token("r"), token(&claims()), user_token()] {
        assert_eq!(status(&gate, &token).await, 200);
    }
    let without_kid = ec.sign(&json!({ "alg": "ES256" }), &claims());
    assert_eq!(status(&gate, &without_kid).await, 200, "there is no choice");
    assert_eq!(served.reads(), 1);
    // The same caller everywhere: as an apikey, and at the API.
    let apikey = rsa.token("r");
    let reply = gate
        .get("/functions/v1/echo", &[("apikey", apikey.as_str())])
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn attacks_on_tokens_of_key_pairs_are_refused() {
    let (ec, rsa, foreign) = (Pair::ec(), Pair::rsa(), Pair::ec());
    let (gate, served) = served(&[ec.jwk("e"), rsa.jwk("r")]).await;
    let good = ec.token("e");
    let (message, _) = good.rsplit_once('.').unwrap();
    let header = json!({ "alg": "ES256", "kid": "e" });
    let changed = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        ec.sign(&header, &claims)
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        ec.sign(&header, &claims)
    };
    let Pair::Rsa(rsa_pair) = &rsa else { unreachable!() };
    let public_der =
        AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa_pair.public_key()).unwrap();
    let confused = sign_parts(
        &encode(&json!({ "alg": "HS256", "kid": "r" })),
        &encode(&claims()),
        &String::from_utf8_lossy(public_der.as_ref()),
    );
    let mut long = ec.raw_signature(message);
    long.push(0);
    let with = |header: Value| ec.sign(&header, &claims());
    let attacks = [
        ("another key under a known name", foreign.token("e")),
        ("name of the other kind of key", ec.token("r")),
        ("HS256 with the public key", confused),
        (
            "RS256 over the EC key",
            ec.sign(&json!({ "alg": "RS256", "kid": "e" }), &claims()),
        ),
        (
            "PS256",
            rsa.sign(&json!({ "alg": "PS256", "kid": "r" }), &claims()),
        ),
        ("no signature", format!("{message}.")),
        ("a zero signature", format!("{message}.{}", b64(&[0; 64]))),
        ("bytes after the signature", format!("{message}.{}", b64(&long))),
        ("half a signature", format!("{message}.{}", b64(&long[..32]))),
        (
            "alg none",
            format!(
                "{}.{}.",
                encode(&json!({ "alg": "none", "kid": "e" })),
                encode(&claims())
            ),
        ),
        (
            "key in the header",
            with(json!({ "alg": "ES256", "jwk": foreign.jwk("e") })),
        ),
        (
            "address of keys in the header",
            with(json!({ "alg": "ES256", "kid": "e", "jku": "https://evil.example" })),
        ),
        (
            "certificates in the header",
            with(json!({ "alg": "ES256", "kid": "e", "x5c": [] })),
        ),
        (
            "crit",
            with(json!({ "alg": "ES256", "kid": "e", "crit": ["exp"] })),
        ),
        (
            "other issuer",
            changed("iss", json!("https://id.example.com/auth/v1/")),
        ),
        (
            "prefix of the issuer",
            changed("iss", json!("https://id.example.com")),
        ),
        ("list of issuers", changed("iss", json!([ISSUER]))),
        ("no issuer", without("iss")),
        ("no audience", without("aud")),
        ("other audience", changed("aud", json!("authenticated2"))),
        (
            "role that the issuer may not give",
            changed("role", json!("service_role")),
        ),
        ("no expiry", without("exp")),
        ("expired", changed("exp", json!(now() - 3600))),
        ("text as expiry", changed("exp", json!("4000000000"))),
        ("not yet", changed("nbf", json!(now() + 3600))),
    ];
    assert_eq!(status(&gate, &good).await, 200);
    for (name, token) in attacks {
        assert_eq!(status(&gate, &token).await, 401, "{name}");
    }
    assert_eq!(served.reads(), 1, "known names and bad tokens cause no fetch");
}

#[tokio::test]
async fn keys_that_are_weak_ambiguous_or_for_something_else_verify_nothing() {
    let pair = Pair::ec();
    let changed = |name: &str, value: Value| {
        let mut key = pair.jwk("k");
        key[name] = value;
        key
    };
    let secret = json!({ "kty": "oct", "kid": "k", "alg": "HS256", "k": b64(SECRET.as_bytes()) });
    let sets = [
        ("for encryption", vec![changed("use", json!("enc"))]),
        ("not for verifying", vec![changed("key_ops", json!(["sign"]))]),
        ("for another algorithm", vec![changed("alg", json!("ES384"))]),
        ("with its secret part", vec![changed("d", json!("AAAA"))]),
        ("off the curve", vec![changed("x", json!(b64(&[7; 32])))]),
        (
            "with a short coordinate",
            vec![changed("y", json!(b64(&[7; 31])))],
        ),
        ("twice under one name", vec![pair.jwk("k"), Pair::ec().jwk("k")]),
        ("a shared secret", vec![secret]),
        ("none at all", vec![]),
    ];
    for (name, keys) in sets {
        let (gate, _) = served(&keys).await;
        assert_eq!(status(&gate, &pair.token("k")).await, 401, "{name}");
    }
    let rsa = Pair::rsa();
    for (name, member, value) in [
        ("exponent 1", "e", json!("AQ")),
        ("short modulus", "n", json!(b64(&[0xff; 128]))),
    ] {
        let mut key = rsa.jwk("r");
        key[member] = value;
        let (gate, _) = served(&[key]).await;
        assert_eq!(status(&gate, &rsa.token("r")).await, 401, "{name}");
    }
    // One odd key does not lock out those who use the others.
    let (gate, _) = served(&[json!({ "kty": "OKP", "kid": "o" }), json!(7), pair.jwk("k")]).await;
    assert_eq!(status(&gate, &pair.token("k")).await, 200);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_asked_is_a_503_and_is_not_asked_per_request() {
    let pair = Pair::ec();
    let documents = [
        Err("connection refused".to_owned()),
        Ok("<html>".to_owned()),
        Ok(json!({ "keys": vec![pair.jwk("k"); 101] }).to_string()),
        Ok(" ".repeat(64 * 1024) + &json!({ "keys": [pair.jwk("k")] }).to_string()),
    ];
    for document in documents {
        let (gate, served) = served(&[]).await;
        *served.document.lock().unwrap() = document;
        let bearer = format!("Bearer {}", pair.token("k"));
        for _ in 0..3 {
            let reply = gate
                .get("/functions/v1/echo", &[("authorization", bearer.as_str())])
                .await;
            assert_eq!(reply.status, 503);
            assert_eq!(reply.code(), "ISSUER_UNAVAILABLE");
            assert_eq!(reply.header("retry-after"), Some("5"));
        }
        assert_eq!(served.reads(), 1);
        assert_eq!(status(&gate, &user_token()).await, 200, "others are not affected");
    }
}

#[tokio::test]
async fn many_callers_share_one_fetch_and_one_that_leaves_does_not_end_it() {
    let pair = Pair::ec();
    let (gate, served) = served(&[pair.jwk("k")]).await;
    let hold = Arc::new(Notify::new());
    *served.held.lock().unwrap() = Some(Arc::clone(&hold));
    let token = pair.token("k");
    let gate = Arc::new(gate);
    let call = || {
        let (gate, token) = (Arc::clone(&gate), token.clone());
        tokio::spawn(async move { status(&gate, &token).await })
    };
    let first = call();
    while served.reads() == 0 {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (0..8).map(|_| call()).collect();
    first.abort();
    hold.notify_one();
    for other in others {
        assert_eq!(other.await.unwrap(), 200);
    }
    assert_eq!(served.reads(), 1);
}
