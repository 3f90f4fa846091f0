//! Rows about keys: counted twice, weak, misused, too few of them, revoked.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use super::{Good, Row};
use shoal_protocol::envelope::seal_document;
use shoal_protocol::latest::{Deployment, Disposition, Key, Revision, Revocation, RoleName, Root};
use shoal_protocol::{Ed25519Signer, SignError, Signer};

/// The order of Ed25519's group (RFC 8032 §5.1), as signatures have numbers.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The second of the two that sign deployments from some root on.
pub(super) fn second() -> Ed25519Signer {
    Ed25519Signer::from_seed([78; 32])
}

/// Who takes the place of both.
pub(super) fn successor() -> Ed25519Signer {
    Ed25519Signer::from_seed([79; 32])
}

/// Gives these bytes for whatever it is to sign.
struct Fixed(Key, [u8; 64]);

impl Signer for Fixed {
    fn key(&self) -> Key {
        self.0.clone()
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.1.to_vec())
    }
}

/// From here on two keys sign each deployment.
pub(super) fn both_sign(good: &Good, root: &mut Root) {
    for role in root.roles.iter_mut().filter(|r| r.name == RoleName::Deployment) {
        (role.threshold, role.keys) = (2, vec![good.deployment.key(), second().key()]);
    }
}

/// From here on another key does all that the operator's did; `disposition` is said of what that one signed.
pub(super) fn revoke(good: &Good, root: &mut Root, disposition: Disposition) {
    for role in root.roles.iter_mut().filter(|r| r.name != RoleName::Root) {
        (role.threshold, role.keys) = (1, vec![successor().key()]);
    }
    root.revoked = vec![Revocation { key: good.deployment.key(), disposition }];
}

/// The last signature's scalar, raised by the order: it fits the same equation.
fn raised(mut envelope: Vec<u8>) -> Vec<u8> {
    let at = envelope.len() - 32;
    let mut carry = 0;
    for (byte, add) in envelope[at..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    envelope
}

/// The same envelope in which the signature claims this algorithm of COSE.
fn claiming(mut envelope: Vec<u8>, algorithm: u8) -> Vec<u8> {
    let at = envelope.windows(4).rposition(|w| w == [0x43, 0xa1, 0x01, 0x27]).unwrap();
    envelope[at + 3] = algorithm;
    envelope
}

/// The last signature under the hint of another key.
fn hinted(mut envelope: Vec<u8>, own: &Key, other: &Key) -> Vec<u8> {
    let at = envelope.windows(8).rposition(|w| w == own.kid()).unwrap();
    envelope[at..at + 8].copy_from_slice(&other.kid());
    envelope
}

/// S4, S5, S6, and a threshold above one.
pub(super) fn rows(good: &Good) -> Vec<Row> {
    let own = &good.deployment;
    let mut next: Deployment = good.deployment();
    next.sequence += 1;
    let by = |signers: &[&dyn Signer]| seal_document(&next, signers).unwrap().0;
    let (alone, digest) = seal_document(&next, &[own]).unwrap();
    let newest = Revision { sequence: next.sequence, digest };
    let listed = good.listing(newest, |_| ());
    let root =
        |change: &dyn Fn(&mut Root)| seal_document(&good.next_root(|r| change(r)), &[&good.root]).unwrap().0;
    let of_deployments = |keys: Vec<Key>, threshold| {
        root(&|r| {
            let roles = r.roles.iter_mut().filter(|r| r.name == RoleName::Deployment);
            roles.for_each(|role| (role.threshold, role.keys) = (threshold, keys.clone()));
        })
    };
    // The identity point: as a key and as half of a signature it fits every message in the lenient equation.
    let (mut point, mut signature) = ([0; 32], [0; 64]);
    (point[0], signature[0]) = (1, 1);
    let weak = Key::ed25519(point);
    let two = root(&|r| both_sign(good, r));
    let revoked = root(&|r| revoke(good, r, Disposition::Stop));
    let by_successor = good.listing_by(&successor(), newest, |_| ());
    let stranger = Ed25519Signer::from_seed([77; 32]);
    vec![
        ("s3-one-of-two", vec![two.clone(), listed.clone(), alone.clone()], "threshold"),
        (
            "s3-one-of-two-and-a-stranger",
            vec![two.clone(), listed.clone(), by(&[own, &stranger])],
            "threshold",
        ),
        ("s4-one-signature-twice", vec![two.clone(), listed.clone(), by(&[own, own])], "threshold"),
        (
            "s4-one-key-under-two-hints",
            vec![two, listed.clone(), hinted(by(&[own, own]), &own.key(), &second().key())],
            "threshold",
        ),
        ("s4-a-role-with-one-key-twice", vec![of_deployments(vec![own.key(), own.key()], 2)], "malformed"),
        (
            "s5-a-weak-key",
            vec![of_deployments(vec![weak.clone()], 1), listed.clone(), by(&[&Fixed(weak, signature)])],
            "bad_signature",
        ),
        ("s5-a-weak-point", vec![listed.clone(), by(&[&Fixed(own.key(), signature)])], "bad_signature"),
        ("s5-a-scalar-beyond-the-order", vec![listed.clone(), raised(alone.clone())], "bad_signature"),
        ("s5-another-algorithm", vec![listed.clone(), claiming(alone.clone(), 0x26)], "bad_signature"),
        ("s5-an-algorithm-that-is-none", vec![listed.clone(), claiming(alone.clone(), 0x25)], "malformed"),
        ("s6-a-revoked-key", vec![revoked.clone(), by_successor, alone], "revoked_key"),
        ("s6-a-snapshot-by-a-revoked-key", vec![revoked, listed], "revoked_key"),
    ]
}
