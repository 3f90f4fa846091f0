//! A running virtual device: QEMU, and the root shell on its serial port through which everything inside is done.
//! Every wait has an end; what was asked and answered is written down.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::image::Image;
use super::monitor::Monitor;
use crate::process;
use crate::vm::machine::{Machine, option};

/// Until the shell answers.
const BOOT: Duration = Duration::from_mins(4);
/// Until QEMU ended after the device was told to switch itself off.
const OFF: Duration = Duration::from_mins(3);
/// How a program ends whose assertion does not hold: signal(7).
const SIGABRT: i32 = 6;
/// Seconds for one command, unless it says otherwise.
const SECONDS: u64 = 120;

/// What the device is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// To this machine, as 10.0.2.2.
    Up,
    /// It has a network device, and nothing makes use of it.
    Unplugged,
    /// It has no network device at all.
    Absent,
}

/// How it is started.
pub(super) struct Setup<'a> {
    /// Its disk.
    pub(super) disk: &'a Path,
    /// A second one with the packages, to be read only.
    pub(super) packages: &'a Path,
    pub(super) network: Network,
    /// The clock at its start, as QEMU's `-rtc base=` takes it.
    pub(super) clock: Option<&'a str>,
    /// Its first process, where that is not systemd.
    pub(super) init: Option<&'a str>,
}

/// QEMU ended by an assertion of its own: nothing that the device did.
#[derive(Debug)]
pub(super) struct EmulatorAborted;

impl std::fmt::Display for EmulatorAborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QEMU aborted by itself")
    }
}

/// What a command in the device gave.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) script: String,
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Ran {
    /// Its output, or an error that shows everything.
    pub(super) fn ok(self) -> Result<String> {
        if self.code == 0 {
            return Ok(self.out);
        }
        bail!("on the device, `{}` ended with {}\n{}{}", self.script, self.code, self.out, self.err)
    }
}

/// A virtual device that runs. Dropping it cuts its power.
pub(super) struct Guest {
    qemu: Child,
    shell: BufReader<UnixStream>,
    monitor: Monitor,
    console: PathBuf,
    transcript: File,
    asked: u64,
    /// From QEMU's start to the shell.
    pub(super) up_after: Duration,
}

impl Guest {
    /// Starts it and waits for its shell. `dir` keeps what it says; `sockets` is a folder with a short name.
    pub(super) fn boot(
        machine: &Machine,
        image: &Image,
        setup: &Setup<'_>,
        dir: &Path,
        sockets: &Path,
    ) -> Result<Self> {
        let console = dir.join("console.log");
        let (socket, monitor) = (sockets.join("shell"), sockets.join("monitor"));
        for old in [&socket, &monitor] {
            let _ = std::fs::remove_file(old);
        }
        let began = Instant::now();
        let mut qemu = dying_with_us(command(machine, image, setup, &console, (&socket, &monitor)));
        let mut qemu = qemu.spawn().context("start QEMU")?;
        let until = began + BOOT;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < until && matches!(qemu.try_wait(), Ok(None)) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    let _ = qemu.kill();
                    let _ = qemu.wait();
                    return Err(error).context("reach the virtual device's shell: did QEMU start?");
                }
            }
        };
        let transcript = File::options().create(true).append(true).open(dir.join("transcript.log"));
        let transcript = transcript.context("open the transcript")?;
        let monitor = Monitor::connect(&monitor, machine.hot_bus())?;
        let mut guest = Self {
            qemu,
            shell: BufReader::new(stream),
            monitor,
            console,
            transcript,
            asked: 0,
            up_after: Duration::ZERO,
        };
        let word = guest.line(until).map_err(|error| guest.blame(error))?;
        if word != "@ready" {
            bail!("the virtual device's shell said {word:?} first, expected @ready");
        }
        guest.up_after = began.elapsed();
        guest.note(&format!("=== up after {:.1} s", guest.up_after.as_secs_f64()));
        Ok(guest)
    }

    /// Runs a script of `sh` as root.
    pub(super) fn run(&mut self, script: &str) -> Result<Ran> {
        self.run_for(script, SECONDS)
    }

    /// The same, killed after so many seconds.
    pub(super) fn run_for(&mut self, script: &str, seconds: u64) -> Result<Ran> {
        self.note(&format!("$ {script}"));
        self.asked += 1;
        let head = format!("run {} {} {seconds}\n", self.asked, script.len());
        self.send(head.as_bytes(), script.as_bytes())?;
        let until = Instant::now() + Duration::from_secs(seconds) + BOOT;
        let (code, out, err) = self.answer(until)?;
        let ran = Ran { script: script.to_owned(), code, out, err };
        self.note(&format!("{}{}[{}]", ran.out, ran.err, ran.code));
        Ok(ran)
    }

    /// Runs a script that must succeed; its standard output.
    pub(super) fn ok(&mut self, script: &str) -> Result<String> {
        self.run(script)?.ok()
    }

    /// Writes a file.
    pub(super) fn put(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.note(&format!("put {path}, {} bytes", bytes.len()));
        self.asked += 1;
        let head = format!("put {} {} {path}\n", self.asked, bytes.len());
        self.send(head.as_bytes(), bytes)?;
        match self.answer(Instant::now() + BOOT)? {
            (0, ..) => Ok(()),
            (code, ..) => bail!("write {path} on the device: it ended with {code}"),
        }
    }

    /// Puts a stick in.
    pub(super) fn plug(&mut self, disk: &Path) -> Result<()> {
        self.note(&format!("=== a stick: {}", disk.display()));
        self.monitor.plug(disk)
    }

    /// Takes the stick out.
    pub(super) fn unplug(&mut self) -> Result<()> {
        self.note("=== no stick");
        self.monitor.unplug()
    }

    /// Cuts the power: what QEMU was handed stays, as on a disk whose cache is honest; nothing else does.
    pub(super) fn cut(&mut self) {
        self.note("=== power cut");
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }

    /// Tells it to switch itself off, and waits until it did.
    pub(super) fn switch_off(&mut self, script: &str) -> Result<()> {
        self.note(&format!("$ {script} &"));
        self.asked += 1;
        let script = format!("{script} > /dev/null 2>&1 &");
        let head = format!("run {} {} 60\n", self.asked, script.len());
        self.send(head.as_bytes(), script.as_bytes())?;
        let until = Instant::now() + OFF;
        while Instant::now() < until {
            if self.qemu.try_wait().context("look at QEMU")?.is_some() {
                self.note("=== off");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the virtual device did not switch itself off within {OFF:?}")
    }

    fn send(&mut self, head: &[u8], body: &[u8]) -> Result<()> {
        let stream = self.shell.get_mut();
        stream.write_all(head).and_then(|()| stream.write_all(body)).context("speak to the virtual device")
    }

    fn answer(&mut self, until: Instant) -> Result<(i32, String, String)> {
        let line = self.line(until)?;
        let words: Vec<&str> = line.split(' ').collect();
        let ["@end", id, code, out, err] = words[..] else { bail!("the virtual device said {line:?}") };
        if id.parse() != Ok(self.asked) {
            bail!("the virtual device answered {id}, asked was {}", self.asked);
        }
        let code = code.parse().with_context(|| format!("read the end of a command in {line:?}"))?;
        let size = |text: &str| text.parse::<usize>().with_context(|| format!("read a size in {line:?}"));
        let (out, err) = (size(out)?, size(err)?);
        Ok((code, self.bytes(out, until)?, self.bytes(err, until)?))
    }

    fn bytes(&mut self, size: usize, until: Instant) -> Result<String> {
        self.limit(until)?;
        let mut bytes = vec![0; size];
        self.shell.read_exact(&mut bytes).with_context(|| self.silence())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn line(&mut self, until: Instant) -> Result<String> {
        self.limit(until)?;
        let mut line = String::new();
        let read = self.shell.read_line(&mut line).with_context(|| self.silence())?;
        if read == 0 {
            bail!("the virtual device ended; {}", self.silence());
        }
        Ok(line.trim_end().to_owned())
    }

    fn limit(&self, until: Instant) -> Result<()> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        self.shell.get_ref().set_read_timeout(Some(left)).context("limit a wait")
    }

    /// Says of an error that QEMU came to an end by an assertion of its own, where it did.
    fn blame(&mut self, error: anyhow::Error) -> anyhow::Error {
        match self.qemu.try_wait() {
            Ok(Some(status)) if status.signal() == Some(SIGABRT) => error.context(EmulatorAborted),
            _ => error,
        }
    }

    fn silence(&self) -> String {
        let console = std::fs::read(&self.console).unwrap_or_default();
        format!("no answer from the virtual device; its console:\n{}", process::tail(&console, 12))
    }

    fn note(&mut self, text: &str) {
        // A transcript that cannot be written is no reason to end.
        let _ = writeln!(self.transcript, "{text}");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.cut();
    }
}

/// The command under one that has the kernel end it with this process, where there is such a thing.
fn dying_with_us(command: Command) -> Command {
    if !process::is_installed("setpriv") {
        return command;
    }
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    wrapped.stdin(Stdio::null()).stdout(Stdio::null());
    wrapped
}

fn command(
    machine: &Machine,
    image: &Image,
    setup: &Setup<'_>,
    console: &Path,
    (shell, monitor): (&Path, &Path),
) -> Command {
    let mut kernel = format!("console={} quiet net.ifnames=0 systemd.show_status=1", machine.serial(0));
    if setup.network == Network::Unplugged {
        kernel.push_str(" lab.unplugged");
    }
    kernel.extend(setup.init.into_iter().flat_map(|init| [" INIT=", init]));
    let mut command = machine.command(&image.initramfs(), &kernel);
    command.args(["-m", "1024", "-serial", &format!("file:{}", option(console))]);
    // QEMU's usual cache: a flush of the device's is a flush here, and what it wrote before a cut is there after it.
    command.args(["-drive", &format!("file={},format=raw,if=virtio", option(setup.disk))]);
    command.args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", option(setup.packages))]);
    if setup.network != Network::Absent {
        command.args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="]);
    }
    if let Some(clock) = setup.clock {
        command.args(["-rtc", &format!("base={clock}")]);
    }
    for (id, socket) in [("shell", shell), ("monitor", monitor)] {
        command.args(["-chardev", &format!("socket,path={},server=on,wait=off,id={id}", option(socket))]);
    }
    command.args(["-mon", "chardev=monitor,mode=control"]).args(machine.hot_bus_device());
    command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell,nr=1,name=lab"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}
