//! A key behind a command of its owner's making: the bytes to sign go in by standard input, 64 bytes come out.
//!
//! For hardware and services that no ssh-agent reaches. What it gives is checked like any other signature.

use shoal_protocol::SignError;
use shoal_protocol::latest::Key;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Somebody may have to touch something.
const PATIENCE: Duration = Duration::from_mins(2);
const SIGNATURE: usize = 64;

/// The command, as a shell reads it, and the public half of its key.
#[derive(Debug, Clone)]
pub(crate) struct SignerCommand {
    pub(crate) line: String,
    pub(crate) public: Key,
}

impl SignerCommand {
    /// Runs it once.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |why: String| SignError(format!("the signer command `{}`: {why}", self.line));
        let mut child = Command::new("sh")
            .args(["-c", &self.line])
            .env("SHOAL_PUBLIC_KEY", hex::encode(&self.public.public.0))
            .env_remove(super::passphrase::VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(format!("does not start: {e}")))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let message = message.to_vec();
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || {
            // A command that signs without reading all of it is its own affair; its signature is checked.
            let _ = input.map(|mut i| i.write_all(&message));
        });
        std::thread::spawn(move || {
            let mut bytes = Vec::with_capacity(SIGNATURE + 1);
            let read = output.map(|o| o.take(SIGNATURE as u64 + 1).read_to_end(&mut bytes));
            let _ = done.send(read.transpose().map(|_| bytes));
        });
        let answer = wait.recv_timeout(PATIENCE);
        if !matches!(&answer, Ok(Ok(bytes)) if bytes.len() <= SIGNATURE) {
            // It talks on or does not end: it is of no use any more.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|e| failed(format!("cannot be waited for: {e}")))?;
        match answer {
            Err(_) => Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
            Ok(Err(e)) => Err(failed(format!("its answer cannot be read: {e}"))),
            Ok(Ok(bytes)) if bytes.len() > SIGNATURE => {
                Err(failed("it wrote more than the 64 bytes of a signature".to_owned()))
            }
            Ok(Ok(_)) if !status.success() => Err(failed(format!("it ended with {status}"))),
            Ok(Ok(bytes)) if bytes.len() < SIGNATURE => {
                Err(failed(format!("it wrote {} bytes, a signature has {SIGNATURE}", bytes.len())))
            }
            Ok(Ok(bytes)) => Ok(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Vec<u8>, String> {
        let command = SignerCommand { line: line.to_owned(), public: Key::ed25519([1; 32]) };
        command.sign(&vec![b'x'; 300_000]).map_err(|e| e.0)
    }

    #[test]
    fn exactly_64_bytes_of_a_command_that_succeeds_are_taken() {
        assert_eq!(run("head -c 64").unwrap(), [b'x'; 64]);
        assert!(run("head -c 63").unwrap_err().contains("63 bytes"));
        assert!(run("cat").unwrap_err().contains("more than"));
        assert!(run("head -c 64; exit 3").unwrap_err().contains("exit status: 3"));
        assert!(run("yes").unwrap_err().contains("more than"));
        assert_eq!(run("printf $SHOAL_PUBLIC_KEY").unwrap(), "01".repeat(32).as_bytes());
    }
}
