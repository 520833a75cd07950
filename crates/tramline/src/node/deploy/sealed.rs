//! Secrets of functions, sealed before they reach the database.
//!
//! AES-256-GCM under a key that is derived from `auth.jwt_secret`, which every node of a project has and the database has not: who reads a
//! dump or a backup reads no secret. The name is authenticated too, so that no value can be put under another name.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;

/// Raise when the form of sealed values changes.
const FORMAT: u8 = 1;
const KEY_USE: &[u8] = b"tramline function secrets 1";

/// Seals and opens.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// Derives the key.
    pub fn new(jwt_secret: &str) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, jwt_secret.as_bytes());
        let derived = hmac::sign(&secret, KEY_USE);
        let key = UnboundKey::new(&AES_256_GCM, derived.as_ref()).expect("the hash is as long as a key");
        Self(LessSafeKey::new(key))
    }

    /// The sealed value: format, nonce, ciphertext with its tag.
    pub fn seal(&self, name: &str, value: &str) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut text = value.as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(name), &mut text)
            .expect("a secret is far below the cipher's limit");
        [&[FORMAT], nonce.as_slice(), &text].concat()
    }

    /// The value; none when it was sealed under another key or name, or was changed.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<String> {
        let (format, rest) = sealed.split_first()?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let value = match *format == FORMAT {
            true => self.0.open_in_place(nonce, aad(name), &mut text).ok()?,
            false => return None,
        };
        String::from_utf8(value.to_vec()).ok()
    }
}

fn aad(name: &str) -> Aad<Vec<u8>> {
    Aad::from([KEY_USE, name.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_name_open_a_secret_that_nobody_changed() {
        let sealer = Sealer::new("super-secret-jwt-token-with-at-least-32-characters-long");
        let sealed = sealer.seal("API_KEY", "värde");
        assert_eq!(sealer.open("API_KEY", &sealed).as_deref(), Some("värde"));
        assert_ne!(
            sealer.seal("API_KEY", "värde"),
            sealed,
            "every sealing has a nonce of its own"
        );
        assert_eq!(sealer.open("OTHER_KEY", &sealed), None);
        let other = Sealer::new("another-secret-jwt-token-with-at-least-32-characters");
        assert_eq!(other.open("API_KEY", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(sealer.open("API_KEY", &changed), None, "byte {at}");
            assert_eq!(sealer.open("API_KEY", &sealed[..at]), None, "cut at {at}");
        }
    }
}
