use super::*;
use crate::plan::{Plan, Waiting, plan};
use crate::testing::*;
use shoal_protocol::v1::{Cause, Require};

fn one(d: &Desired, pod: ObservedPod, now: Timestamp) -> PodStatus {
    status(d, std::slice::from_ref(d), &all(&[(d, pod)]), now)
}

#[test]
fn running_becomes_healthy_by_the_word_of_supervise_alone() {
    let d = desired("web", 1, Standing::Candidate);
    let s = one(&d, running(&d, T0), T0.plus(1000));
    assert_eq!((s.phase, s.reason), (Phase::Running, None));
    let mut pod = healthy(&d, T0);
    assert_eq!(one(&d, pod.clone(), T0).phase, Phase::Healthy);
    // It is said of one attempt, once.
    let c = &mut pod.record.containers[0];
    assert!(!c.found_healthy(1));
    c.started(2, T0);
    assert!(!c.found_healthy(1) && c.found_healthy(2));
}

#[test]
fn nothing_is_called_running_before_supervise_said_so() {
    let d = desired("web", 1, Standing::Candidate);
    let mut pod = running(&d, T0);
    pod.staged = true;
    pod.record.containers[0] = observed(&d).record.containers[0].clone();
    // Remembered before supervise is asked, so that a crash in between counts the attempt.
    pod.record.containers[0].begin_attempt();
    pod.record.activated_at = Some(T0);
    let s = one(&d, pod.clone(), T0.plus(1));
    assert_eq!((s.phase, s.reason.as_deref()), (Phase::Staged, Some("starting")));
    pod.record.containers[0].started(1, T0.plus(1));
    assert_eq!(one(&d, pod, T0.plus(1)).phase, Phase::Running);
}

#[test]
fn f4_the_second_end_in_a_row_is_a_crash_loop_with_its_deadline() {
    let d = desired("web", 1, Standing::Candidate);
    let mut pod = running(&d, T0);
    let c = &mut pod.record.containers[0];
    c.ended(1, Cause::Exited { code: 1 }, T0, T0, 0);
    let s = one(&d, pod.clone(), T0);
    assert_eq!(
        (s.phase, s.reason.as_deref(), s.deadline),
        (Phase::Pending, Some("restart_backoff"), Some(T0.plus(10)))
    );
    pod.record.containers[0].started(2, T0.plus(10));
    pod.record.containers[0].ended(2, Cause::Exited { code: 1 }, T0.plus(11), T0.plus(11), 0);
    let s = one(&d, pod, T0.plus(11));
    assert_eq!(
        (s.phase, s.reason.as_deref(), s.deadline),
        (Phase::CrashLoop, Some("crash_loop"), Some(T0.plus(31)))
    );
}

#[test]
fn a_job_succeeds_and_a_failed_job_names_its_cause() {
    let mut d = desired("job", 1, Standing::Candidate);
    d.deployment.template.restart_policy = shoal_protocol::v1::RestartPolicy::Never;
    let mut pod = running(&d, T0);
    pod.record.containers[0].ended(1, Cause::Exited { code: 0 }, T0, T0, 0);
    assert_eq!(one(&d, pod.clone(), T0).phase, Phase::Succeeded);
    pod.record.containers[0].ended(1, Cause::OomKilled, T0, T0, 0);
    let s = one(&d, pod, T0);
    assert_eq!((s.phase, s.reason.as_deref()), (Phase::Failed, Some("oom_killed")));
}

#[test]
fn u4_a_fetch_that_never_ends_fails_at_its_deadline_and_says_why() {
    let d = desired("web", 1, Standing::Candidate);
    let mut pod = observed(&d);
    pod.record.fetch_failed("image_unavailable", "connection refused", false, T0, 0);
    let s = one(&d, pod.clone(), T0.plus(1));
    assert_eq!(
        (s.phase, s.reason.as_deref(), s.deadline),
        (Phase::Pulling, Some("image_unavailable"), Some(T0.plus(5)))
    );
    let s = one(&d, pod, T0.plus(600));
    assert_eq!((s.phase, s.reason.as_deref()), (Phase::Failed, Some("deadline_exceeded")));
    assert_eq!(s.message.as_deref(), Some("image_unavailable: connection refused"));
}

#[test]
fn s18_a_waiting_state_has_its_reason_and_deadline() {
    let mut d = desired("b", 1, Standing::Candidate);
    d.deployment.requires = vec![Require { name: "a".parse().unwrap(), sequence: 1 }];
    let mut pod = observed(&d);
    pod.staged = true;
    let s = one(&d, pod.clone(), T0);
    assert_eq!(
        (s.phase, s.reason.as_deref(), s.deadline),
        (Phase::Staged, Some("dependency_unmet"), Some(T0.plus(600)))
    );
    d.waiting = Some(Waiting { code: "waiting_secret".into(), message: "no grant".into(), until: None });
    assert_eq!(one(&d, pod, T0).reason.as_deref(), Some("waiting_secret"));
}

#[test]
fn last_good_stands_by_while_its_successor_is_tried() {
    let old = desired("web", 1, Standing::LastGood);
    let new = desired("web", 2, Standing::Candidate);
    let mut stopped = running(&old, T0);
    stopped.record.containers[0].ended(1, Cause::Stopped, T0, T0, 0);
    let set = [old.clone(), new.clone()];
    let seen = all(&[(&old, stopped.clone()), (&new, running(&new, T0))]);
    let s = status(&old, &set, &seen, T0);
    assert_eq!((s.phase, s.reason.as_deref()), (Phase::Stopped, Some("standby")));
    let mut bad = running(&new, T0);
    bad.record.condemn("trap", "", T0);
    let seen = all(&[(&old, stopped), (&new, bad)]);
    assert_ne!(status(&old, &set, &seen, T0).phase, Phase::Stopped, "it runs again");
}

#[test]
fn c3_a_refused_start_is_a_failure_with_its_code_and_is_tried_again() {
    let d = desired("web", 1, Standing::Candidate);
    let mut pod = observed(&d);
    pod.staged = true;
    pod.record.activated_at = Some(T0);
    let attempt = pod.record.containers[0].begin_attempt();
    pod.record.containers[0].ended(attempt, Cause::Refused { code: "policy_denied".into() }, T0, T0, 0);
    let s = one(&d, pod, T0);
    assert_eq!(
        (s.phase, s.reason.as_deref(), s.deadline),
        (Phase::Failed, Some("policy_denied"), Some(T0.plus(10)))
    );
}

#[test]
fn f3_a_condemned_revision_is_reported_as_rolled_back() {
    let d = desired("web", 2, Standing::Candidate);
    let mut pod = observed(&d);
    pod.record.condemn("trap", "three times", T0);
    let s = one(&d, pod, T0);
    assert_eq!((s.phase, s.reason.as_deref()), (Phase::Failed, Some("rolled_back")));
    assert_eq!(s.message.as_deref(), Some("trap: three times"));
}

#[test]
fn u4_every_phase_but_running_and_healthy_has_a_reason_and_every_open_one_a_deadline() {
    let standings =
        [Standing::Candidate, Standing::LastGood, Standing::Withdrawn { code: "removed".into(), stop: true }];
    for standing in standings {
        for (staged, state, startable, after) in combinations() {
            let mut d = desired("web", 1, standing.clone());
            d.startable = startable;
            let mut pod = if state > 0 { running(&d, T0) } else { observed(&d) };
            pod.staged = staged;
            if state == 2 {
                pod.record.containers[0].ended(1, Cause::GuestMemory, T0, T0, 0);
            }
            let now = T0.plus(after);
            let seen = all(&[(&d, pod)]);
            let s = status(&d, std::slice::from_ref(&d), &seen, now);
            if !matches!(s.phase, Phase::Running | Phase::Healthy) {
                assert!(s.reason.is_some(), "{s:?}");
            }
            let ended = matches!(
                s.phase,
                Phase::Running | Phase::Healthy | Phase::Succeeded | Phase::Failed | Phase::Stopped
            );
            assert!(ended || s.deadline.is_some(), "{s:?}");
            let Plan { steps, next_wake } = plan(std::slice::from_ref(&d), &seen, now);
            let idle = steps.is_empty() && next_wake.is_none();
            assert!(ended || !idle || !startable || !staged, "an open state is looked at again: {s:?}");
        }
    }
}

fn combinations() -> impl Iterator<Item = (bool, u8, bool, u64)> {
    [true, false].into_iter().flat_map(|staged| {
        (0..3_u8).flat_map(move |state| {
            [true, false]
                .into_iter()
                .flat_map(move |startable| [0, 5, 100, 1_000].map(|t| (staged, state, startable, t)))
        })
    })
}
