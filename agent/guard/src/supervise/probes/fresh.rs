//! Whether a file of a volume changed lately. Looks at names and times only; never opens what a guest wrote.
//!
//! The age counts by this process's own clock from the moment a change was seen, so a device without a clock chip, or one
//! whose clock jumps, tells fresh from stale all the same.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use std::io;
use std::path::Path;
use std::time::Duration;

/// What changes whenever the file does: its number, size, and when it was written or touched last. The last of these no
/// guest can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: i64,
    changed: (i64, u64),
}

/// The file's stamp. No link is followed, and nothing above the volume is reached.
pub(crate) fn look(volume: &Path, path: &str) -> io::Result<Stamp> {
    // Without NOFOLLOW, with which a link at the end would be opened itself rather than refused.
    let how = OFlags::PATH | OFlags::CLOEXEC;
    let folder = openat2(CWD, volume, how | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let s = fstat(openat2(folder, path, how, Mode::empty(), inside)?)?;
    #[allow(clippy::useless_conversion, reason = "the types differ between architectures")]
    Ok(Stamp {
        inode: s.st_ino.into(),
        size: s.st_size,
        changed: (s.st_ctime.into(), s.st_ctime_nsec.into()),
    })
}

/// What was seen of the file so far.
#[derive(Debug, Default)]
pub(crate) struct Seen(Option<(Stamp, Duration)>);

impl Seen {
    /// Whether the file is fresh now. What is seen for the first time counts as changed just now.
    pub(crate) fn judge(&mut self, stamp: Stamp, now: Duration, max_age: Duration) -> Result<(), Duration> {
        match &self.0 {
            Some((old, since)) if *old == stamp => {
                let age = now.saturating_sub(*since);
                if age <= max_age { Ok(()) } else { Err(age) }
            }
            _ => {
                self.0 = Some((stamp, now));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_file_is_fresh_for_its_age_after_each_change() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("beat"), "1").unwrap();
        let stamp = || look(dir.path(), "beat").unwrap();
        let mut seen = Seen::default();
        assert_eq!(seen.judge(stamp(), s(0), s(30)), Ok(()));
        assert_eq!(seen.judge(stamp(), s(30), s(30)), Ok(()));
        assert_eq!(seen.judge(stamp(), s(31), s(30)), Err(s(31)));
        fs::write(dir.path().join("beat"), "22").unwrap();
        assert_eq!(seen.judge(stamp(), s(40), s(30)), Ok(()));
        assert_eq!(seen.judge(stamp(), s(70), s(30)), Ok(()));
    }

    #[test]
    fn c1_links_and_what_is_outside_of_the_volume_are_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("link")).unwrap();
        std::os::unix::fs::symlink("..", volume.join("up")).unwrap();
        for path in ["link", "../secret", "up/secret", "absent", "/etc/passwd"] {
            assert!(look(&volume, path).is_err(), "{path}");
        }
    }
}
