//! Whether a ticket may run on this device at all: its owner's policy, and what the kernel must have. Asked before anything of it
//! is staged, so that a revision which cannot run here takes nobody's place.

use super::{Refused, Supervise, refuse};
use shoal_confine::Feature;
use shoal_ipc::Ticket;

/// What of the required features is not there, in words.
fn wanting(required: &[String], lacks: &[Feature], is_root: bool) -> Option<String> {
    let reasons: Vec<String> = required
        .iter()
        .filter_map(|name| match Feature::named(name) {
            None => Some(format!("this device's guard knows no kernel feature {name:?}")),
            Some(f) if lacks.contains(&f) => Some(format!("this device's kernel has no {name}")),
            Some(_) if !is_root => Some(format!("without root the guard holds nothing by {name}")),
            Some(_) => None,
        })
        .collect();
    (!reasons.is_empty()).then(|| format!("{}, which the deployment requires", reasons.join("; ")))
}

impl Supervise {
    /// Whether this device can and may run it.
    pub(super) fn fits(&self, ticket: &Ticket) -> Result<(), Refused> {
        if let Some(why) = self.policy.forbids(ticket) {
            return Err(refuse("policy_denied", why));
        }
        match wanting(&ticket.required_features, &self.lacks, self.uids.is_some()) {
            Some(why) => Err(refuse("kernel_unsupported", why)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_each_required_feature_that_is_not_there_is_named() {
        let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let lacks = [Feature::LandlockNetwork, Feature::CgroupV2];
        assert_eq!(wanting(&names(&["seccomp", "memory-limit"]), &lacks, true), None);
        assert_eq!(wanting(&[], &lacks, false), None);
        let why = wanting(&names(&["seccomp", "cgroup-v2", "landlock-network"]), &lacks, true).unwrap();
        assert!(why.contains("no cgroup-v2; ") && why.contains("no landlock-network,"), "{why}");
        assert!(!why.contains("seccomp"), "{why}");
        let why = wanting(&names(&["teleport"]), &lacks, true).unwrap();
        assert_eq!(
            why,
            "this device's guard knows no kernel feature \"teleport\", which the deployment requires"
        );
        assert!(wanting(&names(&["seccomp"]), &[], false).unwrap().contains("without root"));
    }

    #[test]
    fn the_operators_tool_knows_the_same_names() {
        let own: Vec<&str> = Feature::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(own, shoal_protocol::verify::template::FEATURES);
    }
}
