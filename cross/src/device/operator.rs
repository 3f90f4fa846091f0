//! The operator's side of a site: images, deployments, and what the controller tells of them.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::site::{Site, runs, utf8, wait};
use crate::paths;

impl Site {
    /// Runs the operator's command line.
    pub(super) fn shoal(&self, args: &[&str]) -> Result<String> {
        self.lab.operator.run(args)?.ok()
    }

    /// Imports a module as an image.
    pub(super) fn import(&self, reference: &str, module: &[u8]) -> Result<()> {
        let path = self.temp.path().join("module.wasm");
        fs::write(&path, module).context("write a module")?;
        self.shoal(&["image", "import", utf8(&path)?, reference]).map(drop)
    }

    /// Imports a module from its text form.
    pub(super) fn import_text(&self, reference: &str, text: &str) -> Result<()> {
        self.import(reference, &wat::parse_str(text).context("assemble a module")?)
    }

    /// Imports the example that prints a numbered line a second.
    pub(super) fn import_sensor(&self) -> Result<()> {
        let path = paths::workspace().join("deploy/apps/prebuilt/sensor.wasm");
        self.import("sensor:1", &fs::read(&path).with_context(|| format!("read {}", path.display()))?)
    }

    /// Signs and uploads a deployment of one container for the device; `extra` is YAML below the container.
    pub(super) fn apply(&self, name: &str, image: &str, restart: &str, extra: &str) -> Result<()> {
        let extra: String = extra.lines().flat_map(|line| ["          ", line, "\n"]).collect();
        let text = format!(
            "apiVersion: shoal/v1\nkind: Deployment\nmetadata:\n  name: {name}\nspec:\n  selector:\n    matchLabels:\n      \
             site: here\n  logs: tail\n  template:\n    spec:\n      restartPolicy: {restart}\n      containers:\n        - \
             name: main\n          image: {image}\n{extra}"
        );
        let path = self.temp.path().join("app.yaml");
        fs::write(&path, text).context("write a deployment")?;
        self.shoal(&["apply", "-f", utf8(&path)?, "--yes"]).map(drop)
    }

    /// All pods of a deployment, as the controller knows them.
    pub(super) fn pods(&self, deployment: &str) -> Result<Vec<Value>> {
        let all = self.lab.operator.json(&["get", "pods"])?;
        let pods = all["pods"].as_array().context("`shoal get pods` gave no list")?;
        let ours = |pod: &&Value| {
            pod["deployment"] == deployment && self.device.as_ref().is_none_or(|id| pod["device"] == **id)
        };
        Ok(pods.iter().filter(ours).cloned().collect())
    }

    /// Waits until a pod of this deployment is as wanted.
    pub(super) fn wait_pod(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        wait(what, || {
            let pods = self.pods(name)?;
            last = pods.first().cloned().unwrap_or_default();
            Ok(pods.into_iter().find(|pod| good(pod)))
        })
        .with_context(|| format!("last seen of {name}: {last:#}"))
    }

    /// Waits until the controller has heard that this deployment runs, or ended well.
    pub(super) fn wait_runs(&self, name: &str) -> Result<Value> {
        self.wait_pod(name, &format!("{name} to run"), runs)
    }

    /// What the controller knows of the device.
    pub(super) fn described(&mut self) -> Result<Value> {
        let id = self.id()?;
        self.lab.operator.json(&["describe", "device", &id])
    }
}
