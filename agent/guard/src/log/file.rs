//! One log file with its older parts: rotated by size, a bounded number kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

/// `<attempt>.log`, with `.1`, `.2` … behind it, newest first.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_files: u32,
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl LogFile {
    pub(super) fn open(path: PathBuf, max_size: u64, max_files: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, max_size: max_size.max(4096), max_files: max_files.max(1) })
    }

    /// Opens the path anew; what is there already is appended to.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = file;
        Ok(())
    }

    fn part(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    /// Writes whole lines, in a new file when they would not fit.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        if self.size > 0 && self.size + length > self.max_size {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let last = self.max_files - 1;
        if last == 0 {
            self.file.set_len(0)?;
        } else {
            for n in (1..last).rev() {
                match fs::rename(self.part(n), self.part(n + 1)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            fs::rename(&self.path, self.part(1))?;
            self.file = open(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c2_a_flood_stays_within_its_quota() {
        let dir = tempfile::tempdir().unwrap();
        let mut f = LogFile::open(dir.path().join("p/c/1.log"), 4096, 3).unwrap();
        for i in 0..1000 {
            f.write(format!("{i:099}\n").as_bytes()).unwrap();
        }
        let names: Vec<_> =
            ["1.log", "1.log.1", "1.log.2"].iter().map(|n| dir.path().join("p/c").join(n)).collect();
        assert_eq!(fs::read_dir(dir.path().join("p/c")).unwrap().count(), 3);
        assert!(names.iter().all(|n| fs::metadata(n).unwrap().len() <= 4096));
        let newest = fs::read_to_string(&names[0]).unwrap();
        assert!(newest.ends_with("999\n"));
    }

    #[test]
    fn an_existing_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.log");
        LogFile::open(path.clone(), 4096, 2).unwrap().write(b"a\n").unwrap();
        LogFile::open(path.clone(), 4096, 2).unwrap().write(b"b\n").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"a\nb\n");
    }
}
