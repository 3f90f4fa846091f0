//! Facts on their way to admit: each a file, written once and lasting, until admit says that it is durable there.

use super::dirs::sync_folder_of;
use shoal_ipc::Msg;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The most that wait; what exceeds it is dropped, oldest first (admit was gone for very long).
const MAX: usize = 4096;

/// The queue.
#[derive(Debug)]
pub(crate) struct Facts {
    folder: PathBuf,
    next: u64,
    waiting: BTreeMap<u64, Msg>,
}

fn file(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:020}"))
}

impl Facts {
    /// Reads what an earlier supervise left.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        let mut waiting = BTreeMap::new();
        // Above all numbers of earlier supervises, whose acknowledged facts are gone without a trace.
        let mut next = crate::clock::now() << 16;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let id = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u64>().ok());
            match (id, fs::read(&path).ok().and_then(|b| Msg::decode(&b).ok())) {
                (Some(id), Some(msg)) => {
                    next = next.max(id + 1);
                    waiting.insert(id, msg);
                }
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(Self { folder, next, waiting })
    }

    /// Keeps a fact; `make` gets its number. It lasts when this returns.
    pub(crate) fn add(&mut self, make: impl FnOnce(u64) -> Msg) -> io::Result<&Msg> {
        while self.waiting.len() >= MAX {
            if let Some((id, _)) = self.waiting.pop_first() {
                fs::remove_file(file(&self.folder, id))?;
            }
        }
        let id = self.next;
        let msg = make(id);
        let path = file(&self.folder, id);
        let bytes = msg.encode().map_err(io::Error::other)?;
        let mut f = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        f.write_all(&bytes)?;
        f.sync_all()?;
        sync_folder_of(&path)?;
        self.next += 1;
        Ok(self.waiting.entry(id).or_insert(msg))
    }

    /// Admit has it.
    pub(crate) fn acknowledged(&mut self, id: u64) {
        if self.waiting.remove(&id).is_some() {
            // Left behind, it would only be sent once more.
            let _ = fs::remove_file(file(&self.folder, id));
        }
    }

    /// All that wait, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Msg> {
        self.waiting.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::{Digest, FactEvent};

    fn fact(id: u64) -> Msg {
        let event = FactEvent::Started;
        Msg::Fact {
            id,
            ticket: Digest([0; 32]),
            name: "w".into(),
            container: "m".into(),
            attempt: 1,
            event,
            at: 1,
        }
    }

    #[test]
    fn f6_facts_outlive_a_restart_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut facts = Facts::open(dir.path().to_owned()).unwrap();
        let id = |m: &Msg| if let Msg::Fact { id, .. } = m { *id } else { panic!() };
        let first = id(facts.add(fact).unwrap());
        let second = id(facts.add(fact).unwrap());
        let mut again = Facts::open(dir.path().to_owned()).unwrap();
        assert_eq!(again.waiting().count(), 2);
        again.acknowledged(first);
        let mut last = Facts::open(dir.path().to_owned()).unwrap();
        assert_eq!(last.waiting().cloned().collect::<Vec<_>>(), [fact(second)]);
        assert!(id(last.add(fact).unwrap()) > second, "numbers never come twice");
    }
}
