//! Verification of tokens by one core, as the gateway does it for every request that carries one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tramline_gateway::{Issuer, Secret, TokenRules, Verifier};

use crate::Wanted;
use crate::cpu;
use crate::figures::{Figures, Sample, Side};
use crate::sizes::Sizes;

/// Figures measured here.
pub const NAMES: &[&str] = &["tokens-hs256-per-second", "tokens-es256-per-second"];
/// Of the projects made here, which nobody reaches from elsewhere.
pub const SECRET: &str = "a-secret-of-the-benchmark-with-32-characters-or-more";
const ISSUER: &str = "https://issuer.example/auth/v1";
const AUDIENCE: &str = "authenticated";
const KEY_ID: &str = "bench";
/// How long a token of this program is good.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Verifications between two looks at the clock.
const ROUND: usize = 100;

/// Measures on this thread alone.
pub async fn measure(sizes: Sizes, wanted: Wanted<'_>, repeats: usize, figures: &mut Figures) -> Result<()> {
    let keys = Keys::new()?;
    let document = keys.document.clone();
    let issuer = Issuer {
        issuer: ISSUER.into(),
        audiences: vec![AUDIENCE.into()],
        roles: vec!["authenticated".into()],
        keys: std::sync::Arc::new(move || {
            let document = document.clone();
            async move { Ok(document) }.boxed()
        }),
    };
    let verifier = Verifier::new(&Secret::new(SECRET), TokenRules::default(), &[issuer]);
    let tokens = [sign_hs256(SECRET, "authenticated")?, keys.sign()?];
    // Fetches the issuer's keys: from then on they are cached.
    verifier.prepare(&tokens[1]).await;
    let time = Duration::from_secs(sizes.load_seconds) / 2;
    for turn in 1..=repeats {
        for (name, token) in NAMES.iter().zip(&tokens).filter(|(name, _)| wanted.has(name)) {
            // By processor time: what one core can do, whatever else the machine does.
            let (since, before, mut count) = (Instant::now(), cpu::thread(), 0);
            while since.elapsed() < time {
                for _ in 0..ROUND {
                    verifier.verify(token)?;
                }
                count += ROUND;
            }
            let rate = count as f64 / (cpu::thread() - before);
            crate::say(&format!("turn {turn} of {repeats}: {name} {rate:.0}"));
            figures.add(name, Side::Tramline, Sample::value(rate));
        }
    }
    Ok(())
}

/// A token of the project, as an application signs it.
pub fn sign_hs256(secret: &str, role: &str) -> Result<String> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(role), &key);
    token.context("sign a token")
}

fn claims(role: &str) -> serde_json::Value {
    let now = jsonwebtoken::get_current_timestamp();
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "6f2d6980-9123-4a8c-bc23-d59cf79e7dc9",
        "role": role,
        "email": "somebody@example.com",
        "session_id": "0d3c1f6e-3c06-4f6e-9c36-2f5d3a1f6b7e",
        "iat": now,
        "exp": now + GOOD_FOR.as_secs(),
    })
}

/// A key pair of an issuer, and its key set as the issuer serves it.
struct Keys {
    private: EncodingKey,
    document: Vec<u8>,
}

impl Keys {
    fn new() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).context("make a key pair")?;
        let pkcs8 = pair.to_pkcs8v1().context("encode a key pair")?;
        // 4, then both coordinates.
        let point = pair.public_key().as_ref();
        ensure!(point.len() == 65, "a point of P-256 has 65 bytes");
        let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let document = json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": coordinate(&point[1..33]), "y": coordinate(&point[33..]),
        }] });
        Ok(Self {
            private: EncodingKey::from_ec_der(pkcs8.as_ref()),
            document: document.to_string().into_bytes(),
        })
    }

    fn sign(&self) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KEY_ID.into());
        jsonwebtoken::encode(&header, &claims("authenticated"), &self.private).context("sign a token")
    }
}
