//! Bytes and digests as JSON text, errors, keys, and what answers without a credential. No logic beyond conversion.

use super::trust::SnapshotRef;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, de};
use shoal_protocol::ids::{Bytes, Digest, FleetId};
use shoal_protocol::latest as wire;
use std::fmt;

/// Bytes that stand in JSON as padded base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        STANDARD.decode(text).map(Self).map_err(|e| de::Error::custom(format!("base64: {e}")))
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(v: Vec<u8>) -> Self {
        Self(v)
    }
}

/// A digest that stands in JSON as `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DigestText(pub Digest);

impl Serialize for DigestText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DigestText {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map(Self).map_err(de::Error::custom)
    }
}

impl fmt::Debug for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<Digest> for DigestText {
    fn from(v: Digest) -> Self {
        Self(v)
    }
}

/// Every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// A stable code in `snake_case`: a refusal code of the protocol, or one of `unauthorized`, `forbidden`, `not_found`,
    /// `enrollment_denied`, `invalid_request`, `conflict`, `not_initialized`, `already_initialized`, `controller_mismatch`, `too_large`, `timeout`,
    /// `device_offline`, `unavailable`, `internal`.
    pub code: String,
    /// What was tried, on what, and why it did not work.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With `conflict`: the snapshot that is current now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<SnapshotRef>,
}

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `shoald`.
    pub name: String,
    /// `major.minor.patch`.
    pub version: String,
    /// Version of this API.
    pub api: u64,
}

/// The controller's own certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ca {
    /// The certificate in PEM.
    pub pem: String,
    /// SHA-256 of its DER.
    pub fingerprint: DigestText,
}

/// The token is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The fleet, once it is initialised.
    pub fleet: Option<FleetId>,
    /// Whom the credential names.
    pub user: String,
    /// Version of the controller.
    pub version: String,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// `EdDSA` or `ES256`.
    pub alg: String,
    /// The raw public key.
    pub public: Base64,
}

impl From<&wire::Key> for PublicKey {
    fn from(key: &wire::Key) -> Self {
        let alg = match key.alg {
            wire::Alg::EdDsa => "EdDSA",
            wire::Alg::Es256 => "ES256",
        };
        Self { alg: alg.to_owned(), public: Base64(key.public.0.clone()) }
    }
}

/// A text that names none of the allowed values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a known {what}: expected {allowed}")]
pub struct UnknownValue {
    what: &'static str,
    value: String,
    allowed: &'static str,
}

impl TryFrom<&PublicKey> for wire::Key {
    type Error = UnknownValue;
    fn try_from(key: &PublicKey) -> Result<Self, UnknownValue> {
        let alg = match key.alg.as_str() {
            "EdDSA" => wire::Alg::EdDsa,
            "ES256" => wire::Alg::Es256,
            other => {
                let value = other.to_owned();
                return Err(UnknownValue { what: "algorithm", value, allowed: "EdDSA or ES256" });
            }
        };
        Ok(Self { alg, public: Bytes(key.public.0.clone()) })
    }
}

/// The controller block that a root of this fleet has to carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Signs orders.
    pub online: PublicKey,
    /// DER certificates.
    pub ca: Vec<Base64>,
    /// `https://host:port`.
    pub api: Vec<String>,
    /// `mqtts://host:port`.
    pub mqtt: Vec<String>,
}

impl From<&wire::Controller> for Controller {
    fn from(c: &wire::Controller) -> Self {
        Self {
            online: (&c.online).into(),
            ca: c.ca.iter().map(|b| Base64(b.0.clone())).collect(),
            api: c.api.clone(),
            mqtt: c.mqtt.clone(),
        }
    }
}

impl TryFrom<&Controller> for wire::Controller {
    type Error = UnknownValue;
    fn try_from(c: &Controller) -> Result<Self, UnknownValue> {
        Ok(Self {
            online: (&c.online).try_into()?,
            ca: c.ca.iter().map(|b| Bytes(b.0.clone())).collect(),
            api: c.api.clone(),
            mqtt: c.mqtt.clone(),
        })
    }
}
