//! What must hold for any bytes. Each target is a function that takes foreign bytes to the code that reads them in the
//! product, and panics when one of its properties does not hold: nothing here needs the fuzzing engine.
//!
//! Called by the engine (`src/bin`), and by the replay of all seeds and corpora in `cargo test`. See `docs/fuzzing.md`.
#![forbid(unsafe_code)]

mod documents;
mod envelope;
mod images;
mod ipc;
mod join;
mod layers;
mod module;
mod mqtt;

/// The fleet that the protocol's own tests use: fixed keys, one device, good documents of every kind.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "code of tests, shared so that there is one fleet and one set of samples"
)]
#[path = "../../../protocol/tests/common/mod.rs"]
mod fleet;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One reader of foreign bytes, with what must hold for it.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// The longest input that is tried, bytes.
    pub max_len: usize,
    /// What one input may allocate at a time, bytes.
    pub memory: usize,
    /// Tries one input; true when the product took it. Panics when a property does not hold.
    pub run: fn(&[u8]) -> bool,
    /// Where the search begins: inputs that the product takes, made from the wire's own samples, so that they never go stale.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "envelope", max_len: 2048, memory: 1 << 20, run: envelope::run, seeds: envelope::seeds },
    Target {
        name: "documents",
        max_len: 4096,
        memory: 1 << 20,
        run: documents::run,
        seeds: documents::seeds,
    },
    Target { name: "join", max_len: 4096, memory: 1 << 20, run: join::run, seeds: join::seeds },
    Target { name: "mqtt", max_len: 4096, memory: 1 << 20, run: mqtt::run, seeds: mqtt::seeds },
    Target {
        name: "messages",
        max_len: 4200,
        memory: 1 << 20,
        run: ipc::messages,
        seeds: ipc::message_seeds,
    },
    Target { name: "layouts", max_len: 4096, memory: 1 << 20, run: ipc::layouts, seeds: ipc::layout_seeds },
    Target {
        name: "manifests",
        max_len: 4096,
        memory: 2 << 20,
        run: images::documents,
        seeds: images::document_seeds,
    },
    Target {
        name: "archives",
        max_len: 16 << 10,
        memory: 8 << 20,
        run: images::archives,
        seeds: images::archive_seeds,
    },
    Target { name: "layers", max_len: 8192, memory: 24 << 20, run: layers::run, seeds: layers::seeds },
    Target { name: "module", max_len: 2048, memory: 16 << 20, run: module::run, seeds: module::seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// The target that `SHOAL_FUZZ_TARGET` names.
///
/// # Panics
/// Without one.
pub fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("SHOAL_FUZZ_TARGET").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        target(&name).unwrap_or_else(|| panic!("SHOAL_FUZZ_TARGET={name:?} is none of {}", names.join(", ")))
    })
}

/// Before the engine starts: lists the targets and ends when `SHOAL_FUZZ_LIST` is set; fills the folder
/// `SHOAL_FUZZ_CORPUS` with what is committed and with the seeds.
///
/// # Panics
/// Without a target, or when that folder cannot be written.
#[allow(clippy::print_stdout, reason = "the answer to whoever asks for the list")]
pub fn prepare() {
    if std::env::var_os("SHOAL_FUZZ_LIST").is_some() {
        for t in TARGETS {
            println!("{} {}", t.name, t.max_len);
        }
        std::process::exit(0);
    }
    let target = chosen();
    if let Some(dir) = std::env::var_os("SHOAL_FUZZ_CORPUS") {
        for bytes in all(target) {
            let name = shoal_protocol::ids::Digest::of(&bytes).hex();
            if let Err(e) = std::fs::write(Path::new(&dir).join(name), bytes) {
                panic!("cannot write a seed in {}: {e}", dir.display());
            }
        }
    }
    // What a target makes once must not count as an input's.
    (target.run)(&[]);
}

/// Seeds, committed corpus and what once failed.
pub fn all(target: &Target) -> Vec<Vec<u8>> {
    let mut all = (target.seeds)();
    all.extend(committed("corpus", target.name));
    all.extend(committed("regressions", target.name));
    all.sort();
    all.dedup();
    all
}

/// The inputs of `FOLDER/TARGET.hex`: one a line; lines that begin with `#` say what they are.
///
/// # Panics
/// When the file is not of that form.
pub fn committed(folder: &str, target: &str) -> Vec<Vec<u8>> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), folder, &format!("{target}.hex")].iter().collect();
    let Ok(text) = std::fs::read_to_string(&path) else { return Vec::new() };
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| hex::decode(line).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .collect()
}

/// The first byte and the rest; an empty input is a zero and nothing.
fn split_first(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// `first` in front of `rest`.
fn prefixed(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend_from_slice(rest);
    out
}
