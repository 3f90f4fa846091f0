//! What shoald says to the person who started it; its log goes to standard error.

use crate::pki::Authority;
use crate::setup::NewCredential;

/// The first start: what was made, and what to do next.
#[allow(clippy::print_stdout, reason = "the one place that talks to people")]
pub(crate) fn first_start(server: &str, authority: &Authority, credential: &NewCredential) {
    println!("shoald made its certificate authority, its online key and the operators' credential.");
    println!(
        "The credential is shown only now; it is also in {} for you to move away.",
        credential.file.display()
    );
    println!();
    println!("Next, where the operators' keys are:");
    println!(
        "  shoal login {server} --ca-fingerprint {} --token {}",
        authority.fingerprint(),
        credential.token
    );
    println!("  shoal trust init");
}

/// Every start.
#[allow(clippy::print_stdout, reason = "the one place that talks to people")]
pub(crate) fn ready(api: &str, mqtt: &str, fleet: Option<&str>) {
    println!("API and registry: {api}");
    println!("devices:          {mqtt}");
    match fleet {
        Some(fleet) => println!("fleet:            {fleet}"),
        None => println!("fleet:            none yet; found one with `shoal trust init`"),
    }
}

/// Another identity.
#[allow(clippy::print_stdout, reason = "the one place that talks to people")]
pub(crate) fn renewed(authority: &Authority) {
    println!(
        "shoald has another certificate authority and another online key; its next start prints another credential."
    );
    println!("CA fingerprint: {}", authority.fingerprint());
    println!(
        "No device follows before a root names them: log in to it, then `shoal trust rotate --controller`."
    );
}

/// An error with its causes, once, and what to do.
#[allow(clippy::print_stderr, reason = "the one place that talks to people")]
pub(crate) fn failed(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
