//! Where everything of a device is, below one folder; and where its binaries are.

use crate::Digest;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folders, files and sockets of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

macro_rules! paths {
    ($($(#[$meta:meta])* $name:ident = $path:literal;)*) => {
        $($(#[$meta])* pub fn $name(&self) -> PathBuf { self.root.join($path) })*
    };
}

impl Layout {
    /// A device below `root`; `/` for an installed one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that holds it all.
    pub fn root(&self) -> &Path {
        &self.root
    }

    paths! {
        /// The device's own policy, written by its owner.
        policy = "etc/shoal/policy.toml";
        /// The parent of all state.
        state = "var/lib/shoal";
        /// Admit's folder.
        admit_dir = "var/lib/shoal/admit";
        /// Admit's trust store.
        admit_db = "var/lib/shoal/admit/admit.db";
        /// The agent's folder.
        agent_dir = "var/lib/shoal/agent";
        /// The agent's store.
        agent_db = "var/lib/shoal/agent/agent.db";
        /// Image blobs.
        blobs = "var/lib/shoal/agent/blobs";
        /// Blobs of releases on their way.
        release_blobs = "var/lib/shoal/agent/releases";
        /// The agent's keys and certificates.
        identity = "var/lib/shoal/agent/identity";
        /// Supervise's folder.
        supervise_dir = "var/lib/shoal/supervise";
        /// Modules as signed, by digest.
        modules = "var/lib/shoal/supervise/modules";
        /// Other files of images, by digest.
        files = "var/lib/shoal/supervise/files";
        /// Whether the engine proved itself on this CPU.
        proof = "var/lib/shoal/supervise/cache/engine.proof";
        /// Compiled code.
        cache = "var/lib/shoal/supervise/cache";
        /// One folder a container, with its record.
        containers = "var/lib/shoal/supervise/containers";
        /// Persistent volumes, by deployment name.
        volumes = "var/lib/shoal/supervise/volumes";
        /// Scratch folders of compilations.
        scratch = "var/lib/shoal/supervise/scratch";
        /// Pods' networks: what was asked of CNI's plugins, and what they answered.
        networks = "var/lib/shoal/supervise/networks";
        /// CNI configurations of the device's owner.
        cni_conf = "etc/shoal/cni/net.d";
        /// Unsigned tickets that uid 0 brought.
        local_tickets = "var/lib/shoal/supervise/local";
        /// What uid 0's own pods are, for the local commands.
        local_dir = "var/lib/shoal/local";
        /// The device's own software, where that is not the installed one.
        releases = "var/lib/shoal/releases";
        /// Facts that admit has not acknowledged.
        facts = "var/lib/shoal/supervise/facts";
        /// The parent of all logs.
        logs = "var/log/shoal";
        /// One folder a pod.
        pod_logs = "var/log/shoal/pods";
        /// Sockets.
        run = "run/shoal";
        /// The agent's way to supervise.
        supervise_socket = "run/shoal/supervise.sock";
        /// Uid 0's way to supervise.
        supervise_root_socket = "run/shoal/supervise-root.sock";
        /// The agent's way to admit.
        admit_socket = "run/shoal/admit.sock";
        /// Uid 0's way to admit.
        admit_root_socket = "run/shoal/admit-root.sock";
    }

    /// The name of a pod's folder of logs.
    pub fn pod_folder(name: &str, ticket: &Digest) -> String {
        format!("{name}_{}", ticket.short())
    }

    /// A container's folder of logs.
    pub fn container_logs(&self, name: &str, ticket: &Digest, container: &str) -> PathBuf {
        self.pod_logs().join(Self::pod_folder(name, ticket)).join(container)
    }

    /// The log file of one attempt; older parts of it end in `.1`, `.2` …
    pub fn log_file(&self, name: &str, ticket: &Digest, container: &str, attempt: u64) -> PathBuf {
        self.container_logs(name, ticket, container).join(format!("{attempt}.log"))
    }

    /// The folder of the binaries: `SHOAL_LIBEXEC`, or where the running one is.
    pub fn libexec() -> PathBuf {
        if let Some(dir) = std::env::var_os("SHOAL_LIBEXEC").filter(|d| !d.is_empty()) {
            return PathBuf::from(dir);
        }
        let exe = std::env::current_exe().unwrap_or_default();
        let dir = exe.parent().map(Path::to_path_buf).unwrap_or_default();
        // Integration tests run from a folder below the one that holds the binaries.
        if dir.ends_with("deps") { dir.parent().map(Path::to_path_buf).unwrap_or(dir) } else { dir }
    }

    /// The guard's binary.
    pub fn guard_binary() -> PathBuf {
        Self::libexec().join("shoal-guard")
    }

    /// The runner's binary.
    pub fn runner_binary() -> PathBuf {
        Self::libexec().join("shoal-runner")
    }
}

/// The engine's two run-time folders, each with its own dynamic loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineDirs {
    /// For containers; needs no compiler.
    pub run: PathBuf,
    /// For compilations; absent when no compiler is installed.
    pub compile: Option<PathBuf>,
}

impl EngineDirs {
    /// `SHOAL_ENGINE_DIR`, or `engine` beside the binaries; absent when the system's own loader serves.
    pub fn find() -> Option<Self> {
        let dir = std::env::var_os("SHOAL_ENGINE_DIR")
            .filter(|d| !d.is_empty())
            .map_or_else(|| Layout::libexec().join("engine"), PathBuf::from);
        let usable = |d: PathBuf| Self::loader(&d).map(|_| d);
        Some(Self { run: usable(dir.join("run"))?, compile: usable(dir.join("compile")) })
    }

    /// The dynamic loader in a run-time folder.
    pub fn loader(dir: &Path) -> Option<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(dir.join("lib"))
            .ok()?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("ld-linux")))
            .collect();
        found.sort();
        found.into_iter().next()
    }

    /// The command that starts `runner` with the libraries of `dir`, or by itself.
    pub fn command(dir: Option<&Path>, runner: &Path) -> Vec<OsString> {
        match dir.and_then(|d| Some((d, Self::loader(d)?))) {
            Some((d, loader)) => {
                vec![loader.into(), "--library-path".into(), d.join("lib").into(), runner.into()]
            }
            None => vec![runner.into()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_below_the_root() {
        let l = Layout::new("/tmp/dev1");
        assert_eq!(l.supervise_socket(), Path::new("/tmp/dev1/run/shoal/supervise.sock"));
        assert_eq!(
            l.log_file("web", &Digest([0xab; 32]), "main", 3),
            Path::new("/tmp/dev1/var/log/shoal/pods/web_abababababab/main/3.log")
        );
    }

    #[test]
    fn a_runtime_folder_brings_its_own_loader() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(EngineDirs::command(Some(dir.path()), Path::new("/r")), [OsString::from("/r")]);
        std::fs::create_dir(dir.path().join("lib")).unwrap();
        std::fs::write(dir.path().join("lib/ld-linux-x86-64.so.2"), b"").unwrap();
        let command = EngineDirs::command(Some(dir.path()), Path::new("/r"));
        assert_eq!(command[0], dir.path().join("lib/ld-linux-x86-64.so.2"));
        assert_eq!(
            command[1..],
            ["--library-path".into(), dir.path().join("lib").into(), OsString::from("/r")]
        );
    }
}
