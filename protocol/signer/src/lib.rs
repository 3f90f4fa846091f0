//! A key behind a command of its owner's making: the bytes to sign go in by standard input, the signature comes out.
//!
//! For hardware and services: PKCS#11, a TPM, a key service. What it gives is checked like any other signature.

mod der;

pub use der::{der_of_fixed, fixed_of_der};

use shoal_protocol::latest::{Alg, Key};
use shoal_protocol::{SignError, Signer};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const SIGNATURE: usize = 64;
/// An ECDSA signature on P-256 in DER is at most this long.
const ANSWER_MAX: usize = 72;
/// What a command never sees of its caller's environment: the passphrase of other keys.
const WITHHELD: &str = "SHOAL_PASSPHRASE";

/// The command, as a shell reads it, and the public half of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerCommand {
    /// The command, as `sh -c` takes it.
    pub line: String,
    /// The public half.
    pub public: Key,
    /// How long one signature may take: somebody may have to touch something.
    pub patience: Duration,
}

impl Signer for SignerCommand {
    fn key(&self) -> Key {
        self.public.clone()
    }

    /// Runs it once. For ES256 the command may answer r‖s, or DER as TPM and OpenSSL write it.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |why: String| SignError(format!("the signer command `{}`: {why}", self.line));
        let mut child = Command::new("sh")
            .args(["-c", &self.line])
            .env("SHOAL_PUBLIC_KEY", hex::encode(&self.public.public.0))
            .env_remove(WITHHELD)
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
            let mut bytes = Vec::with_capacity(ANSWER_MAX + 1);
            let read = output.map(|o| o.take(ANSWER_MAX as u64 + 1).read_to_end(&mut bytes));
            let _ = done.send(read.transpose().map(|_| bytes));
        });
        let answer = wait.recv_timeout(self.patience);
        if !matches!(&answer, Ok(Ok(bytes)) if bytes.len() <= ANSWER_MAX) {
            // It talks on or does not end: it is of no use any more.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|e| failed(format!("cannot be waited for: {e}")))?;
        match answer {
            Err(_) => Err(failed(format!("no answer within {} s", self.patience.as_secs()))),
            Ok(Err(e)) => Err(failed(format!("its answer cannot be read: {e}"))),
            Ok(Ok(bytes)) if bytes.len() > ANSWER_MAX => {
                Err(failed(format!("it wrote more than the {SIGNATURE} bytes of a signature")))
            }
            Ok(Ok(_)) if !status.success() => Err(failed(format!("it ended with {status}"))),
            Ok(Ok(bytes)) if bytes.len() == SIGNATURE => Ok(bytes),
            Ok(Ok(bytes)) => {
                let fixed = if self.public.alg == Alg::Es256 { fixed_of_der(&bytes) } else { None };
                fixed.ok_or_else(|| {
                    failed(format!("it wrote {} bytes, a signature has {SIGNATURE}", bytes.len()))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Vec<u8>, String> {
        let patience = Duration::from_secs(20);
        let command = SignerCommand { line: line.to_owned(), public: Key::ed25519([1; 32]), patience };
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

    #[test]
    fn a_command_that_does_not_end_is_given_up() {
        let patience = Duration::from_millis(50);
        let command =
            SignerCommand { line: "exec sleep 60".to_owned(), public: Key::ed25519([1; 32]), patience };
        assert!(command.sign(b"x").unwrap_err().0.contains("no answer"));
    }
}
