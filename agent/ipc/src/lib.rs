//! What agent, guard and runner say to each other: fixed, versioned layouts over SEQPACKET sockets and sealed memfds.
//!
//! Never here: signatures, CBOR, JSON, decisions. Everything that arrives is bounded before it is read, and a
//! message that is longer, shorter or other than its layout is refused whole.
#![forbid(unsafe_code)]

mod client;
mod connection;
mod error;
mod layout;
mod memfd;
mod message;
mod notify;
mod runner;
mod software;
mod ticket;
mod types;
mod wire;

pub use client::{
    AdmitClient, Enrolled, Event, EventStream, Have, RootAdmitClient, StartedInfo, SuperviseClient, Verdict,
};
pub use connection::{Connection, Listener, Peer, Received};
pub use error::Error;
pub use layout::{EngineDirs, Layout};
pub use memfd::{AREA_SIZE, MEMFD_MAX, answer_area, read_area, read_sealed, sealed_memfd};
pub use message::Msg;
pub use notify::Notify;
pub use runner::{
    Bind, CompileResult, Content, ContentFile, ContentFolder, EndRecord, Entry, ExitFact, ImageFile, Jail,
    Launch, Needs, NetworkPlace, Preopen, ProofRecord, Rootfs, Spec,
};
pub use software::{
    FailedRelease, Offer, Place, RELEASE_MAX, ReleaseTicket, Software, SoftwareInfo, SoftwareState, Trial,
    running_version, version_in,
};
pub use ticket::{
    CONTENTS_COUNT, CONTENTS_MAX, EnvVar, Limits, Network, PrivateVar, ProbeAction, ProbeKind, Restart,
    TICKET_MAX, Ticket, TicketContainer, TicketDevice, TicketEntry, TicketFile, TicketMount, TicketPort,
    TicketProbe, TicketVolume, VolumeSource,
};
pub use types::{
    Applied, Cause, CompiledInfo, ContainerState, DeviceInfo, Digest, DiskLimits, EnrollMaterial, FactEvent,
    FactList, FeatureSet, GuardStatus, HeldDocument, HeldRevision, HeldRole, ModuleState, PrepareStage,
    RefusalCount, SignedFact, SnapshotInfo, StatsInfo, TrustSummary,
};
pub use wire::{Field, Reader, Writer, decode, encode};

/// Both sides must speak this version; there is no negotiation, since all binaries are installed together.
pub const VERSION: u16 = 1;
/// The longest message on a socket, bytes.
pub const MESSAGE_MAX: usize = 4096;
