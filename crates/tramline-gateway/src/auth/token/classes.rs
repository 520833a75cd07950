//! The classes of attacks in the public collections of vectors for signed tokens and their keys (Wycheproof's JSON web
//! signatures and keys) that the examples of the RFCs do not cover. The list of all classes, each with its test, is in
//! docs/attacks.md.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::{Sha256, Sha384, Sha512};

use super::*;

const ISSUER: &str = "https://id.example.com";
const SECRET: &str = "a secret of the project with more than 32 bytes";
/// Of P-256, big endian: the field and the group.
const FIELD: &str = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What is signed: `subject` makes it another text.
fn message(algorithm: &str, subject: usize) -> String {
    let header = json!({ "alg": algorithm });
    let claims = json!({ "iss": ISSUER, "aud": "authenticated", "role": "authenticated", "sub": subject.to_string(),
                         "exp": 4_000_000_000_u64 });
    format!("{}.{}", b64(header.to_string()), b64(claims.to_string()))
}

fn project() -> Verifier {
    Verifier::new(&Secret::new(SECRET), TokenRules::default(), &[])
}

/// What becomes of a token of an issuer that has this one key.
async fn verified(key: &Value, message: &str, signature: &[u8]) -> Result<Claims, TokenError> {
    let document = json!({ "keys": [key] }).to_string().into_bytes();
    let issuer = Issuer {
        issuer: ISSUER.into(),
        audiences: vec!["authenticated".into()],
        roles: vec!["authenticated".into()],
        keys: Arc::new(move || {
            let document = document.clone();
            Box::pin(async move { Ok(document) })
        }),
    };
    let verifier = Verifier::new(&Secret::new(SECRET), TokenRules::default(), &[issuer]);
    let token = format!("{message}.{}", b64(signature));
    verifier.prepare(&token).await;
    verifier.verify(&token)
}

/// `a + b` or `a - b` of numbers of one length; none when it does not fit.
fn sum(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let mut carry = 0;
    let mut digits: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let total = u16::from(*a) + u16::from(*b) + carry;
            carry = total >> 8;
            u8::try_from(total & 0xff).unwrap()
        })
        .collect();
    digits.reverse();
    (carry == 0).then_some(digits)
}

fn difference(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut digits: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let total = 256 + i16::from(*a) - i16::from(*b) - borrow;
            borrow = i16::from(total < 256);
            u8::try_from(total % 256).unwrap()
        })
        .collect();
    digits.reverse();
    digits
}

#[test]
fn tags_that_are_not_whole_are_wrong() {
    let message = message("HS256", 1);
    macro_rules! tag {
        ($hash:ty) => {{
            let mut mac = Hmac::<$hash>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(message.as_bytes());
            mac.finalize().into_bytes().to_vec()
        }};
    }
    let right = tag!(Sha256);
    let refused = |tag: &[u8]| project().verify(&format!("{message}.{}", b64(tag))).err();
    assert_eq!(refused(&right), None);
    for length in 0..right.len() {
        assert_eq!(
            refused(&right[..length]),
            Some(TokenError::Signature),
            "{length} bytes"
        );
    }
    let extended = [right.as_slice(), &[0]].concat();
    let doubled = [right.as_slice(), &right].concat();
    let others = [
        tag!(Sha384),
        tag!(Sha512),
        tag!(Sha384)[..32].to_vec(),
        tag!(Sha512)[..32].to_vec(),
    ];
    for wrong in others
        .iter()
        .chain([&extended, &doubled, &vec![0; 32], &vec![0xff; 32]])
    {
        assert_eq!(refused(wrong), Some(TokenError::Signature), "{wrong:?}");
    }
}

#[test]
fn only_the_whole_secret_signs() {
    let message = message("HS256", 1);
    let signed = |secret: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(message.as_bytes());
        format!("{message}.{}", b64(mac.finalize().into_bytes()))
    };
    assert!(project().verify(&signed(SECRET.as_bytes())).is_ok());
    let wrong = [
        "".to_owned(),
        SECRET[..32].to_owned(),
        format!("{SECRET} "),
        SECRET.to_uppercase(),
        b64(SECRET),
        "null".to_owned(),
    ];
    for secret in wrong {
        let token = signed(secret.as_bytes());
        assert_eq!(project().verify(&token), Err(TokenError::Signature), "{secret}");
    }
}

fn point(pair: &EcdsaKeyPair) -> (Vec<u8>, Vec<u8>) {
    let public = pair.public_key().as_ref();
    (public[1..33].to_vec(), public[33..65].to_vec())
}

fn ec_key(x: &[u8], y: &[u8]) -> Value {
    json!({ "kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y) })
}

#[tokio::test]
async fn keys_with_odd_points_verify_nothing() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = point(&pair);
    let message = message("ES256", 1);
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let good = ec_key(&x, &y);
    assert!(verified(&good, &message, signature.as_ref()).await.is_ok());
    let field = hex::decode(FIELD).unwrap();
    let (zero, mut near) = (vec![0; 32], y.clone());
    near[31] ^= 1;
    let padded = |number: &[u8]| [&[0], number].concat();
    let mut keys = vec![
        (
            "mirrored: the point of another key",
            ec_key(&x, &difference(&field, &y)),
        ),
        ("off the curve", ec_key(&x, &near)),
        ("coordinates exchanged", ec_key(&y, &x)),
        ("nowhere", ec_key(&zero, &zero)),
        ("x out of the field", ec_key(&field, &y)),
        ("y out of the field", ec_key(&x, &[0xff; 32])),
        ("x with a leading zero", ec_key(&padded(&x), &y)),
        ("y with a leading zero", ec_key(&x, &padded(&y))),
        ("x cut off", ec_key(&x[1..], &y)),
        ("y cut off", ec_key(&x, &y[..31])),
        ("x empty", ec_key(&[], &y)),
    ];
    for (name, value) in [
        ("crv", json!("P-384")),
        ("crv", json!("P-521")),
        ("crv", json!("secp256k1")),
        ("crv", json!("p-256")),
        ("crv", json!("Ed25519")),
        ("crv", json!(256)),
        ("kty", json!("ec")),
        ("kty", json!("OKP")),
        ("kty", json!("RSA")),
        ("y", json!(0)),
    ] {
        let mut key = good.clone();
        key[name] = value;
        keys.push((name, key));
    }
    for name in ["crv", "kty", "x", "y"] {
        let mut key = good.clone();
        key.as_object_mut().unwrap().remove(name);
        keys.push((name, key));
    }
    for (what, key) in keys {
        let refused = verified(&key, &message, signature.as_ref()).await;
        assert!(
            matches!(refused, Err(TokenError::UnknownKey | TokenError::Signature)),
            "{what}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn ecdsa_numbers_have_their_whole_length() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = point(&pair);
    let key = ec_key(&x, &y);
    // one signature in 256 has such a number
    let (message, signature) = (0..)
        .map(|subject| {
            let message = message("ES256", subject);
            let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
            (message, signature.as_ref().to_vec())
        })
        .find(|(_, signature)| signature[0] == 0)
        .unwrap();
    assert!(verified(&key, &message, &signature).await.is_ok());
    let (r, s) = signature.split_at(32);
    let wrong = [
        ("r without its leading zero", [&r[1..], s].concat()),
        ("both with one zero more", [&[0], r, &[0], s].concat()),
        ("a zero before", [&[0], r, s].concat()),
        ("exchanged", [s, r].concat()),
        ("s left out", r.to_vec()),
        ("nothing", Vec::new()),
    ];
    for (what, signature) in wrong {
        assert_eq!(
            verified(&key, &message, &signature).await,
            Err(TokenError::Signature),
            "{what}"
        );
    }
    // -s is as good as s: whoever has a token can write it in two ways, and both say the same
    let order = hex::decode(ORDER).unwrap();
    let mirrored = [r, &difference(&order, s)].concat();
    assert_eq!(
        verified(&key, &message, &mirrored).await.ok(),
        verified(&key, &message, &signature).await.ok()
    );
}

fn rsa_key(pair: &rsa::KeyPair) -> Value {
    let public = pair.public_key();
    json!({ "kty": "RSA", "n": b64(public.modulus().big_endian_without_leading_zero()), "e": "AQAB" })
}

fn rsa_signature(pair: &rsa::KeyPair, encoding: &'static dyn RsaEncoding, message: &str) -> Vec<u8> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .unwrap();
    signature
}

#[tokio::test]
async fn rsa_signatures_of_other_kinds_are_wrong() {
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let key = rsa_key(&pair);
    let public = pair.public_key();
    let modulus = public.modulus().big_endian_without_leading_zero().to_vec();
    let signed = |subject| {
        let message = message("RS256", subject);
        let signature = rsa_signature(&pair, &RSA_PKCS1_SHA256, &message);
        (message, signature)
    };
    let (message, signature) = signed(0);
    assert!(verified(&key, &message, &signature).await.is_ok());
    let others: [(&str, &'static dyn RsaEncoding); 3] = [
        ("PSS", &RSA_PSS_SHA256),
        ("SHA-384", &RSA_PKCS1_SHA384),
        ("SHA-512", &RSA_PKCS1_SHA512),
    ];
    for (what, encoding) in others {
        let other = rsa_signature(&pair, encoding, &message);
        assert_eq!(
            verified(&key, &message, &other).await,
            Err(TokenError::Signature),
            "{what}"
        );
    }
    let one = [vec![0; 255], vec![1]].concat();
    for (what, wrong) in [
        ("zero", vec![0; 256]),
        ("one", one),
        ("the modulus", modulus.clone()),
        ("a zero before", [&[0], signature.as_slice()].concat()),
        ("a byte after", [signature.as_slice(), &[0]].concat()),
        ("cut off", signature[..255].to_vec()),
    ] {
        assert_eq!(
            verified(&key, &message, &wrong).await,
            Err(TokenError::Signature),
            "{what}"
        );
    }
    // the same number modulo the modulus, where it fits: half of all do not
    let (message, larger) = (1..)
        .find_map(|subject| {
            let (message, signature) = signed(subject);
            Some((message, sum(&signature, &modulus)?))
        })
        .unwrap();
    assert_eq!(
        verified(&key, &message, &larger).await,
        Err(TokenError::Signature),
        "beyond the modulus"
    );
    // one in 256 begins with a zero, which belongs to it
    let (message, signature) = (1..)
        .map(signed)
        .find(|(_, signature)| signature[0] == 0)
        .unwrap();
    assert!(verified(&key, &message, &signature).await.is_ok());
    assert_eq!(
        verified(&key, &message, &signature[1..]).await,
        Err(TokenError::Signature),
        "without its zero"
    );
}

#[tokio::test]
async fn keys_with_odd_numbers_verify_nothing() {
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let good = rsa_key(&pair);
    let modulus = pair
        .public_key()
        .modulus()
        .big_endian_without_leading_zero()
        .to_vec();
    let message = message("RS256", 1);
    let signature = rsa_signature(&pair, &RSA_PKCS1_SHA256, &message);
    let mut even = modulus.clone();
    even[255] ^= 1;
    for (name, value) in [
        ("n", b64([&[0], modulus.as_slice()].concat())),
        ("n", b64(&modulus[1..])),
        ("n", b64(even)),
        ("n", b64([0; 256])),
        ("n", b64([0xff; 1025])),
        ("n", String::new()),
        ("n", format!("{}=", b64(&modulus))),
        ("e", b64([0, 1, 0, 1])),
        ("e", b64([1])),
        ("e", b64([2])),
        ("e", b64([3])),
        ("e", b64([0xff; 64])),
        ("e", String::new()),
        ("alg", "RS1".into()),
        ("alg", "PS256".into()),
    ] {
        let mut key = good.clone();
        key[name] = json!(value);
        let refused = verified(&key, &message, &signature).await;
        assert!(
            matches!(refused, Err(TokenError::UnknownKey | TokenError::Signature)),
            "{name} {value}: {refused:?}"
        );
    }
}
