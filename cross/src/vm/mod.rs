//! `cargo xtask vm`: a virtual device under QEMU, without KVM, whose only tree of control groups is v2, and guard's own
//! integration tests inside it. The host is left as it is: no network, no disk of its own, no root.

pub(crate) mod cpio;
pub(crate) mod machine;
mod watch;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::engine::{self, Engine, Folder, Profile};
use crate::{output, paths};
use machine::{Machine, option};
use watch::{Said, Tally};

/// Guard's tests that say most about control groups and confinement.
const SELECTION: [&str; 6] = ["unified", "containers", "zygote", "spares", "ready", "escape"];
/// Until init speaks, and from the last test to the end.
const BOOT: Duration = Duration::from_mins(2);
/// For one test file; emulation is some ten times slower than this machine.
const TEST_SECONDS: u64 = 900;
/// The device's disk, bytes; a sparse file here.
const DISK: u64 = 2 << 30;
/// Where the runner and the engine are on the device.
const HOME: &str = "/shoal";

/// Boot a virtual device (QEMU, cgroup v2 alone) and run guard's integration tests in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The device's architecture
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// Test files of agent/guard/tests, without `.rs`; a selection if left out
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let began = Instant::now();
    let tests =
        if args.tests.is_empty() { SELECTION.map(str::to_owned).to_vec() } else { args.tests.clone() };
    check_names(&tests, &paths::workspace().join("agent/guard/tests"))?;
    let machine = Machine::ensure(args.arch)?;
    let engine = engine::ensure(args.arch)?;
    let dir = paths::target()?.join("vm").join(args.arch.name());
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let initramfs = dir.join("initramfs.cpio");
    let size = pack(&machine, &engine, &tests, &initramfs)?;
    output::step(
        "initramfs",
        &format!("{} ({:.0} s)", crate::fetch::mib(size), began.elapsed().as_secs_f64()),
    );

    let (disk, log) = (dir.join("disk.raw"), dir.join("console.log"));
    let empty = File::create(&disk).and_then(|file| file.set_len(DISK));
    empty.with_context(|| format!("create {}", disk.display()))?;
    let tally = Guest::boot(command(&machine, &initramfs, &disk, &log))?.follow();
    let tally = tally.with_context(|| format!("the device's console is in {}", log.display()))?;
    for name in &tally.skipped {
        output::warn(&format!("skipped: {name}"));
    }
    output::step("done", &format!("in {:.0} s; console: {}", began.elapsed().as_secs_f64(), log.display()));
    output::result(&format!(
        "{} passed, {} failed, {} skipped",
        tally.passed,
        tally.failed,
        tally.skipped.len()
    ));
    if tally.failed > 0 {
        bail!("{} tests failed on the virtual device", tally.failed);
    }
    Ok(())
}

/// QEMU whose first serial port is the command's own output; the second one, where the kernel speaks, goes into `log`.
fn command(machine: &Machine, initramfs: &Path, disk: &Path, log: &Path) -> Command {
    let kernel = format!("console={} RESULTS={}", machine.serial(1), machine.serial(0));
    let mut command = machine.command(initramfs, &kernel);
    command.args(["-m", "3072", "-serial", "stdio", "-serial", &format!("file:{}", option(log))]);
    // Each run begins with an empty one: nothing on it has to outlive this QEMU.
    command.args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", option(disk))]);
    command
}

fn check_names(tests: &[String], dir: &Path) -> Result<()> {
    for name in tests {
        let is_word = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if !is_word || name.is_empty() || !dir.join(format!("{name}.rs")).is_file() {
            bail!("no test file {name:?} in {}", dir.display());
        }
    }
    Ok(())
}

/// Builds what runs on the device and puts it into an initramfs; its size in bytes.
fn pack(machine: &Machine, engine: &Engine, tests: &[String], to: &Path) -> Result<u64> {
    let guard = engine::build_static("shoal-guard", engine.arch, Profile::Dev, &[])?;
    let runner = engine::build_runner(engine, Profile::Dev)?;
    let built = engine::build_static_tests("shoal-guard", engine.arch, tests)?;
    let out = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut archive = cpio::Archive::new(BufWriter::new(out));
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/new", "/root"] {
        archive.folder(folder)?;
    }
    archive.text("/init", 0o755, include_str!("init.sh"))?;
    archive.file(&machine.busybox(), "/bin/busybox", 0o755)?;
    archive.tree(&machine.modules(), "/modules")?;
    // Tests start guard by the path that cargo gave it when it built them.
    let path = guard.to_str().context("the target folder's path is not UTF-8")?;
    archive.file(&guard, path, 0o755)?;
    archive.file(&runner, &format!("{HOME}/shoal-runner"), 0o755)?;
    for (folder, name) in [(Folder::Run, "run"), (Folder::Compile, "compile")] {
        archive.tree(&engine.folder(folder), &format!("{HOME}/engine/{name}"))?;
    }
    let mut list = String::new();
    for (name, program) in &built {
        archive.file(program, &format!("/tests/{name}"), 0o755)?;
        list.extend([name.as_str(), " ", &TEST_SECONDS.to_string(), "\n"]);
    }
    archive.text("/tests/list", 0o644, &list)?;
    drop(archive.finish()?);
    Ok(fs::metadata(to).with_context(|| format!("look at {}", to.display()))?.len())
}

/// A running virtual device; dropping it switches it off.
struct Guest {
    qemu: Child,
    lines: Receiver<String>,
}

impl Guest {
    fn boot(mut command: Command) -> Result<Self> {
        output::step("boot", "without KVM: allow some minutes");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut qemu = command.spawn().context("start QEMU")?;
        let out = qemu.stdout.take().context("QEMU's output")?;
        let (send, lines) = sync_channel(64);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(out);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Ok(Self { qemu, lines })
    }

    /// Shows what it says until it is through; every wait has an end.
    fn follow(mut self) -> Result<Tally> {
        let (mut tally, mut began, booted) = (Tally::default(), Instant::now(), Instant::now());
        let mut until = Instant::now() + BOOT;
        loop {
            let line = match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the virtual device went silent and was switched off")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let how = self.qemu.wait().context("wait for QEMU")?;
                    bail!("the virtual device ended before its tests did (QEMU: {how})");
                }
            };
            let seconds = began.elapsed().as_secs_f64();
            match tally.hear(&line) {
                Said::Up(what) => {
                    let up = booted.elapsed().as_secs_f64();
                    output::step("up", &format!("after {up:.1} s: Linux {what}"));
                }
                Said::Start(name) => {
                    began = Instant::now();
                    until = began + Duration::from_secs(TEST_SECONDS) + BOOT;
                    output::step("test", &name);
                }
                Said::End(name, how) => {
                    until = Instant::now() + BOOT;
                    let how = how.err().unwrap_or_else(|| "passed".to_owned());
                    output::step("test", &format!("{name}: {how} ({seconds:.0} s)"));
                }
                Said::Done => return Ok(tally),
                Said::Line(line) => output::result(&line),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_by_their_files_only() {
        let dir = paths::workspace().join("agent/guard/tests");
        check_names(&SELECTION.map(str::to_owned), &dir).unwrap();
        for name in ["", "../containers", "common/mod", "nothing_of_that_name"] {
            assert!(check_names(&[name.to_owned()], &dir).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_device_that_ends_early_or_says_nothing_sensible_is_an_error() {
        let mut command = Command::new("echo");
        command.arg("@up 6.12: memory");
        let error = Guest::boot(command).unwrap().follow().unwrap_err();
        assert!(error.to_string().contains("ended before its tests did"), "{error}");
    }
}
