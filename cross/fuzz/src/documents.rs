//! Signed documents: a payload of every kind, signed by whoever the input says, before a device or an observer of one fleet.
//!
//! What is accepted was signed by a key that may, has one spelling, counts once, and moves nothing beyond its grant.
//! An input is a kind, a byte of flags, and a payload (or a whole envelope, which nobody here signs).

use crate::fleet::{self, Fleet, NOW, YEAR, entry, full, key, revision, seal, seed};
use crate::{prefixed, split_first};
use shoal_protocol::codec::{self, Limits, Value};
use shoal_protocol::envelope::{self, Envelope};
use shoal_protocol::ids::{Digest, Name, Timestamp};
use shoal_protocol::latest::{
    Config, Deployment, DeviceRecord, EntryKind, Fact, Grant, Kind, Order, Receipt, ReceiptRequest, Release,
    Report, RoleName, Root, Secret, Snapshot, Token,
};
use shoal_protocol::verify::{Expect, Known, Standing, TrustState, Verdict, Viewpoint, time, verify};
use shoal_protocol::{Ed25519Signer, Signer};
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

/// Who may hold a pen: the index is the low half of the flags; 0 is whoever the kind asks for.
const SEEDS: [u8; 11] = [
    seed::ROOT,
    seed::SNAPSHOT,
    seed::DEPLOY,
    seed::ENROLL,
    seed::ONLINE,
    seed::TOKEN,
    seed::IDENTITY,
    seed::ATTEST,
    seed::WEB,
    seed::STRANGER,
    seed::RELEASE,
];
const OBSERVER: u8 = 0x10;
const UNLISTED: u8 = 0x20;
const STORED: u8 = 0x40;
const ENVELOPE: u8 = 0x80;

struct World {
    state: TrustState,
    signers: Vec<Ed25519Signer>,
    /// Identities of everything that somebody signed before the search began.
    signed: BTreeSet<Digest>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let fleet = Fleet::new();
    let mut state = fleet.state.clone();
    state.tokens.push(fleet.token());
    // The wire's samples are of a fleet without it.
    if let Some(anchor) = &mut state.anchor {
        let mut root = (*anchor.root.document).clone();
        root.roles.push(fleet::role(RoleName::Release, 1, &[seed::RELEASE]));
        anchor.root.document = Arc::new(root);
    }
    let mut signed: BTreeSet<Digest> =
        samples().iter().filter_map(|(_, e)| Some(Envelope::parse(e).ok()?.identity())).collect();
    // What the fleet began with is held, and the seed of a whole envelope.
    signed.extend([
        seal(&fleet::root_1(), &[seed::ROOT]).1,
        seal(&fleet.record(1), &[seed::ENROLL]).1,
        seal(&fleet.snapshot(1, vec![]), &[seed::SNAPSHOT]).1,
        seal(&fleet.fact(1), &[seed::ATTEST]).1,
    ]);
    World { state, signers: SEEDS.iter().map(|s| key(*s)).collect(), signed }
});

/// Whose signature a kind asks for first.
fn right(kind: Kind) -> u8 {
    match kind {
        Kind::Root => seed::ROOT,
        Kind::Snapshot | Kind::ReceiptRequest => seed::SNAPSHOT,
        Kind::Device | Kind::Token => seed::ENROLL,
        Kind::Order => seed::ONLINE,
        Kind::Report | Kind::Receipt => seed::IDENTITY,
        Kind::Fact => seed::ATTEST,
        Kind::Deployment | Kind::Config | Kind::Secret | Kind::Grant | Kind::Removal => seed::DEPLOY,
        Kind::Release => seed::RELEASE,
    }
}

/// Who may sign what, said a second time: every accepted document must hold against this.
fn may_sign(verdict: &Verdict, signed_by: &[u8]) -> bool {
    let by = |seed: u8| signed_by.contains(&seed);
    let named = |name: &Name| by(seed::DEPLOY) || by(seed::WEB) && name.as_str().starts_with("web-");
    match verdict {
        Verdict::Deployment(d) => named(&d.document().name),
        Verdict::Config(d) => named(&d.document().name),
        Verdict::Secret(d) => named(&d.document().name),
        Verdict::Grant(d) => named(&d.document().name),
        Verdict::Release(_) => by(seed::RELEASE),
        Verdict::Device(d) => by(seed::ENROLL) || by(seed::TOKEN) && d.document().sequence == 1,
        other => by(right(other.kind())),
    }
}

pub(crate) fn run(data: &[u8]) -> bool {
    let (kind, rest) = split_first(data);
    let (flags, body) = split_first(rest);
    let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
    read(kind, body);
    let mut state = WORLD.state.clone();
    if flags & OBSERVER != 0 {
        state.viewpoint = Viewpoint::Observer;
    }
    let expect = if flags & STORED != 0 { Expect::Stored(kind) } else { expected(kind) };
    if flags & ENVELOPE != 0 {
        let verdict = verify(body, &state, NOW, expect);
        if let Ok(v) = &verdict {
            assert!(WORLD.signed.contains(&v.identity()), "nobody signed this, and it was accepted");
        }
        return verdict.is_ok();
    }
    if flags & UNLISTED == 0 {
        list(&mut state, kind, body);
    }
    let signed_by = match usize::from(flags & 0x0f) {
        0 => vec![right(kind)],
        n if n <= SEEDS.len() => vec![SEEDS[n - 1]],
        11 => vec![seed::STRANGER, right(kind)],
        12 => vec![seed::SNAPSHOT, seed::DEPLOY],
        13 => vec![right(kind), right(kind)],
        14 => vec![seed::ROOT, seed::ONLINE, seed::IDENTITY],
        _ => SEEDS.iter().copied().filter(|s| *s != right(kind)).take(8).collect(),
    };
    let bytes = sign(kind, body, &signed_by);
    let before = state.clone();
    let Ok(verdict) = verify(&bytes, &state, NOW, expect) else { return false };
    assert!(may_sign(&verdict, &signed_by), "{} accepted from {signed_by:?}", kind.as_str());
    assert_eq!(verdict.kind(), kind);
    assert_eq!(verdict.identity(), envelope::identity(kind, body), "the identity is the payload's");
    if flags & UNLISTED != 0 && state.viewpoint == Viewpoint::Device && flags & STORED == 0 {
        assert!(kind != Kind::Deployment, "a deployment that no snapshot lists was accepted");
    }
    hold_once_accepted(state, &before, &bytes, &verdict, expect);
    true
}

/// What must hold of state and bytes once they were accepted.
fn hold_once_accepted(
    mut state: TrustState,
    before: &TrustState,
    bytes: &[u8],
    verdict: &Verdict,
    expect: Expect,
) {
    let mut forged = bytes.to_vec();
    let at = forged.len() - 1 - bytes.len() % 64;
    forged[at] ^= 1;
    assert!(
        verify(&forged, before, NOW, expect).is_err()
            || Envelope::parse(&forged).is_ok_and(|e| e.signatures().len() > 1),
        "a document with a changed signature was accepted"
    );
    state.advance(verdict);
    assert!(state.time_floor >= before.time_floor, "the time floor fell");
    let most = match verdict {
        // A root may be far ahead: that is how a device that was off for years walks the chain.
        Verdict::Root(_) => NOW.plus(time::ROOT_AHEAD),
        // A token says where a device begins, whose clock may know nothing; not after the root's end.
        Verdict::Token(_) => state.anchor.as_ref().map_or(NOW, |a| a.root.document.not_after),
        _ => NOW.plus(time::DEVICE_AHEAD),
    };
    assert!(
        state.time_floor <= most || matches!(expect, Expect::Stored(_)),
        "the time floor moved to {}, which is ahead of the clock",
        state.time_floor.0
    );
    if let (Some(old), Some(new)) = (&before.anchor, &state.anchor) {
        assert_eq!(old.fleet, new.fleet, "no document changes the fleet");
    }
    if !matches!(expect, Expect::Stored(_)) {
        let again = verify(bytes, &state, NOW, expect);
        assert!(again.is_err() || again.is_ok_and(|v| v.standing() == Standing::Held), "it counted twice");
    }
    // An operator who is a year late changes nothing about what is good, but is told so.
    let late = verify(bytes, before, Timestamp(NOW.0 + 3 * YEAR), expected(verdict.kind()));
    if matches!(verdict, Verdict::Snapshot(s) if s.standing() == Standing::New) {
        assert!(late.is_err(), "a snapshot was taken long after the root's end");
    }
}

fn expected(kind: Kind) -> Expect {
    match kind {
        Kind::Root
        | Kind::Snapshot
        | Kind::Deployment
        | Kind::Config
        | Kind::Secret
        | Kind::Grant
        | Kind::Release
        | Kind::Device
        | Kind::Order
        | Kind::ReceiptRequest => Expect::Delivered,
        other => Expect::Only(other),
    }
}

/// Strict decoding of the payload alone, as its kind and as the one free-form value.
fn read(kind: Kind, body: &[u8]) {
    match kind {
        Kind::Root => decode::<Root>(body),
        Kind::Snapshot => decode::<Snapshot>(body),
        Kind::Deployment => decode::<Deployment>(body),
        Kind::Device => decode::<DeviceRecord>(body),
        Kind::Token => decode::<Token>(body),
        Kind::Order => decode::<Order>(body),
        Kind::Report => decode::<Report>(body),
        Kind::Fact => decode::<Fact>(body),
        Kind::Config => decode::<Config>(body),
        Kind::Secret => decode::<Secret>(body),
        Kind::Grant => decode::<Grant>(body),
        Kind::Release => decode::<Release>(body),
        Kind::Removal => decode::<Value>(body),
        Kind::ReceiptRequest => decode::<ReceiptRequest>(body),
        Kind::Receipt => decode::<Receipt>(body),
    }
}

fn decode<T: serde::Serialize + serde::de::DeserializeOwned>(body: &[u8]) {
    if let Ok(value) = codec::decode::<T>(body, Limits::of_size(body.len())) {
        assert_eq!(codec::encode(&value), body, "what is accepted has one encoding");
    }
}

/// Lists the payload in the state's snapshot, as an operator would who signs it.
fn list(state: &mut TrustState, kind: Kind, body: &[u8]) {
    let limits = Limits::of_size(body.len());
    let named = match kind {
        Kind::Deployment => codec::decode::<Deployment>(body, limits).map(|d| (d.name, d.sequence)),
        Kind::Config => codec::decode::<Config>(body, limits).map(|d| (d.name, d.sequence)),
        Kind::Secret => codec::decode::<Secret>(body, limits).map(|d| (d.name, d.sequence)),
        Kind::Release => codec::decode::<Release>(body, limits).map(|d| (d.name, d.sequence)),
        _ => return,
    };
    let Ok((name, sequence)) = named else { return };
    let mut listed = entry(name.as_str(), revision(sequence, envelope::identity(kind, body)));
    listed.kind = match kind {
        Kind::Config => EntryKind::Config,
        Kind::Secret => EntryKind::Secret,
        Kind::Release => EntryKind::Release,
        _ => EntryKind::Deployment,
    };
    if let Some(held) = &state.snapshot {
        let snapshot = Snapshot { entries: vec![listed], ..(*held.document).clone() };
        state.snapshot = Some(Known { document: Arc::new(snapshot), digest: held.digest });
    }
}

fn sign(kind: Kind, body: &[u8], signed_by: &[u8]) -> Vec<u8> {
    let signers: Vec<&dyn Signer> = signed_by
        .iter()
        .filter_map(|s| SEEDS.iter().position(|have| have == s))
        .map(|n| -> &dyn Signer { &WORLD.signers[n] })
        .collect();
    envelope::sign(kind, body, &signers).unwrap_or_else(|e| panic!("{e}"))
}

/// Good documents of every kind, with their flags.
fn samples() -> Vec<(u8, Vec<u8>)> {
    let fleet = Fleet::new();
    let of = |bytes: (Vec<u8>, Digest)| (0_u8, bytes.0);
    let web = Deployment { name: fleet::name("web-a"), ..fleet.deployment("web-a", 1) };
    let mut out = vec![
        of(seal(&fleet.root_2(), &[seed::ROOT])),
        of(seal(&full::root(&fleet.id), &[seed::ROOT])),
        of(seal(&fleet.snapshot(2, vec![entry("app", revision(1, Digest::of(b"1")))]), &[seed::SNAPSHOT])),
        of(seal(&full::snapshot(&fleet.id), &[seed::SNAPSHOT])),
        of(seal(&fleet.deployment("app", 1), &[seed::DEPLOY])),
        (9, seal(&web, &[seed::WEB]).0),
        of(seal(&full::deployment(&fleet.id), &[seed::DEPLOY])),
        of(seal(&fleet.record(2), &[seed::ENROLL])),
        of(seal(&fleet.token(), &[seed::ENROLL])),
        of(seal(&full::report(&fleet), &[seed::IDENTITY])),
        of(seal(&full::config(&fleet), &[seed::DEPLOY])),
        of(seal(&full::secret(&fleet), &[seed::DEPLOY])),
        of(seal(&full::grant(&fleet), &[seed::DEPLOY])),
    ];
    out.extend(full::orders(&fleet).iter().map(|o| of(seal(o, &[seed::ONLINE]))));
    out.extend(full::facts(&fleet).iter().map(|f| of(seal(f, &[seed::ATTEST]))));
    out
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (flags, bytes) in samples() {
        let Ok(e) = Envelope::parse(&bytes) else { continue };
        let Some(kind) = e.kind().ok().and_then(|k| Kind::ALL.iter().position(|other| *other == k)) else {
            continue;
        };
        let kind = u8::try_from(kind).unwrap_or_default();
        out.push(prefixed(kind, &prefixed(flags, e.payload())));
    }
    // One whole envelope, so that the search has the form before its eyes.
    let fact = Kind::ALL.iter().position(|k| *k == Kind::Fact).and_then(|n| u8::try_from(n).ok());
    let (bytes, _) = seal(&Fleet::new().fact(1), &[seed::ATTEST]);
    out.push(prefixed(fact.unwrap_or_default(), &prefixed(ENVELOPE, &bytes)));
    out
}
