//! apt with a configuration of its own: own sources, lists and status, so that the host's apt is only read, never changed.
//! Freshness and trust do not come from the archive's index here but from the committed pins (exact version, SHA-256).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::pins::{Package, Pins};
use crate::{output, process, sources};

/// Marks an error after which another source may still serve: no apt, no mirror, or the mirror moved on.
/// Wrong bytes are never that.
#[derive(Debug)]
pub(crate) struct Unavailable;

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Debian's pinned packages cannot be had")
    }
}

/// A private apt for one suite and architecture.
pub(crate) struct Apt {
    config: PathBuf,
    suite: String,
    mirror: String,
}

impl Apt {
    /// Writes the private configuration under `dir`.
    pub(crate) fn open(dir: &Path, suite: &str, arch: &str) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "apt-config", "dpkg-deb"] {
            if !process::is_installed(program) {
                bail!("`{program}` is not installed: this host has no apt to get Debian's packages with");
            }
        }
        let mirror = sources::archive_of(&sources::mirror()?, suite);
        let dir = dir.join(format!("{suite}-{arch}"));
        for sub in ["lists/partial", "archives/partial", "parts"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let home = dir.display();
        let host = host_transport_settings()?;
        let text = format!(
            "Dir \"{home}\";\nDir::State \"{home}\";\nDir::State::lists \"{home}/lists\";\n\
             Dir::State::status \"{home}/status\";\nDir::Cache \"{home}\";\nDir::Cache::archives \"{home}/archives\";\n\
             Dir::Etc::main \"{home}/none\";\nDir::Etc::parts \"{home}/parts\";\n\
             Dir::Etc::sourcelist \"{home}/sources.list\";\nDir::Etc::sourceparts \"{home}/parts\";\n\
             Dir::Etc::preferences \"{home}/none\";\nDir::Etc::preferencesparts \"{home}/parts\";\n\
             APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\nAPT::Sandbox::User \"\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nAcquire::GzipIndexes \"true\";\n\
             APT::Update::Error-Mode \"any\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
             Acquire::http::Timeout \"30\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::Check-Date \"false\";\n{host}"
        );
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        if !Path::new(keyring).is_file() {
            bail!("{keyring} is missing: install the package debian-archive-keyring");
        }
        let config = dir.join("apt.conf");
        let write = |path: &Path, text: &str| {
            fs::write(path, text).with_context(|| format!("write {}", path.display()))
        };
        write(&config, &text)?;
        write(&dir.join("sources.list"), &format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))?;
        write(&dir.join("status"), "")?;
        Ok(Self { config, suite: suite.to_owned(), mirror })
    }

    /// Fetches the suite's index.
    pub(crate) fn update(&self) -> Result<()> {
        output::step("index", &format!("{} of {}", self.suite, self.mirror));
        process::capture(self.command("apt-get").args(["update", "-q"])).map(drop).with_context(|| {
            format!(
                "read the index of {} from the Debian mirror {} (is the network up?)",
                self.suite, self.mirror
            )
        })
    }

    /// Downloads exactly these packages into `dir`, going on from half files that lie there.
    pub(crate) fn download(&self, pins: &Pins, packages: &[&Package], dir: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.arg("download").current_dir(dir);
        command.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        // apt's own progress is for people; stdout stays free for results.
        command.stdout(std::io::stderr());
        let done =
            command.spawn().and_then(std::process::Child::wait_with_output).context("start apt-get")?;
        if done.status.success() {
            return Ok(());
        }
        let said = process::tail(&done.stderr, 20);
        if said.contains("was not found") || said.contains("Unable to locate package") {
            let error = anyhow::anyhow!(
                "the mirror {} no longer has a pinned version in {} (pinned on {}):\n{said}\n\
                 Either point SHOAL_DEBIAN_MIRROR at a snapshot of the Debian archive of that day, or set WASMEDGE_DIR to \
                 an installed WasmEdge, or pin anew with `cargo xtask engine --repin` and review the difference",
                self.mirror,
                self.suite,
                pins.taken
            );
            return Err(error.context(Unavailable));
        }
        bail!("download from the Debian mirror {} failed ({}):\n{said}", self.mirror, done.status)
    }

    /// Looks up what the index now offers under a name.
    pub(crate) fn candidate(&self, name: &str) -> Result<Package> {
        let text = process::capture(self.command("apt-cache").args(["show", "--no-all-versions", name]))?;
        parse_record(&text).with_context(|| format!("read apt's record of {name}"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }
}

/// The host's proxy settings, so that the private configuration reaches the mirror by the same way.
fn host_transport_settings() -> Result<String> {
    let dump = process::capture(Command::new("apt-config").arg("dump"))?;
    let wanted = |line: &&str| {
        let line = line.to_ascii_lowercase();
        (line.starts_with("acquire::http::") || line.starts_with("acquire::https::"))
            && line.contains("proxy")
            && !line.ends_with("\"\";")
    };
    Ok(dump.lines().filter(wanted).flat_map(|line| [line, "\n"]).collect())
}

/// Parses one record of `apt-cache show`.
fn parse_record(text: &str) -> Result<Package> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_owned)
            .with_context(|| format!("no field {name}"))
    };
    let (name, version, arch) = (field("Package")?, field("Version")?, field("Architecture")?);
    let file = format!("{name}_{}_{arch}.deb", version.replace(':', "%3a"));
    let size = field("Size")?.parse().context("parse Size")?;
    Ok(Package { name, version, file, size, sha256: field("SHA256")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_the_name_that_apt_saves_under() {
        let text = "Package: libllvm21\nSource: x\nVersion: 1:21.1.8-13\nArchitecture: amd64\nSize: 28\nSHA256: ab\n";
        let package = parse_record(text).unwrap();
        assert_eq!(package.file, "libllvm21_1%3a21.1.8-13_amd64.deb");
        assert_eq!((package.size, package.sha256.as_str()), (28, "ab"));
        assert!(format!("{:#}", parse_record("Package: x\n").unwrap_err()).contains("no field Version"));
    }
}
