//! How times, states and causes read, the same in every table and description; and what to do next about each state.

use crate::manifest::quantity::show_bytes;
use crate::output::{Cell, Tone, clean, toned};
use crate::trust::now;
use shoal_controller_core::api::{Cause, Container, DeviceRollout, DeviceState, Phase, Pod, RolloutState};
use shoal_protocol::Code;
use shoal_protocol::ids::Timestamp;

/// A time in RFC 3339.
pub(crate) fn time(t: Timestamp) -> String {
    let seconds = i64::try_from(t.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| t.0.to_string(), |t| t.to_string())
}

/// A span in the largest unit that fits, as kubectl writes it.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago, or `-`.
pub(crate) fn age(t: Option<Timestamp>) -> String {
    t.map_or_else(|| "-".to_owned(), |t| span(now().0.saturating_sub(t.0)))
}

/// When something is due: `in 5m`, `passed 3s ago`.
pub(crate) fn due(t: Timestamp) -> String {
    let now = now();
    if t >= now { format!("in {}", span(t.0 - now.0)) } else { format!("passed {} ago", span(now.0 - t.0)) }
}

pub(crate) fn phase(p: Phase) -> Cell {
    let tone = match p {
        Phase::Running | Phase::Healthy | Phase::Succeeded => Tone::Good,
        Phase::Failed | Phase::CrashLoop => Tone::Bad,
        Phase::Stopped => Tone::Plain,
        _ => Tone::Waiting,
    };
    toned(p.as_str(), tone)
}

/// Whether a phase needs no explanation.
pub(crate) fn is_well(p: Phase) -> bool {
    matches!(p, Phase::Running | Phase::Healthy | Phase::Succeeded)
}

pub(crate) fn device_state(s: DeviceState) -> Cell {
    let tone = match s {
        DeviceState::Online => Tone::Good,
        DeviceState::Enrolled => Tone::Waiting,
        DeviceState::Unknown | DeviceState::Revoked => Tone::Bad,
    };
    toned(s.to_string(), tone)
}

pub(crate) fn rollout_state(s: RolloutState) -> Cell {
    let tone = match s {
        RolloutState::Complete => Tone::Good,
        RolloutState::Halted => Tone::Bad,
        RolloutState::Removed => Tone::Plain,
        _ => Tone::Waiting,
    };
    toned(s.as_str(), tone)
}

pub(crate) fn device_rollout(s: DeviceRollout) -> Cell {
    let tone = match s {
        DeviceRollout::Healthy => Tone::Good,
        DeviceRollout::Failed | DeviceRollout::Unfit => Tone::Bad,
        _ => Tone::Waiting,
    };
    toned(s.as_str(), tone)
}

/// How a container ended, in a few words.
pub(crate) fn cause(c: &Cause) -> String {
    match c {
        Cause::Exited { code } => format!("exited ({code})"),
        Cause::Trap { message } => format!("trap: {}", clean(message)),
        Cause::GuestMemory => "guest_memory: it wanted more than its wasm memory".to_owned(),
        Cause::OomKilled => "oom_killed: beyond its memory limit".to_owned(),
        Cause::CpuLimit => "cpu_limit: its CPU time is used up".to_owned(),
        Cause::TimeLimit => "time_limit: it ran as long as it may".to_owned(),
        Cause::Unhealthy => "unhealthy: a probe or its first hook failed".to_owned(),
        Cause::Stopped => "stopped".to_owned(),
        Cause::Signal { number } => format!("signal {number}"),
        Cause::Refused { code } => format!("refused: {}", clean(code)),
        Cause::Unknown => "unknown".to_owned(),
    }
}

/// Bytes, or `-`.
pub(crate) fn bytes(v: Option<u64>) -> String {
    v.map_or_else(|| "-".to_owned(), show_bytes)
}

/// A quota as thousandths of a CPU, or `-`.
pub(crate) fn cpu_limit(c: &Container) -> String {
    match (c.cpu_quota, c.cpu_period) {
        (Some(q), Some(p)) if p > 0 => format!("{}m", q.saturating_mul(1_000) / p),
        _ => "-".to_owned(),
    }
}

/// Microseconds for people.
pub(crate) fn micros(v: Option<u64>) -> String {
    match v {
        None => "-".to_owned(),
        Some(us) if us < 1_000_000 => format!("{} ms", us / 1_000),
        Some(us) => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
    }
}

/// What a code means and what to do, when it is one of the protocol's.
pub(crate) fn advice(code: &str) -> Option<&'static str> {
    code.parse::<Code>().ok().map(Code::hint)
}

/// Why a pod is not where it should be: reason, words, deadline, and the next command; nothing for one that is.
pub(crate) fn why(pod: &Pod) -> Vec<String> {
    let mut out = Vec::new();
    if pod.device_state == DeviceState::Unknown {
        out.push(format!("the device is silent since {}: what stands here may be old", age(pod.last_seen)));
    }
    if is_well(pod.phase) {
        return out;
    }
    let reason = pod.reason.as_deref().map(clean);
    let words = pod.message.as_deref().map(clean);
    match (&reason, &words) {
        (Some(r), Some(w)) => out.push(format!("{r}: {w}")),
        (Some(r), None) => out.push(format!("{r}: {}", advice(r).unwrap_or("no further word"))),
        (None, Some(w)) => out.push(w.clone()),
        (None, None) => out.push(format!("{} since {}", pod.phase.as_str(), age(Some(pod.since)))),
    }
    match pod.deadline {
        Some(t) => out.push(format!("looked at again {} ({})", due(t), time(t))),
        None if pod.phase != Phase::Stopped => out.push("no deadline: it needs a change".to_owned()),
        None => {}
    }
    if let Some(next) = next_command(pod) {
        out.push(format!("next: {next}"));
    }
    out
}

fn next_command(pod: &Pod) -> Option<String> {
    let (name, device) = (&pod.deployment, super::short_id(&pod.device));
    match pod.phase {
        Phase::CrashLoop | Phase::Failed => Some(format!("shoal logs {name} --device {device}")),
        Phase::Staged => Some(format!("shoal activate {name} --device {device}")),
        Phase::Pending | Phase::Pulling | Phase::Compiling | Phase::Stopping => {
            Some(format!("shoal rollout status {name} --wait"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_kubectl_writes_them() {
        let shown: Vec<String> = [5, 119, 120, 7_200, 200_000].into_iter().map(span).collect();
        assert_eq!(shown, ["5s", "119s", "2m", "2h", "2d"]);
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(micros(Some(1_250_000)), "1.2 s");
    }

    #[test]
    fn every_state_that_is_not_running_says_why_until_when_and_what_next() {
        let pod = |phase: Phase| Pod {
            device: "a".repeat(32).parse().unwrap(),
            hostname: "h".into(),
            deployment: "app".parse().unwrap(),
            revision: shoal_controller_core::api::Revision {
                sequence: 1,
                digest: shoal_protocol::ids::Digest::of(b"x").into(),
            },
            phase,
            since: Timestamp(1),
            reason: Some("digest_mismatch".into()),
            message: None,
            deadline: Some(Timestamp(u64::from(u32::MAX) * 2)),
            containers: Vec::new(),
            device_state: DeviceState::Online,
            last_seen: None,
        };
        for phase in
            [Phase::Pending, Phase::Pulling, Phase::Compiling, Phase::Staged, Phase::Failed, Phase::CrashLoop]
        {
            let said = why(&pod(phase)).join("\n");
            for part in ["digest_mismatch: ", "looked at again in", "next: shoal "] {
                assert!(said.contains(part), "{phase}: no {part:?} in {said}");
            }
        }
        assert!(why(&pod(Phase::Healthy)).is_empty());
    }
}
