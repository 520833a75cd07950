//! RSA keys that can be factored because of how a widely used library of smart cards made them (CVE-2017-15361): their primes
//! are powers of 65537 modulo many small primes, and so is their product.

/// The primes by which the affected moduli of all lengths are known.
const PRIMES: [u16; 39] = [
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
const GENERATOR: u32 = 65_537;

/// Whether a modulus (big endian) is of that kind. One in some hundred millions of others looks like it.
pub(super) fn is_weak(modulus: &[u8]) -> bool {
    PRIMES.iter().map(|prime| u32::from(*prime)).all(|prime| {
        let rest = modulus
            .iter()
            .fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1 % prime;
        (0..prime).any(|_| {
            let is_it = power == rest;
            power = power * GENERATOR % prime;
            is_it
        })
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;

    use super::*;

    /// A power of 65537 with 2048 bits: no key, but with what gives these keys away.
    fn power() -> Vec<u8> {
        let mut number = vec![1_u8];
        while number.len() < 256 {
            // times 65536, and once more
            let moved: Vec<u8> = [number.as_slice(), &[0, 0]].concat();
            let mut carry = 0_u16;
            let mut sum = moved.clone();
            for (at, byte) in sum.iter_mut().rev().enumerate() {
                let other = number.len().checked_sub(at + 1).map_or(0, |place| number[place]);
                let total = u16::from(*byte) + u16::from(other) + carry;
                *byte = u8::try_from(total & 0xff).unwrap();
                carry = total >> 8;
            }
            number = sum;
        }
        number
    }

    #[test]
    fn only_moduli_of_the_broken_library_are_weak() {
        let mut weak = power();
        assert!(is_weak(&weak));
        *weak.last_mut().unwrap() ^= 2;
        assert!(!is_weak(&weak));
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let modulus = key.public_key().modulus();
        assert!(!is_weak(modulus.big_endian_without_leading_zero()));
    }
}
