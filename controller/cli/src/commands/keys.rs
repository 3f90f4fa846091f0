//! `shoal keys`: makes keys, notes those that are elsewhere, lists them.

use crate::args::Keys;
use crate::error::Result;
use crate::home::Home;
use crate::keys::{self, External, Known, Protection};
use crate::output;
use serde::Serialize;

#[derive(Serialize)]
struct KeyRow {
    name: String,
    fingerprint: String,
    algorithm: &'static str,
    /// Where the private half is; nothing when it is not here.
    place: Option<&'static str>,
}

pub(super) fn run(home: &Home, command: &Keys) -> Result<()> {
    match command {
        Keys::New { name, plain } => {
            let protection = if *plain { Protection::Plain } else { Protection::Passphrase };
            let key = keys::create(home, name, protection)?;
            output::line(&format!("key {name} made, fingerprint {}", keys::fingerprint(&key.public())));
            output::note(&format!(
                "private half: {}; back it up, it cannot be made again",
                home.keys().join(format!("{name}.key")).display()
            ));
            Ok(())
        }
        Keys::Add { name, ssh_agent, signer_command, public } => {
            let external = match (ssh_agent, signer_command) {
                (Some(fingerprint), _) => Some(External::SshAgent(fingerprint.clone())),
                (None, Some(line)) => Some(External::Command(line.clone())),
                (None, None) => None,
            };
            let key = keys::add(home, name, external.as_ref(), public.as_deref())?;
            output::line(&format!("key {name} noted, fingerprint {}", keys::fingerprint(&key)));
            Ok(())
        }
        Keys::Ls(o) => {
            let rows: Vec<KeyRow> = Known::of(home)
                .iter()
                .map(|(key, name)| KeyRow {
                    name: name.to_owned(),
                    fingerprint: keys::fingerprint(key),
                    algorithm: keys::algorithm(key),
                    place: keys::load(home, name).ok().map(|k| k.place()),
                })
                .collect();
            if o.format.is_data() {
                return output::data(o.format, &serde_json::json!({ "keys": rows }));
            }
            let cells: Vec<Vec<output::Cell>> = rows
                .into_iter()
                .map(|r| {
                    let place = r.place.unwrap_or("public half only");
                    vec![r.name.into(), r.fingerprint.into(), r.algorithm.into(), place.into()]
                })
                .collect();
            output::table(&["NAME", "FINGERPRINT", "ALGORITHM", "PLACE"], &cells);
            Ok(())
        }
    }
}
