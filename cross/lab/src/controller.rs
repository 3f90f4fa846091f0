//! The controller of a lab, and the operator who talks to it.

use crate::Binaries;
use crate::process::{Finished, Service, wait_until};
use anyhow::{Context, Result};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A `shoald` with its data under one folder.
#[derive(Debug)]
pub struct Controller {
    bins: Binaries,
    /// Its data folder: what a thief of the controller would take.
    pub data: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// More arguments for its next start.
    pub extra: Vec<String>,
    service: Option<Service>,
}

/// A TCP port that nobody listens on just now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Controller {
    /// Starts it on free ports with these further arguments, and waits until it answers.
    pub fn start(bins: &Binaries, data: &Path, extra: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(data)?;
        let mut controller = Self {
            bins: bins.clone(),
            data: data.to_owned(),
            port: free_port()?,
            extra: extra.iter().map(|&a| a.to_owned()).collect(),
            service: None,
        };
        controller.start_again()?;
        Ok(controller)
    }

    /// The command that starts it; tests change it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.bins.path("shoald"));
        command
            .args(["run", "--data"])
            .arg(&self.data)
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--name", "127.0.0.1"])
            .args(&self.extra);
        command
    }

    /// Starts it on the same data and ports as before.
    pub fn start_again(&mut self) -> Result<()> {
        let log = self.data.with_extension("log");
        let ready = |text: &str| text.matches("API and registry").count();
        let before = ready(&std::fs::read_to_string(&log).unwrap_or_default());
        let mut service = Service::spawn(&mut self.command(), &log)?;
        // It has its port long before it is ready.
        wait_until("shoald to be ready", Duration::from_secs(30), || {
            if let Some(status) = service.ended()? {
                anyhow::bail!("shoald ended with {status}\n{}", service.output());
            }
            Ok((ready(&service.output()) > before).then_some(()))
        })?;
        self.service = Some(service);
        Ok(())
    }

    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The credential that its first start made.
    pub fn credential(&self) -> Result<String> {
        let path = self.data.join("admin-credential");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// What it printed.
    pub fn output(&self) -> String {
        self.service.as_ref().map(Service::output).unwrap_or_default()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.service.as_ref().map(Service::pid)
    }

    pub(crate) fn forget(&mut self) {
        self.service = None;
    }

    /// Ends it in good order.
    pub fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.terminate(Duration::from_secs(10));
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill();
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The operator: `shoal` with keys and state in a home of its own.
#[derive(Debug, Clone)]
pub struct Operator {
    bins: Binaries,
    /// `$SHOAL_HOME`.
    pub home: PathBuf,
}

impl Operator {
    /// An operator without any state.
    pub fn new(bins: &Binaries, home: &Path) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        Ok(Self { bins: bins.clone(), home: home.to_owned() })
    }

    /// `shoal` with this home, ready for arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.bins.path("shoal"));
        command.env("SHOAL_HOME", &self.home).env_remove("RUST_LOG");
        command
    }

    /// Runs `shoal` with `args` to its end.
    pub fn run(&self, args: &[&str]) -> Result<Finished> {
        Finished::of(self.command().args(args))
    }

    /// Runs `shoal ARGS --output json`.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        Finished::of(self.command().args(args).args(["--output", "json"]))?.json()
    }

    /// Logs in with the credential of the first start.
    pub fn login(&self, controller: &Controller) -> Result<()> {
        let ca = controller.data.join("ca.pem");
        let ca = ca.to_str().context("the lab's folder is not UTF-8")?;
        self.run(&["login", &controller.url(), "--token", &controller.credential()?, "--ca", ca])?.ok()?;
        Ok(())
    }
}
