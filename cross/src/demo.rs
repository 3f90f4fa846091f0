//! `cargo xtask demo`: the main job from nothing, on this machine, with real parts; then two attacks; then nothing is left.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use shoal_lab::{Binaries, Finished, Lab, is_root, wait_until};

use crate::assemble::assemble;
use crate::engine::Profile;
use crate::{output, paths};

/// The exit code of a demo that ran, but could not enforce everything because it is not root.
pub(crate) const UNCONFINED: u8 = 10;

/// Build Shoal, run a controller and three devices here, deploy, attack, clean up.
///
/// Exit codes: 0 all was shown; 1 something failed; 10 all that works without root was shown, limits were not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask demo            everything, cleaned up after\n  cargo xtask demo --keep     leave it running and say how to look around"
)]
pub(crate) struct Args {
    /// Leave controller and devices running at the end
    #[arg(long)]
    keep: bool,
    /// Stop what `--keep` left running under this folder, and do nothing else
    #[arg(long, value_name = "DIR", conflicts_with_all = ["keep", "dir"])]
    stop: Option<PathBuf>,
    /// Where the fleet lives [default: a new folder under the system's temporary one]
    #[arg(long)]
    dir: Option<PathBuf>,
}

struct Demo {
    lab: Lab,
    began: Instant,
    step: u32,
}

const STEPS: u32 = 8;

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if let Some(dir) = &args.stop {
        Lab::stop_left_running(dir)?;
        std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    say(1, began, "engine and build (the first time takes minutes)");
    let bins = assemble(Profile::Dev, false)?;
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("shoal-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
    let bins = Binaries::in_dir(bins)?.reachable_by_all(&dir.join("bin"))?;

    say(2, began, "a controller: its own CA, broker, store and registry");
    let tag = format!("demo{}", std::process::id());
    let lab = Lab::start(&bins, &dir, &tag)?;
    output::result(&indent(&lab.controller.output()));
    let mut demo = Demo { lab, began, step: 2 };
    let code = demo.run()?;
    if args.keep {
        demo.keep(&dir)?;
        return Ok(code);
    }
    demo.say("stop everything");
    demo.lab.stop().context("stop the demo's fleet")?;
    drop(demo);
    if args.dir.is_none() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    output::result(&format!(
        "nothing is left: no process, no control group, no mount ({:.1} s)",
        began.elapsed().as_secs_f64()
    ));
    Ok(code)
}

impl Demo {
    fn say(&mut self, text: &str) {
        self.step += 1;
        say(self.step, self.began, text);
    }

    fn run(&mut self) -> Result<ExitCode> {
        self.say("three devices join");
        for (n, site) in ["harbour", "harbour", "lighthouse"].iter().enumerate() {
            self.lab.add_device(&format!("demo=yes,site={site}"))?;
            output::step("device", &format!("{} of 3 enrolled (site={site})", n + 1));
        }
        self.show(&["get", "devices"])?;

        self.say("import the example images and sign deployments");
        let apps = paths::workspace().join("deploy/apps/prebuilt");
        for (file, reference) in
            [("wasi_example_main.wasm", "wasi-example:1.0"), ("sensor.wasm", "sensor:1.0")]
        {
            let file = apps.join(file);
            self.show(&["image", "import", text(&file)?, reference])?;
        }
        if !is_root() {
            return self.without_root();
        }
        let examples = paths::workspace().join("deploy/examples");
        let applied = Instant::now();
        for file in ["sensor.yaml", "wasi-example.yaml"] {
            self.show(&["apply", "-f", text(&examples.join(file))?, "--yes"])?;
        }

        self.say("wait until they run");
        self.wait_for_pods("sensor", 3)?;
        output::step(
            "running",
            &format!("on three devices {:.1} s after `apply`", applied.elapsed().as_secs_f64()),
        );
        self.wait_for_pods("wasi-example", 3)?;
        self.show(&["get", "deployments"])?;
        self.show(&["get", "pods"])?;
        self.show_limits()?;

        self.say("the program's own words, from the first device");
        self.show(&["logs", "wasi-example", "--tail", "30", "--limit-devices", "1"])?;
        self.say("two attacks, by a thief who has the whole controller");
        self.attack(
            "flip",
            "bad_signature",
            "a real deployment with one flipped byte, sent through the broker",
        )?;
        self.attack(
            "online-key",
            "role_scope",
            "an own deployment, signed with the controller's online key",
        )?;
        self.attack("fresh-key", "unknown_key", "an own deployment, signed with a key that nobody knows")?;
        self.show(&["get", "pods"])?;
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, args: &[&str]) -> Result<()> {
        output::step("$", &format!("shoal {}", args.join(" ")));
        let done = self.lab.operator.run(args)?;
        let text = format!("{}{}", done.stderr, done.stdout);
        output::result(&indent(&text));
        done.ok().map(drop)
    }

    fn pods(&self, deployment: &str) -> Result<Vec<Value>> {
        let all = self.lab.operator.json(&["get", "pods"])?;
        let pods = all["pods"].as_array().context("`shoal get pods` gave no list")?;
        Ok(pods.iter().filter(|p| p["deployment"] == deployment).cloned().collect())
    }

    fn wait_for_pods(&self, deployment: &str, count: usize) -> Result<()> {
        let what = format!("{deployment} to run on {count} devices");
        wait_until(&what, Duration::from_secs(90), || {
            let pods = self.pods(deployment)?;
            let good = |p: &Value| matches!(p["phase"].as_str(), Some("running" | "healthy" | "succeeded"));
            if let Some(bad) = pods.iter().find(|p| p["phase"] == "failed") {
                bail!("{bad:#}");
            }
            Ok((pods.iter().filter(|p| good(p)).count() >= count).then_some(()))
        })
    }

    fn show_limits(&self) -> Result<()> {
        let mut rows =
            vec!["DEVICE         CONTAINER       MEMORY  PEAK    LIMIT   CPU USED  CPU LIMIT".to_owned()];
        for name in ["sensor", "wasi-example"] {
            for pod in self.pods(name)? {
                for c in pod["containers"].as_array().into_iter().flatten() {
                    let mib = |v: &Value| v.as_u64().map_or("-".to_owned(), |b| format!("{:.1}M", mebi(b)));
                    let cpu = match (c["cpu_quota"].as_u64(), c["cpu_period"].as_u64()) {
                        (Some(q), Some(p)) if p > 0 => format!("{}m", q * 1000 / p),
                        _ => "-".to_owned(),
                    };
                    let used =
                        c["cpu_usage"].as_u64().map_or("-".to_owned(), |us| format!("{} ms", us / 1000));
                    rows.push(format!(
                        "{:<14.12} {:<15} {:<7} {:<7} {:<7} {used:<9} {cpu}",
                        pod["device"].as_str().unwrap_or("-"),
                        c["name"].as_str().unwrap_or("-"),
                        mib(&c["memory"]),
                        mib(&c["memory_peak"]),
                        mib(&c["memory_limit"]),
                    ));
                }
            }
        }
        output::result(&indent(&rows.join("\n")));
        Ok(())
    }

    /// Sends a hostile document to the first device and shows that it was refused there with `code`.
    fn attack(&self, act: &str, code: &str, words: &str) -> Result<()> {
        let devices = self.lab.operator.json(&["get", "devices"])?;
        let id = devices["devices"][0]["id"].as_str().context("no device")?.to_owned();
        output::step("attack", words);
        let mut thief = Command::new(self.lab.binary("shoal-attack"));
        thief.arg("--data").arg(&self.lab.controller.data).args(["--device", &id, act]);
        Finished::of(&mut thief)?.ok()?;
        let refusal = wait_until(&format!("the device's refusal {code}"), Duration::from_mins(1), || {
            let device = self.lab.operator.json(&["describe", "device", &id])?;
            let found = device["refusals"].as_array().into_iter().flatten().find(|r| r["code"] == code);
            Ok(found.cloned())
        })?;
        output::step("refused", &format!("{code}: {}", refusal["message"].as_str().unwrap_or("")));
        Ok(())
    }

    fn without_root(&mut self) -> Result<ExitCode> {
        let examples = paths::workspace().join("deploy/examples");
        output::warn("not root: users, limits and mounts of containers cannot be enforced here");
        self.say("a container with limits is refused");
        self.show(&["apply", "-f", text(&examples.join("sensor.yaml"))?, "--yes"])?;
        let pod = wait_until("the refusal", Duration::from_mins(1), || {
            Ok(self.pods("sensor")?.into_iter().find(|p| p["reason"] == "kernel_unsupported"))
        })?;
        output::step("refused", pod["message"].as_str().unwrap_or("kernel_unsupported"));
        self.say("one without limits runs, marked unconfined");
        self.show(&["apply", "-f", text(&examples.join("sensor-unlimited.yaml"))?, "--yes"])?;
        self.wait_for_pods("sensor-unlimited", 3)?;
        self.show(&["get", "devices"])?;
        self.show(&["get", "pods"])?;
        output::warn(&format!("run it as root to see limits and attacks; exit code {UNCONFINED}"));
        Ok(ExitCode::from(UNCONFINED))
    }

    fn keep(self, dir: &Path) -> Result<()> {
        let home = self.lab.operator.home.display().to_string();
        let bin = self.lab.binary("").display().to_string();
        output::result(&format!(
            "\nleft running under {}. Look around:\n  export SHOAL_HOME={home} PATH={bin}:$PATH\n  shoal get pods\n  shoal logs sensor -f\n  \
             shoal-agent ps --root {}\nstop it with: cargo xtask demo --stop {}",
            dir.display(),
            self.lab.devices[0].root.display(),
            dir.display(),
        ));
        self.lab.leave_running()
    }
}

fn say(step: u32, began: Instant, words: &str) {
    output::result(&format!("\n[{step}/{STEPS}] {words}  ({:.0} s)", began.elapsed().as_secs_f64()));
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[allow(clippy::cast_precision_loss, reason = "for a table with one decimal")]
fn mebi(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
