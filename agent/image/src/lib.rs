//! OCI images and wasm modules: bounded parsing, unpacking and inspection, the same code on the operator's machine, in
//! the controller, on the device and in its compiler.
//!
//! Every byte read here is hostile: each input has a cap, each refusal one stable code. Without the feature `registry`
//! nothing here touches a network.
#![forbid(unsafe_code)]

mod archive;
mod compression;
mod config;
mod error;
mod image;
mod index;
mod layout;
mod manifest;
mod module;
mod path;
mod reference;
mod resolve;
mod store;
mod tarball;
mod unpack;

#[cfg(feature = "registry")]
pub mod registry;

pub use config::ImageConfig;
pub use error::{Error, Result};
pub use image::{Form, Image};
pub use index::{Tag, tag, tags, untag};
pub use layout::{ImportedImage, copy, export_archive, import, import_module};
pub use manifest::{Descriptor, Document, Index, Manifest, Platform, select_platform};
pub use module::{Capability, Import, MemoryFacts, ModuleFacts, TableFacts, inspect, strip_custom};
pub use reference::Reference;
pub use resolve::{Overrides, Resolved, resolve};
pub use store::{BlobWriter, Expect, Store};
pub use unpack::{FileEntry, FileTree};

/// The caps on what an image may be; one table for all who read images.
pub mod limits {
    /// A manifest, index or configuration, bytes (OCI distribution-spec 1.1 asks registries for 4 MiB at least).
    pub const DOCUMENT: u64 = 4 << 20;
    /// A layer or artifact as stored, bytes.
    pub const BLOB: u64 = 256 << 20;
    /// All files of an image together, unpacked, bytes.
    pub const UNPACKED: u64 = 256 << 20;
    /// Regular files of an image.
    pub const FILES: usize = 256;
    /// Entries of all layers of an image, folders included.
    pub const ENTRIES: usize = 8_192;
    /// Layers of an image.
    pub const LAYERS: usize = 128;
    /// Manifests of an index.
    pub const MANIFESTS: usize = 4_096;
    /// Images of one archive or layout.
    pub const IMAGES: usize = 64;
    /// An archive of images, unpacked, bytes.
    pub const ARCHIVE: u64 = 1 << 30;
    /// A path, bytes.
    pub const PATH: usize = 1_024;
    /// A module, bytes.
    pub const MODULE: u64 = 64 << 20;
    /// Elements of all tables of a module at their start.
    pub const TABLE_ELEMENTS: u64 = 1_000_000;
}
