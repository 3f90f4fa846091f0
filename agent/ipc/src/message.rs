//! The message table: every message, its tag, how many descriptors it carries, and its fields in order.

use crate::software::SoftwareInfo;
use crate::types::{
    Applied, CompiledInfo, ContainerState, Digest, FactEvent, FeatureSet, GuardStatus, ModuleState,
    PrepareStage, StatsInfo,
};
use crate::{Cause, Error, Field, MESSAGE_MAX, Reader, VERSION, Writer};

macro_rules! messages {
    ($($(#[$meta:meta])* $variant:ident = $tag:literal, $fds:literal {
        $($(#[$fmeta:meta])* $field:ident: $ty:ty,)*
    })*) => {
        /// A message. The header is version and tag, 16 bits each; the fields follow.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Msg { $($(#[$meta])* $variant { $($(#[$fmeta])* $field: $ty,)* },)* }

        impl Msg {
            /// Its name in the table.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => stringify!($variant),)* }
            }
            /// How many descriptors it carries.
            pub fn descriptors(&self) -> usize {
                match self { $(Self::$variant { .. } => $fds,)* }
            }
            /// All tags, for tests of the table.
            pub const TAGS: &'static [u16] = &[$($tag),*];

            /// The message's bytes; at most [`MESSAGE_MAX`].
            pub fn encode(&self) -> Result<Vec<u8>, Error> {
                let mut w = Writer::default();
                VERSION.put(&mut w);
                match self { $(Self::$variant { $($field),* } => {
                    <u16 as Field>::put(&$tag, &mut w);
                    $(Field::put($field, &mut w);)*
                })* }
                let bytes = w.into_bytes();
                if bytes.len() > MESSAGE_MAX {
                    return Err(Error::TooLarge { what: self.name(), max: MESSAGE_MAX });
                }
                Ok(bytes)
            }

            /// Reads exactly one message.
            pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
                if bytes.len() > MESSAGE_MAX {
                    return Err(Error::TooLarge { what: "the message", max: MESSAGE_MAX });
                }
                let mut r = Reader::new(bytes);
                let theirs = u16::take(&mut r)?;
                if theirs != VERSION {
                    return Err(Error::Version { theirs });
                }
                let msg = match u16::take(&mut r)? {
                    $($tag => {
                        $(let $field = <$ty as Field>::take(&mut r)?;)*
                        Self::$variant { $($field),* }
                    })*
                    n => return Err(Error::Value { what: "message", found: n.into() }),
                };
                r.end()?;
                Ok(msg)
            }
        }
    };
}

messages! {
    /// First on every connection, both ways. Its layout never changes, so that any version can refuse any other.
    Hello = 1, 0 {}
    /// No, with a stable code.
    Refused = 2, 0 {
        /// The code.
        code: String,
        /// In words.
        detail: String,
    }
    /// Done, where there is nothing to say.
    Done = 3, 0 {}
    /// Makes this connection one of events: nothing else is taken on it.
    Subscribe = 4, 0 {}

    /// agent → admit: a signed document.
    Submit = 20, 1 {}
    /// It is verified and durable.
    Accepted = 21, 0 {
        /// `root`, `snapshot`, `deployment`, `config`, `secret`, `grant`, `device` or `order`.
        kind: String,
        /// The name of a deployment, config or secret; empty for the others.
        name: String,
        /// Sequence, version or counter.
        sequence: u64,
        /// The document's identity.
        digest: Digest,
        /// Whether it was held already.
        known: bool,
    }
    /// agent → admit: what is held?
    Trust = 22, 0 {}
    /// A sealed memfd with a `TrustSummary`.
    TrustSummary = 23, 1 {}
    /// agent → admit: the exact bytes of an accepted document.
    Document = 24, 0 {
        /// `deployment`, `root`, `snapshot` or `device`.
        kind: String,
        /// A deployment's name.
        name: String,
        /// Sequence of a deployment, version of a root; 0 is the newest.
        sequence: u64,
    }
    /// A sealed memfd with an envelope.
    DocumentIs = 25, 1 {}
    /// agent → admit: signed facts with a counter above this.
    Facts = 26, 0 {
        /// The counter.
        after: u64,
    }
    /// A sealed memfd with a `FactList`.
    FactsAre = 27, 1 {}
    /// agent → admit: facts up to this counter are in the controller's store.
    FactsDone = 28, 0 {
        /// The counter.
        up_to: u64,
    }
    /// admit → agent, event: documents, tickets or facts changed.
    Changed = 29, 0 {}
    /// uid 0 → admit: a sealed memfd with `EnrollMaterial`.
    Enroll = 30, 1 {}
    /// The public halves of admit's keys.
    Enrolled = 31, 0 {
        /// The fleet.
        fleet: String,
        /// Ed25519, raw.
        attest: Digest,
        /// X25519, raw.
        sealing: Digest,
    }

    /// uid 0 → admit: whoever stands at the device lets an accepted revision be activated, as an order would.
    Activate = 32, 0 {
        /// The deployment.
        name: String,
        /// Its sequence.
        sequence: u64,
        /// Its identity.
        digest: Digest,
    }
    /// agent → admit: what would be said to a document if all those were taken that this connection rehearsed before it? The
    /// answer is `Accepted` or `Refused`; nothing is kept.
    Rehearse = 33, 1 {}

    /// admit → supervise: a sealed memfd with a `Ticket`.
    Ticket = 40, 1 {}
    /// admit → supervise: a permission ends.
    Withdraw = 41, 0 {
        /// The ticket.
        ticket: Digest,
        /// Whether what runs of it is stopped (else it runs on until it ends).
        stop: bool,
        /// Seconds between the request to stop and the kill.
        grace: u32,
    }
    /// supervise → admit: what happened to a container.
    Fact = 42, 0 {
        /// Supervise's own number of this fact, for the acknowledgement.
        id: u64,
        /// The deployment's identity.
        ticket: Digest,
        /// The deployment's name.
        name: String,
        /// The container.
        container: String,
        /// Which start of it.
        attempt: u64,
        /// What.
        event: FactEvent,
        /// When it happened, seconds since 1970 by the device's clock.
        at: u64,
    }
    /// admit → supervise: the fact is signed and durable.
    FactAck = 43, 0 {
        /// As in the fact.
        id: u64,
    }

    /// admit → supervise: a sealed memfd with the bytes of a file of a config or secret, which the next ticket names.
    Content = 44, 1 {
        /// What the bytes are.
        item: Digest,
    }

    /// admit → supervise: a sealed memfd with a `ReleaseTicket`: the one release that this device may change to.
    Release = 45, 1 {}
    /// supervise → admit: software of this version proved itself here.
    Proved = 46, 0 {
        /// `major.minor.patch`.
        release: String,
    }

    /// agent → supervise: the bytes of a module or file of a ticket, or of a release.
    Stage = 60, 1 {
        /// The ticket.
        ticket: Digest,
        /// What the bytes should be.
        item: Digest,
    }
    /// They were these bytes, and are kept.
    Staged = 61, 0 {
        /// The item.
        item: Digest,
    }
    /// agent → supervise: how far is this ticket?
    Have = 62, 0 {
        /// The ticket.
        ticket: Digest,
    }
    /// This far.
    HaveIs = 63, 0 {
        /// Whether it may be started.
        startable: bool,
        /// Modules of the containers.
        modules: Vec<ModuleState>,
        /// Items that are not there, the first 64 of them.
        missing: Vec<Digest>,
        /// How many items are not there.
        missing_total: u32,
    }
    /// agent → supervise: make native code of a staged module.
    Compile = 64, 0 {
        /// The ticket.
        ticket: Digest,
        /// The module.
        module: Digest,
    }
    /// The job is queued; `Compiled` or `CompileFailed` follows as an event.
    Compiling = 65, 0 {}
    /// Event: there is code.
    Compiled = 66, 0 {
        /// The module.
        module: Digest,
        /// What it cost.
        info: CompiledInfo,
    }
    /// Event: there is none.
    CompileFailed = 67, 0 {
        /// The module.
        module: Digest,
        /// A stable code.
        code: String,
        /// In words.
        detail: String,
    }
    /// agent → supervise: start this container.
    Start = 68, 0 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
        /// Which start of it; above all earlier ones.
        attempt: u64,
    }
    /// It runs.
    Started = 69, 0 {
        /// The process.
        pid: u32,
        /// Seconds since 1970.
        started_at: u64,
        /// Limits as read back.
        applied: Applied,
    }
    /// agent → supervise: stop; `Ended` follows as an event.
    Stop = 70, 0 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket; absent is all.
        container: Option<u16>,
        /// Milliseconds until the kill, at most the ticket's own grace.
        grace_ms: u32,
    }
    /// So many containers are being stopped.
    Stopping = 71, 0 {
        /// How many.
        containers: u32,
    }
    /// agent → supervise: forget groups, folders and records of a pod of which nothing runs.
    Remove = 72, 0 {
        /// The ticket.
        ticket: Digest,
    }
    /// agent → supervise: all containers; `ContainerIs` for each, then `ListEnd`.
    List = 73, 0 {}
    /// One of them.
    ContainerIs = 74, 0 {
        /// It.
        state: ContainerState,
    }
    /// That was all.
    ListEnd = 75, 0 {}
    /// agent → supervise: what does this container use?
    Stats = 76, 0 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
    }
    /// This.
    StatsAre = 77, 0 {
        /// Readings.
        stats: StatsInfo,
    }
    /// Event: a container's process is gone.
    Ended = 78, 0 {
        /// It, in its last state.
        state: ContainerState,
    }
    /// Event: a container counts as healthy.
    Healthy = 79, 0 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
        /// Which start of it.
        attempt: u64,
    }
    /// agent → supervise: what can be enforced here?
    Features = 80, 0 {}
    /// This.
    FeaturesAre = 81, 0 {
        /// Features.
        features: FeatureSet,
    }
    /// uid 0 → supervise: how is the guard?
    Status = 82, 0 {}
    /// So.
    StatusIs = 83, 0 {
        /// Its state.
        status: GuardStatus,
    }
    /// uid 0 → supervise: stop all containers, remove groups and mounts, end.
    Shutdown = 84, 0 {}
    /// agent → supervise: how is the device's own software?
    Software = 87, 0 {}
    /// So.
    SoftwareIs = 88, 0 {
        /// Its state.
        info: SoftwareInfo,
    }
    /// agent → supervise: all files are there: change to this release. After the answer supervise is the new one.
    Switch = 89, 0 {
        /// The release.
        ticket: Digest,
    }
    /// agent → supervise: this software works: it reached whom it has to reach.
    Confirm = 90, 0 {}
    /// uid 0 → supervise: a sealed memfd with an unsigned `Ticket`; taken where the device's policy allows it.
    LocalTicket = 110, 1 {}
    /// uid 0 → supervise: start a container of an unsigned ticket; its output is the caller's to read, not the log's.
    StartAttached = 111, 0 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
        /// Which start of it; above all earlier ones.
        attempt: u64,
    }
    /// It runs; the read ends of its standard output and error.
    StartedAttached = 112, 2 {
        /// The process.
        pid: u32,
        /// Seconds since 1970.
        started_at: u64,
        /// Limits as read back.
        applied: Applied,
    }
    /// uid 0 → supervise: forget a container of an unsigned ticket, which does not run.
    RemoveContainer = 113, 0 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
    }
    /// agent → supervise: open the log of a running container anew, since somebody moved its file away.
    ReopenLog = 114, 0 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
    }
    /// uid 0 → supervise: what the next attached start of this container reads as its standard input.
    Feed = 117, 1 {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
    }
    /// Event: how far a module is that `Compile` asked for.
    Preparing = 85, 0 {
        /// The module.
        module: Digest,
        /// How far.
        stage: PrepareStage,
    }
    /// Event: a running container changed in what its probes say.
    Probed = 86, 0 {
        /// It.
        state: ContainerState,
    }

    /// supervise → log: the read ends of standard output and error of a container.
    Attach = 100, 2 {
        /// Chosen by supervise; comes back in `Dropped`.
        id: u64,
        /// The pod's folder: one name, below the folder of logs.
        pod: String,
        /// The container's folder: one name, below the pod's.
        container: String,
        /// The file is `<attempt>.log`.
        attempt: u64,
        /// Bytes of one file.
        max_size: u64,
        /// Files kept, this one included.
        max_files: u32,
    }
    /// log → supervise: lines go to the file from now on.
    Attached = 101, 0 {
        /// As in `Attach`.
        id: u64,
    }
    /// log → supervise: lines dropped so far; once at the end of the streams, and at most every minute before.
    Dropped = 102, 0 {
        /// As in `Attach`.
        id: u64,
        /// How many lines.
        lines: u64,
        /// Whether both streams ended and the file is complete.
        end: bool,
        /// The last lines of standard error, at most 1 KiB.
        stderr_tail: String,
    }
    /// supervise → log, after supervise was restarted: which streams are open?
    Reattach = 104, 0 {}
    /// This one, with its read ends; `ListEnd` follows the last.
    Stream = 105, 2 {
        /// As in `Attach`.
        id: u64,
    }
    /// supervise → log: end now.
    End = 106, 0 {}
    /// supervise → zygote: fork a container up to its first instruction, for which it waits. The descriptors: a sealed memfd
    /// with a `Launch`; standard input, output and error; the answer area; its gate, a socket on which it says `1` once it
    /// is confined, or the step that failed, and waits for a byte that lets it go on; the container's folder, for the exit
    /// fact; a network namespace, or anything where the launch asks for none; and a sealed memfd with a `Content`, which only
    /// the child reads, or anything where the launch says that there is none.
    Launch = 120, 9 {
        /// Chosen by supervise; comes back with everything about this container, and the exit fact is the file `end-ID`.
        id: u64,
    }
    /// supervise → zygote: the read ends of a container's output and error, which outlive log and supervise there.
    Keep = 119, 2 {
        /// As in `Launch`.
        id: u64,
    }
    /// zygote → supervise: it is there; its pidfd.
    Forked = 121, 1 {
        /// As in `Launch`.
        id: u64,
        /// The process.
        pid: u32,
    }
    /// zygote → supervise: it was never there.
    NotForked = 122, 0 {
        /// As in `Launch`.
        id: u64,
        /// Why, at most 1 KiB.
        why: String,
    }
    /// zygote → supervise: it is gone, and its exit fact is written.
    Gone = 123, 0 {
        /// As in `Launch`.
        id: u64,
        /// The process that was.
        pid: u32,
        /// Its exit code; absent when a signal ended it.
        code: Option<i32>,
        /// The signal.
        signal: Option<i32>,
    }
    /// supervise → zygote, after supervise was restarted: who are you, and which containers are yours?
    Adopt = 124, 0 {}
    /// This one; a `Child` for each container, then `ListEnd`, follow.
    ZygoteIs = 125, 0 {
        /// The process.
        pid: u32,
        /// Runner and engine as supervise knew them when it was started.
        identity: String,
        /// Whether it takes no more containers.
        retired: bool,
    }
    /// A container with its pidfd, its answer area and the read ends of its output and error, or anything that is no pipe where
    /// none were to be kept.
    Child = 126, 4 {
        /// As in `Launch`.
        id: u64,
        /// The process.
        pid: u32,
    }
    /// supervise → zygote: take no more containers, and end with the last one.
    Retire = 127, 0 {}
    /// supervise → log: delete a pod's folder.
    DropPod = 103, 0 {
        /// One name, below the folder of logs.
        pod: String,
    }
    /// supervise → log: delete a container's folder.
    DropContainer = 115, 0 {
        /// One name, below the folder of logs.
        pod: String,
        /// One name, below the pod's.
        container: String,
    }
    /// supervise → log: open the file of this stream anew.
    Reopen = 116, 0 {
        /// As in `Attach`.
        id: u64,
    }
}

impl Msg {
    /// A refusal; the detail is cut to what fits.
    pub fn refused(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Refused { code: code.into(), detail: cut(detail.into(), 1024) }
    }

    /// Whether it may arrive unasked on a connection of events.
    pub fn is_event(&self) -> bool {
        matches!(
            self,
            Self::Changed {}
                | Self::Compiled { .. }
                | Self::CompileFailed { .. }
                | Self::Preparing { .. }
                | Self::Ended { .. }
                | Self::Healthy { .. }
                | Self::Probed { .. }
        )
    }
}

/// Cuts `text` to at most `max` bytes at a character's edge.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut at = max;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
    }
    text.replace('\0', "\u{fffd}")
}

impl Cause {
    /// The same with its texts cut to what fits a message.
    #[must_use]
    pub fn bounded(self) -> Self {
        match self {
            Self::Trap { message } => Self::Trap { message: cut(message, 512) },
            Self::Refused { code, detail } => Self::Refused { code: cut(code, 64), detail: cut(detail, 512) },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tag_stands_twice() {
        let set: std::collections::BTreeSet<_> = Msg::TAGS.iter().collect();
        assert_eq!(set.len(), Msg::TAGS.len());
    }

    #[test]
    fn refusals_are_cut_at_a_character() {
        let Msg::Refused { detail, .. } = Msg::refused("x", "é".repeat(2000)) else { panic!() };
        assert_eq!(detail.len(), 1024);
        assert!(Msg::refused("x", "é".repeat(5000)).encode().is_ok());
    }
}
