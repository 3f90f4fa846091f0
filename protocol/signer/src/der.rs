//! The two spellings of an ECDSA signature on P-256: r‖s, 64 bytes, as COSE has it (RFC 9053 §2.1); and DER, as X.509, TLS and
//! most hardware write it (RFC 3279 §2.2.3).

const HALF: usize = 32;

/// r‖s of a DER signature; nothing when it is not one, in its one right spelling.
pub fn fixed_of_der(der: &[u8]) -> Option<Vec<u8>> {
    let [0x30, length, rest @ ..] = der else { return None };
    if usize::from(*length) != rest.len() {
        return None;
    }
    let (r, rest) = integer(rest)?;
    let (s, rest) = integer(rest)?;
    rest.is_empty().then(|| [r, s].concat())
}

/// One INTEGER, as 32 bytes, and what follows it.
fn integer(bytes: &[u8]) -> Option<([u8; HALF], &[u8])> {
    let [0x02, length, rest @ ..] = bytes else { return None };
    let (digits, rest) = rest.split_at_checked(usize::from(*length))?;
    let plain = match digits {
        [] => return None,
        // A zero stands only before what would be negative without it.
        [0, next @ ..] if next.first().is_some_and(|d| d & 0x80 != 0) => next,
        [first, ..] if *first == 0 || first & 0x80 != 0 => return None,
        all => all,
    };
    let mut half = [0; HALF];
    half.get_mut(HALF.checked_sub(plain.len())?..)?.copy_from_slice(plain);
    Some((half, rest))
}

/// The DER signature of r‖s; nothing when that is not 64 bytes.
pub fn der_of_fixed(fixed: &[u8]) -> Option<Vec<u8>> {
    if fixed.len() != 2 * HALF {
        return None;
    }
    let (r, s) = fixed.split_at(HALF);
    let body = [encoded(r), encoded(s)].concat();
    Some([&[0x30, u8::try_from(body.len()).ok()?], body.as_slice()].concat())
}

/// One INTEGER.
fn encoded(half: &[u8]) -> Vec<u8> {
    let leading = half.iter().take_while(|d| **d == 0).count().min(HALF - 1);
    let digits = &half[leading..];
    let count = u8::try_from(digits.len()).unwrap_or(u8::MAX - 1);
    let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
    // 32 or 33 digits at most.
    [&[0x02, if sign.is_empty() { count } else { count + 1 }], sign, digits].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, EcdsaKeyPair,
        KeyPair as _, UnparsedPublicKey,
    };

    #[test]
    fn what_ring_signs_in_der_it_verifies_as_r_and_s_and_the_other_way_round() {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random).unwrap();
        // Enough for halves of 31 bytes, and with and without a leading zero.
        for n in 0..600_u32 {
            let message = n.to_be_bytes();
            let der = key.sign(&random, &message).unwrap();
            let fixed = fixed_of_der(der.as_ref()).unwrap();
            let public = key.public_key().as_ref();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public).verify(&message, &fixed).unwrap();
            assert_eq!(der_of_fixed(&fixed).unwrap(), der.as_ref());
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public).verify(&message, der.as_ref()).unwrap();
        }
    }

    #[test]
    fn the_least_and_the_greatest_halves_survive() {
        let mut one = [0; HALF];
        one[HALF - 1] = 1;
        for half in [one, [0x80; HALF], [0xff; HALF]] {
            let fixed = [half, half].concat();
            assert_eq!(fixed_of_der(&der_of_fixed(&fixed).unwrap()).unwrap(), fixed);
        }
    }

    #[test]
    fn what_is_no_signature_or_another_spelling_of_one_is_refused() {
        let bad: [&[u8]; 10] = [
            b"",
            b"\x30",
            b"\x30\x06\x02\x01\x01\x02\x01",
            b"\x30\x06\x02\x01\x01\x02\x01\x01\x00",
            b"\x30\x07\x02\x02\x00\x01\x02\x01\x01",
            b"\x30\x06\x02\x01\x81\x02\x01\x01",
            b"\x30\x05\x02\x00\x02\x01\x01",
            b"\x30\x81\x06\x02\x01\x01\x02\x01\x01",
            b"\x31\x06\x02\x01\x01\x02\x01\x01",
            b"\x30\x06\x02\x01\x01\x03\x01\x01",
        ];
        for der in bad {
            assert_eq!(fixed_of_der(der), None, "{der:02x?}");
        }
        assert_eq!(fixed_of_der(b"\x30\x06\x02\x01\x01\x02\x01\x02").unwrap()[31], 1);
        let long = [b"\x30\x26\x02\x21\x01".as_slice(), &[7; 32], b"\x02\x01\x01"].concat();
        assert_eq!(fixed_of_der(&long), None);
        assert_eq!(der_of_fixed(&[1; 63]), None);
    }
}
