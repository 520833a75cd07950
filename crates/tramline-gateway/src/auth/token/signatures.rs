//! Wycheproof's vectors of the signatures that tokens have: HMAC and RSA (PKCS#1) with SHA-256, and ECDSA on P-256 in the form of a
//! token. The keys go the way of an issuer's, so those that tokens must not be verified with are seen to be left out.

use jsonwebtoken::crypto;
use serde_json::json;
use wycheproof::TestResult;
use wycheproof::{ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

use super::*;
use crate::auth::jwks::KeySet;

/// What is said of one vector: it was right, or it was not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    accepted: usize,
    refused: usize,
}

impl Seen {
    /// Notes a vector, which must have been judged as its authors do. What they leave to the reader (`Acceptable`: encodings that only old
    /// software makes) must be refused.
    fn note(&mut self, is_accepted: bool, result: TestResult, what: &str) {
        assert_eq!(is_accepted, result == TestResult::Valid, "{what}");
        match is_accepted {
            true => self.accepted += 1,
            false => self.refused += 1,
        }
    }
}

/// Whether text and signature belong together, by the steps of [`Verifier::verify`] that know nothing of tokens.
fn is_signed(
    message: &[u8],
    signature: &[u8],
    (key, signature_bytes): (&DecodingKey, usize),
    algorithm: Algorithm,
) -> bool {
    signature.len() == signature_bytes
        && crypto::verify(&URL_SAFE_NO_PAD.encode(signature), message, key, algorithm).unwrap()
}

/// The keys of a document with this one, as an issuer's is read.
fn usable(jwk: &Value) -> KeySet {
    KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap()
}

fn is_left_out(jwk: &Value) -> bool {
    let keys = usable(jwk);
    [Algorithm::ES256, Algorithm::RS256]
        .iter()
        .all(|algorithm| keys.find(*algorithm, None).is_none())
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn hmac_tags_are_judged_as_wycheproof_does_and_only_whole_ones_count() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let (mut seen, mut cut_off) = (Seen::default(), 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let key = DecodingKey::from_secret(&test.key);
            let what = format!("{}: {}", test.tc_id, test.comment);
            let is_right = is_signed(&test.msg, &test.tag, (&key, SIGNATURE_BYTES), Algorithm::HS256);
            if group.tag_size == 8 * SIGNATURE_BYTES {
                seen.note(is_right, test.result, &what);
            } else {
                // right as the beginning of a tag, which is none of a token
                assert!(!is_right, "{what}");
                cut_off += 1;
            }
        }
    }
    assert_eq!(
        (seen, cut_off),
        (
            Seen {
                accepted: 33,
                refused: 54
            },
            87
        )
    );
}

#[test]
fn ecdsa_signatures_are_judged_as_wycheproof_does() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut seen = Seen::default();
    for group in &set.test_groups {
        // 4, and the two coordinates
        let (x, y) = group.key.key[1..].split_at(32);
        let keys = usable(&json!({ "kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y) }));
        let key = keys.find(Algorithm::ES256, None).expect("the key is usable");
        for test in &group.tests {
            let parts = (&key.key, key.signature_bytes);
            let is_right = is_signed(&test.msg, &test.sig, parts, Algorithm::ES256);
            seen.note(
                is_right,
                test.result,
                &format!("{}: {}", test.tc_id, test.comment),
            );
        }
    }
    assert_eq!(
        seen,
        Seen {
            accepted: 173,
            refused: 89
        }
    );
}

#[test]
fn rsa_signatures_are_judged_as_wycheproof_does_and_small_exponents_verify_nothing() {
    use rsa_pkcs1_verify::{TestName, TestSet};
    let (mut seen, mut left_out) = (Seen::default(), 0);
    let names = [
        TestName::Rsa2048Sha256,
        TestName::Rsa3072Sha256,
        TestName::Rsa4096Sha256,
        TestName::Rsa8192Sha256,
    ];
    for group in names
        .iter()
        .flat_map(|name| TestSet::load(*name).unwrap().test_groups)
    {
        let modulus = b64(without_zeros(&group.key.n));
        let jwk = json!({ "kty": "RSA", "n": modulus, "e": b64(without_zeros(&group.key.e)) });
        if without_zeros(&group.key.e) == [3] {
            assert!(is_left_out(&jwk));
            left_out += 1;
            continue;
        }
        let keys = usable(&jwk);
        let key = keys.find(Algorithm::RS256, None).expect("the key is usable");
        for test in &group.tests {
            let parts = (&key.key, key.signature_bytes);
            let is_right = is_signed(&test.msg, &test.sig, parts, Algorithm::RS256);
            let what = format!("{} bits, {}: {}", group.key_size, test.tc_id, test.comment);
            seen.note(is_right, test.result, &what);
        }
    }
    assert_eq!(
        (seen, left_out),
        (
            Seen {
                accepted: 28,
                refused: 1_003
            },
            3
        )
    );
}

#[test]
fn keys_of_wycheproof_for_other_algorithms_verify_nothing() {
    let mut left_out = 0;
    let mut refuse = |jwk: Value| {
        assert!(is_left_out(&jwk), "{jwk}");
        left_out += 1;
    };
    for (name, curve, bytes) in [
        (ecdsa::TestName::EcdsaSecp384r1Sha384P1363, "P-384", 48),
        (ecdsa::TestName::EcdsaSecp521r1Sha512P1363, "P-521", 66),
        (ecdsa::TestName::EcdsaSecp256k1Sha256P1363, "secp256k1", 32),
    ] {
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let (x, y) = group.key.key[1..].split_at(bytes);
            refuse(json!({ "kty": "EC", "crv": curve, "x": b64(x), "y": b64(y) }));
            // nor when it says that it were of the right one
            if bytes != 32 {
                refuse(json!({ "kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y) }));
            }
        }
    }
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519)
        .unwrap()
        .test_groups
    {
        refuse(json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(&group.key.pk) }));
    }
    let pss = rsa_pss_verify::TestSet::load(rsa_pss_verify::TestName::RsaPss2048Sha256Mgf1SaltLen32).unwrap();
    for group in pss.test_groups {
        let jwk = |alg: &str| {
            let (n, e) = (without_zeros(&group.key.n), without_zeros(&group.key.e));
            json!({ "kty": "RSA", "alg": alg, "n": b64(n), "e": b64(e) })
        };
        refuse(jwk("PS256"));
        // What is right with the other padding is wrong with that of RS256, whatever the key says. (One that is wrong there is right here.)
        let keys = usable(&jwk("RS256"));
        let key = keys.find(Algorithm::RS256, None).expect("the key is usable");
        for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
            let parts = (&key.key, key.signature_bytes);
            assert!(
                !is_signed(&test.msg, &test.sig, parts, Algorithm::RS256),
                "{}",
                test.tc_id
            );
        }
    }
    assert_eq!(left_out, 609);
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
