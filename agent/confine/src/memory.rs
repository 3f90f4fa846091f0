//! What a process at rest holds of memory. Most of a daemon's resident pages are code that it needed to start: they are in
//! the page cache anyway, and come back from there when they are needed.

use std::ffi::c_void;
use std::time::{Duration, Instant};

/// So long nothing has happened before a process counts as at rest.
const REST: Duration = Duration::from_mins(1);

/// Lets go of code after each time of work, once.
#[derive(Debug)]
pub struct Rest {
    due: Option<Instant>,
}

impl Rest {
    /// For a process that has just started.
    pub fn new() -> Self {
        Self { due: Some(Instant::now() + REST) }
    }

    /// When to look again though nothing happens.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The same from now.
    pub fn left(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    /// After each wait: whether something had happened. Otherwise, where it is time, code is let go.
    pub fn waited(&mut self, busy: bool) {
        let now = Instant::now();
        if busy {
            self.due = Some(now + REST);
        } else if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            let_go_of_code();
        }
    }
}

impl Default for Rest {
    fn default() -> Self {
        Self::new()
    }
}

/// Unmaps every page of code and constants of this program and its libraries: they stay in the page cache as long as there is
/// room, and the next touch maps them again. What was written to, relocations included, is not touched.
pub fn let_go_of_code() {
    // SAFETY: `object` is a function of that type, and looks at no data.
    unsafe { libc::dl_iterate_phdr(Some(object), std::ptr::null_mut()) };
}

/// One program or library: its segments that nobody can write to.
unsafe extern "C" fn object(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> libc::c_int {
    // SAFETY: dl_iterate_phdr(3) hands over a valid description, whose headers stay while the object is loaded.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (first, last) = (base + header.p_vaddr, base + header.p_vaddr + header.p_memsz);
        let (Ok(start), Ok(length)) =
            (usize::try_from(first & !(PAGE - 1)), usize::try_from(last - (first & !(PAGE - 1))))
        else {
            continue;
        };
        // SAFETY: a private mapping of a file that is not writable and never was (the loader relocates writable segments
        // only): its pages are the file's, and are read from there again. madvise(2), MADV_DONTNEED.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_DONTNEED) };
    }
    0
}

/// The smallest page of the architectures that Shoal runs on. Where pages are larger madvise refuses an address between two,
/// and nothing is let go.
const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident pages of files, kB.
    fn of_files() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn code_is_let_go_and_comes_back() {
        let table: Vec<String> = (0..99).map(|n: u32| format!("{n:?}")).collect();
        let before = of_files();
        let_go_of_code();
        let after = of_files();
        assert!(after < before, "{before} kB of files before, {after} kB after");
        assert_eq!(table.concat().len(), 188);
        std::thread::spawn(|| std::fs::read_dir("/proc/self").unwrap().count()).join().unwrap();
    }

    #[test]
    fn a_process_at_rest_lets_go_once_until_it_worked_again() {
        let mut rest = Rest::new();
        let due = rest.due().unwrap();
        rest.waited(false);
        assert_eq!(rest.due(), Some(due), "not yet");
        rest.due = Some(Instant::now());
        rest.waited(false);
        assert_eq!(rest.due(), None);
        rest.waited(false);
        assert_eq!(rest.due(), None);
        rest.waited(true);
        assert!(rest.due() > Some(due));
    }
}
