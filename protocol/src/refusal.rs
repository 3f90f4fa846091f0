//! The stable codes that every room uses for refusals, states and ends, and the refusal itself.
//!
//! Never here: a decision. A code's text never changes once released; logs, reports and the manual carry it.

use crate::codec::CodecError;
use std::fmt;
use std::str::FromStr;

macro_rules! codes {
    ($($name:ident = $text:literal, $hint:literal;)*) => {
        /// A stable code: why something was refused, what a thing waits for, or how it ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`: ", $hint)] $name,)*
        }

        impl Code {
            /// All codes, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands in logs and reports.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means and what to do, in one sentence.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

codes! {
    // Documents.
    Malformed = "malformed", "The bytes are not the strict encoding of the document; sign it again with a matching tool.";
    TooLarge = "too_large", "It exceeds the size cap for its kind; make it smaller.";
    WrongType = "wrong_type", "The content type names another kind than the one expected here.";
    UnsupportedVersion = "unsupported_version", "The content type is of a later version or of a kind not built yet; upgrade this side.";
    UnsupportedValue = "unsupported_value", "A field asks for something reserved that this version does not do yet; remove it.";
    BadSignature = "bad_signature", "A known key's signature does not fit the bytes; they were changed or damaged on the way.";
    UnknownKey = "unknown_key", "No key that the root names made a signature; sign with a key of the role.";
    RoleScope = "role_scope", "The signing key is known but may not sign this: wrong role, name prefix, permission ceiling or no may_remove.";
    Threshold = "threshold", "Fewer distinct keys of the role signed than the root demands; add signatures.";
    RevokedKey = "revoked_key", "The key was removed by a newer root; sign again with a current key.";
    NotAdmitted = "not_admitted", "Only what admission has taken may do this; bring first roots as uid 0 on the root-only socket.";
    RootVersion = "root_version", "Roots are taken one by one; send the next version first.";
    RootThreshold = "root_threshold", "A new root needs the thresholds of the old root and of the new one.";
    RoleOverlap = "role_overlap", "A root key sits in another role as well; root keys sign roots only.";
    Rollback = "rollback", "A higher sequence was accepted before; sign the next sequence.";
    Equivocation = "equivocation", "The same sequence was accepted with other bytes; the first is kept, sign a higher one and find out who signed twice.";
    SequenceJump = "sequence_jump", "The sequence leaps by more than 1,048,576; sign the next one, or recover with a root of a higher epoch.";
    Epoch = "epoch", "The document belongs to another epoch than the root; sign it again under the current root.";
    Expired = "expired", "Its not_after has passed; sign it again.";
    SnapshotExpired = "snapshot_expired", "The snapshot is past its time: what runs goes on, nothing new is taken; sign and publish a new snapshot.";
    WrongTarget = "wrong_target", "It is for another fleet, device, label set or architecture.";
    NotInSnapshot = "not_in_snapshot", "The held snapshot does not list this exact revision; publish the snapshot that does.";
    SnapshotRollback = "snapshot_rollback", "The snapshot drops a live name or lowers a sequence or floor; sign it on top of the newest one.";
    RootBehind = "root_behind", "It needs a newer root than the one held; send the roots in between.";
    DependencyUnmet = "dependency_unmet", "It waits until the deployment that it requires is active and healthy here.";
    Conflict = "conflict", "Somebody published a newer snapshot meanwhile; fetch it and apply again.";
    StateLost = "state_lost", "This tool does not know the last signed sequence; adopt the published one with --adopt DIGEST.";
    FleetEquivocation = "fleet_equivocation", "Devices report two digests for one snapshot version; treat the snapshot key as stolen.";
    Deselected = "deselected", "The newest revision or the device's labels no longer select this device; it was removed here.";
    RecordRollback = "record_rollback", "A newer device record was accepted before; sign the next sequence.";
    TimeJump = "time_jump", "It claims to be signed far in the future; check the signer's clock or suspect a stolen key.";
    TimeUntrusted = "time_untrusted", "The clock is behind signed documents; the time floor stands in for it until it is set.";
    OrderReplay = "order_replay", "An order with this counter or a higher one was accepted before.";
    OrderForbidden = "order_forbidden", "The order asks for more than a controller may: unknown revision, lifetime over an hour, or logs beyond consent.";
    OutsideWindow = "outside_window", "Activation is not allowed at this time by the signed window or ramp.";
    BelowFloor = "below_floor", "The revision lies below the snapshot's floor and may not be returned to.";
    ReturnSpent = "return_spent", "This revision was returned from once already.";
    NoSafeRevision = "no_safe_revision", "There is no last-good revision to return to; it was stopped.";
    ReportReplay = "report_replay", "A report or fact with this counter was stored before.";
    DeviceCloned = "device_cloned", "One counter came with two contents: two machines use one identity; enrol one of them anew.";
    EnrollProof = "enroll_proof", "The token is spent, expired or without its proof; make a new one with `shoal token create`.";
    SecretContext = "secret_context", "The secret is sealed for other deployments, or its ciphertext or grant was taken from another place.";
    WaitingSecret = "waiting_secret", "It waits for a secret or for this device's grant of it; mint what is missing with `shoal secret grant`.";
    WaitingConfig = "waiting_config", "It waits for a config that it refers to; publish it with `shoal apply`.";
    AgentRollback = "agent_rollback", "An older agent after a newer one proved healthy; install the newer one.";
    ControllerBehind = "controller_behind", "The controller knows less than the devices (an old backup); rollouts pause until it has caught up.";
    AuditFork = "audit_fork", "The audit log was rewritten; compare with the operators' copies.";
    DigestUnpinned = "digest_unpinned", "The tag was resolved by the controller only; import the image or use a lock file.";
    BaseUntrusted = "base_untrusted", "The revision to compare with does not verify; nothing was signed.";
    RecipientUnsigned = "recipient_unsigned", "A recipient has no device record that verifies.";
    // Images and modules.
    DigestMismatch = "digest_mismatch", "The bytes do not have the signed digest or size; they were changed or damaged.";
    Stalled = "stalled", "The transfer made too little progress; check network and registry.";
    AmbiguousManifest = "ambiguous_manifest", "The document is both a manifest and an index; rebuild the image.";
    LayerForbidden = "layer_forbidden", "A layer holds an entry that is not allowed: absolute path, .., link or device.";
    NotWasm = "not_wasm", "The entry point is no WebAssembly module; build for wasm32-wasip1.";
    ComponentUnsupported = "component_unsupported", "It is a component (WASI p2); build a core module for wasm32-wasip1.";
    AotUntrusted = "aot_untrusted", "Native code from outside is never loaded; send the plain module.";
    CacheChanged = "cache_changed", "Compiled code in the cache was changed; it is compiled again.";
    CompilerAbsent = "compiler_absent", "There is no compiler on this device; install the engine's compiler package.";
    UnsupportedProposal = "unsupported_proposal", "The module uses a WebAssembly proposal that is not on the allow-list.";
    EngineTooOld = "engine_too_old", "The engine on this device is older than required; upgrade it.";
    EngineMismatch = "engine_mismatch", "Compiled and interpreted results differ on this CPU; nothing compiled is run.";
    // Containers.
    LimitNotApplied = "limit_not_applied", "The kernel did not take a limit as signed; the start was refused.";
    KernelUnsupported = "kernel_unsupported", "The kernel lacks a feature that the deployment requires.";
    ImportDenied = "import_denied", "The module imports something that it was not granted.";
    PolicyDenied = "policy_denied", "The device's own policy forbids it; see policy.toml.";
    Unconfined = "unconfined", "Containers run without the sandbox's walls because supervise is not uid 0.";
    Trap = "trap", "The guest trapped; see its standard error.";
    GuestMemory = "guest_memory", "The guest reached its own memory limit.";
    OomKilled = "oom_killed", "The kernel killed it at its memory limit; raise the limit or use less.";
    CpuLimit = "cpu_limit", "It used up its total CPU time.";
    TimeLimit = "time_limit", "It used up its wall time.";
    Unhealthy = "unhealthy", "Its health probe failed.";
    CrashLoop = "crash_loop", "It ends again and again; the next start waits longer each time.";
    // The device as a whole.
    StorageUnavailable = "storage_unavailable", "The disk is full, read-only or failing; it goes on when space returns.";
    Unknown = "unknown", "The device has not reported within its heartbeat limit.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a known code")]
pub struct UnknownCode(String);

impl FromStr for Code {
    type Err = UnknownCode;
    fn from_str(s: &str) -> Result<Self, UnknownCode> {
        Self::ALL
            .iter()
            .copied()
            .find(|c| c.as_str() == s)
            .ok_or_else(|| UnknownCode(s.chars().take(80).collect()))
    }
}

/// A typed no: the code for machines, the detail for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Why, in one stable word.
    pub code: Code,
    /// What was found and what was expected.
    pub detail: String,
}

impl Refusal {
    /// A refusal with this code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl From<CodecError> for Refusal {
    fn from(e: CodecError) -> Self {
        let code = if matches!(e, CodecError::TooLarge { .. }) { Code::TooLarge } else { Code::Malformed };
        Self::new(code, e.to_string())
    }
}
