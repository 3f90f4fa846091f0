//! The device's own software: which of three places it runs from, and the change from one to another.
//!
//! One small file says it, written by supervise (and, before supervise is there, by the guard that starts), read by everybody.

use crate::wire::{layout, tagged};
use crate::{Digest, Layout, TicketFile};
use std::path::PathBuf;

/// The largest permission for a release, bytes.
pub const RELEASE_MAX: usize = 64 * 1024;
/// In the folder of a release: its version, and its identity.
const LABEL: &str = "RELEASE";

tagged! {
    /// Where programs and libraries of the device are.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Place: "place" {
        /// Where they were installed.
        #[default]
        Installed = 0,
        /// The first of the two folders of releases.
        A = 1,
        /// The second.
        B = 2,
    }
}

layout! {
    /// Admission's permission to change to a release.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ReleaseTicket {
        /// The layout's version: [`crate::VERSION`].
        pub version: u16,
        /// The release's identity.
        pub id: Digest,
        /// Its name.
        pub name: String,
        /// The software's version, `major.minor.patch`.
        pub release: String,
        /// Seconds that the new software has to prove itself after each start.
        pub deadline: u32,
        /// All of its files; paths are relative, modes 0755 or 0644.
        pub files: Vec<TicketFile>,
    }

    /// New software that has not proved itself yet.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Trial {
        /// The release's identity.
        pub id: Digest,
        /// Its version.
        pub release: String,
        /// How often it was started.
        pub starts: u32,
        /// Seconds that it has after each start.
        pub deadline: u32,
    }

    /// A release that did not work here. It is not tried again.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct FailedRelease {
        /// Its identity.
        pub id: Digest,
        /// Its version.
        pub release: String,
        /// What happened, in words.
        pub why: String,
    }

    /// What the file says.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct SoftwareState {
        /// Where the software is that runs, or is to run.
        pub place: Place,
        /// Where it was before; what a trial that fails goes back to.
        pub before: Place,
        /// The folder of the installed programs.
        pub installed: String,
        /// What is still to prove itself.
        pub trial: Option<Trial>,
        /// The last few that did not work, the latest last.
        pub failed: Vec<FailedRelease>,
    }

    /// What admission offers.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Offer {
        /// The release's identity.
        pub id: Digest,
        /// Its name.
        pub name: String,
        /// Its version.
        pub release: String,
        /// Files that are not there, the first 48 of them.
        pub missing: Vec<Digest>,
        /// How many files are not there.
        pub missing_total: u32,
    }

    /// How the device's own software is.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct SoftwareInfo {
        /// The version that runs.
        pub release: String,
        /// Where it runs.
        pub place: Place,
        /// Whether it is still to prove itself.
        pub on_trial: bool,
        /// What could take its place.
        pub offer: Option<Offer>,
        /// What did not work last.
        pub failed: Option<FailedRelease>,
    }
}

/// The places of one device.
#[derive(Debug, Clone)]
pub struct Software {
    dir: PathBuf,
}

impl Software {
    /// Of this device.
    pub fn new(layout: &Layout) -> Self {
        Self { dir: layout.releases() }
    }

    /// The file that says where the software runs.
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where files of a release wait until all are there.
    pub fn staging(&self) -> PathBuf {
        self.dir.join("staging")
    }

    /// What the file says; of one that is not there or is no such file, that nothing was ever changed.
    pub fn state(&self) -> SoftwareState {
        let bytes = std::fs::read(self.state_file()).unwrap_or_default();
        crate::decode(&bytes).unwrap_or_default()
    }

    /// The folder of a place; nothing for the installed programs while nobody has said where those are.
    pub fn folder(&self, place: Place, state: &SoftwareState) -> Option<PathBuf> {
        match place {
            Place::A => Some(self.dir.join("a")),
            Place::B => Some(self.dir.join("b")),
            Place::Installed if state.installed.is_empty() => None,
            Place::Installed => Some(PathBuf::from(&state.installed)),
        }
    }

    /// Where the programs are that are to run now; nothing where that was never changed.
    pub fn programs(&self) -> Option<PathBuf> {
        let state = self.state();
        self.folder(state.place, &state)
    }

    /// Whether the folder of the running programs is one of a release.
    pub fn runs_from_release(&self) -> bool {
        Layout::libexec().parent() == Some(self.dir.as_path())
    }

    /// The file in a folder of programs that says which release they are.
    pub fn label(folder: &std::path::Path) -> PathBuf {
        folder.join(LABEL)
    }
}

/// The version of the programs in `folder`: as their release says, else `built`.
pub fn version_in(folder: &std::path::Path, built: &str) -> String {
    let text = std::fs::read_to_string(Software::label(folder)).unwrap_or_default();
    match text.lines().next() {
        Some(line) if !line.is_empty() && line.len() <= 64 => line.to_owned(),
        _ => built.to_owned(),
    }
}

/// The version of the running programs: as their release says, else `built`.
pub fn running_version(built: &str) -> String {
    version_in(&Layout::libexec(), built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_or_with_a_torn_one_nothing_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        let software = Software::new(&Layout::new(dir.path()));
        assert_eq!((software.state(), software.programs()), (SoftwareState::default(), None));
        let state = SoftwareState {
            place: Place::B,
            before: Place::Installed,
            installed: "/usr/lib/shoal".into(),
            trial: None,
            failed: vec![],
        };
        std::fs::create_dir_all(software.state_file().parent().unwrap()).unwrap();
        let bytes = crate::encode(&state);
        std::fs::write(software.state_file(), &bytes).unwrap();
        assert_eq!(software.state(), state);
        assert_eq!(software.programs().unwrap(), dir.path().join("var/lib/shoal/releases/b"));
        assert_eq!(software.folder(state.before, &state).unwrap(), PathBuf::from("/usr/lib/shoal"));
        std::fs::write(software.state_file(), &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(software.state(), SoftwareState::default());
    }

    #[test]
    fn a_folder_says_its_version_by_its_label_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(version_in(dir.path(), "0.1.0"), "0.1.0");
        std::fs::write(Software::label(dir.path()), "0.2.0\nsha256:…\n").unwrap();
        assert_eq!(version_in(dir.path(), "0.1.0"), "0.2.0");
        std::fs::write(Software::label(dir.path()), "x".repeat(65)).unwrap();
        assert_eq!(version_in(dir.path(), "0.1.0"), "0.1.0");
    }
}
