//! Tokens that must be refused, and those that must not be taken for them.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::*;

pub const MALFORMED: &str = "UNAUTHORIZED_INVALID_JWT_FORMAT";
pub const REFUSED: &str = "UNAUTHORIZED_LEGACY_JWT";
pub const ALGORITHM: &str = "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM";
pub const ASYMMETRIC: &str = "UNAUTHORIZED_ASYMMETRIC_JWT";

pub fn claims() -> Value {
    json!({ "role": "authenticated", "sub": USER, "exp": now() + 600 })
}

pub fn with_header(header: &Value) -> String {
    sign_parts(&encode(header), &encode(&claims()), SECRET)
}

pub fn with_claims(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = claims();
    change(&mut claims);
    token(&claims)
}

/// Signs texts as they are: duplicate members, odd numbers, no JSON at all.
pub fn raw(header: &str, payload: &str) -> String {
    sign_parts(
        &URL_SAFE_NO_PAD.encode(header),
        &URL_SAFE_NO_PAD.encode(payload),
        SECRET,
    )
}

pub fn good_header() -> &'static str {
    r#"{"alg":"HS256","typ":"JWT"}"#
}

pub fn unsigned(alg: &str) -> String {
    format!("{}.{}.", encode(&json!({ "alg": alg })), encode(&claims()))
}

/// Sets the unused low bits of the last character of a part: decodes alike in a careless decoder.
pub fn non_canonical(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').unwrap();
    // 32 bytes are 43 characters, the last of which carries two unused bits.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = signature.chars().last().unwrap();
    let index = alphabet.find(last).unwrap();
    let twisted = alphabet.chars().nth(index | 1).unwrap();
    assert_ne!(last, twisted);
    format!("{rest}.{}{twisted}", &signature[..signature.len() - 1])
}

/// Spaces are added until the encoding needs padding.
pub fn padded_claims() -> String {
    let mut text = claims().to_string();
    loop {
        text.push(' ');
        let encoded = URL_SAFE.encode(&text);
        if encoded.ends_with('=') {
            return encoded;
        }
    }
}

pub fn flipped(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[0] ^= 1;
    format!("{rest}.{}", URL_SAFE_NO_PAD.encode(bytes))
}

pub fn attacks() -> Vec<(&'static str, String, &'static str)> {
    let good = token(&claims());
    let (head_and_claims, signature) = good.rsplit_once('.').unwrap();
    let exp = now() + 600;
    let long_kid = "k".repeat(10_240);
    vec![
        ("alg none", unsigned("none"), ALGORITHM),
        ("alg None", unsigned("None"), ALGORITHM),
        ("alg NONE", unsigned("NONE"), ALGORITHM),
        ("alg nOnE", unsigned("nOnE"), ALGORITHM),
        ("alg HS384", with_header(&json!({ "alg": "HS384" })), ALGORITHM),
        ("alg HS512", with_header(&json!({ "alg": "HS512" })), ALGORITHM),
        ("alg hs256", with_header(&json!({ "alg": "hs256" })), ALGORITHM),
        ("alg empty", with_header(&json!({ "alg": "" })), ALGORITHM),
        ("alg ES256", with_header(&json!({ "alg": "ES256" })), ASYMMETRIC),
        ("alg RS256", with_header(&json!({ "alg": "RS256" })), ASYMMETRIC),
        ("alg missing", with_header(&json!({ "typ": "JWT" })), MALFORMED),
        (
            "alg as list",
            with_header(&json!({ "alg": ["HS256"] })),
            MALFORMED,
        ),
        ("alg null", with_header(&json!({ "alg": null })), MALFORMED),
        (
            "kid empty",
            with_header(&json!({ "alg": "HS256", "kid": "" })),
            MALFORMED,
        ),
        (
            "kid number",
            with_header(&json!({ "alg": "HS256", "kid": 1 })),
            MALFORMED,
        ),
        (
            "kid 10 KB",
            with_header(&json!({ "alg": "HS256", "kid": long_kid })),
            MALFORMED,
        ),
        (
            "jwk",
            with_header(&json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AA" } })),
            MALFORMED,
        ),
        (
            "jku",
            with_header(&json!({ "alg": "HS256", "jku": "https://evil.example" })),
            MALFORMED,
        ),
        (
            "x5u",
            with_header(&json!({ "alg": "HS256", "x5u": "https://evil.example" })),
            MALFORMED,
        ),
        (
            "x5c",
            with_header(&json!({ "alg": "HS256", "x5c": [] })),
            MALFORMED,
        ),
        (
            "crit unknown",
            with_header(&json!({ "alg": "HS256", "crit": ["exp"] })),
            MALFORMED,
        ),
        (
            "crit empty",
            with_header(&json!({ "alg": "HS256", "crit": [] })),
            MALFORMED,
        ),
        (
            "b64 false",
            with_header(&json!({ "alg": "HS256", "b64": false })),
            MALFORMED,
        ),
        (
            "zip",
            with_header(&json!({ "alg": "HS256", "zip": "DEF" })),
            MALFORMED,
        ),
        (
            "enc",
            with_header(&json!({ "alg": "HS256", "enc": "A128GCM" })),
            MALFORMED,
        ),
        (
            "typ wrong",
            with_header(&json!({ "alg": "HS256", "typ": "JWE" })),
            MALFORMED,
        ),
        (
            "typ number",
            with_header(&json!({ "alg": "HS256", "typ": 1 })),
            MALFORMED,
        ),
        (
            "header duplicate alg",
            raw(r#"{"alg":"none","alg":"HS256"}"#, &claims().to_string()),
            MALFORMED,
        ),
        (
            "header not an object",
            raw("[]", &claims().to_string()),
            MALFORMED,
        ),
        ("header no JSON", raw("alg", &claims().to_string()), MALFORMED),
        ("two parts", head_and_claims.to_owned(), MALFORMED),
        ("four parts", format!("{good}.AAAA"), MALFORMED),
        ("five parts", "a.b.c.d.e".to_owned(), MALFORMED),
        ("one part", "abc".to_owned(), MALFORMED),
        ("only dots", "..".to_owned(), MALFORMED),
        (
            "JSON form",
            json!({ "payload": "x", "signatures": [] })
                .to_string()
                .replace(' ', ""),
            MALFORMED,
        ),
        ("signature stripped", format!("{head_and_claims}."), REFUSED),
        (
            "signature truncated",
            format!("{head_and_claims}.{}", &signature[..40]),
            REFUSED,
        ),
        ("signature flipped", flipped(&good), REFUSED),
        ("signature with trailing bytes", format!("{good}AAAA"), REFUSED),
        ("signature non-canonical", non_canonical(&good), MALFORMED),
        ("signature padded", format!("{good}="), MALFORMED),
        (
            "signature in standard alphabet",
            format!("{head_and_claims}.+/{}", &signature[2..]),
            MALFORMED,
        ),
        (
            "payload padded",
            sign_parts(&encode(&json!({ "alg": "HS256" })), &padded_claims(), SECRET),
            MALFORMED,
        ),
        (
            "foreign secret",
            sign_parts(&encode(&json!({ "alg": "HS256" })), &encode(&claims()), "x"),
            REFUSED,
        ),
        (
            "claims swapped",
            {
                let other = encode(&json!({ "role": "service_role", "exp": exp }));
                let header = good.split('.').next().unwrap();
                format!("{header}.{other}.{signature}")
            },
            REFUSED,
        ),
        (
            "claims duplicate role",
            raw(
                good_header(),
                &format!(r#"{{"role":"anon","role":"service_role","exp":{exp}}}"#),
            ),
            MALFORMED,
        ),
        (
            "claims duplicate exp",
            raw(
                good_header(),
                &format!(r#"{{"exp":1,"role":"anon","exp":{exp}}}"#),
            ),
            MALFORMED,
        ),
        (
            "nested duplicate",
            raw(good_header(), &format!(r#"{{"exp":{exp},"a":{{"b":1,"b":2}}}}"#)),
            MALFORMED,
        ),
        (
            "claims deep",
            raw(
                good_header(),
                &format!(r#"{{"exp":{exp},"a":{}1{}}}"#, "[".repeat(40), "]".repeat(40)),
            ),
            MALFORMED,
        ),
        ("claims not an object", raw(good_header(), "[1]"), MALFORMED),
        (
            "claims with text after",
            raw(good_header(), &format!("{} x", claims())),
            MALFORMED,
        ),
        (
            "exp missing",
            with_claims(|claims| {
                claims.as_object_mut().unwrap().remove("exp");
            }),
            REFUSED,
        ),
        (
            "exp text",
            with_claims(|claims| claims["exp"] = json!(exp.to_string())),
            REFUSED,
        ),
        (
            "exp null",
            with_claims(|claims| claims["exp"] = Value::Null),
            REFUSED,
        ),
        (
            "exp list",
            with_claims(|claims| claims["exp"] = json!([exp])),
            REFUSED,
        ),
        (
            "exp negative",
            with_claims(|claims| claims["exp"] = json!(-1)),
            REFUSED,
        ),
        (
            "exp 1e400",
            raw(good_header(), r#"{"role":"anon","exp":1e400}"#),
            MALFORMED,
        ),
        (
            "exp passed",
            with_claims(|claims| claims["exp"] = json!(now() - 3_600)),
            REFUSED,
        ),
        (
            "nbf in the future",
            with_claims(|claims| claims["nbf"] = json!(now() + 3_600)),
            REFUSED,
        ),
        (
            "nbf text",
            with_claims(|claims| claims["nbf"] = json!("0")),
            REFUSED,
        ),
        (
            "iat in the future",
            with_claims(|claims| claims["iat"] = json!(now() + 3_600)),
            REFUSED,
        ),
        (
            "iat object",
            with_claims(|claims| claims["iat"] = json!({})),
            REFUSED,
        ),
        (
            "role unknown",
            with_claims(|claims| claims["role"] = json!("postgres")),
            REFUSED,
        ),
        (
            "role list",
            with_claims(|claims| claims["role"] = json!(["authenticated"])),
            REFUSED,
        ),
        (
            "sub number",
            with_claims(|claims| claims["sub"] = json!(1)),
            REFUSED,
        ),
        (
            "iss list",
            with_claims(|claims| claims["iss"] = json!(["a"])),
            REFUSED,
        ),
        (
            "aud number",
            with_claims(|claims| claims["aud"] = json!(1)),
            REFUSED,
        ),
        (
            "oversize",
            with_claims(|claims| claims["pad"] = json!("x".repeat(9_000))),
            MALFORMED,
        ),
        (
            "spaces inside",
            format!("{} {}", &good[..20], &good[20..]),
            MALFORMED,
        ),
    ]
}
