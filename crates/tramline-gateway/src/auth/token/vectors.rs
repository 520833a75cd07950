//! The signatures that RFC 7515 and RFC 7520 print, and those of their algorithms that are not supported.

use serde_json::json;

use super::*;
use crate::auth::jwks::KeySet;

/// RFC 7515, A.1 to A.3 and A.5: `{"iss":"joe", "exp":1300819380, "http://example.com/is_root":true}`.
const JOE: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// RFC 7520, section 4: a sentence, no JSON.
const FRODO: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";

/// RFC 7515, A.1.
const HS256: (&str, &str, &str) = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
);
/// RFC 7515, A.2: header, signature, modulus.
const RS256: (&str, &str, &str) = (
    "eyJhbGciOiJSUzI1NiJ9",
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
);
/// RFC 7515, A.3: header, signature, point.
const ES256: (&str, &str, (&str, &str)) = (
    "eyJhbGciOiJFUzI1NiJ9",
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    (
        "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    ),
);
/// RFC 7520, 4.1: header, signature, modulus.
const COOKBOOK_RS256: (&str, &str, &str) = (
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9",
    "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg",
    "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw",
);
/// RFC 7520, 4.4: header, tag, secret.
const COOKBOOK_HS256: (&str, &str, &str) = (
    "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9",
    "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
    "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
);

fn secret(encoded: &str) -> DecodingKey {
    DecodingKey::from_secret(&URL_SAFE_NO_PAD.decode(encoded).unwrap())
}

/// The key of a set with this one key, as the gateway reads it.
fn public(jwk: &Value, algorithm: Algorithm) -> DecodingKey {
    let set = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
    set.find(algorithm, None).expect("the key is usable").key.clone()
}

fn rsa(modulus: &str) -> DecodingKey {
    public(
        &json!({ "kty": "RSA", "n": modulus, "e": "AQAB" }),
        Algorithm::RS256,
    )
}

fn ec((x, y): (&str, &str)) -> DecodingKey {
    public(
        &json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y }),
        Algorithm::ES256,
    )
}

/// The same with one bit of the signature changed.
fn bent(signature: &str) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[7] ^= 1;
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn the_signatures_of_rfc_7515_are_right_and_any_other_is_wrong() {
    let vectors = [
        (HS256.0, HS256.1, secret(HS256.2), Algorithm::HS256),
        (RS256.0, RS256.1, rsa(RS256.2), Algorithm::RS256),
        (ES256.0, ES256.1, ec(ES256.2), Algorithm::ES256),
    ];
    for (header, signature, key, algorithm) in vectors {
        let token = format!("{header}.{JOE}.{signature}");
        assert_eq!(check_signature(&token, &key, algorithm), Ok(()), "{algorithm:?}");
        let bent = format!("{header}.{JOE}.{}", bent(signature));
        assert_eq!(
            check_signature(&bent, &key, algorithm),
            Err(TokenError::Signature),
            "{algorithm:?}"
        );
        let moved = format!("{header}.{FRODO}.{signature}");
        assert_eq!(
            check_signature(&moved, &key, algorithm),
            Err(TokenError::Signature),
            "{algorithm:?}"
        );
        for other in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256] {
            if other != algorithm {
                assert!(
                    check_signature(&token, &key, other).is_err(),
                    "{algorithm:?} as {other:?}"
                );
            }
        }
        // the claims are those of 2011
        let parsed = take_apart(&token).ok().unwrap();
        assert_eq!(
            (parsed.algorithm, parsed.claims["iss"].as_str()),
            (algorithm, Some("joe"))
        );
        assert_eq!(
            check_claims(&parsed.claims, &TokenRules::default()),
            Err(TokenError::Expired)
        );
    }
}

#[test]
fn the_signatures_of_rfc_7520_are_right_over_what_is_no_token() {
    let vectors = [
        (
            COOKBOOK_RS256.0,
            COOKBOOK_RS256.1,
            rsa(COOKBOOK_RS256.2),
            Algorithm::RS256,
        ),
        (
            COOKBOOK_HS256.0,
            COOKBOOK_HS256.1,
            secret(COOKBOOK_HS256.2),
            Algorithm::HS256,
        ),
    ];
    for (header, signature, key, algorithm) in vectors {
        let token = format!("{header}.{FRODO}.{signature}");
        // past the signature, and then a sentence is no claims
        assert!(
            matches!(
                check_signature(&token, &key, algorithm),
                Err(TokenError::Malformed(_))
            ),
            "{algorithm:?}"
        );
        assert!(
            matches!(take_apart(&token), Err(TokenError::Malformed(_))),
            "{algorithm:?}"
        );
        let bent = format!("{header}.{FRODO}.{}", bent(signature));
        assert_eq!(
            check_signature(&bent, &key, algorithm),
            Err(TokenError::Signature),
            "{algorithm:?}"
        );
    }
}

#[test]
fn what_the_rfcs_show_besides_is_refused_before_any_key_is_looked_at() {
    let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let crit = "{\"alg\":\"HS256\",\r\n \"crit\":[\"http://example.com/UNDEFINED\"],\r\n \"http://example.com/UNDEFINED\":true\r\n}";
    let malformed = [
        (
            "RFC 7515 A.6, general JSON",
            format!("{{\"payload\":\"{JOE}\",\"signatures\":[]}}"),
        ),
        (
            "RFC 7515 A.7, flattened JSON",
            format!("{{\"payload\":\"{JOE}\",\"protected\":\"{}\"}}", ES256.0),
        ),
        (
            "RFC 7515 E, crit",
            format!("{}.{}.AAAA", encoded(crit), encoded("FAIL")),
        ),
        (
            "RFC 7515 F, detached content",
            format!("{}..{}", HS256.0, HS256.1),
        ),
        (
            "RFC 7520 4.5, detached content",
            format!("{}..{}", COOKBOOK_HS256.0, COOKBOOK_HS256.1),
        ),
        (
            "RFC 7797, content that is not encoded",
            format!(
                "{}.$.02.{}",
                encoded(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#),
                HS256.1
            ),
        ),
    ];
    for (what, token) in malformed {
        assert!(
            matches!(take_apart(&token), Err(TokenError::Malformed(_))),
            "{what}"
        );
    }
    let algorithm = |header: &str| take_apart(&format!("{header}.{JOE}.AAAA")).err();
    assert_eq!(
        algorithm("eyJhbGciOiJub25lIn0"),
        Some(TokenError::UnsupportedAlgorithm("none".into())),
        "RFC 7515 A.5"
    );
    assert_eq!(
        algorithm("eyJhbGciOiJFUzUxMiJ9"),
        Some(TokenError::Asymmetric("ES512".into())),
        "RFC 7515 A.4"
    );
    assert_eq!(
        algorithm(&encoded(
            r#"{"alg":"PS384","kid":"bilbo.baggins@hobbiton.example"}"#
        )),
        Some(TokenError::Asymmetric("PS384".into())),
        "RFC 7520 4.2"
    );
    assert_eq!(
        algorithm(&encoded(
            r#"{"alg":"ES512","kid":"bilbo.baggins@hobbiton.example"}"#
        )),
        Some(TokenError::Asymmetric("ES512".into())),
        "RFC 7520 4.3"
    );
}

#[test]
fn signatures_that_old_libraries_believed_are_wrong() {
    let key = ec(ES256.2);
    // the order of the group: a multiple of it counts as zero
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let zero = vec![0_u8; 32];
    let one = [vec![0_u8; 31], vec![1]].concat();
    for (what, r, s) in [
        ("r = s = 0", &zero, &zero),
        ("r = 0", &zero, &one),
        ("s = 0", &one, &zero),
        ("r = s = n", &order, &order),
        ("r = 1, s = n", &one, &order),
    ] {
        let signature = URL_SAFE_NO_PAD.encode([r.as_slice(), s.as_slice()].concat());
        let token = format!("{}.{JOE}.{signature}", ES256.0);
        assert_eq!(
            check_signature(&token, &key, Algorithm::ES256),
            Err(TokenError::Signature),
            "{what}"
        );
    }
    // the same numbers as DER, which some verifiers take as well
    let raw = URL_SAFE_NO_PAD.decode(ES256.1).unwrap();
    let integer = |number: &[u8]| {
        let padded = if number[0] >= 0x80 {
            [&[0], number].concat()
        } else {
            number.to_vec()
        };
        [vec![2, u8::try_from(padded.len()).unwrap()], padded].concat()
    };
    let body = [integer(&raw[..32]), integer(&raw[32..])].concat();
    let der = [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat();
    let token = format!("{}.{JOE}.{}", ES256.0, URL_SAFE_NO_PAD.encode(der));
    assert_eq!(
        check_signature(&token, &key, Algorithm::ES256),
        Err(TokenError::Signature)
    );
}
