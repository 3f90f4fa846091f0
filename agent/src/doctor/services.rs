//! Who starts guard and agent at boot, and whether the owner's policy file is one that the guard takes.

use super::{Check, State, bad, ok};
use shoal_ipc::Layout;
use std::path::Path;
use std::process::{Command, Stdio};

/// Units that have to be started at boot.
const UNITS: [&str; 2] = ["shoal-guard.service", "shoal-agent.service"];

/// Under systemd, of the installed device: whether both services start at boot, and run.
pub(super) fn services(layout: &Layout) -> Option<Check> {
    if layout.root() != Path::new("/") {
        return None;
    }
    if !Path::new("/run/systemd/system").is_dir() {
        return Some(ok("services", "no systemd: whatever starts guard and agent here"));
    }
    let asked = UNITS.map(|unit| {
        let word = |verb: &str| ask(&[verb, unit]).unwrap_or_else(|| "unknown".to_owned());
        (unit, word("is-enabled"), word("is-active"))
    });
    Some(judge(&asked))
}

fn judge(asked: &[(&str, String, String)]) -> Check {
    let words: Vec<String> =
        asked.iter().map(|(unit, enabled, active)| format!("{unit} {enabled}, {active}")).collect();
    let found = words.join("; ");
    let broken = asked.iter().find(|(_, _, active)| active == "failed");
    if let Some((unit, ..)) = broken {
        return bad("services", State::Failed, found, &format!("journalctl -u {unit}"));
    }
    let asleep: Vec<&str> = asked
        .iter()
        .filter(|(_, enabled, active)| enabled != "enabled" || active != "active")
        .map(|(unit, ..)| *unit)
        .collect();
    if asleep.is_empty() {
        ok("services", found)
    } else {
        bad("services", State::Warn, found, &format!("systemctl enable --now {}", asleep.join(" ")))
    }
}

/// One word of systemctl; its exit code says nothing more.
fn ask(args: &[&str]) -> Option<String> {
    let out =
        Command::new("systemctl").args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let word = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    (!word.is_empty()).then_some(word)
}

/// The guard itself reads it, as it would at its next start.
pub(super) fn policy(layout: &Layout) -> Check {
    let path = layout.policy();
    let guard = Layout::guard_binary();
    let mut command = Command::new(&guard);
    command.arg("policy").arg("--root").arg(layout.root()).stdin(Stdio::null());
    match command.output() {
        Err(e) => bad(
            "policy",
            State::Warn,
            format!("not read: {} does not start: {e}", guard.display()),
            "install shoal-guard beside shoal-agent",
        ),
        Ok(out) if out.status.success() => {
            let said = String::from_utf8_lossy(&out.stdout);
            if changed_since_start(layout, &path) {
                let hint = "it was changed since the guard started: systemctl restart shoal-guard (containers go on running)";
                return bad("policy", State::Warn, said.trim(), hint);
            }
            ok("policy", said.trim())
        }
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr);
            let hint = format!("correct {}: the guard does not start with it", path.display());
            bad("policy", State::Failed, said.trim(), &hint)
        }
    }
}

/// The guard makes its sockets when it starts.
fn changed_since_start(layout: &Layout, path: &Path) -> bool {
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    time(path).zip(time(&layout.supervise_root_socket())).is_some_and(|(policy, guard)| policy > guard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(guard: (&str, &str), agent: (&str, &str)) -> Vec<(&'static str, String, String)> {
        let of = |unit, (enabled, active): (&str, &str)| (unit, enabled.to_owned(), active.to_owned());
        vec![of(UNITS[0], guard), of(UNITS[1], agent)]
    }

    #[test]
    fn services_that_do_not_start_at_boot_or_failed_are_told() {
        let well = ("enabled", "active");
        assert_eq!(judge(&asked(well, well)).state, State::Ok);
        let asleep = judge(&asked(well, ("disabled", "inactive")));
        assert_eq!(asleep.state, State::Warn);
        assert_eq!(asleep.hint.unwrap(), "systemctl enable --now shoal-agent.service");
        assert_eq!(judge(&asked(("enabled", "failed"), well)).state, State::Failed);
    }
}
