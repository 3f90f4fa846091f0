//! `shoal delete deployment`: the next snapshot says that the name is removed; devices stop what they run of it.

use super::Session;
use crate::args::Delete;
use crate::error::{CliError, Result};
use crate::output;
use crate::publish::{self, Keyring};
use crate::trust;
use shoal_protocol::latest::{Entry, Liveness, RoleName};

pub(super) fn run(s: &Session, command: &Delete) -> Result<()> {
    let Delete::Deployment { name, signing, yes, output } = command;
    let ring = Keyring::open(&s.home, &signing.keys)?;
    let mut trust = trust::open(&s.client, &s.home, &s.context, signing.adopt.as_ref())?;
    let mut asked = *yes;
    for attempt in 1..=publish::ATTEMPTS {
        let entry = trust.entry(name).cloned().filter(|e| e.liveness == Liveness::Live).ok_or_else(|| {
            CliError::usage(format!("no live deployment is called {name}"))
                .hint("list them with `shoal get deployments`")
        })?;
        let allowed =
            trust.root()?.roles.iter().any(|r| {
                r.name == RoleName::Deployment && r.may_remove && name.as_str().starts_with(&r.prefix)
            });
        if !allowed {
            return Err(CliError::refused("role_scope", format!("no role of the root may remove {name}")));
        }
        if !asked
            && !output::confirm(&format!(
                "remove {name} (revision {}) from every device?",
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
                    "deployment {name} removed in snapshot {}; {} device(s) told at once",
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
