//! Folders and ports by Landlock: what was not granted is denied, whatever a file's owner and mode say.
//!
//! The kernel's version decides how much of this it can do; what it lacks is named by [`super::missing`]. It is asked for
//! as much as it knows and read back in [`super::readback`].

use super::{Sockets, StepError, at};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use std::io;
use std::path::Path;

/// The newest version whose rights are asked for.
const NEWEST: ABI = ABI::V6;

/// A folder or file that a container may use, as it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Absolute.
    pub path: String,
    /// Whether it may be changed.
    pub write: bool,
    /// Whether it may be mapped as code.
    pub code: bool,
}

/// What a guest may do in a folder of its own: everything that WASI can ask for, and neither devices nor programs.
fn rights(grant: &Grant) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    if grant.code {
        return AccessFs::ReadFile | AccessFs::Execute;
    }
    if !grant.write {
        return read;
    }
    read | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Restricts this process for good.
pub(crate) fn restrict(grants: &[Grant], sockets: Sockets<'_>) -> Result<(), StepError> {
    let Some(version) = super::process::landlock_version() else { return Ok(()) };
    let failed = |e: landlock::RulesetError| StepError("restrict folders", io::Error::other(e));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .map_err(failed)?;
    // UDP is beyond this version of Landlock: whoever has sockets may use it in their own network.
    let denied = match sockets {
        Sockets::None => AccessNet::from_all(NEWEST),
        Sockets::Pod(_) => AccessNet::BindTcp.into(),
        Sockets::Host => BitFlags::EMPTY,
    };
    if !denied.is_empty() {
        rules = rules.handle_access(denied).map_err(failed)?;
    }
    let mut rules =
        rules.scope(Scope::AbstractUnixSocket | Scope::Signal).map_err(failed)?.create().map_err(failed)?;
    if let Sockets::Pod(ports) = sockets {
        let open = ports.iter().map(|port| Ok(NetPort::new(*port, AccessNet::BindTcp)));
        rules = rules.add_rules(open).map_err(failed)?;
    }
    for grant in grants {
        let place =
            PathFd::new(&grant.path).map_err(|e| StepError("open a granted folder", io::Error::other(e)))?;
        let mut rights = rights(grant);
        if !Path::new(&grant.path).is_dir() {
            rights &= AccessFs::from_file(NEWEST);
        }
        rules = rules.add_rule(PathBeneath::new(place, rights)).map_err(failed)?;
    }
    let status = rules.restrict_self().map_err(failed)?;
    let whole = version >= NEWEST as u32;
    let kept = match status.ruleset {
        RulesetStatus::FullyEnforced => true,
        RulesetStatus::PartiallyEnforced => !whole,
        RulesetStatus::NotEnforced => false,
    };
    if kept {
        Ok(())
    } else {
        Err(at("restrict folders")(io::Error::other(format!(
            "Landlock {version} enforces {:?}",
            status.ruleset
        ))))
    }
}
