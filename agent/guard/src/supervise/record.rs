//! What supervise writes down of each container, so that a restarted one finds it again.

use super::container::Key;
use super::dirs::write_durably;
use shoal_ipc::{ContainerState, Error, ExitFact, Field, Reader, Restart, Writer, decode, encode};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The record, and what stands in for it when its writer died half-way: the next one, the one before.
const NAMES: [&str; 3] = ["record", "record.new", "record.old"];

/// The file with the name of the pod's group.
const POD: &str = "pod";

/// A container as of its latest start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) state: ContainerState,
    /// The boot in which its process lives or lived.
    pub(crate) boot: String,
    /// When the process started, in the kernel's ticks since boot: tells it from another of the same number.
    pub(crate) start_ticks: u64,
    pub(crate) restart: Restart,
    /// Its streams' number in `log`.
    pub(crate) stream: u64,
    /// Its control group.
    pub(crate) group: String,
    /// Whether it is one that comes before the others.
    pub(crate) init: bool,
}

impl Field for Record {
    fn put(&self, w: &mut Writer) {
        self.state.put(w);
        self.boot.put(w);
        self.start_ticks.put(w);
        self.restart.put(w);
        self.stream.put(w);
        self.group.put(w);
        self.init.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            state: Field::take(r)?,
            boot: Field::take(r)?,
            start_ticks: Field::take(r)?,
            restart: Field::take(r)?,
            stream: Field::take(r)?,
            group: Field::take(r)?,
            init: Field::take(r)?,
        })
    }
}

impl Record {
    /// The container's folder below the folder of all.
    pub(crate) fn folder(&self, containers: &Path) -> PathBuf {
        folder_of(containers, (self.state.ticket, self.state.index))
    }

    /// Writes it beside what it describes. Not synced: when power goes, so do the processes. The one before steps aside
    /// rather than being replaced: a file system that flushes what replaces a file would cost each start milliseconds.
    pub(crate) fn save(&self, containers: &Path) -> io::Result<()> {
        let folder = self.folder(containers);
        fs::create_dir_all(&folder)?;
        let [now, new, old] = NAMES.map(|name| folder.join(name));
        fs::write(&new, encode(self))?;
        for step in [fs::remove_file(&old), fs::rename(&now, &old)] {
            if let Err(e) = step
                && e.kind() != io::ErrorKind::NotFound
            {
                return Err(e);
            }
        }
        fs::rename(&new, &now)
    }

    /// The same, lasting: for an end, of which there is no second sign.
    pub(crate) fn save_durably(&self, containers: &Path) -> io::Result<()> {
        let folder = self.folder(containers);
        fs::create_dir_all(&folder)?;
        write_durably(&folder.join("record"), &encode(self))
    }

    /// All records. Folders without a whole one are leftovers of what was made ready and never started: they are removed, and
    /// the names of their pods' groups given, which may be anything after a power cut.
    pub(crate) fn load_all(containers: &Path) -> io::Result<(Vec<Self>, BTreeSet<String>)> {
        let (mut all, mut pods) = (Vec::new(), BTreeSet::new());
        for entry in fs::read_dir(containers)? {
            let path = entry?.path();
            let read = |name| decode::<Self>(&fs::read(path.join(name)).ok()?).ok();
            if let Some(record) = NAMES.into_iter().find_map(read) {
                all.push(record);
            } else {
                pods.extend(fs::read_to_string(path.join(POD)).ok());
                fs::remove_dir_all(&path)?;
            }
        }
        Ok((all, pods))
    }

    /// What its zygote wrote down of its end.
    pub(crate) fn exit_fact(&self, containers: &Path) -> Option<ExitFact> {
        let fact = ExitFact::decode(&fs::read(self.exit_file(containers)).ok()?).ok()?;
        (fact.id == self.stream).then_some(fact)
    }

    fn exit_file(&self, containers: &Path) -> PathBuf {
        self.folder(containers).join(format!("end-{}", self.stream))
    }

    /// Once the end stands in the record.
    pub(crate) fn forget_exit_fact(&self, containers: &Path) {
        // There is none of an end that this process saw itself.
        let _ = fs::remove_file(self.exit_file(containers));
    }

    /// Whether it was started since the machine was.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot == boot_id()
    }

    /// How long its process has been there, by the kernel's count since boot: no change of the clock moves it.
    pub(crate) fn ran(&self) -> Duration {
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let hundredths = text.split_once(' ').and_then(|(up, _)| up.replace('.', "").parse::<u64>().ok());
        Duration::from_millis(10 * hundredths.unwrap_or(0).saturating_sub(self.start_ticks * 100 / TICKS))
    }

    /// Whether its process is still the one that was started.
    pub(crate) fn is_alive(&self) -> bool {
        self.state.running
            && self.boot == boot_id()
            && start_ticks(self.state.pid).is_some_and(|t| t == self.start_ticks)
    }
}

/// A container's folder below the folder of all.
pub(crate) fn folder_of(containers: &Path, key: Key) -> PathBuf {
    containers.join(format!("{}-{}", key.0.hex(), key.1))
}

/// Leaves the name of its pod's group in a container's folder, for as long as no record has it.
pub(crate) fn note_pod(folder: &Path, group: &str) -> io::Result<()> {
    let file = folder.join(POD);
    if file.exists() { Ok(()) } else { fs::write(file, group) }
}

/// Clock ticks a second, as every Linux shows them to programs.
const TICKS: u64 = 100;

/// This boot's own name.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process started (proc(5), `stat` field 22); nothing for one that is gone or a zombie.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    if rest.next()? == "Z" { None } else { rest.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::{Digest, StatsInfo};

    fn record() -> Record {
        Record {
            state: ContainerState {
                ticket: Digest([1; 32]),
                deployment: "web".into(),
                index: 0,
                name: "main".into(),
                attempt: 1,
                running: true,
                pid: std::process::id(),
                started_at: 1,
                finished_at: 0,
                healthy: false,
                cause: None,
                stats: StatsInfo::default(),
                stderr_tail: String::new(),
                dropped_lines: 0,
                local: false,
                ready: None,
                probe_message: String::new(),
            },
            boot: boot_id(),
            start_ticks: start_ticks(std::process::id()).unwrap(),
            restart: Restart::Always,
            stream: 7,
            group: "shoal/x/main".into(),
            init: false,
        }
    }

    #[test]
    fn records_come_back_and_torn_ones_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        record().save(dir.path()).unwrap();
        fs::create_dir(dir.path().join("torn")).unwrap();
        fs::write(dir.path().join("torn/record.new"), b"x").unwrap();
        note_pod(&dir.path().join("torn"), "shoal/y").unwrap();
        let (all, pods) = Record::load_all(dir.path()).unwrap();
        assert_eq!((all, pods), (vec![record()], BTreeSet::from(["shoal/y".to_owned()])));
        // A writer that died between its two renames left the next one and the one before.
        let folder = record().folder(dir.path());
        let second = Record { stream: 8, ..record() };
        second.save(dir.path()).unwrap();
        fs::rename(folder.join("record"), folder.join("record.new")).unwrap();
        assert_eq!(Record::load_all(dir.path()).unwrap().0, [second]);
        assert!(!dir.path().join("torn").exists());
    }

    #[test]
    fn a_process_is_known_by_number_start_and_boot() {
        assert!(record().is_alive());
        assert!(!Record { start_ticks: 1, ..record() }.is_alive());
        assert!(!Record { boot: "another".into(), ..record() }.is_alive());
    }
}
