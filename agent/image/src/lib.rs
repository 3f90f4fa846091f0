//! OCI images and wasm modules: bounded parsing, unpacking and inspection, the same code on the operator's machine, in
//! the controller, on the device and in its compiler.
//!
//! Every byte read here is hostile: each input has a cap, each refusal one stable code. Without the feature `registry`
//! nothing here touches a network; without `images` there are only modules, which is all that the compiler needs.
#![forbid(unsafe_code)]

#[cfg(feature = "images")]
mod archive;
#[cfg(feature = "images")]
pub mod bundle;
#[cfg(feature = "images")]
mod compression;
#[cfg(feature = "images")]
mod config;
mod error;
#[cfg(feature = "images")]
mod image;
#[cfg(feature = "images")]
mod index;
#[cfg(feature = "images")]
mod layout;
#[cfg(feature = "images")]
mod manifest;
mod module;
#[cfg(feature = "images")]
mod path;
#[cfg(feature = "images")]
mod reference;
#[cfg(feature = "images")]
pub mod release;
#[cfg(feature = "images")]
mod resolve;
#[cfg(feature = "images")]
mod store;
#[cfg(feature = "images")]
mod tarball;
#[cfg(feature = "images")]
mod unpack;

#[cfg(feature = "registry")]
pub mod registry;

pub use error::{Error, Result};
pub use module::{Capability, Import, MemoryFacts, ModuleFacts, TableFacts, inspect, strip_custom};
#[cfg(feature = "images")]
pub use {
    config::ImageConfig,
    image::{Form, Image},
    index::{Tag, tag, tags, untag},
    layout::{ImportedImage, copy, export_archive, import, import_module},
    manifest::{Descriptor, Document, Index, Manifest, Platform, select_platform},
    reference::Reference,
    resolve::{Overrides, Resolved, resolve},
    store::{BlobWriter, Expect, Store},
    unpack::{FileEntry, FileTree},
};

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
