//! One program as a container of its own pod, brought by uid 0: the same staging, compilation and walls as for any other.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use shoal_ipc::{
    Cause, Digest, EnvVar, Event, EventStream, Limits, Network, Restart, SuperviseClient, Ticket,
    TicketContainer, TicketFile, VERSION, sealed_memfd,
};

use super::Outcome;
use super::suite::Case;
use crate::bench::start::Device;

const SOON: Duration = Duration::from_mins(1);

fn file(path: &str, bytes: &[u8]) -> TicketFile {
    let digest = Digest(Sha256::digest(bytes).into());
    TicketFile { path: path.to_owned(), size: bytes.len() as u64, mode: 0o644, digest }
}

fn ticket(number: usize, case: &Case, interpreter: bool) -> Ticket {
    let program = format!("{}.wasm", case.name);
    let container = TicketContainer {
        name: "main".into(),
        argv: std::iter::once(program.clone()).chain(case.specification.args.iter().cloned()).collect(),
        env: case
            .specification
            .env
            .iter()
            .map(|(name, value)| EnvVar { name: name.clone(), value: value.clone() })
            .collect(),
        working_dir: "/".into(),
        module: file(&format!("/{program}"), &case.module),
        files: case.files.iter().map(|(path, bytes)| file(path, bytes)).collect(),
        limits: Limits {
            memory: Some(256 << 20),
            pids: Some(16),
            wall_seconds: Some(60),
            ..Limits::default()
        },
        mounts: Vec::new(),
        readonly_rootfs: false,
        restart: Restart::Never,
        interpreter,
        self_test: None,
        probes: Vec::new(),
        post_start: None,
        pre_stop: None,
        private_env: Vec::new(),
        stdin: false,
        init: false,
        devices: Vec::new(),
    };
    Ticket {
        version: VERSION,
        id: Digest(Sha256::digest(case.id()).into()),
        name: format!("local_wasi_{number:02}"),
        sequence: 0,
        stageable: true,
        startable: true,
        hostname: "wasi".into(),
        grace: 1,
        limits: Limits::default(),
        volumes: Vec::new(),
        containers: vec![container],
        required_features: Vec::new(),
        network: if case.name.starts_with("sock_") { Network::Host } else { Network::None },
        ports: Vec::new(),
    }
}

/// Runs it to its end, and removes what was made for it.
pub(super) fn run(device: &Device, number: usize, case: &Case, interpreter: bool) -> Result<Outcome> {
    let ticket = ticket(number, case, interpreter);
    let mut events = EventStream::supervise_root(&device.layout)?;
    let mut s = device.root()?;
    s.local_ticket(&ticket).context("bring the pod")?;
    let module = ticket.containers[0].module.digest;
    for bytes in std::iter::once(&case.module).chain(case.files.iter().map(|(_, bytes)| bytes)) {
        let digest = Digest(Sha256::digest(bytes).into());
        s.stage(ticket.id, digest, sealed_memfd(bytes)?.as_fd()).context("stage a file")?;
    }
    let outcome = match ready(&mut s, &mut events, ticket.id, module)? {
        Some(refused) => refused,
        None => started(&mut s, &mut events, ticket.id)?,
    };
    s.remove(ticket.id).context("remove the pod")?;
    Ok(outcome)
}

fn refused(code: &str, detail: &str) -> Outcome {
    let end = format!("refused: {code}");
    Outcome { end, exit_code: None, stdout: Vec::new(), stderr: detail.as_bytes().to_vec() }
}

/// Has the module made ready; a refusal is an outcome.
fn ready(
    s: &mut SuperviseClient,
    events: &mut EventStream,
    id: Digest,
    module: Digest,
) -> Result<Option<Outcome>> {
    if let Err(e) = s.compile(id, module) {
        let code = e.refusal().map(str::to_owned);
        return match code {
            Some(code) => Ok(Some(refused(&code, &e.to_string()))),
            None => Err(e).context("ask for compilation"),
        };
    }
    loop {
        match events.next(SOON)? {
            Event::Compiled { module: made, .. } if made == module => return Ok(None),
            Event::CompileFailed { module: bad, code, detail } if bad == module => {
                return Ok(Some(refused(&code, &detail)));
            }
            _ => {}
        }
    }
}

fn started(s: &mut SuperviseClient, events: &mut EventStream, id: Digest) -> Result<Outcome> {
    let (_, [out, err]) = match s.start_attached(id, 0, 1) {
        Ok(started) => started,
        Err(e) => match e.refusal().map(str::to_owned) {
            Some(code) => return Ok(refused(&code, &e.to_string())),
            None => return Err(e).context("start the container"),
        },
    };
    let read = |fd: OwnedFd| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What a program printed before a pipe broke is what it printed.
            let _ = File::from(fd).take(1 << 20).read_to_end(&mut bytes);
            bytes
        })
    };
    let (out, err) = (read(out), read(err));
    let cause = loop {
        if let Event::Ended(state) = events.next(2 * SOON)?
            && state.ticket == id
        {
            break state.cause.context("an end without a cause")?;
        }
    };
    let (Ok(stdout), Ok(stderr)) = (out.join(), err.join()) else { bail!("a reader of its output panicked") };
    let (end, exit_code) = match cause {
        Cause::Exited { code } => (format!("exited ({code})"), Some(code)),
        other => (format!("{other:?}"), None),
    };
    Ok(Outcome { end, exit_code, stdout, stderr })
}
