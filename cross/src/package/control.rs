//! The control part of a Debian package (Debian Policy 5.3, 5.6, 10.7). Pure.

use std::fmt::Write as _;

use super::plan::{Package, Tree};
use crate::arch::Arch;

/// The URL-free words about each package.
fn description(package: Package) -> &'static str {
    match package {
        Package::Agent => {
            "runs signed WebAssembly containers on this device\n \
             The agent, the guard that admits and supervises, and the engine, with all that\n \
             they load: nothing of the system's own libraries is used. Compiling modules on\n \
             the device takes shoal-compiler."
        }
        Package::Compiler => {
            "compiles WebAssembly for this device's own CPU\n \
             LLVM for the engine of shoal-agent."
        }
        Package::Controller => {
            "fleet controller for WebAssembly containers\n \
             Decides when devices get what operators signed; can sign nothing that runs.\n \
             Store, MQTT broker, API and registry endpoint in one program."
        }
        Package::Cli => {
            "signs and rolls out WebAssembly containers\n \
             The operator's command line. `shoal run` tries a module on this machine, with\n \
             the packages shoal-agent and shoal-compiler."
        }
    }
}

/// What else the system must have.
fn relations(package: Package, version: &str, glibc: &str) -> Vec<(&'static str, String)> {
    let libc = format!("libc6 (>= {glibc}), libgcc-s1");
    match package {
        Package::Agent => vec![("Recommends", "shoal-compiler, ca-certificates".to_owned())],
        Package::Compiler => vec![("Depends", format!("shoal-agent (= {version})"))],
        Package::Controller => vec![("Depends", libc)],
        Package::Cli => {
            vec![("Depends", libc), ("Recommends", "shoal-agent, shoal-compiler, ca-certificates".to_owned())]
        }
    }
}

/// What is known when the text is made.
pub(super) struct Facts<'a> {
    pub(super) arch: Arch,
    pub(super) version: &'a str,
    /// The newest version of glibc's symbols that the programs ask for.
    pub(super) glibc: &'a str,
    /// Bytes of all files.
    pub(super) size: u64,
}

/// The file `control`.
pub(super) fn control(package: Package, facts: &Facts<'_>) -> String {
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: Shoal\nInstalled-Size: {}\n",
        package.name(),
        facts.version,
        facts.arch.debian(),
        facts.size.div_ceil(1024)
    );
    for (field, value) in relations(package, facts.version, facts.glibc) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{field}: {value}");
    }
    let _ = writeln!(text, "Section: admin\nPriority: optional\nDescription: {}", description(package));
    text
}

/// The file `conffiles`: what an owner may change, and an upgrade then asks about.
pub(super) fn conffiles(tree: &Tree) -> String {
    tree.keys().filter(|path| path.starts_with("etc/")).flat_map(|path| ["/", path, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::tree;
    use super::*;

    #[test]
    fn the_control_file_has_each_field_once_and_a_folded_description() {
        let facts = Facts { arch: Arch::Aarch64, version: "0.1.0", glibc: "2.34", size: 2049 };
        let text = control(Package::Cli, &facts);
        let expected = "Package: shoal\nVersion: 0.1.0\nArchitecture: arm64\nMaintainer: Shoal\nInstalled-Size: 3\n\
                        Depends: libc6 (>= 2.34), libgcc-s1\n\
                        Recommends: shoal-agent, shoal-compiler, ca-certificates\n\
                        Section: admin\nPriority: optional\n\
                        Description: signs and rolls out WebAssembly containers\n The operator's command line.";
        assert!(text.starts_with(expected), "{text}");
        for package in Package::ALL {
            let text = control(package, &facts);
            assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text}");
            let lines = text.lines().skip(9);
            assert!(lines.filter(|l| !l.starts_with(' ')).all(|l| l.contains(": ")), "{text}");
        }
    }

    #[test]
    fn a_device_depends_on_no_library_of_its_system() {
        let facts = Facts { arch: Arch::X86_64, version: "1", glibc: "2.34", size: 0 };
        assert!(!control(Package::Agent, &facts).contains("Depends"));
        assert!(control(Package::Compiler, &facts).contains("\nDepends: shoal-agent (= 1)\n"));
    }

    #[test]
    fn what_is_below_etc_is_the_owners() {
        let tree = tree(Package::Agent, Arch::X86_64, &[]);
        assert_eq!(conffiles(&tree), "/etc/default/shoal-agent\n/etc/shoal/policy.toml\n");
    }
}
