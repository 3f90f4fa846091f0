//! Version 1 of every wire type. Frozen at release: fields are only ever appended, options are skipped when empty.
//!
//! On the wire each struct is a map with integer keys in declaration order, each enum a unit variant (an integer)
//! or a struct variant (a map of one). The CDDL stands in `docs/protocol.md`.

use serde::{Serialize, de::DeserializeOwned};

mod config;
mod deployment;
mod device;
mod fleet;
mod messages;
mod pod;
mod receipt;
mod release;

pub use config::*;
pub use deployment::*;
pub use device::*;
pub use fleet::*;
pub use messages::*;
pub use pod::*;
pub use receipt::*;
pub use release::*;

/// What kind of document an envelope carries; its content type says so under the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Keys, roles and the controller's addresses.
    Root,
    /// What the fleet's documents are now.
    Snapshot,
    /// A pod template and whom it is for.
    Deployment,
    /// A device's identity and labels.
    Device,
    /// Permission to enrol.
    Token,
    /// A controller's short-lived instruction about something already signed.
    Order,
    /// A device's own status.
    Report,
    /// What supervise saw, signed by admit.
    Fact,
    /// Configuration in clear.
    Config,
    /// Sealed values.
    Secret,
    /// Software of the device itself.
    Release,
    /// Reserved: the end of a name.
    Removal,
    /// One device's key to one secret.
    Grant,
    /// What devices without a network are asked to tell by hand.
    ReceiptRequest,
    /// What one tells: its reports, carried.
    Receipt,
}

impl Kind {
    /// All kinds, built and reserved.
    pub const ALL: [Self; 15] = [
        Self::Root,
        Self::Snapshot,
        Self::Deployment,
        Self::Device,
        Self::Token,
        Self::Order,
        Self::Report,
        Self::Fact,
        Self::Config,
        Self::Secret,
        Self::Release,
        Self::Removal,
        Self::Grant,
        Self::ReceiptRequest,
        Self::Receipt,
    ];

    /// The word in the content type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Snapshot => "snapshot",
            Self::Deployment => "deployment",
            Self::Device => "device",
            Self::Token => "token",
            Self::Order => "order",
            Self::Report => "report",
            Self::Fact => "fact",
            Self::Config => "config",
            Self::Secret => "secret",
            Self::Release => "release",
            Self::Removal => "removal",
            Self::Grant => "grant",
            Self::ReceiptRequest => "receipt-request",
            Self::Receipt => "receipt",
        }
    }

    /// Whether only the name exists so far.
    pub fn is_reserved(self) -> bool {
        matches!(self, Self::Removal)
    }

    /// The most bytes that an envelope of this kind may have.
    pub const fn size_cap(self) -> usize {
        match self {
            Self::Root => 64 << 10,
            Self::Snapshot => 512 << 10,
            Self::Deployment | Self::Config | Self::Secret | Self::Release => 60 << 10,
            Self::Report => 256 << 10,
            Self::Receipt => 1 << 20,
            Self::Device | Self::Token | Self::Order | Self::ReceiptRequest => 8 << 10,
            Self::Fact | Self::Grant | Self::Removal => 4 << 10,
        }
    }
}

/// A payload that travels signed.
pub trait Document: Serialize + DeserializeOwned {
    /// What its content type says.
    const KIND: Kind;
}

macro_rules! documents {
    ($($name:ident: $kind:ident),*) => {
        $(impl Document for $name { const KIND: Kind = Kind::$kind; })*
    };
}

documents! {
    Root: Root, Snapshot: Snapshot, Deployment: Deployment, DeviceRecord: Device, Token: Token, Order: Order,
    Report: Report, Fact: Fact, Config: Config, Secret: Secret, Grant: Grant, Release: Release,
    ReceiptRequest: ReceiptRequest, Receipt: Receipt
}
