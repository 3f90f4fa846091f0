//! Reading containers' log files: the last lines, and new ones as they come. Never writes; the log process owns the files.
//!
//! A container's folder holds `<attempt>.log`, and older parts of it as `<attempt>.log.1`, `.2` …, the highest the oldest.
//! Lines are in CRI log format (CRI v1, `ContainerConfig.log_path`): `<RFC 3339 nano> <stdout|stderr> <P|F> <text>`.

use rustix::fs::inotify;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// The longest line that is kept whole, bytes.
pub const LINE_MAX: usize = 64 * 1024;
/// The most that one read of a follower gives, bytes.
const CHUNK: usize = 32 * 1024;

/// One line of a CRI log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// RFC 3339 with nanoseconds, UTC.
    pub timestamp: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the line goes on in the next one (tag `P`).
    pub partial: bool,
    /// What the program wrote.
    pub text: &'a [u8],
}

impl<'a> LogLine<'a> {
    /// Takes a line apart; `None` if it is in another format.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |b| *b == b' ');
        let timestamp = std::str::from_utf8(parts.next()?).ok()?;
        let stream = std::str::from_utf8(parts.next()?).ok()?;
        let tag = parts.next()?;
        let text = parts.next().unwrap_or_default();
        if !matches!(stream, "stdout" | "stderr") || !matches!(tag, b"P" | b"F") {
            return None;
        }
        Some(Self { timestamp, stream, partial: tag == b"P", text })
    }
}

/// One file of a container's log, in the order in which it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    attempt: u64,
    /// Older parts first: the negated number of the part.
    order: i64,
    path: PathBuf,
}

fn parts(dir: &Path) -> io::Result<Vec<Part>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let Some((attempt, rest)) = name.split_once(".log") else { continue };
        let Ok(attempt) = attempt.parse() else { continue };
        let order = match rest.strip_prefix('.').map(str::parse::<i64>) {
            None if rest.is_empty() => 0,
            Some(Ok(n)) => -n,
            _ => continue,
        };
        found.push(Part { attempt, order, path });
    }
    found.sort();
    Ok(found)
}

/// Up to `lines` last lines of a container's log over all attempts that are kept, oldest first, and the place behind them.
/// A folder that is not there has no lines.
pub fn tail(dir: &Path, lines: usize) -> io::Result<(Vec<Vec<u8>>, Position)> {
    tail_where(dir, lines, |_| true)
}

/// The same of one attempt alone.
pub fn tail_of(dir: &Path, attempt: u64, lines: usize) -> io::Result<(Vec<Vec<u8>>, Position)> {
    tail_where(dir, lines, |p| p.attempt == attempt)
}

fn tail_where(
    dir: &Path,
    lines: usize,
    wanted: impl Fn(&Part) -> bool,
) -> io::Result<(Vec<Vec<u8>>, Position)> {
    let parts = match parts(dir) {
        Ok(p) => p.into_iter().filter(wanted).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    let mut position = Position { attempt: 0, offset: 0 };
    for (i, part) in parts.iter().enumerate().rev() {
        let file = match File::open(&part.path) {
            Ok(f) => f,
            // Rotated or removed between the listing and now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let (last, end) = last_lines(file, lines.saturating_sub(kept.len()))?;
        if i + 1 == parts.len() {
            position = Position { attempt: part.attempt, offset: end };
        }
        for line in last.into_iter().rev() {
            kept.push_front(line);
        }
        if kept.len() >= lines {
            break;
        }
    }
    Ok((kept.into(), position))
}

/// The last whole lines of one file, and the offset behind the last of them.
fn last_lines(file: File, lines: usize) -> io::Result<(Vec<Vec<u8>>, u64)> {
    let mut reader = BufReader::new(file);
    let mut ring: VecDeque<Vec<u8>> = VecDeque::new();
    let mut end = 0;
    loop {
        let mut line = Vec::new();
        let n = (&mut reader).take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        if n == 0 || (line.last() != Some(&b'\n') && n < LINE_MAX) {
            return Ok((ring.into(), end));
        }
        end += n as u64;
        ring.push_back(line);
        if ring.len() > lines {
            ring.pop_front();
        }
    }
}

/// How far a log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// In the log of this attempt; 0 is before all.
    pub attempt: u64,
    /// Bytes into its newest part.
    pub offset: u64,
}

/// Gives what is appended to a container's log, woken by inotify.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    watch: AsyncFd<OwnedFd>,
    attempt: u64,
    file: Option<File>,
}

impl Follower {
    /// Follows from `position` on. The folder must be there.
    #[expect(
        deprecated,
        reason = "its replacement is unsafe; the descriptor is the one that is owned here, for as long as it lives"
    )]
    pub fn new(dir: &Path, position: Position) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mask = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, mask | inotify::WatchFlags::DELETE_SELF)?;
        let mut file = None;
        if position.attempt > 0 {
            file = File::open(dir.join(format!("{}.log", position.attempt))).ok();
            if let Some(f) = &mut file {
                f.seek(SeekFrom::Start(position.offset))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), watch: AsyncFd::new(fd)?, attempt: position.attempt, file })
    }

    /// The next whole lines, at most 32 KiB of them. Cancel-safe: what was read is returned or still to be read.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let chunk = self.read()?;
            if !chunk.is_empty() {
                return Ok(chunk);
            }
            if self.advance()? {
                continue;
            }
            let mut ready = self.watch.readable().await?;
            drain(ready.get_inner())?;
            ready.clear_ready();
        }
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        let start = file.stream_position()?;
        let mut chunk = Vec::new();
        file.take(CHUNK as u64).read_to_end(&mut chunk)?;
        // Only whole lines leave, but a line longer than a chunk is passed in pieces.
        let whole = chunk.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if whole > 0 || chunk.len() < CHUNK {
            chunk.truncate(whole);
        }
        file.seek(SeekFrom::Start(start + chunk.len() as u64))?;
        Ok(chunk)
    }

    /// Goes on to a file that took the place of the present one, or to the next attempt; false if there is neither.
    fn advance(&mut self) -> io::Result<bool> {
        let path = self.dir.join(format!("{}.log", self.attempt));
        let same = |f: &File| -> io::Result<bool> {
            let here = f.metadata()?;
            Ok(std::fs::metadata(&path).is_ok_and(|m| (m.dev(), m.ino()) == (here.dev(), here.ino())))
        };
        if self.attempt > 0
            && !self.file.as_ref().map(same).transpose()?.unwrap_or(false)
            && let Ok(f) = File::open(&path)
        {
            self.file = Some(f);
            return Ok(true);
        }
        let next = parts(&self.dir)?.into_iter().filter(|p| p.order == 0 && p.attempt > self.attempt).min();
        let Some(part) = next else { return Ok(false) };
        self.file = Some(File::open(&part.path)?);
        self.attempt = part.attempt;
        Ok(true)
    }
}

fn drain(fd: &OwnedFd) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut space);
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(inotify::ReadFlags::IGNORED) => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the log's folder was removed"));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn line(text: &str) -> String {
        format!("2026-01-01T00:00:00.000000001Z stdout F {text}\n")
    }

    #[test]
    fn cri_lines_are_taken_apart() {
        let raw = line("hello  world");
        let l = LogLine::parse(raw.as_bytes()).unwrap();
        assert_eq!((l.stream, l.partial, l.text), ("stdout", false, b"hello  world".as_slice()));
        assert!(LogLine::parse(b"2026 stderr P ").unwrap().partial);
        assert_eq!(LogLine::parse(b"free text that is no log line"), None);
    }

    #[test]
    fn tail_goes_back_over_rotated_parts_and_earlier_attempts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("1.log", &line("a"));
        write("2.log.2", &line("b"));
        write("2.log.1", &line("c"));
        write("2.log", &(line("d") + &line("e") + "half a li"));
        write("notes.txt", "x");
        let texts = |n| -> Vec<String> {
            let (lines, _) = tail(dir.path(), n).unwrap();
            let text = |l: &Vec<u8>| String::from_utf8_lossy(LogLine::parse(l).unwrap().text).into_owned();
            lines.iter().map(text).collect()
        };
        assert_eq!(texts(10), ["a", "b", "c", "d", "e"]);
        assert_eq!(texts(3), ["c", "d", "e"]);
        assert_eq!(texts(1), ["e"]);
        let (_, position) = tail(dir.path(), 1).unwrap();
        assert_eq!(position, Position { attempt: 2, offset: 2 * line("d").len() as u64 });
        assert_eq!(tail(&dir.path().join("none"), 5).unwrap().0.len(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_follower_sees_appended_lines_rotation_and_the_next_attempt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.log");
        let mut file = File::create(&path).unwrap();
        file.write_all(line("old").as_bytes()).unwrap();
        let (_, position) = tail(dir.path(), 0).unwrap();
        let mut follower = Follower::new(dir.path(), position).unwrap();
        let wait = Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, follower.next()).await.is_err(), "nothing new yet");

        file.write_all((line("new") + "half").as_bytes()).unwrap();
        assert_eq!(follower.next().await.unwrap(), line("new").into_bytes());

        file.write_all(b" line\n").unwrap();
        std::fs::rename(&path, dir.path().join("1.log.1")).unwrap();
        std::fs::write(&path, line("rotated")).unwrap();
        assert_eq!(follower.next().await.unwrap(), b"half line\n");
        assert_eq!(follower.next().await.unwrap(), line("rotated").into_bytes());

        std::fs::write(dir.path().join("2.log"), line("again")).unwrap();
        assert_eq!(follower.next().await.unwrap(), line("again").into_bytes());
    }
}
