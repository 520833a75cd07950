//! Secrets made here.

use std::fmt::Write as _;

/// 256 bits.
const SECRET_BYTES: usize = 32;

/// A random secret in hexadecimal.
pub fn generate() -> String {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    bytes
        .iter()
        .fold(String::with_capacity(2 * SECRET_BYTES), |mut text, byte| {
            // writing to a String cannot fail
            let _ = write!(text, "{byte:02x}");
            text
        })
}
