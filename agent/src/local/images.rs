//! Images by name: pull, load, images, inspecti, rmi, imagefsinfo; and the reading of one for `create`.
//!
//! All of it as the agent's uid, never as uid 0: every byte of an image is hostile.

use super::{list, runtime, show};
use crate::cli::cri::CriFormat;
use crate::cli::{CriOutput, ImageSource};
use crate::enroll;
use crate::failure::{Explained, Kind};
use crate::identity::Files;
use crate::{output, privilege, tls};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shoal_image::registry::{Access, RegistryAuth, Tls};
use shoal_image::{FileEntry, Overrides, Reference};
use shoal_ipc::{AdmitClient, Layout};
use shoal_protocol::ids::Timestamp;
use shoal_runtime::cri::config::ContainerConfig;
use shoal_runtime::{Guard, ImageService, PinnedImage, PullSource};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The most that the worker may say, bytes: an image's file list with its paths.
const ANSWER_MAX: u64 = 4 << 20;
const SETTINGS_MAX: u64 = 64 << 10;

fn service(layout: &Layout) -> Result<ImageService> {
    Ok(ImageService::open(Guard::new(layout.clone()))?)
}

fn open(layout: &Layout) -> Result<ImageService> {
    privilege::become_agent(layout)?;
    service(layout)
}

/// How one registry is to be reached, from `etc/shoal/registries.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RegistrySettings {
    /// Host and port to ask first.
    mirror: Option<String>,
    /// Whether the mirror (or the registry, without one) speaks plain HTTP.
    plain_http: bool,
    user: Option<String>,
    password: Option<String>,
}

fn settings(layout: &Layout) -> Result<BTreeMap<String, RegistrySettings>> {
    let path = layout.root().join("etc/shoal/registries.json");
    let mut text = Vec::new();
    match std::fs::File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other
            .and_then(|f| f.take(SETTINGS_MAX).read_to_end(&mut text))
            .with_context(|| format!("cannot read {}", path.display()))?,
    };
    serde_json::from_slice(&text).map_err(|e| {
        Explained::new(Kind::Usage, format!("{} is not understood", path.display())).because(e).into()
    })
}

/// The fleet's own registry, for an enrolled device.
fn controller(layout: &Layout) -> Option<Vec<PullSource>> {
    let files = Files::new(layout);
    let (key, certificates) = (files.load_key().ok()??, files.load_certificates().ok()?);
    let mut admit = AdmitClient::connect(layout).ok()?;
    let floor = Timestamp(admit.trust().ok()?.time_floor);
    let root = enroll::held_root(&mut admit).ok()?;
    let config = tls::client(&root.controller.ca, floor, Some((&key, certificates))).ok()?;
    let hosts = root.controller.api.iter().filter_map(|a| crate::http::host_port(a));
    let source = |(host, port)| PullSource {
        host: format!("{host}:{port}"),
        access: Access { tls: Tls::Config(Box::new(config.clone())), ..Access::default() },
    };
    Some(hosts.map(source).collect())
}

/// Where to ask, in order: the fleet's controller for what names no registry, the mirror, the registry itself.
fn sources(layout: &Layout, reference: &Reference, creds: Option<&str>) -> Result<Vec<PullSource>> {
    let mut out = Vec::new();
    if reference.registry.is_none() {
        out.extend(controller(layout).unwrap_or_default());
    }
    let name = match reference.registry.as_deref() {
        None | Some("index.docker.io") => "docker.io",
        Some(host) => host,
    };
    let s = settings(layout)?.remove(name).unwrap_or_default();
    let given = creds.map(|c| c.split_once(':').unwrap_or((c, "")));
    let auth = match (given, s.user, s.password) {
        (Some((user, password)), ..) => RegistryAuth::Basic(user.to_owned(), password.to_owned()),
        (None, Some(user), password) => RegistryAuth::Basic(user, password.unwrap_or_default()),
        _ => RegistryAuth::Anonymous,
    };
    if let Some(host) = s.mirror {
        out.push(PullSource { host, access: Access { auth, insecure: s.plain_http, ..Access::default() } });
        return Ok(out);
    }
    let access = Access { auth, insecure: s.plain_http, ..Access::default() };
    out.push(PullSource { host: reference.host().to_owned(), access });
    Ok(out)
}

/// Pulls; gives the image's name as every other tool shows it.
fn fetch(layout: &Layout, images: &ImageService, image: &str, creds: Option<&str>) -> Result<String> {
    let reference: Reference =
        image.parse().map_err(|e: shoal_image::Error| Explained::new(Kind::Usage, e.to_string()))?;
    let sources = sources(layout, &reference, creds)?;
    runtime()?.block_on(images.pull_named(image, &sources)).map_err(failed)?;
    Ok(shoal_runtime::full(&shoal_runtime::canonical(&reference)))
}

fn failed(error: shoal_runtime::Error) -> anyhow::Error {
    let kind = match error.code().as_str() {
        "not_found" => Kind::Failure,
        "image_unavailable" | "storage_unavailable" => Kind::Unavailable,
        "unsupported_value" => Kind::Usage,
        _ => Kind::Refused,
    };
    let code = error.code();
    let explained = Explained::new(kind, format!("{code}: the image is not usable")).because(error);
    match code.as_str() {
        "not_found" => {
            explained.hint("shoal-agent images lists what is here; shoal-agent pull IMAGE fetches one")
        }
        _ => explained,
    }
    .into()
}

pub(super) fn pull(layout: &Layout, image: &str, creds: Option<&str>) -> Result<()> {
    let images = open(layout)?;
    let name = fetch(layout, &images, image, creds)?;
    output::line(&format!("Image is up to date for {name}"));
    Ok(())
}

pub(super) fn load(layout: &Layout, file: &Path, name: Option<&str>) -> Result<()> {
    // Opened by name as the agent's uid: what that may not read it does not get.
    let images = open(layout)?;
    for name in images.load(file, name).map_err(failed)? {
        output::line(&format!("Loaded image: {}", shoal_runtime::full(&name)));
    }
    Ok(())
}

/// `shoal-agent image import`.
pub(crate) fn import(layout: &Layout, source: &ImageSource, name: Option<&str>) -> Result<()> {
    let kind = std::fs::metadata(&source.path).map(|m| m.is_dir());
    if kind.is_ok_and(|is_folder| is_folder != source.is_folder) {
        let (is, wanted) =
            if source.is_folder { ("file", "oci-archive or docker-archive") } else { ("folder", "oci") };
        let text = format!("{} is a {is}, which {wanted} names", source.path.display());
        return Err(Explained::new(Kind::Usage, text).into());
    }
    load(layout, &source.path, name)
}

pub(super) fn images(layout: &Layout, quiet: bool, no_trunc: bool, format: CriFormat) -> Result<()> {
    let all = open(layout)?.list_named().map_err(failed)?;
    if quiet {
        for image in &all {
            output::line(&image.id);
        }
        return Ok(());
    }
    if show::message(&json!({ "images": all }), format.output.unwrap_or(CriOutput::Table)) {
        return Ok(());
    }
    let mut rows = Vec::new();
    for image in &all {
        for tag in &image.repo_tags {
            let (name, tag) = tag.rsplit_once(':').unwrap_or((tag, ""));
            let id = show::short(&image.id, no_trunc);
            rows.push(vec![name.to_owned(), tag.to_owned(), id, output::size(image.size)]);
        }
    }
    show::table(&["IMAGE", "TAG", "IMAGE ID", "SIZE"], &rows);
    Ok(())
}

pub(super) fn inspecti(layout: &Layout, wanted: &[String], format: CriFormat) -> Result<()> {
    let images = open(layout)?;
    let format = format.output.unwrap_or(CriOutput::Json);
    let mut values = Vec::new();
    for name in wanted {
        let image = images.status_named(name).map_err(failed)?;
        let pinned = images.pin(name, &Overrides::default());
        if let Ok(p) = &pinned {
            images.forget_unpacked(p).map_err(failed)?;
        }
        if format == CriOutput::Table {
            list::facts(&[
                ("ID", image.id),
                ("Tags", image.repo_tags.join(", ")),
                ("Size", output::size(image.size)),
                ("Runs", pinned.map_or_else(|e| e.chain(), |p| p.argv.join(" "))),
            ]);
            continue;
        }
        let info = match &pinned {
            Ok(p) => json!({
                "argv": p.argv, "env": p.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
                "workingDir": p.working_dir, "module": p.module, "facts": p.facts, "files": p.files,
            }),
            // Without arguments of a container it may name no program.
            Err(e) => json!({ "notRunnable": e.chain() }),
        };
        values.push(json!({ "status": image, "info": info }));
    }
    list::each(values, format);
    Ok(())
}

/// Manifests that admission's revisions need: no removal by hand takes their blobs.
fn signed(layout: &Layout) -> Result<BTreeSet<shoal_protocol::ids::Digest>> {
    let mut world = crate::daemon::world::World::new(Vec::new());
    let guard = Guard::new(layout.clone());
    runtime()?
        .block_on(world.refresh_desired(&guard))
        .context("cannot ask admission which images are needed")?;
    let containers = world.desired.iter().flat_map(|d| &d.deployment.template.containers);
    Ok(containers.map(|c| c.image.manifest).collect())
}

pub(super) fn rmi(layout: &Layout, all: bool, wanted: &[String]) -> Result<()> {
    let images = open(layout)?;
    let keep = signed(layout)?;
    let mut wanted = wanted.to_vec();
    if all {
        wanted = images.list_named().map_err(failed)?.into_iter().map(|i| i.id).collect();
    }
    for name in &wanted {
        for gone in images.remove_named(name, &keep).map_err(failed)? {
            output::line(&format!("Deleted: {gone}"));
        }
    }
    Ok(())
}

pub(super) fn imagefsinfo(layout: &Layout, format: CriFormat) -> Result<()> {
    let f = open(layout)?.image_fs_info().map_err(failed)?;
    let value = json!({ "status": { "imageFilesystems": [{
        "timestamp": show::now().to_string(), "fsId": { "mountpoint": f.fs_id },
        "usedBytes": { "value": f.used_bytes.to_string() }, "freeBytes": { "value": f.free_bytes.to_string() },
    }] } });
    if !show::message(&value, format.output.unwrap_or(CriOutput::Json)) {
        list::facts(&[
            ("Mountpoint", f.fs_id.display().to_string()),
            ("Used", output::size(f.used_bytes)),
            ("Free", output::size(f.free_bytes)),
        ]);
    }
    Ok(())
}

/// What `create` asks of the worker.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    image: String,
    pull: bool,
    command: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    working_dir: String,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Image { image: Box<PinnedImage>, folder: PathBuf },
    Failed { kind: u8, causes: Vec<String>, hint: Option<String> },
}

/// The other process, which read an image as the agent's uid and keeps its files unpacked until it is told to end.
pub(super) struct Worker {
    child: Child,
    /// Its end tells the worker to tidy up.
    stdin: Option<ChildStdin>,
    image: PinnedImage,
    folder: PathBuf,
}

impl Worker {
    pub(super) fn start(layout: &Layout, pull: bool, config: &ContainerConfig) -> Result<Self> {
        let owner = std::fs::metadata(layout.agent_dir()).context("cannot look at the agent's folder")?;
        // By its descriptor in /proc, so that the folders above the binary need not be open to the agent's uid.
        let mut command = Command::new("/proc/self/exe");
        command.arg("pin").arg("--root").arg(layout.root()).stdin(Stdio::piped()).stdout(Stdio::piped());
        if privilege::is_root() {
            command.uid(owner.uid()).gid(owner.gid()).current_dir("/");
        }
        let mut child = command.spawn().context("cannot start the process that reads images")?;
        let question = Question {
            image: config.image.image.clone(),
            pull,
            command: config.command.clone(),
            args: config.args.clone(),
            env: config.envs.iter().map(|e| (e.key.clone(), e.value.clone())).collect(),
            working_dir: config.working_dir.clone(),
        };
        let mut stdin = child.stdin.take().context("the process that reads images hears nothing")?;
        let stdout = child.stdout.take().context("the process that reads images says nothing")?;
        let mut text = serde_json::to_vec(&question)?;
        text.push(b'\n');
        let mut answer = Vec::new();
        let said = stdin
            .write_all(&text)
            .and_then(|()| BufReader::new(stdout).take(ANSWER_MAX).read_until(b'\n', &mut answer));
        said.context("cannot speak with the process that reads images")?;
        match serde_json::from_slice(&answer).context("the process that reads images broke off")? {
            Answer::Image { image, folder } => Ok(Self { child, stdin: Some(stdin), image: *image, folder }),
            Answer::Failed { kind, causes, hint } => {
                // It ends by itself now.
                drop(stdin);
                let _ = child.wait();
                let kind = match kind {
                    2 => Kind::Usage,
                    3 => Kind::Refused,
                    4 => Kind::Unavailable,
                    _ => Kind::Failure,
                };
                let explained = Explained::new(kind, causes.join(": "));
                Err(hint
                    .map_or_else(|| Explained::new(kind, causes.join(": ")), |h| explained.hint(h))
                    .into())
            }
        }
    }

    pub(super) fn image(&self) -> &PinnedImage {
        &self.image
    }

    /// Opens one of the image's files. Whatever stands there, supervise hashes what comes of it; only no link and nothing
    /// that could block is opened here.
    pub(super) fn open(&self, file: &FileEntry) -> std::io::Result<OwnedFd> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(self.folder.join(file.digest.hex()))?;
        if opened.metadata()?.is_file() {
            Ok(opened.into())
        } else {
            Err(std::io::ErrorKind::InvalidData.into())
        }
    }

    /// Lets it tidy up and end.
    pub(super) fn end(mut self) {
        self.stdin = None;
        // What it leaves behind goes with the next collection of images.
        let _ = self.child.wait();
    }
}

/// The worker's side.
pub(super) fn pin(layout: &Layout) -> Result<()> {
    privilege::become_agent(layout)?;
    let mut input = BufReader::new(std::io::stdin());
    let mut text = Vec::new();
    (&mut input).take(ANSWER_MAX).read_until(b'\n', &mut text).context("cannot read what to pin")?;
    let q: Question = serde_json::from_slice(&text).context("pin is started by create only")?;
    let images = service(layout)?;
    let read = || -> Result<PinnedImage> {
        if q.pull {
            fetch(layout, &images, &q.image, None)?;
        }
        let list = |l: &Vec<String>| (!l.is_empty()).then(|| l.clone());
        let overrides = Overrides {
            command: list(&q.command),
            args: list(&q.args),
            env: q.env.clone(),
            working_dir: Some(q.working_dir.clone()).filter(|d| !d.is_empty()),
        };
        images.pin(&q.image, &overrides).map_err(failed)
    };
    let (answer, image) = match read() {
        Ok(image) => {
            let folder = images.path_of(&image.module).parent().map(Path::to_path_buf).unwrap_or_default();
            (Answer::Image { image: Box::new(image.clone()), folder }, Some(image))
        }
        Err(e) => {
            let mut causes: Vec<String> = e.chain().map(ToString::to_string).collect();
            causes.dedup();
            let kind = crate::failure::kind(&e).exit_code();
            (Answer::Failed { kind, causes, hint: crate::failure::first_hint(&e) }, None)
        }
    };
    output::line(&serde_json::to_string(&answer)?);
    let Some(image) = image else { return Ok(()) };
    // Until the other side hangs up.
    std::io::copy(&mut input, &mut std::io::sink()).context("cannot wait for the end")?;
    images.forget_unpacked(&image).map_err(failed)
}
