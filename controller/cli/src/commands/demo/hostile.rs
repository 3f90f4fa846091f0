//! What a broken-into agent, or whoever holds the controller, could offer to a device: documents that no operator signed so.

use crate::error::{CliError, OnPath as _, Result};
use crate::output;
use rustix::process::geteuid;
use shoal_ipc::{AdmitClient, Layout, Verdict};
use shoal_protocol::Ed25519Signer;
use shoal_protocol::envelope::{self, Envelope};
use shoal_protocol::latest::Kind;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// A document, and what must come of it.
pub(super) struct Act {
    pub(super) words: &'static str,
    pub(super) code: &'static str,
    pub(super) document: Vec<u8>,
}

/// All acts, made of a deployment that an operator signed.
pub(super) fn acts(genuine: &[u8]) -> Result<Vec<Act>> {
    let refused = |e| CliError::failure("cannot read the deployment that was signed").because(e);
    let envelope = Envelope::parse(genuine).map_err(refused)?;
    let payload = envelope.payload();
    let at = genuine
        .windows(payload.len())
        .position(|w| w == payload)
        .ok_or_else(|| CliError::failure("the signed deployment does not hold its own payload"))?;
    let mut flipped = genuine.to_vec();
    flipped[at + payload.len() - 1] ^= 1;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| CliError::failure("no entropy").because(std::io::Error::other(e.to_string())))?;
    let stranger = envelope::sign(Kind::Deployment, payload, &[&Ed25519Signer::from_seed(seed)])
        .map_err(|e| CliError::failure("cannot sign as a stranger").because(e))?;
    Ok(vec![
        Act { words: "the deployment with one flipped byte", code: "bad_signature", document: flipped },
        Act {
            words: "the deployment, signed with a key that nobody knows",
            code: "unknown_key",
            document: stranger,
        },
    ])
}

/// The signed deployment that the operator keeps.
pub(super) fn genuine(operator: &Path) -> Result<Vec<u8>> {
    let trust = operator.join("trust");
    let folders = fs::read_dir(&trust).on_path("read", &trust)?.flatten();
    for file in folders.filter_map(|f| fs::read_dir(f.path().join("documents")).ok()).flatten().flatten() {
        let bytes = fs::read(file.path()).on_path("read", &file.path())?;
        if Envelope::parse(&bytes).ok().and_then(|e| e.kind().ok()) == Some(Kind::Deployment) {
            return Ok(bytes);
        }
    }
    Err(CliError::failure(format!("no deployment in {}", trust.display())))
}

/// Offers a document as the device's agent, in a process of that user; gives the code of the refusal.
pub(super) fn offer(root: &Path, act: &Act) -> Result<Option<String>> {
    let file =
        tempfile::NamedTempFile::new().map_err(|e| CliError::failure("cannot make a file").because(e))?;
    fs::write(file.path(), &act.document).on_path("write", file.path())?;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).on_path("open", file.path())?;
    let folder = Layout::new(root).agent_dir();
    let owner = fs::metadata(&folder).on_path("look at", &folder)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["demo-offer".as_ref(), root.as_os_str(), file.path().as_os_str()]);
    if geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let out =
        command.output().map_err(|e| CliError::failure("cannot start this program again").because(e))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(CliError::failure("the document could not be offered to the device").details(vec![said]));
    }
    let said = String::from_utf8_lossy(&out.stdout);
    Ok(said.trim().strip_prefix("refused ").map(str::to_owned))
}

/// The other process's side.
pub(super) fn offered(root: &Path, file: &Path) -> Result<()> {
    let bytes = fs::read(file).on_path("read", file)?;
    let verdict = AdmitClient::connect(&Layout::new(root))
        .and_then(|mut admit| admit.submit(&bytes))
        .map_err(|e| CliError::failure("cannot reach the device's admission").because(e))?;
    match verdict {
        Verdict::Refused { code, .. } => output::line(&format!("refused {code}")),
        Verdict::Accepted { .. } => output::line("accepted"),
    }
    Ok(())
}
