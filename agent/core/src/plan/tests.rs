use super::*;
use crate::testing::*;
use proptest::prelude::*;
use shoal_protocol::v1::{Cause, Container, Require};

fn withdrawn(code: &str, stop: bool) -> Standing {
    Standing::Withdrawn { code: code.into(), stop }
}

fn stops(plan: &Plan) -> Vec<Digest> {
    plan.steps.iter().filter_map(|s| if let Step::Stop { pod, .. } = s { Some(*pod) } else { None }).collect()
}

#[test]
fn a_new_revision_is_staged_while_the_old_runs_then_replaces_it_in_two_steps() {
    let old = desired("web", 1, Standing::LastGood);
    let new = desired("web", 2, Standing::Candidate);
    let both = [old.clone(), new.clone()];
    let mut seen = all(&[(&old, running(&old, T0)), (&new, observed(&new))]);
    let now = T0.plus(100);

    let p = plan(&both, &seen, now);
    assert_eq!(p.steps, [Step::Stage { pod: new.revision.digest }], "the old one is not touched meanwhile");
    apply(&p.steps[0], &both, &mut seen, now);

    let p = plan(&both, &seen, now);
    let stop = Step::Stop { pod: old.revision.digest, reason: StopReason::Replaced, grace: 10 };
    assert_eq!(p.steps, std::slice::from_ref(&stop), "nothing starts before the old one has ended");
    apply(&stop, &both, &mut seen, now);

    assert_eq!(plan(&both, &seen, now).steps, [Step::Start { pod: new.revision.digest, container: 0 }]);
}

#[test]
fn u2_a_healthy_container_survives_a_lost_ticket_and_an_empty_desired_state() {
    let web = desired("web", 2, Standing::Candidate);
    let old = desired("web", 1, Standing::LastGood);
    let mut idle = running(&old, T0);
    idle.record.container_mut(&"main".parse().unwrap()).unwrap().ended(
        1,
        Cause::Stopped,
        T0.plus(1),
        T0.plus(1),
        0,
    );
    let seen = all(&[(&web, running(&web, T0)), (&old, idle)]);
    let mut without = web.clone();
    without.startable = false;
    assert_eq!(plan(&[without, old], &seen, T0.plus(60)).steps, []);
    let only_running = all(&[(&web, running(&web, T0))]);
    assert_eq!(plan(&[], &only_running, T0.plus(60)).steps, []);
}

#[test]
fn s21_a_withdrawn_revision_is_stopped_then_removed_once() {
    let web = desired("web", 1, withdrawn("deselected", true));
    let mut seen = all(&[(&web, running(&web, T0))]);
    let now = T0.plus(60);
    let set = [web.clone()];
    let p = plan(&set, &seen, now);
    assert_eq!(p.steps, [Step::Stop { pod: web.revision.digest, reason: StopReason::Withdrawn, grace: 10 }]);
    apply(&p.steps[0], &set, &mut seen, now);
    let p = plan(&set, &seen, now);
    assert_eq!(p.steps, [Step::Remove { pod: web.revision.digest }]);
    apply(&p.steps[0], &set, &mut seen, now);
    assert_eq!(plan(&set, &seen, now).steps, []);
    // When admission forgets it, so do we.
    assert_eq!(plan(&[], &seen, now).steps, [Step::Remove { pod: web.revision.digest }]);
}

#[test]
fn s6_what_a_revoked_key_signed_goes_on_when_its_root_says_keep() {
    let web = desired("web", 1, withdrawn("revoked_key", false));
    let seen = all(&[(&web, running(&web, T0))]);
    assert_eq!(plan(&[web], &seen, T0.plus(60)).steps, []);
}

#[test]
fn a_stop_is_asked_for_again_only_after_its_grace() {
    let web = desired("web", 1, withdrawn("removed", true));
    let mut pod = running(&web, T0);
    pod.stopping = Some(T0.plus(60));
    let seen = all(&[(&web, pod)]);
    let p = plan(std::slice::from_ref(&web), &seen, T0.plus(61));
    assert_eq!((p.steps.len(), p.next_wake), (0, Some(T0.plus(80))));
    assert_eq!(stops(&plan(std::slice::from_ref(&web), &seen, T0.plus(80))), [web.revision.digest]);
}

#[test]
fn f4_an_ended_container_waits_for_its_backoff_and_the_plan_says_when() {
    let web = desired("web", 1, Standing::Candidate);
    let mut pod = running(&web, T0);
    let main = "main".parse().unwrap();
    pod.record.container_mut(&main).unwrap().ended(1, Cause::Exited { code: 3 }, T0.plus(2), T0.plus(2), 0);
    let seen = all(&[(&web, pod)]);
    let p = plan(std::slice::from_ref(&web), &seen, T0.plus(3));
    assert_eq!((p.steps.len(), p.next_wake), (0, Some(T0.plus(12))));
    let p = plan(std::slice::from_ref(&web), &seen, T0.plus(12));
    assert_eq!(p.steps, [Step::Start { pod: web.revision.digest, container: 0 }]);
}

#[test]
fn f4_ten_healthy_minutes_reset_the_backoff() {
    let web = desired("web", 1, Standing::LastGood);
    let mut record = running(&web, T0).record;
    let c = record.container_mut(&"main".parse().unwrap()).unwrap();
    for (attempt, expected) in [(1, 10), (2, 20), (3, 40)] {
        c.started(attempt, T0);
        c.ended(attempt, Cause::Trap { message: String::new() }, T0.plus(1), T0.plus(1), 0);
        assert_eq!(c.next_start, Some(T0.plus(1 + expected)));
    }
    c.started(4, T0);
    c.ended(4, Cause::Trap { message: String::new() }, T0.plus(600), T0.plus(600), 0);
    assert_eq!((c.failures, c.next_start), (1, Some(T0.plus(610))));
}

#[test]
fn f3_three_early_ends_condemn_a_revision_and_last_good_runs_again() {
    let old = desired("web", 1, Standing::LastGood);
    let new = desired("web", 2, Standing::Candidate);
    let set = [old.clone(), new.clone()];
    let mut stopped = running(&old, T0);
    let main = "main".parse().unwrap();
    stopped.record.container_mut(&main).unwrap().ended(1, Cause::Stopped, T0.plus(50), T0.plus(50), 0);
    let mut bad = running(&new, T0.plus(50));
    let mut now = T0.plus(51);
    for attempt in 1..=3 {
        let c = bad.record.container_mut(&main).unwrap();
        c.started(attempt, now);
        c.ended(attempt, Cause::Exited { code: 1 }, now, now, 0);
        now = now.plus(1);
    }
    let mut seen = all(&[(&old, stopped), (&new, bad)]);
    let p = plan(&set, &seen, now);
    let kinds: Vec<u8> = p.steps.iter().map(Step::rank).collect();
    assert_eq!(kinds, [0, 3], "condemned, and last-good started: {:?}", p.steps);
    assert!(
        matches!(&p.steps[0], Step::Condemn { pod, code, .. } if *pod == new.revision.digest && code == "exit_code")
    );
    assert_eq!(p.steps[1], Step::Start { pod: old.revision.digest, container: 0 });
    for s in &p.steps {
        apply(s, &set, &mut seen, now);
    }
    assert_eq!(plan(&set, &seen, now.plus(3_600)).steps, [], "it is not tried again");
}

#[test]
fn f3_a_refused_start_condemns_at_once_and_an_outage_never() {
    let old = desired("web", 1, Standing::LastGood);
    let new = desired("web", 2, Standing::Candidate);
    let set = [old.clone(), new.clone()];
    let mut stopped = running(&old, T0);
    stopped.record.containers[0].ended(1, Cause::Stopped, T0, T0, 0);
    for (code, condemned) in [("policy_denied", true), ("storage_unavailable", false)] {
        let mut bad = running(&new, T0);
        bad.record.containers[0].ended(1, Cause::Refused { code: code.into() }, T0, T0, 0);
        let p = plan(&set, &all(&[(&old, stopped.clone()), (&new, bad)]), T0.plus(1));
        assert_eq!(matches!(p.steps.first(), Some(Step::Condemn { .. })), condemned, "{code}: {:?}", p.steps);
    }
}

#[test]
fn f3_without_last_good_a_failing_revision_keeps_trying() {
    let new = desired("web", 1, Standing::Candidate);
    let mut bad = running(&new, T0);
    let main = "main".parse().unwrap();
    for attempt in 1..=5 {
        bad.record.container_mut(&main).unwrap().ended(attempt, Cause::OomKilled, T0, T0, 0);
    }
    let p = plan(std::slice::from_ref(&new), &all(&[(&new, bad)]), T0.plus(10_000));
    assert_eq!(p.steps, [Step::Start { pod: new.revision.digest, container: 0 }]);
}

#[test]
fn f3_a_revision_that_hangs_until_its_deadline_is_condemned() {
    let old = desired("web", 1, Standing::LastGood);
    let mut new = desired("web", 2, Standing::Candidate);
    new.deployment.template.containers.push(container("second"));
    new.deployment.rollout.deadline = Some(120);
    let mut pod = observed(&new);
    pod.staged = true;
    pod.record.started(&"main".parse().unwrap(), 1, T0);
    let mut before = running(&old, T0);
    before.record.container_mut(&"main".parse().unwrap()).unwrap().ended(1, Cause::Stopped, T0, T0, 0);
    let seen = all(&[(&old, before), (&new, pod)]);
    let mut no_ticket = new.clone();
    no_ticket.startable = false;
    let set = [old.clone(), no_ticket];
    assert_eq!(plan(&set, &seen, T0.plus(119)).next_wake, Some(T0.plus(120)));
    let p = plan(&set, &seen, T0.plus(120));
    assert!(
        matches!(&p.steps[0], Step::Condemn { code, .. } if code == "deadline_exceeded"),
        "{:?}",
        p.steps
    );
    assert_eq!(stops(&p), [new.revision.digest]);
}

#[test]
fn s18_an_unmet_dependency_holds_back_the_start_but_not_the_staging() {
    let mut b = desired("b", 1, Standing::Candidate);
    b.deployment.requires = vec![Require { name: "a".parse().unwrap(), sequence: 2 }];
    let a1 = desired("a", 1, Standing::LastGood);
    let seen = all(&[(&b, observed(&b)), (&a1, running(&a1, T0))]);
    let set = [b.clone(), a1];
    assert_eq!(plan(&set, &seen, T0.plus(60)).steps, [Step::Stage { pod: b.revision.digest }]);
    let mut staged = observed(&b);
    staged.staged = true;
    let a2 = desired("a", 2, Standing::LastGood);
    let seen = all(&[(&b, staged), (&a2, running(&a2, T0))]);
    let set = [b.clone(), a2];
    assert_eq!(plan(&set, &seen, T0.plus(60)).steps, [], "not before a is healthy");
    let seen = all(&[(&b, seen.pods[&b.revision.digest].clone()), (&set[1], healthy(&set[1], T0))]);
    assert_eq!(plan(&set, &seen, T0.plus(60)).steps, [Step::Start { pod: b.revision.digest, container: 0 }]);
}

#[test]
fn a_failed_fetch_waits_and_a_hopeless_one_is_left() {
    let web = desired("web", 1, Standing::Candidate);
    let mut pod = observed(&web);
    pod.record.fetch_failed("image_unavailable", "no route", false, T0, 0);
    let p = plan(std::slice::from_ref(&web), &all(&[(&web, pod.clone())]), T0.plus(1));
    assert_eq!((p.steps.len(), p.next_wake), (0, Some(T0.plus(5))));
    pod.record.fetch_failed("digest_mismatch", "other bytes", true, T0, 0);
    let p = plan(std::slice::from_ref(&web), &all(&[(&web, pod)]), T0.plus(10_000));
    assert_eq!(p, Plan::default());
}

#[test]
fn u1_after_a_power_cut_what_ran_starts_again_without_any_wait() {
    let web = desired("web", 1, Standing::LastGood);
    let mut pod = running(&web, T0);
    pod.record.container_mut(&"main".parse().unwrap()).unwrap().ended(
        1,
        Cause::Unknown,
        T0.plus(5),
        T0.plus(5),
        7,
    );
    let p = plan(std::slice::from_ref(&web), &all(&[(&web, pod)]), T0.plus(5));
    assert_eq!(p.steps, [Step::Start { pod: web.revision.digest, container: 0 }]);
}

/// Any mixture of up to three revisions of up to two names in any state.
fn world() -> impl Strategy<Value = (Vec<Desired>, Observed)> {
    let one = (0..2_usize, 1..4_u64, 0..4_u8, any::<bool>(), any::<bool>(), 0..6_u8, any::<bool>());
    prop::collection::vec(one, 0..6).prop_map(|rows| {
        let mut set = Vec::new();
        let mut seen = Observed::default();
        for (name, sequence, standing, startable, staged, state, wait) in rows {
            let standing = match standing {
                0 | 1 => Standing::Candidate,
                2 => Standing::LastGood,
                _ => withdrawn("removed", true),
            };
            let mut d = desired(["a", "b"][name], sequence, standing);
            if seen.pods.contains_key(&d.revision.digest) {
                continue;
            }
            d.startable = startable;
            d.waiting =
                wait.then(|| Waiting { code: "waiting_secret".into(), message: String::new(), until: None });
            let mut pod = if state >= 2 { running(&d, T0) } else { observed(&d) };
            pod.staged = staged;
            if state >= 4 {
                let cause = if state == 4 { Cause::Exited { code: 1 } } else { Cause::Stopped };
                pod.record.containers[0].ended(1, cause, T0.plus(3), T0.plus(3), 0);
            }
            seen.pods.insert(d.revision.digest, pod);
            if state != 1 {
                set.push(d);
            }
        }
        (set, seen)
    })
}

proptest! {
    #[test]
    fn plan_is_idempotent_and_settles((set, mut seen) in world(), after in 0..1_000_u64) {
        let now = T0.plus(after);
        for round in 0..8 {
            let p = plan(&set, &seen, now);
            prop_assert_eq!(&p, &plan(&set, &seen, now));
            if p.steps.is_empty() {
                return Ok(());
            }
            prop_assert!(round < 7, "does not settle: {:?}", p.steps);
            for s in &p.steps {
                apply(s, &set, &mut seen, now);
            }
        }
    }

    #[test]
    fn u2_what_runs_is_stopped_only_for_a_withdrawal_a_successor_or_a_return((set, seen) in world(), after in 0..1_000_u64) {
        let p = plan(&set, &seen, T0.plus(after));
        for digest in stops(&p) {
            let pod = &seen.pods[&digest];
            let held = set.iter().find(|d| d.revision.digest == digest);
            let withdrawn = held.is_some_and(Desired::is_withdrawn);
            let other_ready = set.iter().any(|d| {
                let o = &seen.pods[&d.revision.digest];
                d.deployment.name == pod.record.name
                    && d.revision.digest != digest
                    && !d.is_withdrawn()
                    && (o.record.activated_at.is_some() || (o.staged && d.startable && d.waiting.is_none()))
            });
            prop_assert!(pod.record.any_running());
            prop_assert!(withdrawn || other_ready);
            // The newest that runs gives way to an older one only when condemned.
            let newest = set.iter().filter(|d| d.deployment.name == pod.record.name && !d.is_withdrawn()).map(|d| d.revision.sequence).max();
            if !withdrawn && held.is_some_and(|d| Some(d.revision.sequence) == newest) {
                let condemned = p.steps.iter().any(|s| matches!(s, Step::Condemn { pod, .. } if *pod == digest));
                prop_assert!(condemned);
            }
        }
    }

    #[test]
    fn steps_that_free_come_before_steps_that_take((set, seen) in world(), after in 0..1_000_u64) {
        let p = plan(&set, &seen, T0.plus(after));
        prop_assert!(p.steps.iter().map(Step::rank).is_sorted());
        for s in &p.steps {
            if let Step::Start { pod, .. } = s {
                let name = &seen.pods[pod].record.name;
                let clash = seen.pods.iter().any(|(k, o)| k != pod && o.record.name == *name && o.record.any_running());
                prop_assert!(!clash, "two revisions of one name never run side by side");
            }
        }
    }
}

/// A revision with two containers that come before its own.
fn with_init() -> Desired {
    let mut d = desired("web", 1, Standing::Candidate);
    let main = d.deployment.template.containers[0].clone();
    let init = |name: &str| Container { name: name.parse().unwrap(), ..main.clone() };
    d.deployment.template.init_containers = vec![init("first"), init("second")];
    d
}

fn started(seen: &Observed, d: &Desired, now: Timestamp) -> Vec<usize> {
    let steps = plan(std::slice::from_ref(d), seen, now).steps;
    steps
        .iter()
        .map(|s| if let Step::Start { container, .. } = s { *container } else { panic!("{s:?}") })
        .collect()
}

#[test]
fn init_containers_start_one_after_the_other_and_the_others_after_them() {
    let d = with_init();
    let mut seen = all(&[(&d, ObservedPod { staged: true, ..observed(&d) })]);
    let end = |seen: &mut Observed, name: &str, cause: Cause, now| {
        let pod = seen.pods.get_mut(&d.revision.digest).unwrap();
        let record = pod.record.container_mut(&name.parse().unwrap()).unwrap();
        let attempt = record.begin_attempt();
        record.started(attempt, now);
        record.ended(attempt, cause, now, now, 0);
    };
    assert_eq!(started(&seen, &d, T0), [1]);
    end(&mut seen, "first", Cause::Exited { code: 0 }, T0);
    assert_eq!(started(&seen, &d, T0), [2]);
    end(&mut seen, "second", Cause::Exited { code: 1 }, T0);
    assert_eq!(
        started(&seen, &d, T0),
        Vec::<usize>::new(),
        "it waits for its backoff, and the others for it"
    );
    assert_eq!(
        started(&seen, &d, T0.plus(60)),
        [2],
        "though the pod's policy is Always, only a failure starts it again"
    );
    end(&mut seen, "second", Cause::Exited { code: 0 }, T0.plus(60));
    assert_eq!(started(&seen, &d, T0.plus(60)), [0]);
    // After a boot supervise knows nothing of them any more.
    let pod = seen.pods.get_mut(&d.revision.digest).unwrap();
    pod.record.container_mut(&"first".parse().unwrap()).unwrap().undone();
    assert_eq!(started(&seen, &d, T0.plus(60)), [1]);
}

#[test]
fn a_start_that_was_not_begun_costs_no_attempt() {
    let d = desired("web", 1, Standing::Candidate);
    let mut pod = observed(&d);
    let record = pod.record.container_mut(&"main".parse().unwrap()).unwrap();
    let first = record.begin_attempt();
    record.not_begun(first);
    assert_eq!(record.begin_attempt(), first);
    // Its process was found meanwhile, as another attempt: that one counts.
    record.adopted(first + 1, T0);
    record.not_begun(first);
    assert_eq!(record.begin_attempt(), first + 2);
}

#[test]
fn a_healthy_container_that_is_not_ready_is_not_healthy_now() {
    let d = desired("web", 1, Standing::Candidate);
    let mut pod = healthy(&d, T0);
    assert!(pod.record.is_healthy(&d.deployment));
    assert!(pod.record.containers[0].judged(Some(false)));
    assert!(!pod.record.is_healthy(&d.deployment));
    assert!(pod.record.containers[0].judged(Some(true)) && !pod.record.containers[0].judged(Some(true)));
    assert!(pod.record.is_healthy(&d.deployment));
}
