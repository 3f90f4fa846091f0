//! What a module is and may do: validated under the allow-list of proposals, its imports, limits and sections told.
//!
//! The same function answers on the operator's machine and in the device's compiler. Pure.

use crate::error::{Error, Result};
use crate::limits;
use serde::{Deserialize, Serialize};
use shoal_protocol::refusal::Code;
use std::collections::BTreeSet;
use std::fmt;
use wasmparser::{BinaryReader, Encoding, ExternalKind, Parser, Payload, TypeRef, Validator, WasmFeatures};

/// The one module that the engine gives to guests.
const WASI: &str = "wasi_snapshot_preview1";

/// What compiled code is known to keep within bounds on WasmEdge 0.17; everything else is off, here and in the engine.
const ALLOWED: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::GC_TYPES);

/// What is off the list, by the name that people know it by.
const REFUSED: [(&str, WasmFeatures); 12] = [
    ("memory64", WasmFeatures::MEMORY64),
    ("multi-memory", WasmFeatures::MULTI_MEMORY),
    ("exception-handling", WasmFeatures::EXCEPTIONS),
    ("legacy exception-handling", WasmFeatures::LEGACY_EXCEPTIONS),
    ("threads", WasmFeatures::THREADS),
    ("function-references", WasmFeatures::FUNCTION_REFERENCES),
    ("gc", WasmFeatures::GC.union(WasmFeatures::FUNCTION_REFERENCES)),
    ("custom-page-sizes", WasmFeatures::CUSTOM_PAGE_SIZES),
    ("wide-arithmetic", WasmFeatures::WIDE_ARITHMETIC),
    ("stack-switching", WasmFeatures::STACK_SWITCHING.union(WasmFeatures::FUNCTION_REFERENCES)),
    ("shared-everything-threads", WasmFeatures::SHARED_EVERYTHING_THREADS.union(WasmFeatures::THREADS)),
    ("memory-control", WasmFeatures::MEMORY_CONTROL),
];

/// A group of imports, by what they let the module do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Read its arguments.
    Arguments,
    /// Read its environment.
    Environment,
    /// Read clocks and sleep.
    Clocks,
    /// Read random bytes.
    Random,
    /// Read and write descriptors it has: standard streams and open files.
    Streams,
    /// Open, list, create and remove files in the folders that it is given.
    Files,
    /// Exit, yield.
    Process,
    /// Open network connections.
    Sockets,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arguments => "arguments",
            Self::Environment => "environment",
            Self::Clocks => "clocks",
            Self::Random => "random",
            Self::Streams => "streams",
            Self::Files => "files",
            Self::Process => "process",
            Self::Sockets => "sockets",
        })
    }
}

/// Something the module takes from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Its name in WASI preview 1.
    pub name: String,
    /// What it lets the module do.
    pub capability: Capability,
}

/// A module's memory, in pages of 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFacts {
    /// At its start.
    pub min_pages: u64,
    /// The most that the module itself asks for.
    pub max_pages: Option<u64>,
}

/// A table of a module, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// At its start.
    pub min: u64,
    /// The most that the module itself asks for.
    pub max: Option<u64>,
}

/// What a module is and may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFacts {
    /// Bytes as signed.
    pub size: u64,
    /// Bytes without custom sections, as compiled.
    pub stripped_size: u64,
    /// The groups of its imports.
    pub capabilities: BTreeSet<Capability>,
    /// Its imports, in order.
    pub imports: Vec<Import>,
    /// The names that it exports.
    pub exports: Vec<String>,
    /// Whether it can run as a program (it exports `_start`).
    pub is_command: bool,
    /// Whether putting it together runs code of its own (a start function).
    pub start_function: bool,
    /// Its memory.
    pub memory: Option<MemoryFacts>,
    /// Its tables.
    pub tables: Vec<TableFacts>,
    /// Its functions, without imported ones.
    pub functions: u64,
    /// The names of its custom sections, all of which are stripped before compiling.
    pub custom_sections: Vec<String>,
}

impl ModuleFacts {
    /// Whether it can be started as a container with these grants and at most `max_pages` of memory.
    pub fn check(&self, sockets: bool, max_pages: Option<u64>) -> Result<()> {
        if !self.is_command {
            return Err(Error::refused(
                Code::NotWasm,
                "the module exports no _start, so it is a library: build a program (a `main`) for wasm32-wasip1",
            ));
        }
        if let Some(import) = self.imports.iter().find(|i| i.capability == Capability::Sockets && !sockets) {
            return Err(Error::refused(
                Code::ImportDenied,
                format!("the module imports {WASI}.{} and the pod has no network", import.name),
            ));
        }
        match (self.memory, max_pages) {
            (Some(memory), Some(limit)) if memory.min_pages > limit => Err(Error::refused(
                Code::GuestMemory,
                format!("the module begins with {} pages of memory, the limit is {limit}", memory.min_pages),
            )),
            _ => Ok(()),
        }
    }
}

/// Validates `bytes` and says what they may do; refuses what must never reach the engine.
pub fn inspect(bytes: &[u8]) -> Result<ModuleFacts> {
    if bytes.len() as u64 > limits::MODULE {
        let detail = format!("a module of {} bytes, the limit is {}", bytes.len(), limits::MODULE);
        return Err(Error::refused(Code::TooLarge, detail));
    }
    check_kind(bytes)?;
    check_counts(bytes)?;
    validate(bytes)?;
    let facts = read(bytes)?;
    let elements = facts.tables.iter().fold(0_u64, |sum, t| sum.saturating_add(t.min));
    if elements > limits::TABLE_ELEMENTS {
        let detail = format!("tables of {elements} elements, the limit is {}", limits::TABLE_ELEMENTS);
        return Err(Error::refused(Code::TooLarge, detail));
    }
    Ok(facts)
}

/// The module without its custom sections: no names, no debug data, no native code that a `wasmedge` section carries.
pub fn strip_custom(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = bytes.get(..8).ok_or_else(|| malformed("it ends in its header"))?.to_vec();
    for payload in Parser::new(0).parse_all(bytes) {
        if let Some((id, range)) = payload.map_err(|e| malformed(&e))?.as_section()
            && id != CUSTOM_SECTION
        {
            let contents = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            let contents =
                contents.and_then(|(from, to)| bytes.get(from..to)).ok_or_else(|| malformed("it is cut"))?;
            out.push(id);
            leb128(&mut out, contents.len());
            out.extend_from_slice(contents);
        }
    }
    Ok(out)
}

fn leb128(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(0x80 | n.to_le_bytes()[0]);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

fn check_kind(bytes: &[u8]) -> Result<()> {
    let not_wasm =
        |what: &str| Err(Error::refused(Code::NotWasm, format!("the file is {what}, no WebAssembly module")));
    match bytes {
        [0x7f, b'E', b'L', b'F', ..] if holds(bytes, b"wasm.code\0wasm.size\0") => Err(Error::refused(
            Code::AotUntrusted,
            "the file is compiled code: Shoal compiles on the device itself; send the module",
        )),
        [0x7f, b'E', b'L', b'F', ..] => not_wasm("a native program (ELF)"),
        [b'#', b'!', ..] => not_wasm("a script"),
        [] => not_wasm("empty"),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Err(Error::refused(
            Code::ComponentUnsupported,
            "the file is a component (WASI 0.2 or later): build a core module instead, with `--target wasm32-wasip1`, \
             or unbundle its core module with `wasm-tools component unbundle`",
        )),
        [0, b'a', b's', b'm', ..] => not_wasm("WebAssembly of an unknown version"),
        _ => not_wasm("something else"),
    }
}

/// A section's entries have a byte at least, so it cannot have more of them than bytes: who validates reserves memory by
/// that number before looking further.
fn check_counts(bytes: &[u8]) -> Result<()> {
    for payload in Parser::new(0).parse_all(bytes) {
        let Some((id, range)) = payload.map_err(|e| malformed(&e))?.as_section() else { continue };
        let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let Some(contents) = range.and_then(|(from, to)| bytes.get(from..to)) else { continue };
        let counted = !matches!(id, CUSTOM_SECTION | START_SECTION | DATA_COUNT_SECTION);
        let count = BinaryReader::new(contents, 0).read_var_u32();
        if counted && count.is_ok_and(|n| n as usize > contents.len()) {
            return Err(malformed("a section states more entries than it has bytes"));
        }
    }
    Ok(())
}

const CUSTOM_SECTION: u8 = 0;
const START_SECTION: u8 = 8;
const DATA_COUNT_SECTION: u8 = 12;

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|w| w == what)
}

fn validate(bytes: &[u8]) -> Result<()> {
    let valid = |features| Validator::new_with_features(features).validate_all(bytes).map(|_| ());
    let Err(error) = valid(ALLOWED) else { return Ok(()) };
    let all = REFUSED.iter().fold(ALLOWED, |sum, (_, f)| sum | *f);
    if valid(all).is_err() {
        return Err(malformed(&error));
    }
    let alone = REFUSED.iter().find(|(_, f)| valid(ALLOWED | *f).is_ok());
    let name = alone.map_or("several proposals", |(name, _)| name);
    Err(Error::refused(
        Code::UnsupportedProposal,
        format!("the module needs {name}, which Shoal does not run ({error}): build it without"),
    ))
}

fn read(bytes: &[u8]) -> Result<ModuleFacts> {
    let mut facts = ModuleFacts {
        size: bytes.len() as u64,
        stripped_size: strip_custom(bytes)?.len() as u64,
        capabilities: BTreeSet::new(),
        imports: Vec::new(),
        exports: Vec::new(),
        is_command: false,
        start_function: false,
        memory: None,
        tables: Vec::new(),
        functions: 0,
        custom_sections: Vec::new(),
    };
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| malformed(&e))? {
            Payload::Version { encoding: Encoding::Component, .. } => return Err(malformed("a component")),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(|e| malformed(&e))?;
                    let import = judge_import(import.module, import.name, import.ty)?;
                    facts.capabilities.insert(import.capability);
                    facts.imports.push(import);
                }
            }
            Payload::StartSection { .. } => facts.start_function = true,
            Payload::FunctionSection(section) => facts.functions = u64::from(section.count()),
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory.map_err(|e| malformed(&e))?;
                    facts.memory = Some(MemoryFacts { min_pages: memory.initial, max_pages: memory.maximum });
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let ty = table.map_err(|e| malformed(&e))?.ty;
                    facts.tables.push(TableFacts { min: ty.initial, max: ty.maximum });
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(|e| malformed(&e))?;
                    facts.is_command |= export.name == "_start" && export.kind == ExternalKind::Func;
                    facts.exports.push(export.name.to_owned());
                }
            }
            Payload::CustomSection(section) => facts.custom_sections.push(section.name().to_owned()),
            _ => {}
        }
    }
    Ok(facts)
}

fn judge_import(module: &str, name: &str, ty: TypeRef) -> Result<Import> {
    let denied = |why: &str| {
        let shown: String = format!("{module}.{name}").chars().take(120).collect();
        Error::refused(Code::ImportDenied, format!("the module imports {shown}: {why}"))
    };
    if module != WASI {
        return Err(denied(match module {
            "wasi_unstable" => "that is WASI preview 0; build it with a current toolchain for wasm32-wasip1",
            "wasi" => "threads are not supported; build it for wasm32-wasip1",
            "env" => {
                "only WASI preview 1 is given; a function of `env` was not linked in, or the module is for browsers"
            }
            m if m.starts_with("wasi:") => "that is WASI 0.2; build it for wasm32-wasip1",
            m if m.starts_with("wasi_") => "that extension of WASI is not given",
            _ => "only WASI preview 1 is given",
        }));
    }
    let capability = capability(name).ok_or_else(|| denied("there is no such function in WASI preview 1"))?;
    if !matches!(ty, TypeRef::Func(_)) {
        return Err(denied("it must be a function"));
    }
    Ok(Import { name: name.to_owned(), capability })
}

/// The functions of WASI preview 1 as WasmEdge gives them, and its own socket functions.
fn capability(name: &str) -> Option<Capability> {
    Some(match name {
        "args_get" | "args_sizes_get" => Capability::Arguments,
        "environ_get" | "environ_sizes_get" => Capability::Environment,
        "clock_res_get" | "clock_time_get" | "poll_oneoff" => Capability::Clocks,
        "random_get" => Capability::Random,
        "proc_exit" | "proc_raise" | "sched_yield" => Capability::Process,
        "fd_advise"
        | "fd_allocate"
        | "fd_close"
        | "fd_datasync"
        | "fd_fdstat_get"
        | "fd_fdstat_set_flags"
        | "fd_fdstat_set_rights"
        | "fd_filestat_get"
        | "fd_filestat_set_size"
        | "fd_filestat_set_times"
        | "fd_pread"
        | "fd_prestat_dir_name"
        | "fd_prestat_get"
        | "fd_pwrite"
        | "fd_read"
        | "fd_renumber"
        | "fd_seek"
        | "fd_sync"
        | "fd_tell"
        | "fd_write" => Capability::Streams,
        "fd_readdir"
        | "path_create_directory"
        | "path_filestat_get"
        | "path_filestat_set_times"
        | "path_link"
        | "path_open"
        | "path_readlink"
        | "path_remove_directory"
        | "path_rename"
        | "path_symlink"
        | "path_unlink_file" => Capability::Files,
        "sock_accept"
        | "sock_accept_v2"
        | "sock_bind"
        | "sock_bind_v2"
        | "sock_connect"
        | "sock_connect_v2"
        | "sock_getaddrinfo"
        | "sock_getlocaladdr"
        | "sock_getlocaladdr_v2"
        | "sock_getpeeraddr"
        | "sock_getpeeraddr_v2"
        | "sock_getsockopt"
        | "sock_listen"
        | "sock_listen_v2"
        | "sock_open"
        | "sock_open_v2"
        | "sock_recv"
        | "sock_recv_from"
        | "sock_recv_from_v2"
        | "sock_recv_v2"
        | "sock_send"
        | "sock_send_to"
        | "sock_send_to_v2"
        | "sock_send_v2"
        | "sock_setsockopt"
        | "sock_shutdown" => Capability::Sockets,
        _ => return None,
    })
}

fn malformed(why: impl fmt::Display) -> Error {
    Error::refused(Code::Malformed, format!("the module is not valid: {why}"))
}
