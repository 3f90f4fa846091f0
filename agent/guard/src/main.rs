//! The trusted side of a device: admit (trust), supervise (privilege) and log, three processes of one binary.
//!
//! Links no engine, opens no network. Each process does one verb of this table and nothing else.

mod admit;
mod clock;
mod log;
mod network;
mod points;
mod probe;
mod say;
mod software;
mod supervise;

use anyhow::{Context as _, bail};
use shoal_ipc::{Error, Layout, SuperviseClient};
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
The trusted side of a Shoal device.

Usage: shoal-guard <VERB> [--root DIR]

Verbs:
  supervise   Start admit and log, and run what admission permits (the service's main process)
  stop-all    Stop all containers, remove their groups and mounts, and end the guard
  status      Say how the guard is
  policy      Read the device's policy file, and say what it comes to
  admit, log, network, probe
              Started by supervise only

Options:
  --root DIR  The folder that holds the device's files [default: /]
  -h, --help, -V, --version
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Args {
    verb: String,
    root: PathBuf,
    agent: Option<u32>,
    engine: String,
    /// Of a probe: how long it may take, and what it gets.
    seconds: u64,
    path: Option<String>,
    /// Of a pod's network: what is to be done, for which pod, and where plugins are.
    action: String,
    pod: String,
    plugins: Vec<PathBuf>,
}

fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Args> {
    let mut parsed = Args {
        verb: String::new(),
        root: PathBuf::from("/"),
        agent: None,
        engine: String::new(),
        seconds: 1,
        path: None,
        action: String::new(),
        pod: String::new(),
        plugins: Vec::new(),
    };
    let mut args = args;
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--root" => parsed.root = value()?.into(),
            "--agent" => parsed.agent = Some(value()?.parse().context("--agent needs a uid")?),
            "--engine" => parsed.engine = value()?,
            "--seconds" => parsed.seconds = value()?.parse().context("--seconds needs a number")?,
            "--path" => parsed.path = Some(value()?),
            "--action" => parsed.action = value()?,
            "--pod" => parsed.pod = value()?,
            "--plugins" => parsed.plugins.push(value()?.into()),
            "-h" | "--help" => parsed.verb = "help".into(),
            "-V" | "--version" => parsed.verb = "version".into(),
            verb if parsed.verb.is_empty() && !verb.starts_with('-') => parsed.verb = verb.into(),
            other => bail!("{other:?} is not known here; see shoal-guard --help"),
        }
    }
    Ok(parsed)
}

fn run() -> anyhow::Result<()> {
    points::arm()?;
    let args = parse(std::env::args().skip(1))?;
    let layout = || -> anyhow::Result<Layout> {
        std::fs::create_dir_all(&args.root)
            .with_context(|| format!("cannot make {}", args.root.display()))?;
        let root = args.root.canonicalize().with_context(|| format!("cannot use {}", args.root.display()))?;
        Ok(Layout::new(root))
    };
    match args.verb.as_str() {
        "help" | "" => say::out(HELP),
        "version" => say::out(&format!("shoal-guard {}\n", shoal_ipc::running_version(software::BUILT))),
        "supervise" => {
            say::name("supervise");
            // Without root its children could then not set themselves up, and there are no walls to guard.
            if rustix::process::geteuid().is_root() {
                hide_memory()?;
            }
            let layout = layout()?;
            software::launch(&layout);
            supervise::run(layout)?;
        }
        "admit" => {
            say::name("admit");
            hide_memory()?;
            let agent = args.agent.context("admit is started by supervise only")?;
            admit::run(&Layout::new(args.root), admit::Settings { agent, engine: args.engine })?;
        }
        "log" => {
            say::name("log");
            log::run(&Layout::new(args.root))?;
        }
        "probe" => {
            let fd = |n| supervise::process::inherited(n).context("a probe is started by supervise only");
            let time = std::time::Duration::from_secs(args.seconds.min(3600));
            probe::run(&fd(0)?, &fd(1)?, args.path.as_deref(), time)?;
        }
        "network" => {
            say::name("network");
            network(args)?;
        }
        "stop-all" => {
            say::name("stop-all");
            stop_all(layout()?)?;
        }
        "status" => {
            let status = SuperviseClient::connect_root(&layout()?)?.status()?;
            say::out(&format!("{status:#?}\n"));
        }
        "policy" => say::out(&supervise::policy_summary(&Layout::new(&args.root))?),
        #[cfg(feature = "failpoints")]
        "points" => say::out(&points::list()),
        other => bail!("{other:?} is no verb of shoal-guard; see --help"),
    }
    Ok(())
}

/// Keys and opened secrets are in memory only: one that falls over leaves no core on a disk, and nobody else of its user
/// reads them.
fn hide_memory() -> anyhow::Result<()> {
    shoal_confine::hide_memory().context("cannot keep the own memory from others")
}

/// Says on standard output why not, for supervise: a code, and words.
fn network(args: Args) -> anyhow::Result<()> {
    let verb = match args.action.as_str() {
        "add" => network::conf::Verb::Add,
        "del" => network::conf::Verb::Del,
        "check" => network::conf::Verb::Check,
        other => bail!("{other:?} is nothing to do with a network"),
    };
    let time = std::time::Duration::from_secs(args.seconds.min(3600));
    let layout = Layout::new(args.root);
    let task = network::Task { layout, verb, pod: args.pod, folders: args.plugins, time };
    network::run(&task).map_err(|e| {
        // Supervise may have gone meanwhile; the next one asks again.
        let _ = rustix::io::write(std::io::stdout(), format!("{}\n{}", e.code, e.detail).as_bytes());
        anyhow::anyhow!(e.detail)
    })
}

/// Through the running guard, or without one by its records.
fn stop_all(layout: Layout) -> anyhow::Result<()> {
    match SuperviseClient::connect_root(&layout) {
        Ok(client) => Ok(client.shutdown()?),
        Err(e) if e.is_disconnect() => supervise::stop_leftovers(layout),
        Err(e @ Error::Io { .. }) => Err(e).context("the guard cannot be reached; are you root?"),
        Err(e) => Err(e.into()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say::line(format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> anyhow::Result<Args> {
        parse(args.iter().map(ToString::to_string))
    }

    #[test]
    fn verbs_and_options_in_any_order() {
        let a = of(&["--root", "/x", "supervise"]).unwrap();
        assert_eq!((a.verb.as_str(), a.root.to_str()), ("supervise", Some("/x")));
        assert!(of(&["supervise", "--wrong"]).is_err());
        assert!(of(&["supervise", "--root"]).is_err());
    }
}
