//! `shoal-agent enroll`: from a join file to a device with a certificate.
//!
//! Every step is durable before the next and the same when it is done again, so that a power cut or a lost answer costs
//! nothing but a second run: root and token to admit (as uid 0) → drop to the agent's uid → identity key → device record
//! signed by the token's key → controller → record to admit → certificate. With the certificate the device is enrolled.

use crate::failure::{Explained, Kind};
use crate::http::{self, NoAnswer};
use crate::identity::Files;
use crate::points;
use crate::{lock, output, privilege, tls};
use anyhow::{Context, Result, bail};
use shoal_ipc::{AdmitClient, Layout, RootAdmitClient, Verdict};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{Envelope, seal_document};
use shoal_protocol::ids::{Bytes, DeviceId, FleetId};
use shoal_protocol::join;
use shoal_protocol::latest::{
    DeviceRecord, EnrollRequest, EnrollResponse, JoinFile, Key, Kind as DocumentKind, Root, Token,
};
use shoal_protocol::signer::{Ed25519Signer, Signer};
use std::path::Path;

/// Reads and checks a join file.
fn read_join(path: &Path) -> Result<JoinFile> {
    let usage =
        |text: String| Explained::new(Kind::Usage, text).hint("make a join file with `shoal token create`");
    let bytes = crate::durable::read(path, join::SIZE_CAP as u64)
        .map_err(|e| usage(format!("cannot read the join file {}", path.display())).because(e))?
        .ok_or_else(|| usage(format!("there is no join file {}", path.display())))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| usage(format!("{} is no text, so no join file", path.display())))?;
    let join =
        join::from_text(&text).map_err(|e| usage(format!("cannot use {}", path.display())).because(e))?;
    if join.roots.is_empty() {
        return Err(usage(format!("{} carries no root", path.display())).into());
    }
    Ok(join)
}

fn payload<T: serde::Serialize + serde::de::DeserializeOwned>(
    envelope: &[u8],
    kind: DocumentKind,
) -> Result<T> {
    let what = || format!("the {} cannot be read", kind.as_str());
    let envelope = Envelope::parse(envelope).with_context(what)?;
    codec::decode(envelope.payload(), Limits::of_size(kind.size_cap())).with_context(what)
}

/// The root that admit holds now; what admit verified needs no second look.
pub(crate) fn held_root(admit: &mut AdmitClient) -> Result<Root> {
    payload(&admit.root(0).context("cannot ask admit for the root")?, DocumentKind::Root)
}

fn token_signer(join: &JoinFile, token: &Token) -> Result<Ed25519Signer> {
    let seed: [u8; 32] =
        join.secret.0.as_slice().try_into().ok().context("the join file's secret is no Ed25519 seed")?;
    let signer = Ed25519Signer::from_seed(seed);
    if signer.key() != token.key {
        return Err(Explained::new(
            Kind::Refused,
            "enroll_proof: the join file's secret is not that of its token",
        )
        .hint("the join file was changed; make a new one with `shoal token create`")
        .into());
    }
    Ok(signer)
}

/// The whole command. Must be called before any thread is started.
pub(crate) fn run(path: &Path, layout: &Layout, name: Option<&str>, json: bool) -> Result<()> {
    let join = read_join(path)?;
    if let Some(name) = name {
        let ok = !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_graphic());
        if !ok {
            return Err(Explained::new(
                Kind::Usage,
                format!("{name:?} is no name: 1 to 63 printable characters, no space"),
            )
            .into());
        }
    }
    if !layout.agent_dir().exists() {
        privilege::become_agent(layout)?;
    }
    let mut root_admit =
        RootAdmitClient::connect(layout).context("cannot reach admission's root-only socket")?;
    let roots = join.roots.iter().map(|r| r.0.clone()).collect();
    let keys = root_admit
        .enroll(roots, join.token.0.clone())
        .with_context(|| format!("admission did not take the join file {}", path.display()))?;
    drop(root_admit);
    points::hit(points::ENROLL_ADMITTED);
    privilege::become_agent(layout)?;

    let files = Files::new(layout);
    std::fs::create_dir_all(layout.identity())
        .with_context(|| format!("cannot create {}", layout.identity().display()))?;
    if let Some(name) = name {
        files.save_name(name)?;
    }
    let key = files.load_or_make_key()?;
    points::hit(points::ENROLL_KEY);
    let device = key.device();
    let mut admit = AdmitClient::connect(layout).context("cannot reach admission")?;
    let known = admit.trust().context("cannot ask admission what it holds")?.device.is_some();
    if known && !files.load_certificates()?.is_empty() {
        say(&device, &join.fleet, true, json);
        return Ok(());
    }
    let _lock = lock::take(&layout.agent_dir())?;
    let root = held_root(&mut admit)?;
    let record = match files.load_record()? {
        Some(record) if belongs(&record, &join, &keys.attest, &device) => record,
        _ => {
            let token: Token = payload(&join.token.0, DocumentKind::Token)?;
            let document = DeviceRecord {
                fleet: join.fleet.clone(),
                epoch: token.epoch,
                device: device.clone(),
                sequence: 1,
                issued_at: tls::clock().max(join.minima.time),
                identity: key.signer().key(),
                sealing: Bytes(keys.sealing.to_vec()),
                attest: Key::ed25519(keys.attest),
                labels: token.labels.clone(),
            };
            let (record, _) = seal_document(&document, &[&token_signer(&join, &token)?])?;
            files.save_record(&record)?;
            record
        }
    };
    points::hit(points::ENROLL_RECORD);
    let request = EnrollRequest {
        token: join.token.clone(),
        record: Bytes(record.clone()),
        csr: Bytes(key.certificate_request()?),
    };
    let tls = tls::client(&root.controller.ca, join.minima.time, None)?;
    let mut addresses = join.api.clone();
    addresses.extend(root.controller.api.iter().filter(|a| !join.api.contains(a)).cloned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let response = runtime.block_on(ask_all(&http::client(tls)?, &addresses, codec::encode(&request)))?;
    points::hit(points::ENROLL_ANSWERED);
    if response.device != device {
        bail!("the controller answered for device {}, this is {device}", response.device);
    }
    for root in &response.roots {
        submit(&mut admit, &root.0, "a newer root")?;
    }
    submit(&mut admit, &record, "the device record")?;
    points::hit(points::ENROLL_RECORD_ADMITTED);
    let certificates = response.certificates.iter().map(|c| c.0.clone().into()).collect();
    tls::client(&root.controller.ca, join.minima.time, Some((&key, certificates)))
        .context("the controller's certificate for this device is of no use")?;
    files.save_certificates(&response.certificates)?;
    say(&device, &join.fleet, false, json);
    Ok(())
}

/// Whether a record from an earlier try is for this token, device and these keys.
fn belongs(record: &[u8], join: &JoinFile, attest: &[u8; 32], device: &DeviceId) -> bool {
    let (Ok(record), Ok(token)) = (
        payload::<DeviceRecord>(record, DocumentKind::Device).map(|r| {
            (
                r,
                Envelope::parse(record)
                    .map(|e| e.signatures().iter().map(|s| s.kid).collect::<Vec<_>>())
                    .unwrap_or_default(),
            )
        }),
        payload::<Token>(&join.token.0, DocumentKind::Token),
    ) else {
        return false;
    };
    let (record, signed_by) = record;
    record.fleet == join.fleet
        && record.device == *device
        && record.attest == Key::ed25519(*attest)
        && record.labels == token.labels
        && record.epoch == token.epoch
        && signed_by == [token.key.kid()]
}

fn submit(admit: &mut AdmitClient, envelope: &[u8], what: &str) -> Result<()> {
    match admit.submit(envelope).with_context(|| format!("cannot hand {what} to admission"))? {
        Verdict::Accepted { .. } => Ok(()),
        Verdict::Refused { code, detail } => {
            Err(Explained::new(Kind::Refused, format!("admission refused {what}: {code}: {detail}")).into())
        }
    }
}

async fn ask_all(client: &reqwest::Client, addresses: &[String], body: Vec<u8>) -> Result<EnrollResponse> {
    let mut last = None;
    for address in addresses {
        match http::post(client, address, "/v1/enroll", body.clone()).await {
            Ok(bytes) => {
                return codec::decode(&bytes, Limits::of_size(1 << 20))
                    .with_context(|| format!("{address} answered something that is no enrolment"));
            }
            Err(NoAnswer::Refused(e)) => return Err(e),
            Err(NoAnswer::Unreachable(e)) => {
                tracing::warn!(%address, error = %format!("{e:#}"), "no answer from this address");
                last = Some(e);
            }
        }
    }
    let tried = addresses.join(", ");
    Err(last.unwrap_or_else(|| anyhow::anyhow!("the join file names no address"))).with_context(|| {
        format!("no controller answered (tried {tried}); run the same command again when it can be reached")
    })
}

fn say(device: &DeviceId, fleet: &FleetId, already: bool, json: bool) {
    if json {
        output::json(
            &serde_json::json!({ "device": device.as_str(), "fleet": fleet.as_str(), "already": already }),
        );
    } else {
        let how = if already { "already enrolled" } else { "enrolled" };
        output::line(&format!("{how}: device {device} in fleet {fleet}"));
        output::line("next: shoal-agent run");
    }
}
