//! Passphrases typed on a real terminal (a pseudoterminal that is the process's controlling one).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command};

/// A terminal, and what was shown on it.
struct Terminal {
    master: File,
    slave: File,
    shown: String,
}

impl Terminal {
    fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        Self { master: File::from(master), slave, shown: String::new() }
    }

    /// `shoal keys new alice` with this as its controlling terminal.
    fn new_key(&self, home: &Path) -> Child {
        let slave = || self.slave.try_clone().unwrap();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_shoal"), "keys", "new", "alice"]);
        command.env("SHOAL_HOME", home).env_remove("SHOAL_PASSPHRASE");
        command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap()
    }

    fn is_silent(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for a question, which comes when the terminal is silent already, and types.
    fn answer(&mut self, question: &str, keys: &str) {
        while !self.shown.ends_with(question) {
            let mut part = [0; 256];
            let size = self.master.read(&mut part).unwrap();
            assert_ne!(size, 0, "{:?} ended before {question:?}", self.shown);
            self.shown.push_str(std::str::from_utf8(&part[..size]).unwrap());
        }
        assert!(self.is_silent(), "{:?}", self.shown);
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// The exit code, and everything that was shown.
    fn end(mut self, mut child: Child) -> (Option<i32>, String) {
        let code = child.wait().unwrap().code();
        assert!(!self.is_silent(), "the terminal stays silent after {:?}", self.shown);
        drop(self.slave);
        let mut rest = Vec::new();
        // With nobody at the other end, reading a terminal ends with an error.
        let _ = self.master.read_to_end(&mut rest);
        self.shown.push_str(std::str::from_utf8(&rest).unwrap());
        (code, self.shown)
    }
}

const FIRST: &str = "new passphrase for the key alice: ";
const AGAIN: &str = "the same once more: ";

#[test]
fn a_passphrase_is_asked_for_twice_on_the_terminal_and_never_shown() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::new();
    let child = terminal.new_key(home.path());
    terminal.answer(FIRST, "correct horse battery\n");
    terminal.answer(AGAIN, "correct horsf\x7fe battery\n");
    let (code, shown) = terminal.end(child);
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("horse"), "{shown}");
    let key = std::fs::read(home.path().join("keys/alice.key")).unwrap();
    let identity = age::scrypt::Identity::new("correct horse battery".to_owned().into());
    let opened = age::decrypt(&identity, &key).unwrap();
    assert!(opened.starts_with(b"-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn two_that_differ_and_an_interruption_leave_no_key_and_a_terminal_that_shows_again() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::new();
    let child = terminal.new_key(home.path());
    terminal.answer(FIRST, "correct horse battery\n");
    terminal.answer(AGAIN, "correct horse\n");
    let (code, shown) = terminal.end(child);
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("the two passphrases differ"), "{shown}");

    let mut terminal = Terminal::new();
    let child = terminal.new_key(home.path());
    terminal.answer(FIRST, "half\x03");
    let (code, shown) = terminal.end(child);
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("interrupted"), "{shown}");
    assert!(!home.path().join("keys/alice.key").exists());
}
