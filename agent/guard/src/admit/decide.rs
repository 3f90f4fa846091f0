//! What each held revision may do now. Pure: all that is known goes in, a standing for every revision comes out.

use super::documents::Missing;
use shoal_ipc::HeldRole;
use shoal_protocol::ids::{Digest, Name, Timestamp};
use shoal_protocol::v1::{Activation, Deployment, EntryKind, Liveness, Snapshot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A revision as it is held, with what has become of it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision {
    pub(super) deployment: Arc<Deployment>,
    pub(super) digest: Digest,
    /// All its containers were healthy here.
    pub(super) good: bool,
    /// An order opened it (`activation: ordered`).
    pub(super) activated: bool,
    /// An order, once, left it for last-good.
    pub(super) returned: bool,
    /// Its signers do not count any more, or the floor passed it; whether what runs of it is stopped.
    pub(super) refused: Option<(String, bool)>,
    /// Whether its target selects this device as it is now.
    pub(super) selected: bool,
    /// What it would start with of configs and secrets.
    pub(super) documents: References,
}

/// What a revision's references to configs and secrets come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct References {
    /// Changes with any of the documents.
    pub(super) stamp: Digest,
    /// What is not there.
    pub(super) missing: Option<Missing>,
}

impl References {
    /// Of a revision that refers to nothing.
    pub(super) const NONE: Self = Self { stamp: Digest([0; 32]), missing: None };
}

/// What a revision may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) role: HeldRole,
    pub(super) permission: Permission,
    /// A stable code for what is not startable.
    pub(super) reason: String,
    /// The same in words, where there is more to say.
    pub(super) detail: String,
    /// When time alone changes it.
    pub(super) wake: Option<Timestamp>,
}

/// What supervise is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    Ticket { startable: bool },
    Withdrawn { stop: bool },
}

/// All held revisions: by name, then by sequence.
pub(super) type Held = BTreeMap<Name, BTreeMap<u64, Revision>>;

fn withdrawn(role: HeldRole, stop: bool, reason: impl Into<String>) -> Standing {
    let (reason, detail) = (reason.into(), String::new());
    Standing { role, permission: Permission::Withdrawn { stop }, reason, detail, wake: None }
}

/// The standing of every revision.
pub(super) fn standings(
    held: &Held,
    snapshot: Option<&Snapshot>,
    now: Timestamp,
) -> BTreeMap<Digest, Standing> {
    let mut all = BTreeMap::new();
    for (name, revisions) in held {
        let removed = snapshot.is_some_and(|s| {
            s.entries.iter().any(|e| {
                e.kind == EntryKind::Deployment && e.name == *name && e.liveness == Liveness::Removed
            })
        });
        let deselected = revisions.last_key_value().is_some_and(|(_, newest)| !newest.selected);
        let usable =
            |r: &Revision| !removed && !deselected && r.selected && r.refused.is_none() && !r.returned;
        let candidate = revisions.iter().rev().find(|(_, r)| usable(r)).map(|(s, _)| *s);
        let last_good = revisions.iter().rev().find(|(_, r)| usable(r) && r.good).map(|(s, _)| *s);
        for (sequence, r) in revisions {
            let standing = if removed {
                withdrawn(HeldRole::Withdrawn, true, "removed")
            } else if let Some((code, stop)) = &r.refused {
                withdrawn(HeldRole::Withdrawn, *stop, code.clone())
            } else if deselected || !r.selected {
                withdrawn(HeldRole::Withdrawn, true, "deselected")
            } else if r.returned {
                let reason = if last_good.is_some() { "return_spent" } else { "no_safe_revision" };
                withdrawn(HeldRole::Withdrawn, true, reason)
            } else if Some(*sequence) == last_good {
                open(r, HeldRole::LastGood, held, now)
            } else if Some(*sequence) == candidate {
                open(r, HeldRole::Candidate, held, now)
            } else {
                withdrawn(HeldRole::Superseded, true, "superseded")
            };
            all.insert(r.digest, standing);
        }
    }
    all
}

/// Something that may be fetched and compiled; whether it may be started as well.
fn open(r: &Revision, role: HeldRole, held: &Held, now: Timestamp) -> Standing {
    let d = &r.deployment;
    // What became healthy once starts again whatever it waited for then.
    let waits = if role == HeldRole::LastGood { None } else { waits_for(r, held, now) };
    let wake = d.not_before.filter(|t| *t > now);
    // Without what it refers to nothing can start, whatever it was once.
    let missing = r.documents.missing.as_ref();
    let startable = waits.is_none() && missing.is_none();
    let reason = waits.or(missing.map(|m| m.code.as_str())).unwrap_or_default().to_owned();
    let detail = missing.filter(|_| waits.is_none()).map(|m| m.detail.clone()).unwrap_or_default();
    Standing { role, permission: Permission::Ticket { startable }, reason, detail, wake }
}

fn waits_for(r: &Revision, held: &Held, now: Timestamp) -> Option<&'static str> {
    let d = &r.deployment;
    let unmet = d.requires.iter().any(|need| {
        let met = |r: &Revision| {
            r.good
                && r.selected
                && !r.returned
                && r.refused.is_none()
                && r.deployment.sequence >= need.sequence
        };
        !held.get(&need.name).is_some_and(|all| all.values().any(met))
    });
    if unmet {
        Some("dependency_unmet")
    } else if d.not_before.is_some_and(|t| t > now) {
        Some("outside_window")
    } else if d.rollout.activation == Activation::Ordered && !r.activated {
        Some("awaiting_activation")
    } else {
        None
    }
}

/// Revisions whose bytes need not be kept: neither the highest, nor open, nor among the last few that were good.
pub(super) fn forgettable(held: &Held, standings: &BTreeMap<Digest, Standing>) -> Vec<(Name, u64)> {
    const KEEP: usize = 3;
    let mut all = Vec::new();
    for (name, revisions) in held {
        let highest = revisions.last_key_value().map(|(s, _)| *s);
        let closed: Vec<u64> = revisions
            .iter()
            .filter(|(s, r)| {
                let open = standings
                    .get(&r.digest)
                    .is_some_and(|s| matches!(s.permission, Permission::Ticket { .. }));
                Some(**s) != highest && !open
            })
            .map(|(s, _)| *s)
            .collect();
        let old = closed.len().saturating_sub(KEEP);
        all.extend(closed.into_iter().take(old).map(|s| (name.clone(), s)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::testing::{deployment, held, snapshot};
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn role(all: &BTreeMap<Digest, Standing>, r: &Revision) -> (HeldRole, Permission, String) {
        let s = &all[&r.digest];
        (s.role, s.permission, s.reason.clone())
    }

    #[test]
    fn a_first_revision_is_a_candidate_and_becomes_last_good() {
        let mut h = held(&[("web", 1)]);
        let all = standings(&h, None, NOW);
        let r = one(&mut h, 1).clone();
        assert_eq!(
            role(&all, &r),
            (HeldRole::Candidate, Permission::Ticket { startable: true }, String::new())
        );
        one(&mut h, 1).good = true;
        assert_eq!(role(&standings(&h, None, NOW), &r).0, HeldRole::LastGood);
    }

    fn one(h: &mut Held, sequence: u64) -> &mut Revision {
        h.values_mut().next().unwrap().get_mut(&sequence).unwrap()
    }

    #[test]
    fn last_good_stays_startable_beside_a_candidate_until_that_is_good() {
        let mut h = held(&[("web", 1), ("web", 2), ("web", 3)]);
        one(&mut h, 2).good = true;
        let all = standings(&h, None, NOW);
        let roles: Vec<_> = h.values().next().unwrap().values().map(|r| role(&all, r)).collect();
        assert_eq!(
            roles[0],
            (HeldRole::Superseded, Permission::Withdrawn { stop: true }, "superseded".into())
        );
        assert_eq!(roles[1].1, Permission::Ticket { startable: true });
        assert_eq!(roles[2].0, HeldRole::Candidate);
        one(&mut h, 3).good = true;
        let all = standings(&h, None, NOW);
        let two = h.values().next().unwrap()[&2].clone();
        assert_eq!(role(&all, &two).1, Permission::Withdrawn { stop: true });
    }

    #[test]
    fn s24_a_return_opens_last_good_and_spends_the_revision() {
        let mut h = held(&[("web", 1), ("web", 2)]);
        one(&mut h, 1).good = true;
        one(&mut h, 2).good = true;
        one(&mut h, 2).returned = true;
        let all = standings(&h, None, NOW);
        let (first, second) =
            (h.values().next().unwrap()[&1].clone(), h.values().next().unwrap()[&2].clone());
        assert_eq!(role(&all, &first).0, HeldRole::LastGood);
        assert_eq!(
            role(&all, &second),
            (HeldRole::Withdrawn, Permission::Withdrawn { stop: true }, "return_spent".into())
        );
        one(&mut h, 1).good = false;
        assert_eq!(role(&standings(&h, None, NOW), &second).2, "no_safe_revision");
    }

    #[test]
    fn s21_a_higher_revision_that_does_not_select_takes_all_away() {
        let mut h = held(&[("web", 1), ("web", 2)]);
        one(&mut h, 1).good = true;
        one(&mut h, 2).selected = false;
        for s in standings(&h, None, NOW).values() {
            assert_eq!(
                (s.permission, s.reason.as_str()),
                (Permission::Withdrawn { stop: true }, "deselected")
            );
        }
    }

    #[test]
    fn a_removal_in_the_snapshot_stops_and_an_absence_does_not() {
        let h = held(&[("web", 1)]);
        let listed = snapshot(&[("web", 1, Liveness::Removed)]);
        let all = standings(&h, Some(&listed), NOW);
        assert_eq!(all.values().next().unwrap().reason, "removed");
        let other = snapshot(&[("other", 1, Liveness::Live)]);
        let all = standings(&h, Some(&other), NOW);
        assert_eq!(all.values().next().unwrap().permission, Permission::Ticket { startable: true });
    }

    #[test]
    fn s18_what_it_requires_comes_first() {
        let mut h = held(&[("db", 1), ("web", 1)]);
        let mut d = deployment("web", 1);
        d.requires = vec![shoal_protocol::v1::Require { name: "db".parse().unwrap(), sequence: 1 }];
        let web: Name = "web".parse().unwrap();
        h.get_mut(&web).unwrap().get_mut(&1).unwrap().deployment = Arc::new(d);
        let digest = h[&web][&1].digest;
        let s = &standings(&h, None, NOW)[&digest];
        assert_eq!(
            (s.permission, s.reason.as_str()),
            (Permission::Ticket { startable: false }, "dependency_unmet")
        );
        h.get_mut(&"db".parse().unwrap()).unwrap().get_mut(&1).unwrap().good = true;
        assert_eq!(standings(&h, None, NOW)[&digest].permission, Permission::Ticket { startable: true });
    }

    #[test]
    fn ordered_activation_and_not_before_hold_the_start_back() {
        let mut h = held(&[("web", 1)]);
        let mut d = deployment("web", 1);
        d.rollout.activation = Activation::Ordered;
        one(&mut h, 1).deployment = Arc::new(d.clone());
        let reason = |h: &Held| standings(h, None, NOW).values().next().unwrap().reason.clone();
        assert_eq!(reason(&h), "awaiting_activation");
        one(&mut h, 1).activated = true;
        assert_eq!(reason(&h), "");
        d.not_before = Some(Timestamp(2_000));
        one(&mut h, 1).deployment = Arc::new(d);
        assert_eq!(reason(&h), "outside_window");
        let at = |now: u64| {
            let s = standings(&h, None, Timestamp(now)).values().next().unwrap().clone();
            (s.reason, s.wake)
        };
        assert_eq!(at(1_999), ("outside_window".into(), Some(Timestamp(2_000))));
        assert_eq!(at(2_000), (String::new(), None));
    }

    #[test]
    fn old_revisions_are_forgotten_but_never_the_highest() {
        let mut h = held(&[("web", 1), ("web", 2), ("web", 3), ("web", 4), ("web", 5), ("web", 6)]);
        one(&mut h, 6).returned = true;
        one(&mut h, 5).good = true;
        let old = forgettable(&h, &standings(&h, None, NOW));
        assert_eq!(old, [("web".parse().unwrap(), 1)]);
    }
}
