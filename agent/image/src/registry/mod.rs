//! Pulling from OCI registries (distribution-spec 1.1, pull only), every byte of whom is hostile.
//!
//! Never pushes, never follows foreign urls.
//!
//! References, manifests, credentials and tokens are `oci-client`'s types; its transfers are not used, because they cannot
//! be guarded from outside: its HTTP client is private and built without a redirect policy (ten hops, down to plain HTTP
//! and into the device's own network) and without a client certificate (which the fleet's controller asks for), it reads
//! manifests, token answers and the text of errors without a cap, and it hides `Content-Range`. So requests are made
//! here, bounded in size, pace, hops and in whom they tell what.

mod auth;
mod client;
mod credentials;
mod pace;
mod pull;
mod tls;

pub use client::{Access, Patience, Registry};
pub use credentials::credentials;
pub use oci_client::secrets::RegistryAuth;
pub use pull::Progress;
pub use tls::Tls;
