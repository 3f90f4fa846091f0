//! The one function that decides whether signed bytes count, in one fixed order of checks.
//!
//! Pure: bytes, what is known, and the time go in; a verified document or one refusal comes out. It persists nothing.
//!
//! Beside each check stands the clause that it answers to: TUF 1.0.34 (`TUF §`), the Uptane Standard 2.1.0 (`Uptane §`), RFC 9124
//! (`REQ.…`, a requirement against a threat). «Own» marks what none of them asks for. `docs/security-model.md` has the tests.

mod config;
mod deployment;
mod device;
mod documents;
mod exec;
mod receipt;
mod release;
mod root;
mod signatures;
mod snapshot;
mod state;
pub mod target;
pub mod template;
pub mod time;

pub use config::{MAX_DATA, MAX_KEYS, is_key};
pub use release::{MAX_BYTES as MAX_RELEASE_BYTES, MAX_FILES as MAX_RELEASE_FILES, PROGRAMS};
pub use root::{check_root, disposition};
pub use signatures::good_signers;
pub use state::{
    Accepted, Anchor, DocumentHistory, History, Known, Mark, OwnKeys, Platform, TrustState, Viewpoint,
};

use crate::codec::{self, Limits};
use crate::envelope::Envelope;
use crate::ids::{Digest, FleetId, Timestamp};
use crate::refusal::{Code, Refusal};
use crate::v1::{
    Config, Deployment, DeviceRecord, Document, Fact, Grant, Key, Kind, Order, Receipt, ReceiptRequest,
    Release, Report, Root, Secret, Snapshot, Token,
};
use signatures::Signed;

/// How far a sequence or version may leap ahead of the one known.
pub const MAX_JUMP: u64 = 1 << 20;

/// What the caller is ready to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// On a device, whatever came by network, USB or relay: root, snapshot, deployment, config,
    /// secret, grant, release, device record, order or request for a receipt.
    Delivered,
    /// This kind and no other, new.
    Only(Kind),
    /// A first root, brought by uid 0 on the root-only socket (or pinned by the operator).
    FirstRoot,
    /// This kind, from the verifier's own store, accepted once before: listing and time gated that first acceptance,
    /// and signatures, fleet, revocation and floors are checked again.
    Stored(Kind),
}

impl Expect {
    fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Delivered => {
                matches!(
                    kind,
                    Kind::Root
                        | Kind::Snapshot
                        | Kind::Deployment
                        | Kind::Config
                        | Kind::Secret
                        | Kind::Grant
                        | Kind::Release
                        | Kind::Device
                        | Kind::Order
                        | Kind::ReceiptRequest
                )
            }
            Self::Only(k) | Self::Stored(k) => k == kind,
            Self::FirstRoot => kind == Kind::Root,
        }
    }

    fn size_cap(self) -> usize {
        match self {
            Self::Delivered => Kind::Snapshot.size_cap(),
            Self::Only(k) | Self::Stored(k) => k.size_cap(),
            Self::FirstRoot => Kind::Root.size_cap(),
        }
    }
}

/// How a verified document relates to what was accepted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is new: persist it.
    New,
    /// Exactly these bytes were accepted before: nothing is to be done.
    Held,
    /// A deployment that no longer selects this device, which held an earlier revision: persist it, and remove that one.
    Deselected,
}

/// A document that passed every check; only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    document: Box<T>,
    identity: Digest,
    standing: Standing,
    signers: Vec<Key>,
}

impl<T> Verified<T> {
    fn new(document: T, identity: Digest, standing: Standing, signers: Vec<Key>) -> Self {
        Self { document: Box::new(document), identity, standing, signers }
    }
    /// The document.
    pub fn document(&self) -> &T {
        &self.document
    }
    /// Its identity.
    pub fn identity(&self) -> Digest {
        self.identity
    }
    /// How it relates to what was accepted before.
    pub fn standing(&self) -> Standing {
        self.standing
    }
    /// The distinct keys whose good signatures counted.
    pub fn signers(&self) -> &[Key] {
        &self.signers
    }
    /// The document alone.
    pub fn into_document(self) -> T {
        *self.document
    }
}

/// A verified document of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A root.
    Root(Verified<Root>),
    /// A snapshot.
    Snapshot(Verified<Snapshot>),
    /// A deployment.
    Deployment(Verified<Deployment>),
    /// A device record.
    Device(Verified<DeviceRecord>),
    /// A token.
    Token(Verified<Token>),
    /// An order.
    Order(Verified<Order>),
    /// A report.
    Report(Verified<Report>),
    /// A fact.
    Fact(Verified<Fact>),
    /// A config.
    Config(Verified<Config>),
    /// A secret.
    Secret(Verified<Secret>),
    /// A grant of a secret.
    Grant(Verified<Grant>),
    /// A release.
    Release(Verified<Release>),
    /// A request for receipts.
    ReceiptRequest(Verified<ReceiptRequest>),
    /// A receipt.
    Receipt(Verified<Receipt>),
}

impl Verdict {
    /// The document's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Root(_) => Kind::Root,
            Self::Snapshot(_) => Kind::Snapshot,
            Self::Deployment(_) => Kind::Deployment,
            Self::Device(_) => Kind::Device,
            Self::Token(_) => Kind::Token,
            Self::Order(_) => Kind::Order,
            Self::Report(_) => Kind::Report,
            Self::Fact(_) => Kind::Fact,
            Self::Config(_) => Kind::Config,
            Self::Secret(_) => Kind::Secret,
            Self::Grant(_) => Kind::Grant,
            Self::Release(_) => Kind::Release,
            Self::ReceiptRequest(_) => Kind::ReceiptRequest,
            Self::Receipt(_) => Kind::Receipt,
        }
    }

    /// The document's identity.
    pub fn identity(&self) -> Digest {
        match self {
            Self::Root(v) => v.identity,
            Self::Snapshot(v) => v.identity,
            Self::Deployment(v) => v.identity,
            Self::Device(v) => v.identity,
            Self::Token(v) => v.identity,
            Self::Order(v) => v.identity,
            Self::Report(v) => v.identity,
            Self::Fact(v) => v.identity,
            Self::Config(v) => v.identity,
            Self::Secret(v) => v.identity,
            Self::Grant(v) => v.identity,
            Self::Release(v) => v.identity,
            Self::ReceiptRequest(v) => v.identity,
            Self::Receipt(v) => v.identity,
        }
    }

    /// How it relates to what was accepted before.
    pub fn standing(&self) -> Standing {
        match self {
            Self::Root(v) => v.standing,
            Self::Snapshot(v) => v.standing,
            Self::Deployment(v) => v.standing,
            Self::Device(v) => v.standing,
            Self::Token(v) => v.standing,
            Self::Order(v) => v.standing,
            Self::Report(v) => v.standing,
            Self::Fact(v) => v.standing,
            Self::Config(v) => v.standing,
            Self::Secret(v) => v.standing,
            Self::Grant(v) => v.standing,
            Self::Release(v) => v.standing,
            Self::ReceiptRequest(v) => v.standing,
            Self::Receipt(v) => v.standing,
        }
    }
}

/// What every step of one verification sees.
struct Case<'a> {
    envelope: &'a Envelope<'a>,
    signed: Signed<'a>,
    state: &'a TrustState,
    /// The clock, or the floor when the clock is behind it.
    time: Timestamp,
    expect: Expect,
    identity: Digest,
}

impl Case<'_> {
    fn anchor(&self) -> Result<&Anchor, Refusal> {
        self.state
            .anchor
            .as_ref()
            .ok_or_else(|| Refusal::new(Code::NotAdmitted, "no first root was admitted here yet"))
    }

    fn decode<T: Document>(&self) -> Result<T, Refusal> {
        Ok(codec::decode(self.envelope.payload(), Limits::of_size(T::KIND.size_cap()))?)
    }

    fn is_stored(&self) -> bool {
        matches!(self.expect, Expect::Stored(_))
    }

    fn on_device(&self) -> bool {
        self.state.viewpoint == Viewpoint::Device
    }

    /// Uptane §5.4.4.6 (for this vehicle); REQ.SEC.COMPATIBLE.
    fn check_fleet(&self, fleet: &FleetId) -> Result<(), Refusal> {
        let own = &self.anchor()?.fleet;
        if fleet == own {
            Ok(())
        } else {
            refuse(Code::WrongTarget, format!("for fleet {fleet}, this is {own}"))
        }
    }

    /// The root's epoch, or any for what was accepted before. TUF §5.3.11: recovery from a fast-forward attack.
    fn check_epoch(&self, epoch: u64) -> Result<(), Refusal> {
        let own = self.anchor()?.root.document.epoch;
        if epoch == own || self.is_stored() {
            Ok(())
        } else {
            refuse(Code::Epoch, format!("of epoch {epoch}, the root's is {own}"))
        }
    }

    /// Signed not too far ahead and not past its end; and the root itself still current. TUF §5.3.10, §5.5.6, §5.6.5 (freeze);
    /// Uptane §5.4.3.1; REQ.SEC.EXP.
    fn check_time(
        &self,
        issued_at: Timestamp,
        not_after: Option<Timestamp>,
        what: &str,
    ) -> Result<(), Refusal> {
        if self.is_stored() {
            return Ok(());
        }
        time::check_issued(self.state, self.time, issued_at, time::DEVICE_AHEAD)?;
        if let Some(end) = not_after {
            time::check_not_after(self.time, end, what)?;
        }
        time::check_not_after(self.time, self.anchor()?.root.document.not_after, "root")
    }
}

fn refuse<T>(code: Code, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, detail))
}

/// Checks `bytes` in the one fixed order: size cap, envelope, content type, signatures of distinct keys to the
/// threshold, strict payload, fleet, grants, target, epoch, sequence and digest, snapshot, time.
///
/// # Errors
/// One [`Refusal`]: the first check that failed. The caller's state is as it was.
pub fn verify(
    bytes: &[u8],
    state: &TrustState,
    now: Timestamp,
    expected: Expect,
) -> Result<Verdict, Refusal> {
    check_size(bytes, expected.size_cap())?;
    let envelope = Envelope::parse(bytes)?;
    let kind = envelope.kind()?;
    // REQ.SEC.AUTH.IMG_TYPE: the type is under the signature.
    if !expected.takes(kind) {
        return refuse(Code::WrongType, format!("a {} is not taken here", kind.as_str()));
    }
    check_size(bytes, kind.size_cap())?;
    let case = Case {
        signed: Signed::new(&envelope),
        identity: envelope.identity(),
        envelope: &envelope,
        state,
        time: time::effective(now, state.time_floor),
        expect: expected,
    };
    match kind {
        Kind::Root => root::verify(&case).map(Verdict::Root),
        Kind::Snapshot => snapshot::verify(&case).map(Verdict::Snapshot),
        Kind::Deployment => deployment::verify(&case).map(Verdict::Deployment),
        Kind::Device => device::verify_record(&case).map(Verdict::Device),
        Kind::Token => device::verify_token(&case).map(Verdict::Token),
        Kind::Order => device::verify_order(&case).map(Verdict::Order),
        Kind::Report => device::verify_report(&case).map(Verdict::Report),
        Kind::Fact => device::verify_fact(&case).map(Verdict::Fact),
        Kind::Config => config::verify(&case).map(Verdict::Config),
        Kind::Secret => config::verify(&case).map(Verdict::Secret),
        Kind::Grant => config::verify_grant(&case).map(Verdict::Grant),
        Kind::Release => release::verify(&case).map(Verdict::Release),
        Kind::Removal => refuse(Code::UnsupportedVersion, format!("{} is reserved", kind.as_str())),
        Kind::ReceiptRequest => receipt::verify_request(&case).map(Verdict::ReceiptRequest),
        Kind::Receipt => receipt::verify(&case).map(Verdict::Receipt),
    }
}

/// TUF §5.3.3, §5.5.1, §5.6.1: at most X bytes, so that data without end ends.
fn check_size(bytes: &[u8], cap: usize) -> Result<(), Refusal> {
    if bytes.len() > cap {
        return refuse(Code::TooLarge, format!("{} bytes, at most {cap} are accepted", bytes.len()));
    }
    Ok(())
}

/// A kind that [`verify_as`] can give back.
pub trait FromVerdict: Document {
    /// The document of a verdict of this kind.
    fn from_verdict(verdict: Verdict) -> Option<Verified<Self>>;
}

macro_rules! from_verdict {
    ($($name:ident: $variant:ident),*) => {
        $(impl FromVerdict for $name {
            fn from_verdict(verdict: Verdict) -> Option<Verified<Self>> {
                match verdict { Verdict::$variant(v) => Some(v), _ => None }
            }
        })*
    };
}

from_verdict! {
    Root: Root, Snapshot: Snapshot, Deployment: Deployment, DeviceRecord: Device, Token: Token, Order: Order,
    Report: Report, Fact: Fact, Config: Config, Secret: Secret, Grant: Grant, Release: Release,
    ReceiptRequest: ReceiptRequest, Receipt: Receipt
}

/// [`verify`] for one kind, known beforehand.
///
/// # Errors
/// As [`verify`]; `wrong_type` for another kind.
pub fn verify_as<T: FromVerdict>(
    bytes: &[u8],
    state: &TrustState,
    now: Timestamp,
) -> Result<Verified<T>, Refusal> {
    let verdict = verify(bytes, state, now, Expect::Only(T::KIND))?;
    let kind = verdict.kind();
    T::from_verdict(verdict)
        .ok_or_else(|| Refusal::new(Code::WrongType, format!("a {} is not taken here", kind.as_str())))
}
