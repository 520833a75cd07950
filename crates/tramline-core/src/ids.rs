//! Which shard an id belongs to, and how ids are made to land in one.
//!
//! A shard is a pure function of the id, the same here and in SQL, so every look-up by id knows its shard and an id
//! cannot live in two. The bits come from the tail of the UUID: common v7 generators keep a counter in the bits behind
//! the time, where a thousand ids fall into two shards of sixteen.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::Millis;

/// How many of the id's last bits choose the shard.
pub const TAIL_BITS: u32 = 10;
/// The number of distinct tail values, and so the largest possible shard count.
pub const SHARD_COUNT_MAX: u16 = 1 << TAIL_BITS;
const TAIL_MASK: u16 = SHARD_COUNT_MAX - 1;

/// The low ten bits of the id's last two bytes (big endian).
pub fn tail_bits(id: Uuid) -> u16 {
    let bytes = id.as_bytes();
    u16::from_be_bytes([bytes[14], bytes[15]]) & TAIL_MASK
}

/// The shard of an id when there are `shard_count` shards. A count of zero is read as one.
pub fn shard_of(id: Uuid, shard_count: u16) -> u16 {
    tail_bits(id) % shard_count.max(1)
}

/// The tail bits of a key: the first two bytes (big endian) of the SHA-256 of its UTF-8, low ten bits. Core Postgres
/// computes the same with `sha256(convert_to(key, 'UTF8'))`.
pub fn key_bits(key: &str) -> u16 {
    let digest = Sha256::digest(key.as_bytes());
    u16::from_be_bytes([digest[0], digest[1]]) & TAIL_MASK
}

/// The same id with its ten tail bits replaced, so that it lands where a key, a parent or a schedule lives.
pub fn with_tail_bits(id: Uuid, bits: u16) -> Uuid {
    let mut bytes = id.into_bytes();
    let kept = u16::from_be_bytes([bytes[14], bytes[15]]) & !TAIL_MASK;
    [bytes[14], bytes[15]] = (kept | (bits & TAIL_MASK)).to_be_bytes();
    Uuid::from_bytes(bytes)
}

/// When a version 7 id was made, by its own claim; `None` for any other version.
pub fn v7_millis(id: Uuid) -> Option<Millis> {
    if id.get_version_num() != 7 {
        return None;
    }
    let b = id.as_bytes();
    Some(
        Millis::from(u16::from_be_bytes([b[0], b[1]])) << 32
            | Millis::from(u32::from_be_bytes([b[2], b[3], b[4], b[5]])),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> Uuid {
        text.parse().unwrap()
    }

    #[test]
    fn tail_bits_are_the_low_ten_bits_of_the_last_two_bytes() {
        assert_eq!(tail_bits(id("00000000-0000-7000-8000-00000000ffff")), 1023);
        assert_eq!(tail_bits(id("00000000-0000-7000-8000-00000000fc00")), 0);
        assert_eq!(tail_bits(id("ffffffff-ffff-7fff-bfff-ffffffff0201")), 0x201);
    }

    #[test]
    fn shard_is_the_tail_modulo_the_count() {
        let id = id("00000000-0000-7000-8000-000000000201");
        assert_eq!(shard_of(id, 16), 1);
        assert_eq!(shard_of(id, 1024), 0x201);
        assert_eq!(shard_of(id, 1), 0);
        assert_eq!(shard_of(id, 0), 0);
    }

    #[test]
    fn key_bits_are_the_head_of_the_sha256() {
        // sha256("") = e3b0..., sha256("abc") = ba78...
        assert_eq!(key_bits(""), 0xe3b0 & 0x3ff);
        assert_eq!(key_bits("abc"), 0xba78 & 0x3ff);
    }

    #[test]
    fn v7_time_is_read_and_other_versions_have_none() {
        assert_eq!(
            v7_millis(id("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")),
            Some(1_645_557_742_000)
        );
        assert_eq!(v7_millis(id("017f22e2-79b0-4cc3-98c4-dc0c0c07398f")), None);
        assert_eq!(v7_millis(Uuid::nil()), None);
    }

    #[test]
    fn shards_of_made_ids_spread_evenly() {
        let mut counts = [0u32; 16];
        for _ in 0..16_000 {
            counts[usize::from(shard_of(Uuid::now_v7(), 16))] += 1;
        }
        assert!(counts.iter().all(|&n| (700..1300).contains(&n)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn setting_the_tail_changes_nothing_else(raw: u128, bits in 0u16..1024) {
            let id = Uuid::from_u128(raw);
            let moved = with_tail_bits(id, bits);
            prop_assert_eq!(tail_bits(moved), bits);
            prop_assert_eq!(moved.as_u128() >> 10, raw >> 10);
        }
    }
}
