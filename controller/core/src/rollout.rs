//! How a new revision spreads: who may move to it now, who stays, who failed, and when it stops by itself.
//!
//! Health is counted from facts that the devices' admission signed, never from an agent's word; an agent can only
//! withhold them, and then its deadline passes.

use crate::api::{DeviceRollout, DeviceState, RolloutCounts, RolloutState};
use crate::fit::fit;
use shoal_protocol::ids::{DeviceId, Name, Timestamp};
use shoal_protocol::latest::{Activation, Deployment, Phase, PodStatus, System};
use std::collections::BTreeSet;

/// Seconds from opening to healthy when the deployment names none.
const DEFAULT_DEADLINE: u64 = 600;

/// What is known of one selected device and the newest revision.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The device.
    pub device: &'a DeviceId,
    /// What it is, once it was heard.
    pub system: Option<&'a System>,
    /// Whether it answers.
    pub state: DeviceState,
    /// Whether a message would reach it now.
    pub connected: bool,
    /// When it was first allowed to take the newest revision.
    pub opened_at: Option<Timestamp>,
    /// What it last reported of the newest revision.
    pub pod: Option<&'a PodStatus>,
    /// The containers of the newest revision that its signed facts call healthy.
    pub healthy: &'a BTreeSet<Name>,
}

/// Where one device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where.
    pub rollout: DeviceRollout,
    /// A stable code when it is not healthy.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// When it fails, or is looked at again.
    pub deadline: Option<Timestamp>,
}

impl Standing {
    fn new(rollout: DeviceRollout, reason: &str, message: impl Into<String>) -> Self {
        Self { rollout, reason: Some(reason.to_owned()), message: Some(message.into()), deadline: None }
    }
}

/// What follows from all that is known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// One for each member, in their order; those in `open` are updating already.
    pub standings: Vec<Standing>,
    /// Which members are to get the newest revision now.
    pub open: Vec<DeviceId>,
    /// The whole.
    pub state: RolloutState,
    /// Why it is not complete, as a stable code.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// How many are where.
    pub counts: RolloutCounts,
    /// When to decide again although nothing came in.
    pub next: Option<Timestamp>,
}

/// Decides about one deployment.
pub fn decide(deployment: &Deployment, members: &[Member<'_>], now: Timestamp) -> Decision {
    let rollout = &deployment.rollout;
    let mut standings: Vec<Standing> = members.iter().map(|m| standing(deployment, m, now)).collect();
    let at = |s: &[Standing], what| s.iter().filter(|s| s.rollout == what).count() as u64;
    let failed = at(&standings, DeviceRollout::Failed);
    let halted = failed >= rollout.max_failed.unwrap_or(1).max(1);
    let in_transition = members
        .iter()
        .zip(&standings)
        .filter(|(m, s)| m.opened_at.is_some() && s.rollout != DeviceRollout::Healthy)
        .count() as u64;
    let mut room = rollout.max_unavailable.map_or(u64::MAX, |n| n.max(1)).saturating_sub(in_transition);
    let mut open = Vec::new();
    for (member, standing) in members.iter().zip(&mut standings) {
        if standing.rollout != DeviceRollout::Held {
            continue;
        }
        if halted {
            *standing = Standing::new(
                DeviceRollout::Held,
                "rollout_halted",
                "stays on the stable revision: too many devices failed",
            );
        } else if room > 0 && member.connected {
            room -= 1;
            open.push(member.device.clone());
            *standing = updating(deployment, now, None);
        }
    }
    let counts = RolloutCounts {
        selected: members.len() as u64,
        held: at(&standings, DeviceRollout::Held),
        updating: at(&standings, DeviceRollout::Updating),
        healthy: at(&standings, DeviceRollout::Healthy),
        failed,
        unfit: at(&standings, DeviceRollout::Unfit),
        unknown: at(&standings, DeviceRollout::Unknown),
    };
    let (state, reason, message) = whole(&counts, halted);
    let next = standings.iter().filter_map(|s| s.deadline).filter(|d| *d > now).min();
    Decision { standings, open, state, reason: reason.map(str::to_owned), message, counts, next }
}

fn whole(c: &RolloutCounts, halted: bool) -> (RolloutState, Option<&'static str>, Option<String>) {
    let of = format!("{} of {} devices healthy", c.healthy, c.selected);
    if c.selected == 0 {
        return (
            RolloutState::NoDevices,
            Some("no_devices"),
            Some("it selects no enrolled device".to_owned()),
        );
    }
    if halted {
        let message =
            format!("{of}, {} failed; sign a newer revision, or return to the stable one", c.failed);
        return (RolloutState::Halted, Some("rollout_halted"), Some(message));
    }
    if c.healthy > 0 && c.healthy + c.unfit == c.selected {
        let message = (c.unfit > 0).then(|| format!("{of}, {} cannot run it", c.unfit));
        return (RolloutState::Complete, None, message);
    }
    if c.updating > 0 {
        return (
            RolloutState::Progressing,
            Some("updating"),
            Some(format!("{of}, {} on their way", c.updating)),
        );
    }
    let message = format!(
        "{of}; {} wait for their wave, {} do not answer, {} cannot run it, {} failed",
        c.held, c.unknown, c.unfit, c.failed
    );
    let reason = match c {
        _ if c.failed > 0 => "devices_failed",
        _ if c.held > 0 => "devices_offline",
        _ if c.unknown > 0 => "devices_unknown",
        _ => "devices_unfit",
    };
    (RolloutState::Waiting, Some(reason), Some(message))
}

fn standing(deployment: &Deployment, member: &Member<'_>, now: Timestamp) -> Standing {
    let failed_phase = member.pod.filter(|p| matches!(p.phase, Phase::Failed | Phase::CrashLoop));
    if let Some(pod) = failed_phase {
        let reason = pod.reason.as_deref().unwrap_or("failed");
        return Standing::new(DeviceRollout::Failed, reason, pod.message.clone().unwrap_or_default());
    }
    let all_healthy = deployment.template.all_containers().all(|c| member.healthy.contains(&c.name));
    if all_healthy {
        return Standing { rollout: DeviceRollout::Healthy, reason: None, message: None, deadline: None };
    }
    if member.state == DeviceState::Revoked {
        return Standing::new(DeviceRollout::Unfit, "revoked", "its certificates were revoked");
    }
    if let Err(misfit) = fit(deployment, member.system) {
        return Standing::new(DeviceRollout::Unfit, misfit.code, misfit.message);
    }
    if member.state != DeviceState::Online {
        let message = match member.state {
            DeviceState::Enrolled => "it enrolled and was never heard",
            _ => "it has not been heard within the heartbeat limit",
        };
        return Standing::new(DeviceRollout::Unknown, "unknown", message);
    }
    let Some(opened) = member.opened_at else {
        let message = "stays on the stable revision until its wave opens";
        return Standing::new(DeviceRollout::Held, "wave_not_open", message);
    };
    let waits_for_order = deployment.rollout.activation == Activation::Ordered
        && member.pod.is_some_and(|p| p.phase == Phase::Staged);
    if waits_for_order {
        return Standing::new(
            DeviceRollout::Updating,
            "waiting_order",
            "staged; waits for the order to activate",
        );
    }
    let deadline = opened.plus(deployment.rollout.deadline.unwrap_or(DEFAULT_DEADLINE));
    if now > deadline {
        let phase = member.pod.map_or("nothing reported", |p| crate::api::Phase::from(p.phase).as_str());
        let message = format!("not healthy within its deadline; last: {phase}");
        return Standing::new(DeviceRollout::Failed, "deadline_exceeded", message);
    }
    updating(deployment, opened, member.pod)
}

fn updating(deployment: &Deployment, opened: Timestamp, pod: Option<&PodStatus>) -> Standing {
    let phase = pod.map_or("sent", |p| crate::api::Phase::from(p.phase).as_str());
    let reason = pod.and_then(|p| p.reason.as_deref()).unwrap_or(phase);
    let message =
        pod.and_then(|p| p.message.clone()).unwrap_or_else(|| "on its way to the newest revision".to_owned());
    let deadline = Some(opened.plus(deployment.rollout.deadline.unwrap_or(DEFAULT_DEADLINE)));
    Standing { deadline, ..Standing::new(DeviceRollout::Updating, reason, message) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use shoal_protocol::ids::{Digest, FleetId};
    use shoal_protocol::latest as wire;

    pub(crate) fn deployment() -> Deployment {
        let file = wire::File { path: "/a.wasm".into(), size: 10, mode: 0o755, digest: Digest::of(b"m") };
        let image = wire::Image {
            reference: "a".into(),
            manifest: Digest::of(b"i"),
            manifest_size: 1,
            module: file,
            files: Vec::new(),
        };
        let container = wire::Container {
            name: "main".parse().unwrap(),
            image,
            argv: vec!["a".into()],
            working_dir: "/".into(),
            resources: wire::Resources::default(),
            readonly_rootfs: false,
            engine: wire::Engine::Aot,
            env: Vec::new(),
            mounts: Vec::new(),
            restart_policy: None,
            liveness_probe: None,
            readiness_probe: None,
            startup_probe: None,
            devices: Vec::new(),
            capabilities: Vec::new(),
            self_test: None,
            stdin: false,
            post_start: None,
            pre_stop: None,
            env_from: Vec::new(),
        };
        let template = wire::PodTemplate {
            runtime_class: wire::RuntimeClass::Wasm,
            network: wire::Network::None,
            restart_policy: wire::RestartPolicy::Always,
            termination_grace: 5,
            containers: vec![container],
            resources: wire::Resources::default(),
            hostname: None,
            volumes: Vec::new(),
            labels: shoal_protocol::text_map::TextMap::default(),
            annotations: shoal_protocol::text_map::TextMap::default(),
            ports: Vec::new(),
            required_features: Vec::new(),
            init_containers: Vec::new(),
        };
        Deployment {
            fleet: FleetId::of_root(&Digest::of(b"r")),
            epoch: 1,
            name: "app".parse().unwrap(),
            sequence: 2,
            issued_at: Timestamp(0),
            not_after: Timestamp(10_000),
            target: wire::Target { selector: Some(wire::Selector::default()), ..Default::default() },
            rollout: wire::Rollout::default(),
            logs: wire::LogConsent::Tail,
            template,
            not_before: None,
            requires: Vec::new(),
        }
    }

    /// A little fleet that does what it is told.
    #[derive(Clone)]
    struct Sim {
        id: DeviceId,
        state: DeviceState,
        opened: Option<Timestamp>,
        pod: Option<PodStatus>,
        healthy: BTreeSet<Name>,
    }

    impl Sim {
        fn new(n: u64) -> Self {
            let id = DeviceId::of_spki(&n.to_be_bytes());
            Self { id, state: DeviceState::Online, opened: None, pod: None, healthy: BTreeSet::new() }
        }
        fn member(&self) -> Member<'_> {
            Member {
                device: &self.id,
                system: None,
                state: self.state,
                connected: self.state == DeviceState::Online,
                opened_at: self.opened,
                pod: self.pod.as_ref(),
                healthy: &self.healthy,
            }
        }
        fn report(&mut self, phase: Phase) {
            self.pod = Some(PodStatus {
                name: "app".parse().unwrap(),
                revision: wire::Revision { sequence: 2, digest: Digest::of(b"d") },
                phase,
                since: Timestamp(0),
                reason: None,
                message: None,
                deadline: None,
                containers: Vec::new(),
            });
        }
    }

    fn step(d: &Deployment, sims: &mut [Sim], now: u64) -> Decision {
        let members: Vec<Member<'_>> = sims.iter().map(Sim::member).collect();
        let decision = decide(d, &members, Timestamp(now));
        for sim in sims.iter_mut() {
            if decision.open.contains(&sim.id) {
                sim.opened = Some(Timestamp(now));
            }
        }
        decision
    }

    fn main() -> BTreeSet<Name> {
        ["main".parse().unwrap()].into()
    }

    #[test]
    fn waves_open_one_by_one_as_facts_say_healthy() {
        let mut d = deployment();
        d.rollout.max_unavailable = Some(1);
        let mut sims: Vec<Sim> = (0..3).map(Sim::new).collect();
        for i in 0..3 {
            let decision = step(&d, &mut sims, 10);
            assert_eq!(decision.open, [sims[i].id.clone()]);
            // An agent's word opens nothing: only facts do.
            sims[i].report(Phase::Healthy);
            assert_eq!(step(&d, &mut sims, 11).open, []);
            sims[i].healthy = main();
        }
        let decision = step(&d, &mut sims, 12);
        assert_eq!((decision.state, decision.counts.healthy), (RolloutState::Complete, 3));
    }

    #[test]
    fn a_failed_device_halts_the_rollout_and_the_rest_stays_on_stable() {
        let mut d = deployment();
        d.rollout.max_unavailable = Some(1);
        let mut sims: Vec<Sim> = (0..3).map(Sim::new).collect();
        step(&d, &mut sims, 0);
        sims[0].report(Phase::CrashLoop);
        let decision = step(&d, &mut sims, 5);
        assert_eq!((decision.state, decision.open), (RolloutState::Halted, vec![]));
        assert_eq!(decision.standings[1].reason.as_deref(), Some("rollout_halted"));
    }

    #[test]
    fn u4_a_device_that_never_becomes_healthy_fails_at_its_deadline() {
        let mut d = deployment();
        d.rollout.deadline = Some(60);
        let mut sims = vec![Sim::new(0)];
        step(&d, &mut sims, 100);
        let before = step(&d, &mut sims, 160);
        assert_eq!((before.state, before.next), (RolloutState::Progressing, None));
        assert_eq!(step(&d, &mut sims, 150).next, Some(Timestamp(160)));
        let after = step(&d, &mut sims, 161);
        assert_eq!(after.state, RolloutState::Halted);
        assert_eq!(after.standings[0].reason.as_deref(), Some("deadline_exceeded"));
    }

    #[test]
    fn u4_silent_and_unfit_devices_leave_a_named_waiting_state() {
        let d = deployment();
        let mut sims: Vec<Sim> = (0..2).map(Sim::new).collect();
        sims[0].state = DeviceState::Unknown;
        sims[1].state = DeviceState::Enrolled;
        let decision = step(&d, &mut sims, 0);
        assert_eq!(decision.state, RolloutState::Waiting);
        assert_eq!(decision.reason.as_deref(), Some("devices_unknown"));
        assert_eq!(step(&d, &mut [], 0).state, RolloutState::NoDevices);
    }

    #[test]
    fn staged_under_ordered_activation_waits_without_a_deadline() {
        let mut d = deployment();
        d.rollout.activation = Activation::Ordered;
        let mut sims = vec![Sim::new(0)];
        step(&d, &mut sims, 0);
        sims[0].report(Phase::Staged);
        let decision = step(&d, &mut sims, 100_000);
        assert_eq!(decision.standings[0].reason.as_deref(), Some("waiting_order"));
        assert_eq!(decision.state, RolloutState::Progressing);
    }

    #[derive(Debug, Clone, Copy)]
    enum Act {
        Heal,
        Crash,
        Silence,
        Return,
    }

    proptest! {
        /// Whatever devices do: never more than `max_unavailable` in transition, nothing opens once halted, and a fleet
        /// in which all heal completes.
        #[test]
        fn bounds_hold_whatever_devices_do(
            unavailable in 1..4_u64,
            max_failed in 1..4_u64,
            acts in proptest::collection::vec(
                (0..8_usize, prop_oneof![Just(Act::Heal), Just(Act::Crash), Just(Act::Silence), Just(Act::Return)]), 0..60),
        ) {
            let mut d = deployment();
            d.rollout.max_unavailable = Some(unavailable);
            d.rollout.max_failed = Some(max_failed);
            let mut sims: Vec<Sim> = (0..8).map(Sim::new).collect();
            for (i, act) in acts {
                let before = sims.iter().filter(|s| s.opened.is_some() && s.healthy.is_empty()).count() as u64;
                let decision = step(&d, &mut sims, 1);
                let moving = sims.iter().filter(|s| s.opened.is_some() && s.healthy.is_empty()).count() as u64;
                prop_assert!(moving <= unavailable.max(before), "{moving} in transition");
                if decision.state == RolloutState::Halted {
                    prop_assert!(decision.open.is_empty());
                }
                let sum = decision.counts;
                prop_assert_eq!(
                    sum.held + sum.updating + sum.healthy + sum.failed + sum.unfit + sum.unknown, sum.selected);
                let sim = &mut sims[i];
                match act {
                    Act::Heal if sim.opened.is_some() => { sim.healthy = main(); sim.report(Phase::Healthy); }
                    Act::Crash if sim.opened.is_some() && sim.healthy.is_empty() => sim.report(Phase::CrashLoop),
                    Act::Silence => sim.state = DeviceState::Unknown,
                    Act::Return => sim.state = DeviceState::Online,
                    _ => {}
                }
            }
            for _ in 0..40 {
                for sim in &mut sims {
                    sim.state = DeviceState::Online;
                    if sim.opened.is_some() { sim.healthy = main(); sim.report(Phase::Healthy); }
                }
                step(&d, &mut sims, 2);
            }
            prop_assert_eq!(step(&d, &mut sims, 3).state, RolloutState::Complete);
        }
    }
}
