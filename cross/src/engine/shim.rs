//! The run-time folders: `run`, what a container needs of the engine, with a stand-in for LLVM, and `compile`, with LLVM and
//! a stand-in for what that never calls. Nothing here is listed by hand.
//!
//! `libwasmedge` calls LLVM only to compile, yet it is linked to it, and LLVM is nine tenths of the engine's size and of
//! its start. The stand-in has the same soname and exactly the symbols that `libwasmedge` asks for, each with the kind and
//! version that `nm` reads from both libraries: a function says one line and exits with 70, an object is zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::toolchain::Toolchain;
use crate::{layout, output, process};

/// What the loader of every Rust program looks for beside the engine.
const RUST_NEEDS: [&str; 3] = ["libc.so.6", "libgcc_s.so.1", "libm.so.6"];
/// The engine's library, as programs are linked to it.
const ENGINE: &str = "libwasmedge.so.0";
/// The solver's library.
const SOLVER: &str = "libz3.so";

/// A symbol that the stand-in must have.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Function,
    /// Bytes of zeros.
    Object(u64),
}

/// Fills `run/lib` from `compile/lib` of the same prefix.
pub(super) fn make_run(prefix: &Path, arch: Arch) -> Result<()> {
    let (from, to) = (prefix.join("compile/lib"), prefix.join("run/lib"));
    layout::create(&to)?;
    for name in closure(&from, arch, is_llvm)? {
        let path = from.join(&name);
        if is_llvm(&name) {
            stand_in(&from.join(engine_name(&from)?), &path, arch, &name, &to, &of_llvm)?;
        } else {
            link(&path, &to.join(&name))?;
        }
    }
    let licences = prefix.join("compile/licences");
    if licences.is_dir() {
        layout::create(&prefix.join("run/licences"))?;
        for entry in fs::read_dir(&licences).with_context(|| format!("read {}", licences.display()))? {
            let entry = entry.with_context(|| format!("read {}", licences.display()))?;
            link(&entry.path(), &prefix.join("run/licences").join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Leaves in `compile/lib` only what the engine loads, each under the name that it is loaded by, and puts a stand-in in the
/// place of a solver (28 MB) that LLVM is linked to for its static analyser.
pub(super) fn trim_compile(prefix: &Path, arch: Arch) -> Result<()> {
    let (old, new) = (prefix.join("compile/lib"), prefix.join("compile/lib.new"));
    layout::create(&new)?;
    for name in closure(&old, arch, |name| name.starts_with(SOLVER))? {
        let path = old.join(&name);
        if name.starts_with(SOLVER) {
            let user = closure(&old, arch, is_llvm)?.into_iter().find(|name| is_llvm(name));
            let user = user.context("a solver, and no LLVM that is linked to it")?;
            stand_in(&old.join(user), &path, arch, &name, &new, &|_: &str, name: &str| {
                name.starts_with("Z3_")
            })?;
        } else {
            link(&path, &new.join(&name))?;
        }
    }
    fs::remove_dir_all(&old).with_context(|| format!("remove {}", old.display()))?;
    fs::rename(&new, &old).with_context(|| format!("rename {} to {}", new.display(), old.display()))
}

/// What a program that uses the engine loads from a folder, by the names that it is asked for; what `end` names is not looked into.
fn closure(lib: &Path, arch: Arch, end: impl Fn(&str) -> bool) -> Result<BTreeSet<String>> {
    let mut left: Vec<String> = RUST_NEEDS.map(str::to_owned).into();
    left.push(engine_name(lib)?);
    left.push(arch.loader().to_owned());
    let mut seen = BTreeSet::new();
    while let Some(name) = left.pop() {
        let path = lib.join(&name);
        // A library that is not in the folder is the loader's own word (linux-vdso), or the host's: `ldd` told of it.
        if path.exists() && seen.insert(name.clone()) && !end(&name) {
            left.extend(needed(&path)?);
        }
    }
    Ok(seen)
}

fn is_llvm(name: &str) -> bool {
    name.starts_with("libLLVM")
}

/// The name under which the engine's library is found at run time.
fn engine_name(lib: &Path) -> Result<String> {
    let text = readelf(&lib.join("libwasmedge.so")).or_else(|_| readelf(&lib.join(ENGINE)))?;
    Ok(dynamic(&text, "SONAME").into_iter().next().unwrap_or_else(|| ENGINE.to_owned()))
}

/// The libraries that a library is linked to.
fn needed(path: &Path) -> Result<Vec<String>> {
    Ok(dynamic(&readelf(path)?, "NEEDED"))
}

fn readelf(path: &Path) -> Result<String> {
    process::capture(Command::new("readelf").arg("-d").arg(path)).context("is binutils installed?")
}

/// The names in brackets of one kind of entry of `readelf -d`.
pub(crate) fn dynamic(text: &str, tag: &str) -> Vec<String> {
    let tag = format!("({tag})");
    text.lines()
        .filter(|line| line.contains(&tag))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect()
}

/// A second name for the same file, followed to its end; a copy where the file system has none.
fn link(from: &Path, to: &Path) -> Result<()> {
    let real = fs::canonicalize(from).with_context(|| format!("find {}", from.display()))?;
    fs::hard_link(&real, to)
        .or_else(|_| fs::copy(&real, to).map(drop))
        .with_context(|| format!("copy {} to {}", real.display(), to.display()))
}

/// Whether a symbol, by version and name, is one that a stand-in has to have.
type Wants<'a> = &'a dyn Fn(&str, &str) -> bool;

fn of_llvm(version: &str, _: &str) -> bool {
    version.starts_with("LLVM_")
}

/// Builds the stand-in for `library`, as `user` is linked to it, into `to`.
fn stand_in(
    user: &Path,
    library: &Path,
    arch: Arch,
    soname: &str,
    to: &Path,
    wants: Wants<'_>,
) -> Result<()> {
    let tools = Tools::of(arch)?;
    let nm = |what: &str, path: &Path| {
        process::capture(Command::new(&tools.nm).args(["-D", "-S", what]).arg(path))
            .context("is binutils installed?")
    };
    let wanted = wanted(&nm("--undefined-only", user)?, wants);
    let symbols = kinds(&wanted, &nm("--defined-only", library)?)?;
    output::step("stand-in", &format!("{soname} with {} symbols", symbols.len()));
    let dir = to.join(".stand-in");
    layout::create(&dir)?;
    let (source, script) = (dir.join("llvm.c"), dir.join("llvm.map"));
    let versions: BTreeSet<&str> = wanted.values().map(String::as_str).collect();
    let mut map = String::new();
    for version in versions.into_iter().filter(|version| !version.is_empty()) {
        let names = wanted.iter().filter(|(_, v)| *v == version).map(|(name, _)| format!(" {name};"));
        // Writing to a String cannot fail.
        let _ = writeln!(map, "{version} {{ global:{} }};", names.collect::<String>());
    }
    fs::write(&source, source_of(&symbols)).with_context(|| format!("write {}", source.display()))?;
    fs::write(&script, map).with_context(|| format!("write {}", script.display()))?;
    let mut cc = Command::new(&tools.cc);
    cc.args(["-shared", "-fPIC", "-Os", "-w", "-s", "-fvisibility=default", "-Wl,--hash-style=gnu"]);
    cc.arg(format!("-Wl,-soname,{soname}"));
    if wanted.values().any(|version| !version.is_empty()) {
        cc.arg(format!("-Wl,--version-script,{}", script.display()));
    }
    cc.arg("-o").arg(to.join(soname)).arg(&source);
    process::run(&mut cc).with_context(|| format!("build the stand-in for {soname}"))?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

/// What makes and reads programs of an architecture.
pub(super) struct Tools {
    pub(super) cc: PathBuf,
    nm: PathBuf,
}

impl Tools {
    /// This machine's own (`CC`, or what Rust links with, too), or those of the private cross compiler.
    pub(super) fn of(arch: Arch) -> Result<Self> {
        if let Some(tools) = Toolchain::ensure(arch)? {
            return Ok(Self { cc: tools.program("gcc"), nm: tools.program("nm") });
        }
        let nm = PathBuf::from("nm");
        if let Some(cc) = std::env::var_os("CC").filter(|cc| !cc.is_empty()) {
            return Ok(Self { cc: cc.into(), nm });
        }
        match ["cc", "gcc"].iter().find(|name| process::is_installed(name)) {
            Some(name) => Ok(Self { cc: name.into(), nm }),
            None => bail!("no C compiler for {}: install gcc or set CC", arch.name()),
        }
    }
}

/// The symbols that a library expects of another, with their versions (empty where they have none), from
/// `nm -D --undefined-only`.
fn wanted(nm: &str, wants: Wants<'_>) -> BTreeMap<String, String> {
    nm.lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(|symbol| symbol.split_once('@').unwrap_or((symbol, "")))
        .map(|(name, version)| (name, version.trim_start_matches('@')))
        .filter(|(name, version)| wants(version, name))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}

/// What each of them is, from `nm -D -S --defined-only`.
fn kinds(wanted: &BTreeMap<String, String>, nm: &str) -> Result<BTreeMap<String, Kind>> {
    let mut found = BTreeMap::new();
    for line in nm.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(last), Some(kind)) = (words.last(), words.len().checked_sub(2).map(|at| words[at])) else {
            continue;
        };
        let name = last.split('@').next().unwrap_or(last);
        if !wanted.contains_key(name) {
            continue;
        }
        let size = || u64::from_str_radix(words[1], 16).with_context(|| format!("the size in {line:?}"));
        // nm(1): text, weak and indirect functions; everything else is data of some kind.
        let kind = match kind {
            "T" | "t" | "W" | "w" | "i" => Kind::Function,
            _ if words.len() == 4 => Kind::Object(size()?),
            _ => bail!("nm gives no size for the object {name}: {line:?}"),
        };
        found.insert(name.to_owned(), kind);
    }
    if let Some(lost) = wanted.keys().find(|name| !found.contains_key(*name)) {
        bail!("{lost} is wanted of a library that does not have it: their versions do not fit");
    }
    Ok(found)
}

/// The stand-in in C. The names are given to the assembler, so that any symbol can be made whatever C makes of it.
fn source_of(symbols: &BTreeMap<String, Kind>) -> String {
    let mut text = String::from(
        "#include <string.h>\n#include <unistd.h>\n\
         static void absent(const char *name) {\n\
         \x20   const char *says = \"this engine folder has no compiler: \";\n\
         \x20   if (write(2, says, strlen(says)) < 0 || write(2, name, strlen(name)) < 0 || write(2, \"\\n\", 1) < 0) _exit(70);\n\
         \x20   _exit(70);\n}\n",
    );
    for (at, (name, kind)) in symbols.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = match kind {
            Kind::Function => writeln!(
                text,
                "void f{at}(void) __asm__(\"{name}\");\nvoid f{at}(void) {{ absent(\"{name}\"); }}"
            ),
            Kind::Object(size) => writeln!(
                text,
                "extern char o{at}[{0}] __asm__(\"{name}\");\nchar o{at}[{0}] __attribute__((aligned(16)));",
                (*size).max(1)
            ),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDEFINED: &str = "                 U LLVMAddCase@LLVM_21.1\n                 U malloc@GLIBC_2.2.5\n\
                             \x20                U _ZTIN4llvm5ErrorE@LLVM_21.1\n                 w __cxa_finalize@GLIBC_2.2.5\n";

    #[test]
    fn symbols_come_with_version_and_kind_from_both_libraries() {
        let wanted = wanted(UNDEFINED, &of_llvm);
        assert_eq!(wanted.keys().collect::<Vec<_>>(), ["LLVMAddCase", "_ZTIN4llvm5ErrorE"]);
        assert_eq!(wanted["LLVMAddCase"], "LLVM_21.1");
        let defined = "0000000000f0 0000000000000010 T LLVMAddCase@@LLVM_21.1\n\
                       0000000000f8 0000000000000018 V _ZTIN4llvm5ErrorE@@LLVM_21.1\n\
                       0000000000ff 0000000000000001 T other@@LLVM_21.1\n0000000000000000 A LLVM_21.1\n";
        let kinds = kinds(&wanted, defined).unwrap();
        assert_eq!(kinds["LLVMAddCase"], Kind::Function);
        assert_eq!(kinds["_ZTIN4llvm5ErrorE"], Kind::Object(24));
        assert_eq!(kinds.len(), 2);
    }

    #[test]
    fn symbols_without_a_version_are_told_by_their_names() {
        let nm = "                 U Z3_dec_ref\n                 U malloc@GLIBC_2.2.5\n                 U other\n";
        let found = wanted(nm, &|_: &str, name: &str| name.starts_with("Z3_"));
        assert_eq!(found, BTreeMap::from([("Z3_dec_ref".to_owned(), String::new())]));
    }

    #[test]
    fn a_symbol_that_llvm_lacks_is_told() {
        let error = kinds(&wanted(UNDEFINED, &of_llvm), "00 10 T LLVMAddCase@@LLVM_21.1\n").unwrap_err();
        assert!(error.to_string().contains("_ZTIN4llvm5ErrorE"), "{error}");
    }

    #[test]
    fn the_stand_in_has_these_symbols_and_its_functions_end_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let symbols = BTreeMap::from([
            ("LLVMAddCase".to_owned(), Kind::Function),
            ("_ZTIx".to_owned(), Kind::Object(24)),
        ]);
        let (lib, main) = (dir.path().join("shim.c"), dir.path().join("main.c"));
        fs::write(&lib, source_of(&symbols)).unwrap();
        fs::write(
            &main,
            "extern char _ZTIx[24]; void LLVMAddCase(void);\n\
             int main(void) { if (_ZTIx[23]) return 1; LLVMAddCase(); return 2; }",
        )
        .unwrap();
        let program = dir.path().join("main");
        let mut cc = Command::new(Tools::of(Arch::host().unwrap()).unwrap().cc);
        process::run(cc.arg("-w").arg("-o").arg(&program).args([&lib, &main])).unwrap();
        let ran = process::output(&mut Command::new(&program)).unwrap();
        assert_eq!(ran.status.code(), Some(70));
        assert_eq!(String::from_utf8_lossy(&ran.stderr), "this engine folder has no compiler: LLVMAddCase\n");
    }

    #[test]
    fn sonames_are_read() {
        let text =
            " 0x01 (NEEDED)   Shared library: [libz.so.1]\n 0x0e (SONAME)  Library soname: [libx.so.0]\n";
        assert_eq!(dynamic(text, "NEEDED"), ["libz.so.1"]);
        assert_eq!(dynamic(text, "SONAME"), ["libx.so.0"]);
    }
}
