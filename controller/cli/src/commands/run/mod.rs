//! `shoal run`: tries a module here, behind the walls and limits that a device would put around it.
//!
//! A guard of its own over a temporary folder runs beside this process; nothing signed, no fleet. Never here: how a
//! container is confined (that is the guard's).

mod cache;
mod private;

use crate::args::{Keeper, Run};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images::{self, image_error};
use crate::manifest::quantity;
use crate::output;
use private::Private;
use shoal_image::{Capability, ModuleFacts, Overrides};
use shoal_runtime::cri::config::{
    ContainerConfig, Device, KeyValue, LinuxContainerConfig, LinuxContainerResources, Mount,
    PodSandboxConfig, PortMapping,
};
use shoal_runtime::{ImageService, NETWORK, PAGES, PinnedImage, Seen};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What the image is called in the private guard's store.
const NAME: &str = "run:latest";
/// As long as nobody sets a time.
const FOREVER: Duration = Duration::from_hours(24 * 365);
/// Microseconds of a period of CPU.
const PERIOD: u64 = 100_000;

/// How it ended, for the exit code.
enum End {
    Guest(Box<Seen>),
    TimedOut,
    Interrupted,
}

pub(super) fn run(home: &Home, args: &Run) -> Result<()> {
    let config = container(args)?;
    let timeout = args.timeout.as_deref().map(duration).transpose()?;
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && (args.memory.is_some() || args.cpus.is_some()) {
        return Err(CliError::refused("kernel_unsupported", "--memory and --cpus need root")
            .hint("run it as root, or bound the module's own memory with --pages"));
    }
    let network = network(args)?;
    if network == "pod" && !is_root {
        return Err(CliError::refused("kernel_unsupported", "a network of the module's own needs root")
            .hint("run it as root, or use this machine's with --network host"));
    }
    let pod = sandbox(network, &args.publish)?;
    let private = Private::prepare(args.libexec.as_deref(), &config, network)?;
    let images = ImageService::open(private.guard()).map_err(|e| failed("open a store", e))?;
    load(home, &images, &args.app)?;
    let overrides = Overrides {
        args: Some(args.args.clone()),
        env: config.envs.iter().map(|e| (e.key.clone(), e.value.clone())).collect(),
        working_dir: args.workdir.clone(),
        ..Overrides::default()
    };
    let image = images.pin(NAME, &overrides).map_err(|e| failed(&format!("run {}", args.app), e))?;
    if let Some(facts) = &image.facts {
        if !args.quiet {
            tell(args, facts, is_root);
        }
        facts.check(network != "none", args.pages.map(u64::from)).map_err(|e| image_error(&args.app, e))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failure("cannot start").because(e))?;
    let ended =
        runtime.block_on(carry_out(private, &images, &image, (&pod, &config), (args.interactive, timeout)));
    // A call to the guard that is still under way must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    let code = match ended? {
        End::Guest(seen) => guest_code(&seen),
        End::TimedOut => {
            output::note("time_limit: it ran for as long as --timeout allows");
            124
        }
        End::Interrupted => 130,
    };
    std::process::exit(code)
}

fn failed(what: &str, e: shoal_runtime::Error) -> CliError {
    let code = e.code();
    let text = format!("cannot {what}");
    match code.as_str() {
        "guard_unavailable" | "not_found" | "image_unavailable" | "storage_unavailable" => {
            CliError::failure(text).because(e)
        }
        "unsupported_value" => CliError::usage(text).because(e),
        _ => CliError::refused(code, text).because(e),
    }
}

fn duration(text: &str) -> Result<Duration> {
    let seconds = quantity::seconds(text).map_err(|e| CliError::usage("--timeout").because(e))?;
    Ok(Duration::from_secs(seconds))
}

/// The network that the options ask for: ports of this machine lead into one of the module's own.
fn network(args: &Run) -> Result<&str> {
    match args.network.as_deref() {
        Some(other) if other != "pod" && !args.publish.is_empty() => {
            Err(CliError::usage(format!("--publish needs --network pod, not {other}")))
        }
        Some(network) => Ok(network),
        None if args.publish.is_empty() => Ok("none"),
        None => Ok("pod"),
    }
}

/// The pod around it.
fn sandbox(network: &str, publish: &[String]) -> Result<PodSandboxConfig> {
    let mut pod = PodSandboxConfig { hostname: "app".to_owned(), ..PodSandboxConfig::default() };
    pod.metadata.name.push_str("run");
    pod.annotations.insert(NETWORK.to_owned(), network.to_owned());
    for p in publish {
        let (ports, protocol) = p.split_once('/').unwrap_or((p, "tcp"));
        let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0).map(i32::from);
        let numbers = ports.split_once(':').and_then(|(host, own)| Some((number(host)?, number(own)?)));
        match (numbers, protocol) {
            (Some((host_port, container_port)), "tcp" | "udp") => pod.port_mappings.push(PortMapping {
                protocol: protocol.to_uppercase().into(),
                container_port,
                host_port,
                ..PortMapping::default()
            }),
            _ => {
                return Err(CliError::usage(format!(
                    "--publish {p:?}: expected HOST:MODULE or HOST:MODULE/udp"
                )));
            }
        }
    }
    Ok(pod)
}

/// The container that the options describe.
fn container(args: &Run) -> Result<ContainerConfig> {
    let mut config = ContainerConfig::default();
    config.metadata.name.push_str("app");
    config.image.image.push_str(NAME);
    for e in &args.env {
        let (key, value) = match e.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key.to_owned(), value.to_owned()),
            _ => return Err(CliError::usage(format!("--env {e:?}: expected NAME=VALUE"))),
        };
        config.envs.push(KeyValue { key, value, ..KeyValue::default() });
    }
    for m in &args.mount {
        config.mounts.push(mount(m)?);
    }
    for d in &args.device {
        config.devices.push(device(d)?);
    }
    if let Some(pages) = args.pages {
        config.annotations.insert(PAGES.to_owned(), pages.to_string());
    }
    let mut r = LinuxContainerResources::default();
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    if let Some(memory) = &args.memory {
        r.memory_limit_in_bytes =
            signed(quantity::bytes(memory).map_err(|e| CliError::usage("--memory").because(e))?);
    }
    if let Some(cpus) = &args.cpus {
        let millis = quantity::millicpus(cpus).map_err(|e| CliError::usage("--cpus").because(e))?;
        r.cpu_period = signed(PERIOD);
        r.cpu_quota = signed((millis * PERIOD / 1_000).max(1_000));
    }
    config.linux = Some(LinuxContainerConfig { resources: Some(r), ..LinuxContainerConfig::default() });
    Ok(config)
}

fn mount(text: &str) -> Result<Mount> {
    let bad = || CliError::usage(format!("--mount {text:?}: expected HOST:GUEST or HOST:GUEST:ro"));
    let mut parts = text.split(':');
    let (Some(host), Some(guest)) = (parts.next(), parts.next()) else { return Err(bad()) };
    let readonly = match (parts.next(), parts.next()) {
        (None, _) | (Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(bad()),
    };
    if !guest.starts_with('/') {
        return Err(bad());
    }
    // Links are followed here, by whoever names them; the guard follows none.
    let path = std::fs::canonicalize(host).on_path("find", Path::new(host))?;
    let host_path =
        path.to_str().ok_or_else(|| CliError::usage(format!("--mount {text:?}: not UTF-8")))?.to_owned();
    Ok(Mount { container_path: guest.to_owned(), host_path, readonly, ..Mount::default() })
}

fn device(text: &str) -> Result<Device> {
    let parts: Vec<&str> = text.split(':').collect();
    let (path, permissions) = match parts[1..] {
        [] => (parts[0], "rw"),
        [path] => (path, "rw"),
        [path, "ro"] => (path, "r"),
        _ => {
            return Err(CliError::usage(format!(
                "--device {text:?}: expected DEVICE, DEVICE:GUEST or DEVICE:GUEST:ro"
            )));
        }
    };
    Ok(Device {
        host_path: parts[0].to_owned(),
        container_path: path.to_owned(),
        permissions: permissions.to_owned(),
        ..Device::default()
    })
}

/// Puts the one image that is meant into the private store.
fn load(home: &Home, images: &ImageService, app: &str) -> Result<()> {
    let path = Path::new(app);
    if path.exists() {
        let names = images.load(path, Some(NAME)).map_err(|e| failed(&format!("read {app}"), e))?;
        return match names.len() {
            1 => Ok(()),
            n => Err(CliError::usage(format!("{app} holds {n} images; import it and name one of them"))
                .hint(format!("shoal image import {app}"))),
        };
    }
    if app.starts_with(['/', '.']) || images::is_wasm_name(app) {
        return Err(CliError::usage(format!("there is no file {app}")));
    }
    let own = images::store(home)?;
    let name = images::canonical(&images::reference(app)?);
    let tag = images::tags(&own)?.into_iter().find(|t| t.name == name).ok_or_else(|| {
        CliError::usage(format!("{app} is neither a file nor an image of the own layout"))
            .hint("list those with `shoal image ls`")
    })?;
    images.copy_from(&own, &tag.manifest.digest, NAME).map_err(|e| failed(&format!("read {app}"), e))
}

/// What it needs and what it gets, before it runs.
fn tell(args: &Run, facts: &ModuleFacts, is_root: bool) {
    let list: Vec<String> = facts.capabilities.iter().map(ToString::to_string).collect();
    let needs = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
    output::note(&format!("{} needs: {needs}", args.app));
    if let Some(m) = facts.memory {
        let most = args.pages.map(u64::from).or(m.max_pages).map_or_else(
            || "no limit of its own".to_owned(),
            |p| format!("at most {}", quantity::show_bytes(p * 65_536)),
        );
        output::note(&format!("memory: begins with {}, {most}", quantity::show_bytes(m.min_pages * 65_536)));
    }
    for m in &args.mount {
        output::note(&format!("folder: {m}"));
    }
    match args.network.as_deref() {
        Some("host") => output::note("network: this machine's"),
        Some("pod") => output::note("network: its own"),
        None if !args.publish.is_empty() => {
            output::note(&format!("network: its own, {}", args.publish.join(", ")));
        }
        _ if facts.capabilities.contains(&Capability::Sockets) => {
            output::note("network: none; grant one with --publish or --network");
        }
        _ => {}
    }
    for d in &args.device {
        output::note(&format!("device: {d}"));
    }
    if facts.capabilities.contains(&Capability::Files) && args.mount.is_empty() {
        output::note("files: only those of its own empty folder; grant one with --mount");
    }
    if !is_root {
        output::note(
            "unconfined: without root there are no own user, no namespaces and no limits of memory and CPU; \
             only the engine keeps the module to its folders",
        );
    }
}

/// From a running guard to the end of the container. Whatever happens, the guard and all it made are gone afterwards.
async fn carry_out(
    mut private: Private,
    images: &ImageService,
    image: &PinnedImage,
    config: (&PodSandboxConfig, &ContainerConfig),
    (interactive, timeout): (bool, Option<Duration>),
) -> Result<End> {
    let no_signals = |e| CliError::failure("cannot listen for signals").because(e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    let end = tokio::select! {
        end = run_in(&mut private, images, image, config, (interactive, timeout)) => end,
        _ = interrupt.recv() => Ok(End::Interrupted),
        _ = terminate.recv() => Ok(End::Interrupted),
        _ = hangup.recv() => Ok(End::Interrupted),
    };
    private.end();
    end
}

async fn run_in(
    private: &mut Private,
    images: &ImageService,
    image: &PinnedImage,
    config: (&PodSandboxConfig, &ContainerConfig),
    (interactive, timeout): (bool, Option<Duration>),
) -> Result<End> {
    cache::fill(private.layout(), &image.module.digest);
    private.start().await?;
    let service = private.service()?;
    let pod = service.run_pod_sandbox(config.0).await.map_err(|e| failed("make a pod", e))?;
    let open = |file: &shoal_image::FileEntry| std::fs::File::open(images.path_of(file)).map(OwnedFd::from);
    let id = service
        .create_container(&pod, config.1, image, &open)
        .await
        .map_err(|e| private.explain(failed("prepare the module", e)))?;
    cache::keep(private.layout(), &image.module.digest);
    let input = interactive.then(feed).transpose()?;
    let (_, [out, err]) = service
        .start_attached(&id, input)
        .await
        .map_err(|e| private.explain(failed("start the module", e)))?;
    let file = std::fs::File::from;
    let pumps = [pump(file(out), std::io::stdout()), pump(file(err), std::io::stderr())];
    let key = service.find(&id).await.map_err(|e| failed("find the module again", e))?.key;
    let ended = service.wait_container(key, timeout.unwrap_or(FOREVER)).await;
    let Some(seen) = ended.map_err(|e| failed("wait for the end", e))? else {
        return Ok(End::TimedOut);
    };
    for p in pumps {
        // The last words; their readers end with the container.
        let _ = tokio::task::spawn_blocking(move || p.join()).await;
    }
    Ok(End::Guest(Box::new(seen)))
}

/// A pipe that gets this process's standard input: the module never holds a terminal.
fn feed() -> Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| CliError::failure("cannot make a pipe").because(std::io::Error::from(e)))?;
    // Its end is the module's end of input; nobody waits for this thread.
    let _ = pump(std::io::stdin(), std::fs::File::from(write));
    Ok(read)
}

/// Passes on what the module writes or is to read, as it comes.
fn pump(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                // A reader that went away: the module finds its pipe closed, as any program would.
                Ok(n) if to.write_all(&buffer[..n]).and_then(|()| to.flush()).is_err() => return,
                Ok(_) => {}
            }
        }
    })
}

fn guest_code(seen: &Seen) -> i32 {
    let Some(status) = &seen.status else { return 1 };
    let message = status.message();
    if !message.is_empty() {
        output::note(&message);
    }
    match &status.cause {
        Some(shoal_runtime::Cause::Trap { .. } | shoal_runtime::Cause::GuestMemory) => 134,
        Some(shoal_runtime::Cause::Refused { .. }) => 3,
        _ => status.exit_code(),
    }
}

/// The other process, which tidies up when this one is gone, in whatever way.
pub(super) fn keep(args: &Keeper) -> Result<()> {
    private::keeper(&args.guard, &args.root)
}
