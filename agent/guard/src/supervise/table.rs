//! The whole surface of supervise as one table: which message, from whom, and what must be so first.
//!
//! Whatever is not in the table is refused. The agent can only name tickets that admission has handed out.

use shoal_ipc::{Digest, Msg};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum From {
    /// The process that supervise started for trust.
    Admit,
    /// The process that supervise started for logs.
    Log,
    /// The agent's uid on its own socket.
    Agent,
    /// Uid 0 on its own socket.
    Root,
}

/// What must be so before a handler is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// A ticket that is not withdrawn, with leave to stage.
    Stageable,
    /// A ticket that is not withdrawn, with leave to start.
    Startable,
    /// Admission's permission for this release.
    Release,
    /// A ticket, withdrawn or not, or containers that were started under one.
    Known,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) message: &'static str,
    pub(crate) from: &'static [From],
    pub(crate) needs: Needs,
}

const ASKING: &[From] = &[From::Agent, From::Root];

const fn rule(message: &'static str, from: &'static [From], needs: Needs) -> Rule {
    Rule { message, from, needs }
}

/// The table.
pub(crate) const TABLE: &[Rule] = &[
    rule("Ticket", &[From::Admit], Needs::Nothing),
    rule("Content", &[From::Admit], Needs::Nothing),
    rule("Withdraw", &[From::Admit], Needs::Nothing),
    rule("Release", &[From::Admit], Needs::Nothing),
    rule("FactAck", &[From::Admit], Needs::Nothing),
    rule("Done", &[From::Admit], Needs::Nothing),
    rule("Attached", &[From::Log], Needs::Nothing),
    rule("Dropped", &[From::Log], Needs::Nothing),
    rule("Stream", &[From::Log], Needs::Nothing),
    rule("ListEnd", &[From::Log], Needs::Nothing),
    rule("Subscribe", ASKING, Needs::Nothing),
    rule("Software", ASKING, Needs::Nothing),
    rule("Switch", ASKING, Needs::Release),
    rule("Confirm", ASKING, Needs::Nothing),
    rule("Features", ASKING, Needs::Nothing),
    rule("List", ASKING, Needs::Nothing),
    rule("Stage", ASKING, Needs::Stageable),
    rule("Have", ASKING, Needs::Stageable),
    rule("Compile", ASKING, Needs::Stageable),
    rule("Start", ASKING, Needs::Startable),
    rule("Stop", ASKING, Needs::Known),
    rule("Remove", ASKING, Needs::Known),
    rule("Stats", ASKING, Needs::Known),
    rule("ReopenLog", ASKING, Needs::Known),
    rule("LocalTicket", &[From::Root], Needs::Nothing),
    rule("StartAttached", &[From::Root], Needs::Startable),
    rule("Feed", &[From::Root], Needs::Startable),
    rule("RemoveContainer", &[From::Root], Needs::Known),
    rule("Status", &[From::Root], Needs::Nothing),
    rule("Shutdown", &[From::Root], Needs::Nothing),
];

/// How a ticket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// Admission handed it out.
    pub(crate) ticket: bool,
    /// And took it back.
    pub(crate) withdrawn: bool,
    pub(crate) stageable: bool,
    pub(crate) startable: bool,
    /// Containers were started under it.
    pub(crate) containers: bool,
    /// It is a release that this device may change to.
    pub(crate) release: bool,
    /// It is uid 0's own, unsigned: nobody else is answered about it.
    pub(crate) local: bool,
}

/// The ticket that a message names.
pub(crate) fn named_ticket(msg: &Msg) -> Option<Digest> {
    match msg {
        Msg::Stage { ticket, .. }
        | Msg::Switch { ticket }
        | Msg::Have { ticket }
        | Msg::Compile { ticket, .. }
        | Msg::Start { ticket, .. }
        | Msg::StartAttached { ticket, .. }
        | Msg::Feed { ticket, .. }
        | Msg::RemoveContainer { ticket, .. }
        | Msg::ReopenLog { ticket, .. }
        | Msg::Stop { ticket, .. }
        | Msg::Remove { ticket }
        | Msg::Stats { ticket, .. } => Some(*ticket),
        _ => None,
    }
}

/// Whether this message may be handled; the text says why not.
pub(crate) fn permitted(msg: &Msg, from: From, standing: Standing) -> Result<(), String> {
    let name = msg.name();
    let Some(rule) = TABLE.iter().find(|r| r.message == name) else {
        return Err(format!("{name} is nothing that supervise is asked"));
    };
    if !rule.from.contains(&from) {
        return Err(format!("{name} is not taken from {from:?}"));
    }
    // The agent never reaches what it could not have started; and what is local only is asked of local pods.
    let only_local =
        matches!(msg, Msg::StartAttached { .. } | Msg::Feed { .. } | Msg::RemoveContainer { .. });
    if (standing.local && from != From::Root) || (only_local && !standing.local) {
        return Err(format!("{name} is not for this ticket"));
    }
    let live = standing.ticket && !standing.withdrawn;
    let good = match rule.needs {
        Needs::Nothing => true,
        Needs::Stageable => (live && standing.stageable) || (standing.release && name == "Stage"),
        Needs::Release => standing.release,
        Needs::Startable => live && standing.startable,
        Needs::Known => standing.ticket || standing.containers,
    };
    if good { Ok(()) } else { Err(format!("admission gave no ticket for {name} of this deployment")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Digest = Digest([1; 32]);
    const FULL: Standing = Standing {
        ticket: true,
        withdrawn: false,
        stageable: true,
        startable: true,
        containers: true,
        release: false,
        local: false,
    };

    #[test]
    fn c5_without_a_ticket_nothing_is_staged_compiled_started_or_asked_about() {
        for msg in [
            Msg::Stage { ticket: T, item: T },
            Msg::Have { ticket: T },
            Msg::Compile { ticket: T, module: T },
            Msg::Start { ticket: T, container: 0, attempt: 1 },
            Msg::Stop { ticket: T, container: None, grace_ms: 0 },
            Msg::Remove { ticket: T },
            Msg::Stats { ticket: T, container: 0 },
        ] {
            assert!(permitted(&msg, From::Agent, Standing::default()).is_err(), "{}", msg.name());
            assert!(permitted(&msg, From::Agent, FULL).is_ok(), "{}", msg.name());
            assert_eq!(named_ticket(&msg), Some(T));
        }
    }

    #[test]
    fn c5_of_a_release_only_its_files_and_the_change_to_it_are_asked_for_and_only_with_admissions_word() {
        let release = Standing { release: true, ..Standing::default() };
        let switch = Msg::Switch { ticket: T };
        for msg in [&switch, &Msg::Stage { ticket: T, item: T }] {
            assert!(permitted(msg, From::Agent, release).is_ok(), "{}", msg.name());
            assert!(permitted(msg, From::Agent, Standing::default()).is_err(), "{}", msg.name());
            assert_eq!(named_ticket(msg), Some(T));
        }
        assert!(permitted(&switch, From::Agent, FULL).is_err(), "a deployment is no software");
        for msg in [
            Msg::Have { ticket: T },
            Msg::Compile { ticket: T, module: T },
            Msg::Start { ticket: T, container: 0, attempt: 1 },
            Msg::Remove { ticket: T },
        ] {
            assert!(permitted(&msg, From::Agent, release).is_err(), "{}", msg.name());
        }
        for from in [From::Agent, From::Root, From::Log] {
            assert!(permitted(&Msg::Release {}, from, release).is_err(), "{from:?}");
        }
        assert!(permitted(&Msg::Release {}, From::Admit, Standing::default()).is_ok());
    }

    #[test]
    fn c5_unsigned_tickets_come_from_uid_0_and_the_agent_is_told_nothing_of_them() {
        assert!(permitted(&Msg::LocalTicket {}, From::Root, FULL).is_ok());
        for from in [From::Agent, From::Admit, From::Log] {
            assert!(permitted(&Msg::LocalTicket {}, from, FULL).is_err(), "{from:?}");
        }
        let local = Standing { local: true, ..FULL };
        for msg in [
            Msg::Stage { ticket: T, item: T },
            Msg::Have { ticket: T },
            Msg::Compile { ticket: T, module: T },
            Msg::Start { ticket: T, container: 0, attempt: 1 },
            Msg::Stop { ticket: T, container: None, grace_ms: 0 },
            Msg::Remove { ticket: T },
            Msg::Stats { ticket: T, container: 0 },
            Msg::ReopenLog { ticket: T, container: 0 },
            Msg::StartAttached { ticket: T, container: 0, attempt: 1 },
            Msg::Feed { ticket: T, container: 0 },
            Msg::RemoveContainer { ticket: T, container: 0 },
        ] {
            assert!(permitted(&msg, From::Agent, local).is_err(), "{}", msg.name());
            assert!(permitted(&msg, From::Root, local).is_ok(), "{}", msg.name());
            assert_eq!(named_ticket(&msg), Some(T));
        }
        // Uid 0 takes no signed container's output or record away either.
        assert!(
            permitted(&Msg::StartAttached { ticket: T, container: 0, attempt: 1 }, From::Root, FULL).is_err()
        );
        assert!(permitted(&Msg::Feed { ticket: T, container: 0 }, From::Root, FULL).is_err());
        assert!(permitted(&Msg::RemoveContainer { ticket: T, container: 0 }, From::Root, FULL).is_err());
    }

    #[test]
    fn c5_tickets_and_acknowledgements_come_from_admit_only() {
        let withdraw = Msg::Withdraw { ticket: T, stop: true, grace: 0 };
        for msg in [Msg::Ticket {}, Msg::Content { item: T }, withdraw, Msg::FactAck { id: 1 }] {
            assert!(permitted(&msg, From::Admit, FULL).is_ok());
            for from in [From::Agent, From::Root, From::Log] {
                assert!(permitted(&msg, from, FULL).is_err(), "{} from {from:?}", msg.name());
            }
        }
    }

    #[test]
    fn a_withdrawn_or_staged_only_ticket_starts_nothing() {
        let start = Msg::Start { ticket: T, container: 0, attempt: 1 };
        assert!(permitted(&start, From::Agent, Standing { withdrawn: true, ..FULL }).is_err());
        assert!(permitted(&start, From::Agent, Standing { startable: false, ..FULL }).is_err());
        let stop = Msg::Stop { ticket: T, container: None, grace_ms: 0 };
        assert!(permitted(&stop, From::Agent, Standing { withdrawn: true, ..FULL }).is_ok());
    }

    #[test]
    fn the_agent_cannot_end_the_guard_and_unlisted_messages_are_refused() {
        assert!(permitted(&Msg::Shutdown {}, From::Agent, FULL).is_err());
        assert!(permitted(&Msg::Shutdown {}, From::Root, FULL).is_ok());
        for from in [From::Admit, From::Log, From::Agent, From::Root] {
            assert!(permitted(&Msg::Submit {}, from, FULL).is_err());
        }
    }
}
