//! A container's two streams on their way into one file: split into lines, bounded in rate, drops counted.

use super::TELL;
use super::cri::{line, rfc3339};
use super::file::LogFile;
use rustix::io::{Errno, ioctl_fionbio, read};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest line that is written whole; longer ones come in parts tagged `P`.
const LINE_MAX: usize = 16 * 1024;
/// Bytes a second that are written of one container, and how many may come at once.
const RATE: u64 = 1 << 20;
const BURST: u64 = 4 << 20;
/// How much of standard error is kept for a failed end.
const TAIL: usize = 1024;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Out,
    Err,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

#[derive(Debug)]
struct Half {
    fd: Option<OwnedFd>,
    /// The beginning of a line that is not complete.
    partial: Vec<u8>,
}

/// What may be written now: refilled with time.
#[derive(Debug)]
struct Bucket {
    bytes: u64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, wanted: u64, now: Instant) -> bool {
        let passed = u64::try_from(now.duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let more = passed.saturating_mul(RATE) / 1000;
        if more > 0 {
            self.bytes = self.bytes.saturating_add(more).min(BURST);
            self.at = now;
        }
        match self.bytes.checked_sub(wanted) {
            Some(left) => {
                self.bytes = left;
                true
            }
            None => false,
        }
    }
}

/// Both streams.
#[derive(Debug)]
pub(super) struct Stream {
    file: LogFile,
    out: Half,
    err: Half,
    bucket: Bucket,
    tail: Vec<u8>,
    dropped: u64,
    told: u64,
    /// Drops are told at this time at the earliest.
    tell_at: Instant,
}

impl Stream {
    pub(super) fn new(file: LogFile, out: OwnedFd, err: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&out, true)?;
        ioctl_fionbio(&err, true)?;
        let half = |fd| Half { fd: Some(fd), partial: Vec::new() };
        let bucket = Bucket { bytes: BURST, at: Instant::now() };
        let (out, err) = (half(out), half(err));
        Ok(Self { file, out, err, bucket, tail: Vec::new(), dropped: 0, told: 0, tell_at: Instant::now() })
    }

    /// What is still open.
    pub(super) fn open(&self) -> impl Iterator<Item = (Which, BorrowedFd<'_>)> {
        let halves = [(Which::Out, &self.out), (Which::Err, &self.err)];
        halves.into_iter().filter_map(|(w, h)| Some((w, h.fd.as_ref()?.as_fd())))
    }

    /// Both read ends, while both are open.
    pub(super) fn both(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        Some((self.out.fd.as_ref()?.as_fd(), self.err.fd.as_ref()?.as_fd()))
    }

    /// Goes on in a new file where the old one stood: somebody moved that away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file.reopen()
    }

    pub(super) fn is_ended(&self) -> bool {
        self.out.fd.is_none() && self.err.fd.is_none()
    }

    /// Takes what is there, up to 256 KiB so that other containers get their turn.
    pub(super) fn read(&mut self, which: Which) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..8 {
            let half = if which == Which::Out { &mut self.out } else { &mut self.err };
            let Some(fd) = &half.fd else { return };
            match read(fd, &mut buffer) {
                Ok(0) => {
                    half.fd = None;
                    return self.flush(which);
                }
                Ok(n) => self.take(which, &buffer[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    half.fd = None;
                    return self.flush(which);
                }
            }
        }
    }

    /// A last line without an end of its own.
    fn flush(&mut self, which: Which) {
        let half = if which == Which::Out { &mut self.out } else { &mut self.err };
        let rest = std::mem::take(&mut half.partial);
        if !rest.is_empty() {
            self.write(which, &[(rest, true)]);
        }
    }

    fn take(&mut self, which: Which, mut bytes: &[u8]) {
        if which == Which::Err {
            self.tail.extend_from_slice(bytes);
            let extra = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..extra);
        }
        let half = if which == Which::Out { &mut self.out } else { &mut self.err };
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let room = LINE_MAX - half.partial.len();
            let end = bytes.iter().take(room + 1).position(|b| *b == b'\n');
            if let Some(at) = end {
                half.partial.extend_from_slice(&bytes[..at]);
                bytes = &bytes[at + 1..];
                lines.push((std::mem::take(&mut half.partial), true));
                continue;
            }
            let n = bytes.len().min(room);
            half.partial.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if half.partial.len() == LINE_MAX && !bytes.is_empty() {
                lines.push((std::mem::take(&mut half.partial), false));
            }
        }
        self.write(which, &lines);
    }

    fn write(&mut self, which: Which, lines: &[(Vec<u8>, bool)]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let time = rfc3339(since.as_secs(), since.subsec_nanos());
        let now = Instant::now();
        let mut out = Vec::new();
        let mut count = 0;
        for (text, full) in lines {
            if self.bucket.take(text.len() as u64 + 48, now) {
                out.extend(line(&time, which.name(), *full, text));
                count += 1;
            } else {
                self.dropped += 1;
            }
        }
        // A full disk loses lines, counted as any other loss, and never stops the container.
        if !out.is_empty() && self.file.write(&out).is_err() {
            self.dropped += count;
        }
    }

    /// When drops are told next, if there are some to tell.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.dropped > self.told).then_some(self.tell_at)
    }

    /// Drops so far, if it is time to tell.
    pub(super) fn drops_to_tell(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.deadline()? > now {
            return None;
        }
        self.told = self.dropped;
        self.tell_at = now + TELL;
        Some(self.dropped)
    }

    /// Writes what is left; lines dropped and the last words on standard error.
    pub(super) fn finish(&mut self) -> (u64, String) {
        self.flush(Which::Out);
        self.flush(Which::Err);
        let text = String::from_utf8_lossy(&self.tail).replace('\0', "\u{fffd}");
        let mut at = text.len().saturating_sub(TAIL);
        while !text.is_char_boundary(at) {
            at += 1;
        }
        (self.dropped, text[at..].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::write;

    fn stream(dir: &tempfile::TempDir) -> (Stream, OwnedFd, OwnedFd) {
        let file = LogFile::open(dir.path().join("1.log"), 64 << 20, 2).unwrap();
        let (out, err) = (rustix::pipe::pipe().unwrap(), rustix::pipe::pipe().unwrap());
        (Stream::new(file, out.0, err.0).unwrap(), out.1, err.1)
    }

    fn texts(dir: &tempfile::TempDir) -> Vec<String> {
        let all = std::fs::read_to_string(dir.path().join("1.log")).unwrap();
        all.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_split_and_the_last_needs_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, out, err) = stream(&dir);
        write(&out, b"one\ntw").unwrap();
        s.read(Which::Out);
        write(&out, b"o\n\nlast").unwrap();
        write(&err, b"oh\n").unwrap();
        drop((out, err));
        s.read(Which::Out);
        s.read(Which::Err);
        assert!(s.is_ended());
        assert_eq!(
            texts(&dir),
            ["stdout F one", "stdout F two", "stdout F ", "stdout F last", "stderr F oh"]
        );
        assert_eq!(s.finish(), (0, "oh\n".to_owned()));
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, out, _err) = stream(&dir);
        for _ in 0..5 {
            write(&out, &[b'x'; 8 * 1024]).unwrap();
            s.read(Which::Out);
        }
        drop(out);
        s.read(Which::Out);
        let tags: Vec<_> = texts(&dir).iter().map(|t| (t.as_bytes()[7], t.len() - 9)).collect();
        assert_eq!(tags, [(b'P', LINE_MAX), (b'P', LINE_MAX), (b'F', 8 * 1024)]);
    }

    #[test]
    fn c2_a_flood_is_cut_to_its_rate_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, _out, _err) = stream(&dir);
        let chunk = [b'y'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>().repeat(32);
        for _ in 0..400 {
            s.take(Which::Out, &chunk);
        }
        let size = std::fs::metadata(dir.path().join("1.log")).unwrap().len();
        assert!(size < 8 << 20, "{size}");
        assert!(s.dropped > 5_000, "{}", s.dropped);
        assert_eq!(s.drops_to_tell(), Some(s.dropped));
        s.take(Which::Out, &chunk);
        assert_eq!(s.drops_to_tell(), None, "told once a minute");
    }
}
