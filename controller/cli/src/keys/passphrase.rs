//! Where a passphrase comes from: a file, the environment, or a question on the terminal that nobody sees the answer to.
//!
//! It is wiped from memory when it was used. Never here: what it opens.

use crate::error::{CliError, OnPath as _, Result};
use age::secrecy::SecretString;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The environment variable for automation.
pub(crate) const VARIABLE: &str = "SHOAL_PASSPHRASE";
/// The least length of a new passphrase, in characters.
const LEAST: usize = 8;
const MOST: u64 = 4096;
/// The longest line that is typed, in bytes.
const LINE: usize = 1000;

/// Where passphrases come from, as the command line says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    /// `--passphrase-file`.
    pub(crate) file: Option<PathBuf>,
}

impl Source {
    /// The passphrase of a key that is there.
    pub(crate) fn of(&self, key: &str) -> Result<SecretString> {
        match self.without_asking()? {
            Some(found) => Ok(secret(found)),
            None => ask(&format!("passphrase of the key {key}: ")).map(secret).map_err(|e| hint(e, key)),
        }
    }

    /// A passphrase for a new key; typed twice.
    pub(crate) fn new_for(&self, key: &str) -> Result<SecretString> {
        let found = match self.without_asking()? {
            Some(found) => found,
            None => ask_twice(key).map_err(|e| hint(e, key))?,
        };
        if found.chars().count() < LEAST {
            return Err(CliError::usage(format!(
                "the passphrase for the key {key} has fewer than {LEAST} characters"
            ))
            .hint("take five words or more; or leave the file without one: --plain"));
        }
        Ok(secret(found))
    }

    fn without_asking(&self) -> Result<Option<Zeroizing<String>>> {
        if let Some(path) = &self.file {
            return from_file(path).map(Some);
        }
        match std::env::var(VARIABLE) {
            Ok(value) => Ok(Some(Zeroizing::new(value))),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(e) => Err(CliError::usage(format!("{VARIABLE} is not text")).because(e)),
        }
    }
}

/// Takes the text over without leaving a copy behind.
fn secret(mut text: Zeroizing<String>) -> SecretString {
    SecretString::from(std::mem::take(&mut *text))
}

fn hint(e: CliError, key: &str) -> CliError {
    e.hint(format!("the key {key} needs a passphrase: run this on a terminal, or give --passphrase-file FILE or {VARIABLE}"))
}

/// The file's first line.
fn from_file(path: &Path) -> Result<Zeroizing<String>> {
    let file = File::open(path).on_path("read the passphrase in", path)?;
    let mode = file.metadata().on_path("look at", path)?.permissions().mode();
    if mode & 0o077 != 0 && path.is_file() {
        crate::output::warn(&format!("{} can be read by others: chmod 600 it", path.display()));
    }
    // With room for all of it, so that no grown-out-of buffer keeps a part.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MOST).unwrap_or(0) + 1));
    file.take(MOST + 1).read_to_string(&mut text).on_path("read the passphrase in", path)?;
    if text.len() as u64 > MOST {
        return Err(CliError::usage(format!("{} holds more than a passphrase", path.display())));
    }
    let line = Zeroizing::new(text.lines().next().unwrap_or_default().to_owned());
    if line.is_empty() {
        return Err(CliError::usage(format!("the first line of {} is empty", path.display())));
    }
    Ok(line)
}

fn ask_twice(key: &str) -> Result<Zeroizing<String>> {
    let first = ask(&format!("new passphrase for the key {key}: "))?;
    let second = ask("the same once more: ")?;
    if *first == *second { Ok(first) } else { Err(CliError::usage("the two passphrases differ")) }
}

/// Sets the terminal back, whatever happens.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to set back.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn ask(question: &str) -> Result<Zeroizing<String>> {
    let path = Path::new("/dev/tty");
    let no_terminal = |e: std::io::Error| CliError::usage("there is no terminal to ask on").because(e);
    let terminal = File::options().read(true).write(true).open(path).map_err(no_terminal)?;
    let before = tcgetattr(&terminal).map_err(|e| no_terminal(e.into()))?;
    let mut silent = before.clone();
    // Ctrl-C comes as a byte, too: as a signal it would end this process and leave the terminal silent.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|e| no_terminal(e.into()))?;
    let quiet = Quiet { terminal: &terminal, before };
    (&terminal).write_all(question.as_bytes()).map_err(no_terminal)?;
    #[allow(
        clippy::unbuffered_bytes,
        reason = "keys come one by one, and a buffer would keep a copy of them"
    )]
    let line = typed((&terminal).bytes());
    drop(quiet);
    // The newline that was typed was not shown.
    let _ = (&terminal).write_all(b"\n");
    line
}

/// A line as it is typed, with what terminals take for "one back", "from the start" and "stop".
fn typed(bytes: impl Iterator<Item = std::io::Result<u8>>) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LINE));
    for byte in bytes {
        match byte.map_err(|e| CliError::usage("the terminal is gone").because(e))? {
            b'\n' | b'\r' | 0x04 => break,
            0x03 => return Err(CliError::usage("interrupted")),
            0x08 | 0x7f => {
                // A character of UTF-8 goes with all its bytes.
                while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {}
            }
            0x15 => line.clear(),
            _ if line.len() == LINE => {
                return Err(CliError::usage(format!("more than {LINE} bytes were typed")));
            }
            other => line.push(other),
        }
    }
    match std::str::from_utf8(&line) {
        Ok("") => Err(CliError::usage("no passphrase was typed")),
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(e) => Err(CliError::usage("what was typed is not UTF-8").because(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret as _;

    #[test]
    fn the_first_line_of_a_file_counts_and_short_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        let source = Source { file: Some(path.clone()) };
        std::fs::write(&path, "correct horse battery\nand a note\n").unwrap();
        assert_eq!(source.new_for("k").unwrap().expose_secret(), "correct horse battery");
        std::fs::write(&path, "short\n").unwrap();
        assert_eq!(source.of("k").unwrap().expose_secret(), "short");
        assert!(source.new_for("k").unwrap_err().render().contains("fewer than 8"));
        std::fs::write(&path, "\n").unwrap();
        assert!(source.of("k").unwrap_err().render().contains("is empty"));
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(source.of("k").unwrap_err().render().contains("more than a passphrase"));
    }

    #[test]
    fn a_typed_line_can_be_mended_and_given_up() {
        let of = |keys: &[u8]| typed(keys.iter().map(|b| Ok(*b)));
        for (keys, line) in [
            (&b"correct\nmore"[..], "correct"),
            (b"corg\x7frect\r", "correct"),
            ("café\x08e\n".as_bytes(), "cafe"),
            (b"wrong\x15right\n", "right"),
            (b"\x7f\x7fend\x04", "end"),
        ] {
            assert_eq!(*of(keys).unwrap(), line);
        }
        for (keys, why) in [
            (&b"half\x03"[..], "interrupted"),
            (b"\n", "no passphrase"),
            (b"", "no passphrase"),
            (b"\xff\n", "not UTF-8"),
            (&[b'x'; LINE + 1], "more than"),
        ] {
            let said = of(keys).unwrap_err().render();
            assert!(said.contains(why), "{said}");
        }
    }
}
