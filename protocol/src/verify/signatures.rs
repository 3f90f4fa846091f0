//! Which signatures count: distinct public keys that a role names, each with its own algorithm.
//!
//! The only place that verifies a signature. The key hint filters and never counts.

use super::state::{Anchor, named_keys};
use crate::envelope::{Envelope, Signature};
use crate::refusal::{Code, Refusal};
use crate::v1::{Alg, Key, Role, RoleName, Root};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

/// Whether `signature` is the key's over `message`.
/// TUF §5.3.4, §5.5.3, §5.6.3; REQ.SEC.AUTHENTIC. Strict Ed25519: one key and message have one signature that counts.
fn is_good(key: &Key, message: &[u8], signature: &[u8]) -> bool {
    match key.alg {
        Alg::EdDsa => {
            let (Ok(public), Ok(signature)) =
                (<[u8; 32]>::try_from(key.public.as_ref()), <[u8; 64]>::try_from(signature))
            else {
                return false;
            };
            ed25519_dalek::VerifyingKey::from_bytes(&public).is_ok_and(|k| {
                k.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature)).is_ok()
            })
        }
        Alg::Es256 => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.public.0).verify(message, signature).is_ok()
        }
    }
}

/// An envelope's signatures, with what they are over laid out once for each algorithm.
pub(super) struct Signed<'a> {
    envelope: &'a Envelope<'a>,
    ed_dsa: std::cell::OnceCell<Vec<u8>>,
    es256: std::cell::OnceCell<Vec<u8>>,
}

impl<'a> Signed<'a> {
    pub(super) fn new(envelope: &'a Envelope<'a>) -> Self {
        Self { envelope, ed_dsa: std::cell::OnceCell::new(), es256: std::cell::OnceCell::new() }
    }

    fn is_by(&self, key: &Key, signature: &Signature<'_>) -> bool {
        // Own: the algorithm that counts is the root's for that key, never the envelope's.
        if signature.alg != key.alg {
            return false;
        }
        let cell = match key.alg {
            Alg::EdDsa => &self.ed_dsa,
            Alg::Es256 => &self.es256,
        };
        let message = cell.get_or_init(|| self.envelope.to_be_signed(key.alg));
        is_good(key, message, signature.bytes)
    }

    /// Sorts every signature by what the anchor knows of its key. Keys that a later root removed count for nothing:
    /// REQ.SEC.KEY.ROTATION.
    pub(super) fn tally(&self, wanted: &[&Key], anchor: Option<&Anchor>) -> Tally {
        let root = anchor.map(|a| &*a.root.document);
        let revoked: Vec<&Key> = root
            .into_iter()
            .flat_map(|r| r.revoked.iter().map(|v| &v.key))
            .chain(anchor.into_iter().flat_map(|a| &a.former))
            .collect();
        let wanted = hinted(wanted.iter().copied().filter(|k| !revoked.contains(k)));
        let elsewhere = hinted(root.into_iter().flat_map(named_keys).filter(|k| !revoked.contains(k)));
        let revoked = hinted(revoked);
        let mut tally = Tally::default();
        for signature in self.envelope.signatures() {
            let known = [(&wanted, Class::Good), (&elsewhere, Class::Elsewhere), (&revoked, Class::Revoked)]
                .into_iter()
                .find_map(|(keys, class)| {
                    let mut hits =
                        keys.iter().filter(|(kid, _)| *kid == signature.kid).map(|(_, k)| *k).peekable();
                    hits.peek()?;
                    Some(
                        hits.find(|k| self.is_by(k, signature))
                            .map_or((Class::Bad, None), |k| (class, Some(k))),
                    )
                });
            match known {
                Some((Class::Good, Some(key))) if tally.good.contains(key) => {}
                Some((Class::Good, Some(key))) => tally.good.push(key.clone()),
                Some((Class::Elsewhere, _)) => tally.elsewhere = true,
                Some((Class::Revoked, _)) => tally.revoked = true,
                Some(_) => tally.bad = true,
                None => {}
            }
        }
        tally
    }
}

fn hinted<'k>(keys: impl IntoIterator<Item = &'k Key>) -> Vec<([u8; 8], &'k Key)> {
    keys.into_iter().map(|k| (k.kid(), k)).collect()
}

#[derive(Clone, Copy)]
enum Class {
    Good,
    Elsewhere,
    Revoked,
    Bad,
}

/// What an envelope's signatures amount to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Distinct wanted keys with a good signature.
    pub(super) good: Vec<Key>,
    elsewhere: bool,
    revoked: bool,
    bad: bool,
}

impl Tally {
    /// Why too few of the good ones are there.
    pub(super) fn refusal(&self, wanted: &str) -> Refusal {
        let (code, why) = if !self.good.is_empty() {
            (Code::Threshold, format!("{} good, which is fewer than needed", self.good.len()))
        } else if self.revoked {
            (Code::RevokedKey, "by a key that a newer root removed".to_owned())
        } else if self.elsewhere {
            (Code::RoleScope, "by a key that the root names in another role".to_owned())
        } else if self.bad {
            (Code::BadSignature, "a known key's signature does not fit the bytes".to_owned())
        } else {
            (Code::UnknownKey, "by no key that is known here".to_owned())
        };
        Refusal::new(code, format!("signatures of {wanted}: {why}"))
    }

    /// Whether nothing good or known is there but a known key's bad signature.
    pub(super) fn only_bad(&self) -> bool {
        self.bad && self.good.is_empty() && !self.elsewhere && !self.revoked
    }

    /// Whether a role's threshold is met by distinct keys. TUF §5.3.4 and its like; Uptane §5.4.4.7.
    pub(super) fn meets(&self, role: &Role) -> bool {
        let good = self.good.iter().filter(|k| role.keys.contains(k)).count() as u64;
        role.threshold > 0 && good >= role.threshold
    }
}

/// The entries of a role whose threshold is met, and the keys that met it.
pub(super) fn of_role<'r>(
    signed: &Signed<'_>,
    anchor: &'r Anchor,
    name: RoleName,
) -> Result<(Vec<&'r Role>, Vec<Key>), Refusal> {
    let tally = signed.tally(&role_keys(&anchor.root.document, name), Some(anchor));
    let met: Vec<&Role> = roles(&anchor.root.document, name).filter(|r| tally.meets(r)).collect();
    if met.is_empty() { Err(tally.refusal(role_word(name))) } else { Ok((met, tally.good)) }
}

/// Which of these keys have a good signature in an envelope: what a ceremony on several machines still lacks. Says nothing
/// about what the keys may sign, and whether the document counts; that is [`super::verify`]'s alone.
pub fn good_signers(envelope: &Envelope<'_>, keys: &[Key]) -> Vec<Key> {
    let wanted: Vec<&Key> = keys.iter().collect();
    Signed::new(envelope).tally(&wanted, None).good
}

/// All entries of a role.
pub(super) fn roles(root: &Root, name: RoleName) -> impl Iterator<Item = &Role> {
    root.roles.iter().filter(move |r| r.name == name)
}

/// All keys of a role.
pub(super) fn role_keys(root: &Root, name: RoleName) -> Vec<&Key> {
    roles(root, name).flat_map(|r| &r.keys).collect()
}

/// One key that must have signed.
pub(super) fn of_key(
    signed: &Signed<'_>,
    anchor: &Anchor,
    key: &Key,
    whose: &str,
) -> Result<Vec<Key>, Refusal> {
    let tally = signed.tally(&[key], Some(anchor));
    if tally.good.is_empty() { Err(tally.refusal(whose)) } else { Ok(tally.good) }
}

fn role_word(name: RoleName) -> &'static str {
    match name {
        RoleName::Root => "the root role",
        RoleName::Snapshot => "the snapshot role",
        RoleName::Deployment => "the deployment role",
        RoleName::Enrollment => "the enrollment role",
        RoleName::Release => "the release role",
    }
}
