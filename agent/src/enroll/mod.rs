//! `shoal-agent enroll`: from a join file to a device with a certificate.
//!
//! Every step is durable before the next and the same when it is done again, so that a power cut or a lost answer costs
//! nothing but a second run: root and token to admit (as uid 0) → drop to the agent's uid → identity key → device record
//! signed by the token's key → the request, written down → controller → record to admit → certificate. With the certificate
//! the device is enrolled. Once the request is written down, the daemon goes on with it by itself ([`go_on`]).

mod pending;

pub(crate) use pending::{Pending, State};

use crate::failure::{Explained, Kind};
use crate::http::{self, NoAnswer};
use crate::identity::{self, Files, IdentityKey};
use crate::points;
use crate::{entropy, lock, output, privilege, tls};
use anyhow::{Context, Result, bail};
use rustls::pki_types::CertificateDer;
use shoal_agent_core::backoff;
use shoal_ipc::{AdmitClient, Layout, RootAdmitClient, Verdict};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{Envelope, seal_document};
use shoal_protocol::ids::{Bytes, DeviceId, FleetId};
use shoal_protocol::join;
use shoal_protocol::latest::{
    DeviceRecord, EnrollRequest, EnrollResponse, JoinFile, Key, Kind as DocumentKind, Root, Token,
};
use shoal_protocol::signer::{Ed25519Signer, Signer};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// How long a refusal stands before it is asked again, milliseconds.
const REFUSED_MS: u64 = 300_000;

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

/// What the command line asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options<'a> {
    /// What this device is called.
    pub name: Option<&'a str>,
    /// Do everything but ask the controller.
    pub offline: bool,
    /// Where to write what the controller would be sent.
    pub request: Option<&'a Path>,
    /// A key behind a command: the command and the file of its public half.
    pub key: Option<(&'a str, &'a Path)>,
    /// Print JSON.
    pub json: bool,
}

/// The whole command. Must be called before any thread is started.
pub(crate) fn run(path: &Path, layout: &Layout, options: Options<'_>) -> Result<()> {
    let join = read_join(path)?;
    if let Some(name) = options.name {
        let ok = !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_graphic());
        if !ok {
            return Err(Explained::new(
                Kind::Usage,
                format!("{name:?} is no name: 1 to 63 printable characters, no space"),
            )
            .into());
        }
    }
    // While this is still the caller, who may read it.
    let command = options.key.map(|(line, path)| identity::read_public(path).map(|public| (line, public)));
    let command = command.transpose()?;
    let mut request = options.request.map(create_new).transpose()?;
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
    if let Some(name) = options.name {
        files.save_name(name)?;
    }
    let key = match command {
        Some((line, public)) => files.adopt_key(line, public)?,
        None => files.load_or_make_key()?,
    };
    points::hit(points::ENROLL_KEY);
    let device = key.device();
    let token: Token = payload(&join.token.0, DocumentKind::Token)?;
    let record = match files.load_record()? {
        Some(record) if belongs(&record, &join, &keys.attest, &device) => record,
        _ => {
            let document = DeviceRecord {
                fleet: join.fleet.clone(),
                epoch: token.epoch,
                device: device.clone(),
                sequence: 1,
                issued_at: tls::clock().max(join.minima.time),
                identity: key.public(),
                sealing: Bytes(keys.sealing.to_vec()),
                attest: Key::ed25519(keys.attest),
                labels: token.labels.clone(),
                decommissioned: false,
            };
            let (record, _) = seal_document(&document, &[&token_signer(&join, &token)?])?;
            files.save_record(&record)?;
            record
        }
    };
    points::hit(points::ENROLL_RECORD);
    let fingerprint = payload::<DeviceRecord>(&record, DocumentKind::Device)?.fingerprint().to_string();
    let said = Said { device: &device, fleet: &join.fleet, fingerprint: &fingerprint, json: options.json };
    let mut admit = AdmitClient::connect(layout).context("cannot reach admission")?;
    let known = admit.trust().context("cannot ask admission what it holds")?.device.is_some();
    if known && !files.load_certificates()?.is_empty() {
        Pending::clear(layout)?;
        said.enrolled(true);
        return Ok(());
    }
    let begun = Pending::load(layout)?.filter(|p| p.request().is_ok_and(|r| r.record.0 == record));
    let _lock = match (lock::take(&layout.agent_dir()), &begun) {
        (Ok(lock), _) => lock,
        // The agent that runs goes on with it.
        (Err(_), Some(pending)) => {
            said.waits(pending.state);
            return Ok(());
        }
        (Err(error), None) => return Err(error),
    };
    let mut pending = if let Some(pending) = begun {
        pending
    } else {
        let request = EnrollRequest {
            token: join.token.clone(),
            record: Bytes(record.clone()),
            csr: Bytes(key.certificate_request()?),
            name: Some(crate::system::hostname(files.load_name()?.as_deref())),
        };
        let pending =
            Pending::new(&request, fingerprint.clone(), join.api.clone(), join.minima.time, tls::clock());
        pending.save(layout)?;
        pending
    };
    points::hit(points::ENROLL_PENDING);
    write_request(request.as_mut(), &pending)?;
    if !token.approval {
        // The token's key may sign it, so it counts, whether or not a controller was ever seen.
        submit(&mut admit, &record, "the device record")?;
        points::hit(points::ENROLL_RECORD_ADMITTED);
    }
    if options.offline {
        said.waits(pending.state);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    match runtime.block_on(ask(layout, &key, &pending)) {
        Ok(Step::Enrolled) => said.enrolled(false),
        Ok(Step::Waits) => {
            pending.state = State::WaitingApproval;
            pending.save(layout)?;
            said.waits(pending.state);
        }
        Err(NoAnswer::Refused(error)) => {
            Pending::clear(layout)?;
            return Err(error);
        }
        Err(NoAnswer::Unreachable(error)) => return Err(error),
    }
    Ok(())
}

/// A file that is not there yet, made while this is still the caller.
fn create_new(path: &Path) -> Result<std::fs::File> {
    let options = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    options.with_context(|| format!("cannot create {}", path.display()))
}

/// What a controller would be sent, for whoever carries it.
fn write_request(file: Option<&mut std::fs::File>, pending: &Pending) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let bytes = codec::encode(&pending.request()?);
    file.write_all(&bytes).and_then(|()| file.sync_all()).context("cannot write the request")
}

/// What became of a question.
enum Step {
    /// There is a certificate, and admission holds the record.
    Enrolled,
    /// An operator has to approve it.
    Waits,
}

/// Asks the controller once, and keeps what it gives.
async fn ask(layout: &Layout, key: &IdentityKey, pending: &Pending) -> Result<Step, NoAnswer> {
    let refused = NoAnswer::Refused;
    let mut admit =
        AdmitClient::connect(layout).context("cannot reach admission").map_err(NoAnswer::Unreachable)?;
    let root = held_root(&mut admit).map_err(NoAnswer::Unreachable)?;
    let request = pending.request().map_err(refused)?;
    let client =
        tls::client(&root.controller.ca, pending.time, None).and_then(http::client).map_err(refused)?;
    let mut addresses = pending.api.clone();
    addresses.extend(root.controller.api.iter().filter(|a| !pending.api.contains(a)).cloned());
    let response = ask_all(&client, &addresses, &codec::encode(&request)).await?;
    points::hit(points::ENROLL_ANSWERED);
    take(layout, key, &mut admit, &root, pending, &request, &response).map_err(refused)
}

fn take(
    layout: &Layout,
    key: &IdentityKey,
    admit: &mut AdmitClient,
    root: &Root,
    pending: &Pending,
    request: &EnrollRequest,
    response: &EnrollResponse,
) -> Result<Step> {
    let device = key.device();
    if response.device != device {
        bail!("the controller answered for device {}, this is {device}", response.device);
    }
    for root in &response.roots {
        submit(admit, &root.0, "a newer root")?;
    }
    if response.certificates.is_empty() {
        return Ok(Step::Waits);
    }
    let record = response.record.as_ref().unwrap_or(&request.record);
    let signed: DeviceRecord = payload(&record.0, DocumentKind::Device)?;
    // Admission knows its own two keys; the third is this process's.
    if signed.identity != key.public() {
        bail!("the record in the controller's answer is for device {}, this is {device}", signed.device);
    }
    submit(admit, &record.0, "the device record")?;
    points::hit(points::ENROLL_RECORD_ADMITTED);
    let certificates = response.certificates.iter().map(|c| c.0.clone().into()).collect();
    tls::client(&root.controller.ca, pending.time, Some((key, certificates)))
        .context("the controller's certificate for this device is of no use")?;
    Files::new(layout).save_certificates(&response.certificates)?;
    Pending::clear(layout)?;
    Ok(Step::Enrolled)
}

/// Goes on with an enrolment that was begun, for as long as it takes, and gives the certificates; nothing when none was.
pub(crate) async fn go_on(
    layout: &Layout,
    key: &IdentityKey,
) -> Result<Option<Vec<CertificateDer<'static>>>> {
    let Some(mut pending) = Pending::load(layout)? else { return Ok(None) };
    let mut tries = 0;
    loop {
        let before = (pending.state, pending.error.clone());
        let answer = ask(layout, key, &pending).await;
        if !matches!(&answer, Err(NoAnswer::Unreachable(_))) && before.0 == State::WaitingController {
            tries = 0;
        }
        tries += 1;
        let wait = match answer {
            Ok(Step::Enrolled) => {
                tracing::info!("enrolled");
                return Files::new(layout).load_certificates().map(Some);
            }
            Ok(Step::Waits) => {
                (pending.state, pending.error) = (State::WaitingApproval, None);
                backoff::approval_delay_ms(tries, entropy::draw())
            }
            Err(NoAnswer::Refused(error)) => {
                (pending.state, pending.error) = (State::EnrollmentRefused, Some(format!("{error:#}")));
                REFUSED_MS + entropy::draw() % (REFUSED_MS / 10)
            }
            Err(NoAnswer::Unreachable(error)) => {
                pending.error = Some(format!("{error:#}"));
                backoff::connect_delay_ms(tries, entropy::draw())
            }
        };
        if (pending.state, pending.error.clone()) != before {
            let (state, error) = (pending.state.code(), pending.error.as_deref().unwrap_or_default());
            tracing::info!(state, error, fingerprint = pending.fingerprint, "not enrolled yet");
            if let Err(error) = pending.save(layout) {
                tracing::warn!(error = %format!("{error:#}"), "status cannot tell of it");
            }
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
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

async fn ask_all(
    client: &reqwest::Client,
    addresses: &[String],
    body: &[u8],
) -> Result<EnrollResponse, NoAnswer> {
    let mut last = None;
    for address in addresses {
        match http::post(client, address, "/v1/enroll", body.to_vec()).await {
            Ok(bytes) => {
                return codec::decode(&bytes, Limits::of_size(1 << 20))
                    .with_context(|| format!("{address} answered something that is no enrolment"))
                    .map_err(NoAnswer::Refused);
            }
            Err(NoAnswer::Refused(e)) => return Err(NoAnswer::Refused(e)),
            Err(NoAnswer::Unreachable(e)) => {
                tracing::debug!(%address, error = %format!("{e:#}"), "no answer from this address");
                last = Some(e);
            }
        }
    }
    let tried = addresses.join(", ");
    let last = last.unwrap_or_else(|| anyhow::anyhow!("the join file names no address"));
    Err(NoAnswer::Unreachable(last.context(format!(
        "no controller answered (tried {tried}); `shoal-agent run` goes on asking, or run the same command again"
    ))))
}

/// What the command says in the end.
struct Said<'a> {
    device: &'a DeviceId,
    fleet: &'a FleetId,
    fingerprint: &'a str,
    json: bool,
}

impl Said<'_> {
    fn data(&self, state: &str, already: bool) {
        output::json(&serde_json::json!({
            "device": self.device.as_str(), "fleet": self.fleet.as_str(), "already": already, "state": state,
            "fingerprint": self.fingerprint,
        }));
    }

    fn enrolled(&self, already: bool) {
        if self.json {
            return self.data("enrolled", already);
        }
        let how = if already { "already enrolled" } else { "enrolled" };
        output::line(&format!("{how}: device {} in fleet {}", self.device, self.fleet));
        output::line(&format!("fingerprint of its keys: {}", self.fingerprint));
        output::line("next: shoal-agent run");
    }

    fn waits(&self, state: State) {
        if self.json {
            return self.data(state.code(), false);
        }
        let device = self.device;
        output::line(&format!("{}: device {device} of fleet {}", state.code(), self.fleet));
        output::line(&format!("fingerprint of its keys: {}", self.fingerprint));
        match state {
            State::WaitingController => {
                output::line(
                    "nothing was asked over the network; shoal-agent run asks the controller by itself",
                );
            }
            State::WaitingApproval | State::EnrollmentRefused => {
                output::line(&format!(
                    "an operator approves it: shoal approve enrollment {device} --fingerprint {}",
                    self.fingerprint
                ));
                output::line("next: shoal-agent run, which goes on by itself once that is done");
            }
        }
    }
}
