//! One module a command; this one hands over and holds what several of them need.

mod apply;
mod audit;
mod bundle;
mod config;
mod decommission;
mod delete;
mod demo;
mod describe;
mod enrollment;
mod get;
mod grants;
mod image;
mod keys;
mod login;
mod logs;
mod order;
mod provision;
mod receipt;
mod recipients;
mod release;
mod rollout;
mod run;
mod secret;
mod show;
mod source;
mod token;
mod trust;

use crate::api::Client;
use crate::args::{Cli, Command};
use crate::error::{CliError, Result};
use crate::home::{Context, Home};
use crate::manifest;
use crate::output::{self, Format};
use clap::CommandFactory as _;
use serde::Serialize;
use shoal_controller_core::api;
use shoal_protocol::ids::DeviceId;

/// What a command works with.
pub(crate) struct Session {
    pub(crate) home: Home,
    pub(crate) context: Context,
    pub(crate) client: Client,
}

impl Session {
    fn open(home: Home, context: Option<&str>) -> Result<Self> {
        let context = home.context(context)?;
        let client = Client::new(&context)?;
        Ok(Self { home, context, client })
    }

    /// The device that an operator means: an id, the beginning of one, or a host name.
    pub(crate) fn device(&self, text: &str) -> Result<api::Device> {
        let list: api::DeviceList = self.client.get("/v1/devices", "the devices")?;
        let matches = |d: &&api::Device| {
            d.id.as_str().starts_with(text) || d.system.as_ref().is_some_and(|s| s.hostname == text)
        };
        let exact = list.devices.iter().find(|d| d.id.as_str() == text);
        let found: Vec<&api::Device> = exact.into_iter().chain(list.devices.iter().filter(matches)).collect();
        let first = found.first().ok_or_else(|| {
            CliError::usage(format!("no device is called {text:?}"))
                .hint("list them with `shoal get devices`")
        })?;
        if exact.is_none() && found.len() > 1 {
            let ids: Vec<&str> = found.iter().map(|d| d.id.as_str()).collect();
            return Err(CliError::usage(format!("{text:?} may mean {} devices", found.len()))
                .details(ids.iter().map(ToString::to_string).collect())
                .hint("write more of the id"));
        }
        Ok((*first).clone())
    }
}

/// Runs one command.
pub(crate) fn run(cli: Cli) -> Result<()> {
    match &cli.command {
        Command::RunKeeper(a) => return run::keep(a),
        Command::Demo(a) => return demo::run(a),
        Command::DemoKeeper(a) => return demo::keep(a),
        Command::DemoOffer(a) => return demo::offer(a),
        _ => {}
    }
    let mut home = Home::find()?;
    home.passphrase.file.clone_from(&cli.passphrase_file);
    let open = |home: Home| Session::open(home, cli.context.as_deref());
    match cli.command {
        Command::Login(a) => login::run(&home, &a),
        Command::Keys(a) => keys::run(&home, &a),
        Command::Trust(a) => trust::run(&home, cli.context.as_deref(), &a),
        Command::Bundle(a) => bundle::run(&home, cli.context.as_deref(), &a),
        Command::Receipt(a) => receipt::run(&home, cli.context.as_deref(), &a),
        Command::Image(a) => image::run(&home, cli.context.as_deref(), &a),
        Command::Apply(a) => apply::run(&home, cli.context.as_deref(), &a),
        Command::Diff(a) => apply::diff(&home, cli.context.as_deref(), &a),
        Command::Run(a) => run::run(&home, &a),
        // Done above.
        Command::RunKeeper(_) | Command::Demo(_) | Command::DemoKeeper(_) | Command::DemoOffer(_) => Ok(()),
        Command::Get(a) => get::run(&open(home)?, &a),
        Command::Describe(a) => describe::run(&open(home)?, &a),
        Command::Logs(a) => logs::run(&open(home)?, &a),
        Command::Audit(a) => audit::run(&open(home)?, &a),
        Command::Delete(a) => delete::run(&open(home)?, &a),
        Command::Release(a) => release::run(&home, cli.context.as_deref(), &a),
        Command::Secret(a) => secret::run(&open(home)?, &a),
        Command::Token(a) => token::run(&open(home)?, &a),
        Command::Approve(a) => enrollment::approve(&open(home)?, &a),
        Command::Deny(a) => enrollment::deny(&open(home)?, &a),
        Command::Decommission(a) => decommission::run(&open(home)?, &a),
        Command::Provision(a) => provision::run(&home, cli.context.as_deref(), &a),
        Command::Rollout(a) => rollout::run(&open(home)?, &a),
        Command::Restart(a) => order::run(&open(home)?, &a, order::Verb::Restart),
        Command::Activate(a) => order::run(&open(home)?, &a, order::Verb::Activate),
        Command::Return(a) => order::run(&open(home)?, &a, order::Verb::Return),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "shoal", &mut script);
            output::raw(&String::from_utf8_lossy(&script));
            Ok(())
        }
        Command::Version(a) => version(&home, cli.context.as_deref(), a.format),
    }
}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    server: Option<String>,
}

fn version(home: &Home, context: Option<&str>, format: Format) -> Result<()> {
    let client = env!("CARGO_PKG_VERSION");
    let mut failure = None;
    let server = match Session::open(home.clone(), context) {
        Err(_) => None,
        Ok(s) => match s.client.get::<api::Version>("/v1/version", "the controller's version") {
            Ok(v) => Some(format!("{} {} (API {})", v.name, v.version, v.api)),
            Err(e) => {
                failure = Some(e);
                None
            }
        },
    };
    if format.is_data() {
        output::data(format, &Versions { client, server })?;
    } else {
        output::line(&format!("shoal {client}"));
        if let Some(s) = server {
            output::line(&s);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// A duration on the command line.
pub(crate) fn duration(flag: &str, text: &str) -> Result<u64> {
    manifest::quantity::seconds(text).map_err(|e| CliError::usage(format!("{flag}: {e}")))
}

/// The first twelve letters of a device's id: enough to tell devices apart in a table.
pub(crate) fn short_id(id: &DeviceId) -> String {
    id.as_str().chars().take(12).collect()
}
