//! What is in each package, where, and with which mode: a table and what follows from it. Pure: reads no file.

use std::collections::BTreeMap;

use crate::arch::Arch;
use crate::engine::Folder;

/// The private folder of programs and engine.
pub(super) const HOME: &str = "usr/lib/shoal";

/// The programs that are shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    Agent,
    Guard,
    Runner,
    Controller,
    Cli,
}

impl Program {
    /// Name of its crate and of the program.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent => "shoal-agent",
            Self::Guard => "shoal-guard",
            Self::Runner => "shoal-runner",
            Self::Controller => "shoald",
            Self::Cli => "shoal",
        }
    }
}

/// The four packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Package {
    /// Agent, guard, runner and the engine without LLVM: a device.
    #[value(name = "shoal-agent")]
    Agent,
    /// The engine with LLVM: devices that compile for themselves.
    #[value(name = "shoal-compiler")]
    Compiler,
    /// The controller.
    #[value(name = "shoal-controller")]
    Controller,
    /// The operator's command line.
    #[value(name = "shoal")]
    Cli,
}

impl Package {
    pub(super) const ALL: [Self; 4] = [Self::Agent, Self::Compiler, Self::Controller, Self::Cli];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent => "shoal-agent",
            Self::Compiler => "shoal-compiler",
            Self::Controller => "shoal-controller",
            Self::Cli => "shoal",
        }
    }

    /// The programs in it.
    pub(super) fn programs(self) -> &'static [Program] {
        match self {
            Self::Agent => &[Program::Agent, Program::Guard, Program::Runner],
            Self::Compiler => &[],
            Self::Controller => &[Program::Controller],
            Self::Cli => &[Program::Cli],
        }
    }

    /// The engine's folder in it.
    pub(super) fn engine(self) -> Option<Folder> {
        match self {
            Self::Agent => Some(Folder::Run),
            Self::Compiler => Some(Folder::Compile),
            Self::Controller | Self::Cli => None,
        }
    }
}

/// Where an entry's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A program, built.
    Program(Program),
    /// A file of one of the engine's folders, by name.
    Engine(Folder, String),
    /// A file below `deploy/package`.
    Deploy(&'static str),
    /// The licence of this project.
    Licence,
    /// The licences of everything else in the package.
    ThirdParty,
    /// The bill of materials.
    Sbom,
    /// A link to another path.
    Link(&'static str),
}

/// One file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mode: u32,
    pub(super) content: Content,
}

/// All files of a package by their paths, without the slash in front.
pub(super) type Tree = BTreeMap<String, Entry>;

/// Files from `deploy/package`: package, path, source.
const DEPLOYED: [(Package, &str, &str); 16] = [
    (Package::Agent, "etc/shoal/policy.toml", "etc/policy.toml"),
    (Package::Agent, "etc/default/shoal-agent", "etc/default-shoal-agent"),
    (Package::Agent, "usr/lib/sysusers.d/shoal-agent.conf", "etc/sysusers-shoal-agent.conf"),
    (Package::Agent, "usr/lib/tmpfiles.d/shoal-agent.conf", "etc/tmpfiles-shoal-agent.conf"),
    (Package::Agent, "usr/lib/systemd/system/shoal.slice", "systemd/shoal.slice"),
    (Package::Agent, "usr/lib/systemd/system/shoal-payload.service", "systemd/shoal-payload.service"),
    (Package::Agent, "usr/lib/systemd/system/shoal-guard.service", "systemd/shoal-guard.service"),
    (Package::Agent, "usr/lib/systemd/system/shoal-agent.service", "systemd/shoal-agent.service"),
    (Package::Agent, "usr/share/doc/shoal-agent/examples/init", "../examples/init/shoal"),
    (Package::Agent, "usr/lib/systemd/system/shoal-stick@.service", "systemd/shoal-stick@.service"),
    (Package::Agent, "usr/lib/udev/rules.d/60-shoal-stick.rules", "udev/60-shoal-stick.rules"),
    (Package::Agent, "usr/lib/shoal/stick.sh", "scripts/stick.sh"),
    (Package::Controller, "etc/default/shoald", "etc/default-shoald"),
    (Package::Controller, "usr/lib/sysusers.d/shoal-controller.conf", "etc/sysusers-shoal-controller.conf"),
    (Package::Controller, "usr/lib/systemd/system/shoald.service", "systemd/shoald.service"),
    (Package::Cli, "usr/share/doc/shoal/examples/sensor.yaml", "../examples/sensor.yaml"),
];

/// Links: package, path, target.
const LINKS: [(Package, &str, &str); 3] = [
    (Package::Agent, "usr/bin/shoal-agent", "../lib/shoal/shoal-agent"),
    (Package::Agent, "usr/sbin/shoal-guard", "../lib/shoal/shoal-guard"),
    // It looks for guard and runner beside itself.
    (Package::Cli, "usr/bin/shoal", "../lib/shoal/shoal"),
];

/// The path of a program.
fn place(program: Program) -> String {
    match program {
        Program::Controller => format!("usr/bin/{}", program.name()),
        _ => format!("{HOME}/{}", program.name()),
    }
}

/// The engine's folder on a device.
pub(super) fn engine_place(folder: Folder) -> String {
    let name = match folder {
        Folder::Run => "run",
        Folder::Compile => "compile",
    };
    format!("{HOME}/engine/{name}/lib")
}

/// Everything in a package; `libraries` are the names in its engine folder.
pub(super) fn tree(package: Package, arch: Arch, libraries: &[String]) -> Tree {
    let mut tree = Tree::new();
    let mut put = |path: String, mode: u32, content: Content| {
        tree.insert(path, Entry { mode, content });
    };
    for program in package.programs() {
        put(place(*program), 0o755, Content::Program(*program));
    }
    if let Some(folder) = package.engine() {
        for name in libraries {
            let mode = if name == arch.loader() { 0o755 } else { 0o644 };
            put(format!("{}/{name}", engine_place(folder)), mode, Content::Engine(folder, name.clone()));
        }
    }
    for (_, path, source) in DEPLOYED.iter().filter(|(owner, ..)| *owner == package) {
        put((*path).to_owned(), 0o644, Content::Deploy(source));
    }
    for (_, path, target) in LINKS.iter().filter(|(owner, ..)| *owner == package) {
        put((*path).to_owned(), 0o777, Content::Link(target));
    }
    let doc = format!("usr/share/doc/{}", package.name());
    put(format!("{doc}/copyright"), 0o644, Content::Licence);
    put(format!("{doc}/sbom.cdx.json.gz"), 0o644, Content::Sbom);
    put(format!("{doc}/third-party.txt.gz"), 0o644, Content::ThirdParty);
    tree
}

/// The folders that lead to these files, each once, parents first.
pub(super) fn folders<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut all = std::collections::BTreeSet::new();
    for path in paths {
        for (at, _) in path.match_indices('/') {
            all.insert(path[..at].to_owned());
        }
    }
    all.into_iter().collect()
}

/// The maintainer scripts of a package: name and file below `deploy/package`.
pub(super) fn scripts(package: Package) -> &'static [(&'static str, &'static str)] {
    match package {
        Package::Agent => &[
            ("postinst", "scripts/shoal-agent.postinst"),
            ("postrm", "scripts/shoal-agent.postrm"),
            ("prerm", "scripts/shoal-agent.prerm"),
        ],
        Package::Controller => &[
            ("postinst", "scripts/shoal-controller.postinst"),
            ("postrm", "scripts/shoal-controller.postrm"),
            ("prerm", "scripts/shoal-controller.prerm"),
        ],
        Package::Compiler | Package::Cli => &[],
    }
}

/// The engine's packages that only `shoal-compiler` ships something of.
const COMPILER_ONLY: [&str; 7] =
    ["libbsd0", "libedit2", "libffi8", "libllvm21", "libmd0", "libtinfo6", "libxml2-16"];
/// Those that nothing is shipped of: headers, and what has a stand-in.
const BUILD_ONLY: [&str; 2] = ["libwasmedge-dev", "libz3-4"];

/// Whether a pinned package of the engine is in this package of ours.
pub(super) fn ships(package: Package, pinned: &str) -> bool {
    match package.engine() {
        Some(Folder::Run) => !COMPILER_ONLY.contains(&pinned) && !BUILD_ONLY.contains(&pinned),
        Some(Folder::Compile) => !BUILD_ONLY.contains(&pinned),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libraries() -> Vec<String> {
        ["ld-linux-x86-64.so.2", "libLLVM.so.21.1", "libc.so.6", "libwasmedge.so.0"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn a_device_gets_its_programs_engine_units_policy_and_papers_and_nothing_else() {
        let tree = tree(Package::Agent, Arch::X86_64, &libraries());
        let found: Vec<(String, u32)> = tree.iter().map(|(p, e)| (p.clone(), e.mode)).collect();
        let expected = [
            ("etc/default/shoal-agent", 0o644),
            ("etc/shoal/policy.toml", 0o644),
            ("usr/bin/shoal-agent", 0o777),
            ("usr/lib/shoal/engine/run/lib/ld-linux-x86-64.so.2", 0o755),
            ("usr/lib/shoal/engine/run/lib/libLLVM.so.21.1", 0o644),
            ("usr/lib/shoal/engine/run/lib/libc.so.6", 0o644),
            ("usr/lib/shoal/engine/run/lib/libwasmedge.so.0", 0o644),
            ("usr/lib/shoal/shoal-agent", 0o755),
            ("usr/lib/shoal/shoal-guard", 0o755),
            ("usr/lib/shoal/shoal-runner", 0o755),
            ("usr/lib/shoal/stick.sh", 0o644),
            ("usr/lib/systemd/system/shoal-agent.service", 0o644),
            ("usr/lib/systemd/system/shoal-guard.service", 0o644),
            ("usr/lib/systemd/system/shoal-payload.service", 0o644),
            ("usr/lib/systemd/system/shoal-stick@.service", 0o644),
            ("usr/lib/systemd/system/shoal.slice", 0o644),
            ("usr/lib/sysusers.d/shoal-agent.conf", 0o644),
            ("usr/lib/tmpfiles.d/shoal-agent.conf", 0o644),
            ("usr/lib/udev/rules.d/60-shoal-stick.rules", 0o644),
            ("usr/sbin/shoal-guard", 0o777),
            ("usr/share/doc/shoal-agent/copyright", 0o644),
            ("usr/share/doc/shoal-agent/examples/init", 0o644),
            ("usr/share/doc/shoal-agent/sbom.cdx.json.gz", 0o644),
            ("usr/share/doc/shoal-agent/third-party.txt.gz", 0o644),
        ];
        assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn no_two_packages_have_a_file_of_the_same_path() {
        let mut seen = BTreeMap::new();
        for package in Package::ALL {
            for path in tree(package, Arch::Aarch64, &libraries()).into_keys() {
                if let Some(other) = seen.insert(path.clone(), package) {
                    panic!("{path} is in {} and {}", other.name(), package.name());
                }
            }
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        assert_eq!(folders(["usr/lib/a/b", "usr/lib/c"].into_iter()), ["usr", "usr/lib", "usr/lib/a"]);
    }

    #[test]
    fn every_file_of_deploy_that_a_package_names_is_there() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/package");
        let scripts = Package::ALL.into_iter().flat_map(scripts).map(|(_, source)| *source);
        for source in DEPLOYED.iter().map(|(_, _, source)| *source).chain(scripts) {
            assert!(dir.join(source).is_file(), "{source}");
        }
    }

    #[test]
    fn what_the_engine_is_made_of_is_known_to_be_shipped_or_not() {
        let pins = include_str!("../../pins/engine-arm64.toml");
        let pins = crate::pins::Pins::parse("engine-arm64", pins).unwrap();
        let names: Vec<&str> = pins.packages.iter().map(|p| p.name.as_str()).collect();
        for name in COMPILER_ONLY.iter().chain(&BUILD_ONLY) {
            assert!(names.contains(name), "{name} is not pinned any more");
        }
        let run: Vec<&str> = names.iter().copied().filter(|name| ships(Package::Agent, name)).collect();
        let expected = [
            "libwasmedge0",
            "libspdlog1.15",
            "libfmt11",
            "libzstd1",
            "zlib1g",
            "libstdc++6",
            "libgcc-s1",
            "libc6",
            "gcc-16-base",
        ];
        assert_eq!(run, expected);
        assert!(!names.iter().any(|name| ships(Package::Cli, name)));
    }
}
