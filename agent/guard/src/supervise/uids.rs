//! Which uid a pod runs as: one of the range for each deployment name, kept for as long as the name is used here.

use super::dirs::write_durably;
use super::policy::UidRange;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Names and their uids; a file of lines `name uid`.
#[derive(Debug)]
pub(crate) struct UidBook {
    file: PathBuf,
    range: UidRange,
    names: BTreeMap<String, u32>,
}

impl UidBook {
    pub(crate) fn open(file: PathBuf, range: UidRange) -> Self {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let inside = |u: &u32| *u >= range.first && u - range.first < range.count;
        let names = text
            .lines()
            .filter_map(|l| l.split_once(' '))
            .filter_map(|(name, uid)| Some((name.to_owned(), uid.parse().ok().filter(inside)?)))
            .collect();
        Self { file, range, names }
    }

    /// The uid of this name; a free one when it has none yet. Nothing when the range is used up.
    pub(crate) fn of(&mut self, name: &str) -> io::Result<Option<u32>> {
        if let Some(uid) = self.names.get(name) {
            return Ok(Some(*uid));
        }
        let used: std::collections::BTreeSet<u32> = self.names.values().copied().collect();
        let free = (0..self.range.count).map(|i| self.range.first + i).find(|u| !used.contains(u));
        let Some(uid) = free else { return Ok(None) };
        self.names.insert(name.to_owned(), uid);
        self.save()?;
        Ok(Some(uid))
    }

    /// The name is not used here any more, and nothing of it is left.
    pub(crate) fn release(&mut self, name: &str) -> io::Result<()> {
        if self.names.remove(name).is_some() { self.save() } else { Ok(()) }
    }

    fn save(&self) -> io::Result<()> {
        let lines: Vec<String> = self.names.iter().map(|(name, uid)| format!("{name} {uid}\n")).collect();
        let text = lines.concat();
        write_durably(&self.file, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_uid_over_restarts_and_the_range_ends() {
        let dir = tempfile::tempdir().unwrap();
        let open = || UidBook::open(dir.path().join("uids"), UidRange { first: 100, count: 2 });
        let mut book = open();
        assert_eq!(book.of("a").unwrap(), Some(100));
        assert_eq!(book.of("b").unwrap(), Some(101));
        assert_eq!(book.of("c").unwrap(), None);
        let mut book = open();
        assert_eq!(book.of("b").unwrap(), Some(101));
        book.release("a").unwrap();
        assert_eq!(book.of("c").unwrap(), Some(100));
    }
}
