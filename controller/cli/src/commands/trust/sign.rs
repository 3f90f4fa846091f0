//! `shoal trust sign`, `publish` and `show --draft`: a draft is shown, signed, handed on, and at last published.

use crate::args::TrustSign;
use crate::ceremony::{Content, Draft, Need};
use crate::commands::apply::own_facts;
use crate::commands::{Session, show as words};
use crate::error::{CliError, Result};
use crate::home::{Context, Home};
use crate::keys::Known;
use crate::output::{self, Format};
use crate::publish::Keyring;
use crate::review;
use crate::roots;
use crate::trust::{self, Trust};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_protocol::latest::Snapshot;
use std::path::Path;

pub(super) fn run(home: &Home, args: &TrustSign) -> Result<()> {
    let mut draft = Draft::read(home, &args.draft)?;
    let known = Known::of(home);
    if !args.output.format.is_data() {
        print(home, &draft, &known)?;
    }
    let ring = Keyring::open(home, &args.keys)?;
    if !args.yes && !output::confirm("add your signature to this?") {
        return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
    }
    let used = draft.sign(&ring.keys())?;
    if used.is_empty() {
        return Err(CliError::refused(
            "role_scope",
            "none of these keys is asked for, or each has signed already",
        )
        .details(needs(&draft, &known)?)
        .hint("sign with another key: --key KEY"));
    }
    draft.write(&args.draft)?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &view(home, &draft, &known)?);
    }
    output::line(&format!("signed with {}", used.join(", ")));
    tell_next(&draft, &args.draft, &known)
}

/// Writes a draft and says who is to sign it.
pub(in crate::commands) fn hand_over(home: &Home, draft: &Draft, path: &Path, format: Format) -> Result<()> {
    let known = Known::of(home);
    draft.write(path)?;
    if format.is_data() {
        return output::data(format, &view(home, draft, &known)?);
    }
    output::line(&format!("draft written to {}", path.display()));
    tell_next(draft, path, &known)
}

fn tell_next(draft: &Draft, path: &Path, known: &Known) -> Result<()> {
    let shown = path.display();
    if draft.is_complete()? {
        output::line(&format!("nothing is missing: publish it with `shoal trust publish {shown}`"));
        return Ok(());
    }
    for line in needs(draft, known)? {
        output::line(&format!("still needed: {line}"));
    }
    output::line(&format!("hand the file to the next signer: `shoal trust sign {shown} --key KEY`"));
    Ok(())
}

/// Why a change cannot be published by who asked for it.
pub(super) fn incomplete(home: &Home, draft: &Draft) -> Result<CliError> {
    Ok(CliError::refused("threshold", "the keys at hand are fewer than must sign")
        .details(needs(draft, &Known::of(home))?)
        .hint("add --draft FILE, and have the others sign it with `shoal trust sign FILE`"))
}

/// What is missing, one line for each set of keys.
fn needs(draft: &Draft, known: &Known) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for item in &draft.items {
        for need in draft.needs(item)?.into_iter().filter(|n| n.lacks() > 0) {
            out.push(words_of(&need, known));
        }
    }
    Ok(out)
}

fn words_of(need: &Need, known: &Known) -> String {
    let open: Vec<String> =
        need.keys.iter().filter(|k| !need.signed.contains(k)).map(|k| known.show(k)).collect();
    format!("{} more of the {}: {}", need.lacks(), need.role, open.join(", "))
}

#[derive(Serialize)]
struct View {
    fleet: String,
    documents: Vec<DocumentView>,
    complete: bool,
}

#[derive(Serialize)]
struct DocumentView {
    kind: &'static str,
    digest: String,
    changes: Vec<String>,
    signatures: Vec<NeedView>,
}

#[derive(Serialize)]
struct NeedView {
    role: String,
    threshold: u64,
    keys: Vec<String>,
    signed: Vec<String>,
}

fn view(home: &Home, draft: &Draft, known: &Known) -> Result<View> {
    let fingerprints =
        |keys: &[shoal_protocol::latest::Key]| keys.iter().map(crate::keys::fingerprint).collect();
    let mut documents = Vec::new();
    for item in &draft.items {
        let (kind, changes) = says(home, draft, &item.content, known)?;
        let signatures = draft.needs(item)?;
        documents.push(DocumentView {
            kind,
            digest: item.digest.to_string(),
            changes,
            signatures: signatures
                .iter()
                .map(|n| NeedView {
                    role: n.role.clone(),
                    threshold: n.threshold,
                    keys: fingerprints(&n.keys),
                    signed: fingerprints(&n.signed),
                })
                .collect(),
        });
    }
    Ok(View { fleet: draft.fleet()?.to_string(), documents, complete: draft.is_complete()? })
}

/// A document's changes against what it follows.
fn says(home: &Home, draft: &Draft, content: &Content, known: &Known) -> Result<(&'static str, Vec<String>)> {
    Ok(match content {
        Content::Root(new) => {
            let changes = match &draft.base {
                Some(base) => roots::changes(base.root()?, new, known),
                None => roots::lines(new, known).into_iter().map(|l| format!("+ {l}")).collect(),
            };
            ("root", changes)
        }
        Content::Snapshot(new) => {
            let old = draft.base.as_ref().and_then(Trust::snapshot).map(|k| &*k.document);
            ("snapshot", snapshot_changes(old, new))
        }
        Content::Deployment(d) => {
            let facts = review::facts(d, &own_facts(home, d));
            let lines = review::in_order(&facts).into_iter().map(|(k, v)| format!("+ {k}: {v}"));
            ("deployment", lines.collect())
        }
    })
}

fn snapshot_changes(old: Option<&Snapshot>, new: &Snapshot) -> Vec<String> {
    let line = |e: &shoal_protocol::latest::Entry| {
        format!("{:?} {} {:?} newest {} floor {}", e.kind, e.name, e.liveness, e.newest.sequence, e.floor)
            .to_lowercase()
    };
    let before: Vec<String> = old.into_iter().flat_map(|s| &s.entries).map(line).collect();
    let after: Vec<String> = new.entries.iter().map(line).collect();
    let gone = before.iter().filter(|l| !after.contains(l)).map(|l| format!("- {l}"));
    let come = after.iter().filter(|l| !before.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(come).chain([format!("+ version {}", new.version)]).collect()
}

fn print(home: &Home, draft: &Draft, known: &Known) -> Result<()> {
    let fleet = draft.fleet()?;
    output::line(&format!("fleet {fleet}"));
    if Trust::load(home, fleet.as_str())?.is_none() {
        output::warn(
            "this machine holds nothing of that fleet: compare its id with a colleague's before you sign",
        );
    }
    for item in &draft.items {
        let (kind, changes) = says(home, draft, &item.content, known)?;
        let (version, until) = match &item.content {
            Content::Root(r) => (r.version, r.not_after),
            Content::Snapshot(s) => (s.version, s.not_after),
            Content::Deployment(d) => (d.sequence, d.not_after),
        };
        output::line(&format!("{kind} {version} ({}), until {}:", item.digest, words::time(until)));
        for line in changes {
            output::line(&output::clean(&format!("  {line}")));
        }
        for need in draft.needs(item)? {
            let by: Vec<String> = need.signed.iter().map(|k| known.show(k)).collect();
            let by = if by.is_empty() { "nobody yet".to_owned() } else { by.join(", ") };
            output::line(&format!("  {}: {} must sign; signed by {by}", need.role, need.threshold));
        }
    }
    Ok(())
}

/// `trust show --draft`.
pub(super) fn show(home: &Home, path: &Path, format: Format) -> Result<()> {
    let draft = Draft::read(home, path)?;
    let known = Known::of(home);
    if format.is_data() {
        return output::data(format, &view(home, &draft, &known)?);
    }
    print(home, &draft, &known)?;
    tell_next(&draft, path, &known)
}

/// `trust publish`.
pub(super) fn publish(s: &Session, path: &Path, yes: bool, format: Format) -> Result<()> {
    let draft = Draft::read(&s.home, path)?;
    if !draft.is_complete()? {
        let known = Known::of(&s.home);
        return Err(CliError::refused("threshold", "the draft lacks signatures")
            .details(needs(&draft, &known)?)
            .hint(format!("have them added: `shoal trust sign {}`", path.display())));
    }
    if draft.base.is_none() {
        return found(s, &draft);
    }
    let known = Known::of(&s.home);
    if !format.is_data() {
        print(&s.home, &draft, &known)?;
    }
    if !yes && !output::confirm("publish this?") {
        return Err(CliError::usage("nothing was published").hint("answer y, or add --yes"));
    }
    send(s, &draft)?;
    if format.is_data() { output::data(format, &view(&s.home, &draft, &known)?) } else { Ok(()) }
}

/// Root 1 and the first snapshot.
pub(super) fn found(s: &Session, draft: &Draft) -> Result<()> {
    let done = draft.finish(&s.home)?;
    let (Some(root), Some(snapshot)) = (done.root, done.snapshot) else {
        return Err(CliError::usage("a draft that founds a fleet holds root 1 and the first snapshot"));
    };
    let body = api::PostRoot { root: root.envelope.into(), handover: false };
    let accepted: api::RootAccepted = s.client.post("/v1/trust/roots", &body, "founding the fleet")?;
    // Kept before it is published: a fleet whose founder lost its state would be hard to win back.
    done.trust.save(&snapshot.envelope)?;
    s.home.save_context(&Context { fleet: Some(accepted.fleet.to_string()), ..s.context.clone() }, false)?;
    let body = api::PostSnapshot {
        snapshot: snapshot.envelope.into(),
        documents: Vec::new(),
        expected_previous: None,
    };
    let _: api::SnapshotAccepted = s.client.post("/v1/snapshots", &body, "publishing the first snapshot")?;
    output::line(&format!("fleet {} founded: root 1, snapshot 1 ({})", accepted.fleet, snapshot.digest));
    Ok(())
}

/// A complete draft on top of what is there: the next root, or the next snapshot with its documents.
pub(super) fn send(s: &Session, draft: &Draft) -> Result<()> {
    // What the controller serves is verified first: a draft on top of less is refused here, not half done there.
    let own = trust::open(&s.client, &s.home, &s.context, None)?;
    let base = draft.base.as_ref().map_or(0, |b| b.roots.len());
    if own.roots.len() != base {
        return Err(CliError::conflict(format!(
            "the fleet is at root {} meanwhile, the draft builds on root {base}",
            own.roots.len()
        ))
        .hint("make a new draft"));
    }
    let snapshot_of = |t: &Trust| t.snapshot().map(|k| k.digest);
    let (current, followed) = (snapshot_of(&own), draft.base.as_ref().and_then(snapshot_of));
    let brings = draft.items.iter().find(|i| matches!(i.content, Content::Snapshot(_))).map(|i| i.digest);
    if brings.is_some() && current != followed && current != brings {
        return Err(CliError::conflict("somebody published another snapshot since the draft was made")
            .hint("make a new draft"));
    }
    let mut done = draft.finish(&s.home)?;
    if let Some(root) = done.root {
        let body = api::PostRoot { root: root.envelope.into(), handover: false };
        let accepted: api::RootAccepted = s.client.post("/v1/trust/roots", &body, "publishing the root")?;
        done.trust.save_roots()?;
        output::line(&format!("root {} published ({})", accepted.version, root.digest));
    }
    if let Some(snapshot) = done.snapshot {
        let body = api::PostSnapshot {
            snapshot: snapshot.envelope.clone().into(),
            documents: done.documents.iter().map(|d| d.envelope.clone().into()).collect(),
            expected_previous: own.snapshot().map(|k| k.digest.into()),
        };
        let accepted: api::SnapshotAccepted =
            s.client.post("/v1/snapshots", &body, "publishing the snapshot")?;
        for d in &done.documents {
            done.trust.save_document(&d.digest, &d.envelope)?;
        }
        done.trust.save(&snapshot.envelope)?;
        done.trust.state = done.after;
        output::line(&format!(
            "snapshot {} published ({})",
            accepted.snapshot.version, accepted.snapshot.digest
        ));
    }
    Ok(())
}
