//! install.sh as a user runs it, as root in a copy-on-write copy of this machine's root file system: with dpkg and without it,
//! from good files and from bad ones. The packages are small stand-ins, packed as the real ones are.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::archive::{self, Item, Tar};
use super::control::{Facts, control};
use super::plan::Package;
use super::{Files, sign, sums_of};
use crate::arch::Arch;
use crate::{paths, process};

/// Stands in for agent and guard: says its version, notes what it was started for.
const PROGRAM: &str = r#"#!/bin/sh
case $1 in
--version) echo "$(basename "$0") 9.9.9" ;;
supervise) touch /started; sleep 30 ;;
status) [ -e /started ] ;;
enroll) cp "$2" /enrolled ;;
run) touch /running; sleep 30 ;;
stop-all) touch /stopped ;;
esac
"#;

/// Enters the copy: `$1` is a folder for it, `$2` its size, `$3` the stick, `$4` the script.
const ENTER: &str = r#"set -e
mount -t tmpfs -o "size=$2" none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mkdir -p mnt/stick mnt/old
mount --bind "$3" mnt/stick
pivot_root . mnt/old
umount -l /mnt/old
exec sh -c "$4"
"#;

/// A stick with packages of this machine's architecture, signed.
struct Stick {
    dir: TempDir,
    arch: Arch,
}

impl Stick {
    fn new() -> Self {
        Self::of(Arch::host().unwrap(), 64)
    }

    /// `claimed` is what the packages say that they take, in KiB.
    fn of(arch: Arch, claimed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::new();
        for package in [Package::Agent, Package::Compiler] {
            pack(package, arch, claimed, &mut files);
        }
        let installer = fs::read(paths::workspace().join("deploy/install.sh")).unwrap();
        files.insert("install.sh".to_owned(), installer);
        let stick = Self { dir, arch };
        for (name, bytes) in &files {
            fs::write(stick.path(name), bytes).unwrap();
        }
        fs::write(stick.path("SHA256SUMS"), sums_of(&files)).unwrap();
        for key in ["key", "other"] {
            let mut openssl = Command::new("openssl");
            openssl.args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(stick.path(key));
            process::capture(&mut openssl).unwrap();
            sign::public(&stick.path(key), &stick.path(&format!("{key}.pem"))).unwrap();
        }
        fs::copy(stick.path("key.pem"), stick.path("release-key.pem")).unwrap();
        sign::sign(&stick.path("key"), &stick.path("SHA256SUMS"), &stick.path("SHA256SUMS.sig")).unwrap();
        stick
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fingerprint(&self) -> String {
        sign::fingerprint(&self.path("key.pem")).unwrap()
    }

    /// Damages a byte in the middle of a package.
    fn damage(&self, name: &str) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(self.path(name), bytes).unwrap();
    }

    fn deb(&self) -> String {
        format!("shoal-agent_9.9.9_{}.deb", self.arch.debian())
    }

    /// Runs a script in a fresh copy of the machine with this much room.
    fn run_in(&self, size: &str, script: &str) -> Output {
        let place = tempfile::tempdir().unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
        ]);
        unshare.arg(place.path()).arg(size).arg(self.dir.path()).arg(script);
        unshare.output().unwrap()
    }

    /// Runs install.sh with these arguments; `before` and `after` are shell commands, the exit code is install.sh's.
    #[track_caller]
    fn install(&self, before: &str, arguments: &str, after: &str, code: i32, words: &[&str]) {
        let script = format!("{before}\nsh /mnt/stick/install.sh {arguments}\ncode=$?\n{after}\nexit $code");
        let out = self.run_in("64m", &script);
        check(&out, code, words);
    }
}

#[track_caller]
fn check(out: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

fn pack(package: Package, arch: Arch, claimed: u64, files: &mut Files) {
    let name = package.name();
    let mut tar = Tar::new(1_700_000_000);
    let program = Item::File { mode: 0o755, bytes: PROGRAM.as_bytes() };
    if package == Package::Agent {
        for folder in ["etc", "etc/shoal"] {
            tar.add(folder, &Item::Folder).unwrap();
        }
        tar.add("etc/shoal/policy.toml", &Item::File { mode: 0o644, bytes: b"# new\n" }).unwrap();
        for folder in ["usr", "usr/bin", "usr/lib", "usr/lib/shoal", "usr/sbin"] {
            if folder == "usr/lib" {
                tar.add("usr/bin/shoal-agent", &Item::Link("../lib/shoal/shoal-agent")).unwrap();
            }
            if folder == "usr/sbin" {
                tar.add("usr/lib/shoal/shoal-agent", &program).unwrap();
                tar.add("usr/lib/shoal/shoal-guard", &program).unwrap();
            }
            tar.add(folder, &Item::Folder).unwrap();
        }
        tar.add("usr/sbin/shoal-guard", &Item::Link("../lib/shoal/shoal-guard")).unwrap();
    } else {
        for folder in ["usr", "usr/lib", "usr/lib/shoal"] {
            tar.add(folder, &Item::Folder).unwrap();
        }
        tar.add("usr/lib/shoal/compiler", &program).unwrap();
    }
    let data = tar.finish().unwrap();
    let facts = Facts { arch, version: "9.9.9", glibc: "2.17", size: claimed * 1024 };
    let text = control(package, &facts);
    let mut tar = Tar::new(1_700_000_000);
    if package == Package::Agent {
        tar.add("conffiles", &Item::File { mode: 0o644, bytes: b"/etc/shoal/policy.toml\n" }).unwrap();
    }
    tar.add("control", &Item::File { mode: 0o644, bytes: text.as_bytes() }).unwrap();
    let control = archive::xz(&tar.finish().unwrap(), false).unwrap();
    let packed = archive::xz(&data, false).unwrap();
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar.xz", &control), ("data.tar.xz", &packed)];
    files
        .insert(format!("{name}_9.9.9_{}.deb", arch.debian()), archive::ar(1_700_000_000, &members).unwrap());
    files.insert(format!("{name}-9.9.9-{}.tar.gz", arch.name()), archive::gzip(&data, 9).unwrap());
}

/// Says aloud that a test could not run here; `cargo xtask test` counts it.
fn needs_root(test: &str) -> bool {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        // Past the test harness's capture, which would hide it.
        let _ =
            writeln!(std::io::stdout(), "\nSKIPPED {test}: needs root for a copy of the root file system");
    }
    !is_root
}

/// Nothing of it is installed or started.
const NOTHING: &str = "[ ! -e /usr/lib/shoal ] && [ ! -e /started ] && [ ! -e /etc/shoal ] && echo nothing";
const WITHOUT_DPKG: &str = "rm /usr/bin/dpkg";

#[test]
fn the_installer_is_a_posix_script_without_findings() {
    let script = paths::workspace().join("deploy/install.sh");
    process::capture(Command::new("sh").arg("-n").arg(&script)).unwrap();
    let help = process::capture(Command::new("sh").arg(&script).arg("--help")).unwrap();
    let page = fs::read_to_string(paths::workspace().join("docs/install.md")).unwrap();
    let words = help.split_whitespace().map(|w| w.trim_end_matches([',', ':']));
    for option in words.filter(|w| w.starts_with("--")) {
        assert!(page.contains(&format!("`{option}")), "{option} is not in docs/install.md");
    }
}

#[test]
fn signed_packages_are_installed_by_dpkg_and_nothing_is_started() {
    if needs_root("signed_packages_are_installed_by_dpkg_and_nothing_is_started") {
        return;
    }
    let after = "dpkg -s shoal-agent shoal-compiler | grep ^Status; [ ! -e /started ] && echo idle";
    let words =
        ["ok     signature", "ok     checksums", "shoal-guard 9.9.9", "Status: install ok installed", "idle"];
    let stick = Stick::new();
    stick.install("", "--key /mnt/stick/key.pem", after, 0, &words);
    let by = format!("--fingerprint {} --without-compiler", stick.fingerprint());
    let after = "dpkg -s shoal-compiler";
    stick.install("", &by, after, 0, &["warn   packages", "package 'shoal-compiler' is not installed"]);
}

#[test]
fn joining_starts_the_guard_enrols_and_starts_the_agent() {
    if needs_root("joining_starts_the_guard_enrols_and_starts_the_agent") {
        return;
    }
    let stick = Stick::new();
    fs::write(stick.path("join.shoal"), "join").unwrap();
    let after = "sleep 0.2; turns=0; until [ -e /running ] || [ $turns -gt 50 ]; do turns=$((turns + 1)); sleep 0.1; done; \
                 cat /enrolled && ls /started /running";
    let arguments = "--key /mnt/stick/key.pem --join /mnt/stick/join.shoal";
    stick.install("", arguments, after, 0, &["join", "/running", "have your init start both"]);
}

#[test]
fn what_is_changed_unsigned_or_by_another_key_is_not_installed() {
    if needs_root("what_is_changed_unsigned_or_by_another_key_is_not_installed") {
        return;
    }
    let arguments = "--key /mnt/stick/key.pem --join /mnt/stick/key.pem";
    let changed = Stick::new();
    changed.damage(&changed.deb());
    changed.install("", arguments, NOTHING, 3, &["FAILED checksums", "nothing was installed", "\nnothing"]);
    let stick = Stick::new();
    stick.install(
        "",
        "--key /mnt/stick/other.pem",
        NOTHING,
        3,
        &["FAILED signature", "not signed by this key", "\nnothing"],
    );
    let other = format!("--fingerprint sha256:{}", "0".repeat(64));
    stick.install("", &other, NOTHING, 3, &["FAILED signature", "this is another key", "\nnothing"]);
    fs::remove_file(stick.path("SHA256SUMS.sig")).unwrap();
    stick.install("", arguments, NOTHING, 3, &["FAILED signature", "no SHA256SUMS.sig", "\nnothing"]);
    stick.install("", "", NOTHING, 2, &["how is the release to be verified", "nothing\n"]);
}

#[test]
fn a_list_that_was_changed_with_its_packages_is_not_believed() {
    if needs_root("a_list_that_was_changed_with_its_packages_is_not_believed") {
        return;
    }
    let stick = Stick::new();
    stick.damage(&stick.deb());
    let name = stick.deb();
    let list = fs::read_to_string(stick.path("SHA256SUMS")).unwrap();
    let sum = crate::fetch::sha256(&stick.path(&name)).unwrap();
    let own = list.lines().find(|line| line.ends_with(&name)).unwrap();
    let changed = list.replace(own, &format!("{sum}  {name}"));
    fs::write(stick.path("SHA256SUMS"), changed).unwrap();
    stick.install("", "--key /mnt/stick/key.pem", NOTHING, 3, &["FAILED signature", "\nnothing"]);
}

#[test]
fn without_openssl_the_list_is_verified_elsewhere_and_named() {
    if needs_root("without_openssl_the_list_is_verified_elsewhere_and_named") {
        return;
    }
    let stick = Stick::new();
    let before = "rm /usr/bin/openssl";
    let words = ["FAILED signature", "openssl pkeyutl -verify", "--sums", "\nnothing"];
    stick.install(before, "--key /mnt/stick/key.pem", NOTHING, 3, &words);
    let sum = crate::fetch::sha256(&stick.path("SHA256SUMS")).unwrap();
    stick.install(before, &format!("--sums {sum}"), "", 0, &["ok     checksums", "shoal-agent 9.9.9"]);
    let other = format!("--sums {}", "0".repeat(64));
    stick.install(before, &other, NOTHING, 3, &["it is another list", "\nnothing"]);
}

#[test]
fn packages_for_another_machine_or_without_room_are_told_before_anything_happens() {
    if needs_root("packages_for_another_machine_or_without_room_are_told_before_anything_happens") {
        return;
    }
    let other = if Arch::host().unwrap() == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
    let foreign = Stick::of(other, 64);
    let words = ["FAILED packages", "get the packages for", "nothing was installed", "\nnothing"];
    foreign.install("", "--key /mnt/stick/key.pem", NOTHING, 4, &words);
    let large = Stick::of(Arch::host().unwrap(), 1 << 20);
    large.install("", "--key /mnt/stick/key.pem", NOTHING, 4, &["FAILED room", "make room", "\nnothing"]);
    // Not even room for the copy that is verified.
    let script = format!(
        "head -c 100000000 /dev/zero > /fill 2> /dev/null; sh /mnt/stick/install.sh --key /mnt/stick/key.pem; code=$?; {NOTHING}; exit $code"
    );
    check(&Stick::new().run_in("4m", &script), 4, &["is there room?", "\nnothing"]);
}

#[test]
fn without_dpkg_the_archives_are_unpacked_and_the_owners_files_stay() {
    if needs_root("without_dpkg_the_archives_are_unpacked_and_the_owners_files_stay") {
        return;
    }
    let stick = Stick::new();
    let before = format!("{WITHOUT_DPKG}; mkdir -p /etc/shoal; echo '# mine' > /etc/shoal/policy.toml");
    let after = "cat /etc/shoal/policy.toml /etc/shoal/policy.toml.new; shoal-agent --version; \
                 mkdir -p /var/lib/shoal; touch /var/lib/shoal/kept; \
                 sh /mnt/stick/install.sh --uninstall && [ ! -e /usr/lib/shoal ] && [ ! -e /usr/bin/shoal-agent ] \
                 && ls /var/lib/shoal/kept /etc/shoal/policy.toml && ls /stopped && echo gone";
    let words = ["shoal-agent-9.9.9-", "# mine\n# new", "shoal-agent 9.9.9", "\ngone"];
    stick.install(&before, "--key /mnt/stick/key.pem", after, 0, &words);
    let after = "sh /mnt/stick/install.sh --uninstall --purge; find / -xdev -name '*shoal*' -not -path '/proc/*' \
                 -path '/*/*' \\( -path '/usr/*' -o -path '/var/*' -o -path '/etc/*' \\); echo end";
    let script =
        format!("{WITHOUT_DPKG}; sh /mnt/stick/install.sh --key /mnt/stick/key.pem && {{ {after}; }}");
    let out = stick.run_in("64m", &script);
    check(&out, 0, &["removed, with all that it kept"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.ends_with("removed, with all that it kept\nend\n"), "{text}");
}

#[test]
fn a_changed_archive_is_not_unpacked_either() {
    if needs_root("a_changed_archive_is_not_unpacked_either") {
        return;
    }
    let stick = Stick::new();
    stick.damage(&format!("shoal-agent-9.9.9-{}.tar.gz", stick.arch.name()));
    stick.install(WITHOUT_DPKG, "--key /mnt/stick/key.pem", NOTHING, 3, &["FAILED checksums", "\nnothing"]);
}

/// What lies below a folder, links too.
fn below(dir: &std::path::Path) -> Vec<String> {
    let out =
        process::capture(Command::new("find").arg(dir).args(["-mindepth", "1", "-printf", "%P\\n"])).unwrap();
    let mut all: Vec<String> = out.lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// The shell lines of a recipe between two lines, with what the build tool would put for its variables.
fn step(recipe: &str, from: &str, to: &str, variables: &[(&str, &str)]) -> String {
    let path = paths::workspace().join("deploy/recipes").join(recipe);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().skip_while(|l| *l != from).skip(1).take_while(|l| *l != to);
    let mut step = lines.map(str::trim).collect::<Vec<_>>().join("\n");
    for (name, value) in variables {
        step = step.replace(name, value);
    }
    assert!(!step.is_empty() && !step.contains('$'), "{step}");
    step
}

#[test]
fn image_builders_recipes_unpack_verified_archives_into_their_staging_folder() {
    let arch = Arch::Aarch64;
    let stick = Stick::of(arch, 64);
    let sum = crate::fetch::sha256(&stick.path("SHA256SUMS")).unwrap();
    let release = stick.dir.path().to_str().unwrap();
    let staging = tempfile::tempdir().unwrap();
    let into = |name: &str| staging.path().join(name).to_str().unwrap().to_owned();
    let yocto = step(
        "yocto/shoal_0.1.0.bb",
        "do_install() {",
        "}",
        &[
            ("${SHOAL_RELEASE}", release),
            ("${SHOAL_SUMS}", &sum),
            ("${D}", &into("yocto")),
            ("${TARGET_ARCH}", "aarch64"),
        ],
    );
    let buildroot = step(
        "buildroot/shoal/shoal.mk",
        "define SHOAL_INSTALL_TARGET_CMDS",
        "endef",
        &[
            ("$(@D)", release),
            ("$(call qstrip,$(BR2_PACKAGE_SHOAL_SUMS))", &sum),
            ("$(TARGET_DIR)", &into("buildroot")),
            ("$(BR2_ARCH)", "aarch64"),
        ],
    );
    for script in [&yocto, &buildroot] {
        process::capture(Command::new("sh").args(["-e", "-c", script])).unwrap();
    }
    let found = below(&staging.path().join("yocto"));
    assert_eq!(found, below(&staging.path().join("buildroot")));
    for name in [
        "etc/shoal/policy.toml",
        "usr/bin/shoal-agent",
        "usr/lib/shoal/compiler",
        "usr/lib/shoal/.installed-files",
    ] {
        assert!(found.iter().any(|path| path == name), "{name} is not in {found:?}");
    }
    stick.damage("shoal-agent-9.9.9-aarch64.tar.gz");
    let out = Command::new("sh").args(["-c", &yocto.replace("/yocto", "/refused")]).output().unwrap();
    check(&out, 3, &["FAILED checksums"]);
    assert!(!staging.path().join("refused").exists());
}

#[test]
fn looking_alone_changes_nothing_and_says_what_is_there() {
    let script = paths::workspace().join("deploy/install.sh");
    let out = Command::new("sh").arg(&script).arg("--check-only").output().unwrap();
    check(&out, 0, &["ok     architecture", "kernel", "landlock", "clock"]);
    if needs_root("looking_alone_changes_nothing_and_says_what_is_there") {
        return;
    }
    let stick = Stick::new();
    let words = ["warn   signature     not checked", "\nnothing"];
    stick.install("", "--check-only", NOTHING, 0, &words);
    stick.install("", "--check-only --key /mnt/stick/key.pem", NOTHING, 0, &["ok     room", "\nnothing"]);
}
