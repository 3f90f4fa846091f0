//! Pulling from OCI registries (distribution-spec 1.1, pull only), every byte of whom is hostile.
//!
//! Plain HTTP requests rather than a registry client: those at hand take no client certificate, read answers of any
//! size, hand credentials to whatever realm is named and fall back to none. Never pushes, never follows foreign urls.

mod auth;
mod client;
mod credentials;
mod pace;
mod pull;
mod tls;

pub use auth::Auth;
pub use client::{Access, Patience, Registry};
pub use pull::Progress;
pub use tls::Tls;
