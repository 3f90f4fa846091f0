//! `shoal token`: signs permission to enrol and writes it, with its private half, into one join file.

use super::{Session, duration, get};
use crate::args::{Token as TokenCommand, TokenCreate};
use crate::error::{CliError, Result};
use crate::home::write_secret;
use crate::keys::random_seed;
use crate::output;
use crate::publish::Keyring;
use crate::trust::{self, Trust, now, refusal};
use shoal_controller_core::api;
use shoal_protocol::ids::Bytes;
use shoal_protocol::latest::{JoinFile, Kind, Minima, RoleName, Token};
use shoal_protocol::text_map::TextMap;
use shoal_protocol::verify::{Expect, verify};
use shoal_protocol::{Ed25519Signer, Signer as _, join};
use std::path::Path;

pub(super) fn run(s: &Session, command: &TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create(a) => create(s, a),
        TokenCommand::Ls(o) => get::list_tokens(s, o.format),
    }
}

pub(super) fn labels(text: &str) -> Result<TextMap> {
    let mut map = TextMap::default();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (key, value) = part.split_once('=').filter(|(k, _)| !k.trim().is_empty()).ok_or_else(|| {
            CliError::usage(format!("--labels: {part:?} is no label"))
                .hint("write key=value, separated by commas")
        })?;
        if map.insert(key.trim(), value.trim()).is_some() {
            return Err(CliError::usage(format!("--labels: {} stands twice", key.trim())));
        }
    }
    Ok(map)
}

/// A join file with a token of its own.
pub(super) struct Signed {
    pub(super) token: Token,
    /// Without its private half.
    pub(super) envelope: Vec<u8>,
    /// The join file.
    pub(super) text: String,
}

/// Signs a token with the own state of the fleet; needs nobody else.
pub(super) fn sign(
    trust: &Trust,
    ring: &Keyring,
    labels: TextMap,
    lifetime: u64,
    uses: u64,
    approval: bool,
) -> Result<Signed> {
    let root = trust.root()?;
    let seed = random_seed()?;
    let time = now();
    let minima = Minima {
        root_version: root.version,
        snapshot_version: trust.snapshot().map_or(0, |k| k.document.version),
        time,
    };
    let token = Token {
        fleet: trust.anchor()?.fleet.clone(),
        epoch: root.epoch,
        key: Ed25519Signer::from_seed(seed).key(),
        issued_at: time,
        not_after: time.plus(lifetime),
        uses,
        approval,
        minima,
        labels,
    };
    let (envelope, _) = ring.seal(root, RoleName::Enrollment, "", &token)?;
    verify(&envelope, &trust.state, time, Expect::Only(Kind::Token)).map_err(|r| refusal("the token", &r))?;
    let file = JoinFile {
        version: 1,
        fleet: token.fleet.clone(),
        roots: trust.roots.iter().map(|r| Bytes(r.clone())).collect(),
        token: Bytes(envelope.clone()),
        secret: Bytes(seed.to_vec()),
        api: root.controller.api.clone(),
        minima,
    };
    Ok(Signed { token, envelope, text: join::to_text(&file) })
}

fn create(s: &Session, args: &TokenCreate) -> Result<()> {
    let labels = labels(&args.labels)?;
    let lifetime = duration("--expires", &args.expires)?;
    if args.uses == 0 || lifetime == 0 {
        return Err(CliError::usage("a token for nobody: --uses and --expires must be more than 0"));
    }
    let trust = trust::open(&s.client, &s.home, &s.context, args.signing.adopt.as_ref())?;
    let ring = Keyring::open(&s.home, &args.signing.keys)?;
    let Signed { envelope, text, .. } = sign(&trust, &ring, labels, lifetime, args.uses, args.approve)?;
    let accepted: api::TokenAccepted =
        s.client.post("/v1/tokens", &api::PostToken { token: envelope.into() }, "registering the token")?;
    if args.out == Path::new("-") {
        output::raw(&text);
    } else {
        write_secret(&args.out, text.as_bytes())?;
        output::line(&format!(
            "join file {} for {} device(s), until {}",
            args.out.display(),
            accepted.uses,
            super::show::time(accepted.not_after)
        ));
        output::note(&format!(
            "it holds a private key: hand it over like a password. On the device, as root: shoal-agent enroll {}",
            args.out.display()
        ));
        if args.approve {
            output::note(
                "each device waits for you then: shoal get enrollments, shoal approve enrollment NAME",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs_and_stand_once() {
        assert_eq!(labels("a=b, c=").unwrap().len(), 2);
        assert!(labels("").unwrap().is_empty());
        for bad in ["a", "=b", "a=1,a=2"] {
            assert!(labels(bad).is_err(), "{bad}");
        }
    }
}
