//! `shoal delete`: the next snapshot says that a name is removed; devices stop what they run of a deployment, and forget a
//! config or secret.

use super::Session;
use crate::args::{Delete, DeleteArgs};
use crate::error::{CliError, Result};
use crate::output;
use crate::publish::{self, Keyring};
use crate::roots::role_word;
use crate::trust::{self, Trust};
use shoal_protocol::ids::Name;
use shoal_protocol::latest::{Entry, EntryKind, Liveness};

pub(super) fn run(s: &Session, command: &Delete) -> Result<()> {
    let (kind, word, args) = match command {
        Delete::Deployment(a) => (EntryKind::Deployment, "deployment", a),
        Delete::Config(a) => (EntryKind::Config, "config", a),
        Delete::Secret(a) => (EntryKind::Secret, "secret", a),
        Delete::Release(a) => (EntryKind::Release, "release", a),
    };
    let DeleteArgs { name, signing, yes, output } = args;
    let ring = Keyring::open(&s.home, &signing.keys)?;
    let mut trust = trust::open(&s.client, &s.home, &s.context, signing.adopt.as_ref())?;
    let mut asked = *yes;
    for attempt in 1..=publish::ATTEMPTS {
        let entry = trust.entry_of(kind, name).cloned().filter(|e| e.liveness == Liveness::Live).ok_or_else(
            || {
                CliError::usage(format!("no live {word} is called {name}"))
                    .hint(format!("list them with `shoal get {word}s`"))
            },
        )?;
        let allowed = trust.root()?.roles.iter().any(|r| {
            r.name == publish::role_of(kind) && r.may_remove && name.as_str().starts_with(&r.prefix)
        });
        if !allowed {
            let role = role_word(publish::role_of(kind));
            let error = CliError::refused("role_scope", format!("no role of the root may remove {name}"));
            return Err(error.hint(format!("grant it: `shoal trust grant KEY --role {role} --may-remove`")));
        }
        let users = if matches!(kind, EntryKind::Deployment | EntryKind::Release) {
            Vec::new()
        } else {
            users(s, &mut trust, kind, name)?
        };
        if !users.is_empty() {
            output::warn(&format!("{} refer to it and cannot start again without it", users.join(", ")));
        }
        if !asked
            && !output::confirm(&format!(
                "remove the {word} {name} (revision {}) from every device?",
                entry.newest.sequence
            ))
        {
            return Err(CliError::usage("nothing was removed").hint("answer y, or add --yes"));
        }
        asked = true;
        let removed = Entry { liveness: Liveness::Removed, stable: None, ..entry };
        match publish::publish(&s.client, &mut trust, &ring, &[removed], &[]) {
            Ok(accepted) if output.format.is_data() => return output::data(output.format, &accepted),
            Ok(accepted) => {
                output::line(&format!(
                    "{word} {name} removed in snapshot {}; {} device(s) told at once",
                    accepted.snapshot.version, accepted.notified
                ));
                return Ok(());
            }
            Err(e) if publish::is_conflict(&e) && attempt < publish::ATTEMPTS => {
                output::note("somebody published meanwhile; verifying that and trying again");
                trust = trust::open(&s.client, &s.home, &s.context, None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Live deployments that refer to a config or secret.
fn users(s: &Session, trust: &mut Trust, kind: EntryKind, name: &Name) -> Result<Vec<String>> {
    let live = trust.entries(EntryKind::Deployment).filter(|e| e.liveness == Liveness::Live);
    let listed: Vec<_> = live.map(|e| (e.name.clone(), e.newest.digest)).collect();
    let mut found = Vec::new();
    for (deployment, digest) in listed {
        let d = trust.deployment(&s.client, &deployment, &digest)?.into_document();
        if d.template.documents().any(|(k, r)| k == kind && r.name == *name) {
            found.push(deployment.to_string());
        }
    }
    Ok(found)
}
