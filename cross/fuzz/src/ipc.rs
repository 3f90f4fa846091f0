//! What crosses the sockets of admit and supervise: messages as bytes and as packets with descriptors, and the layouts
//! that travel in memfds beside them.

use crate::{prefixed, split_first};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use shoal_ipc::{
    CompileResult, Connection, Digest, EndRecord, EnrollMaterial, ExitFact, FactList, Field, HeldRevision,
    HeldRole, Launch, Limits, MESSAGE_MAX, Msg, Needs, Network, ProofRecord, Restart, Spec, Ticket,
    TicketContainer, TicketFile, TrustSummary, decode, encode,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::LazyLock;

static NOTHING: LazyLock<OwnedFd> = LazyLock::new(|| {
    open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap_or_else(|e| panic!("{e}"))
});

/// More descriptors than any message carries.
const FDS: usize = 12;

/// The number that the next descriptor would get: it rises by what a receiver forgot to close.
fn next_fd() -> i32 {
    rustix::io::fcntl_dupfd_cloexec(&*NOTHING, 3).map_or(-1, |fd| fd.as_raw_fd())
}

pub(crate) fn messages(data: &[u8]) -> bool {
    let (count, bytes) = split_first(data);
    let count = usize::from(count) % (FDS + 1);
    let read = Msg::decode(bytes);
    if let Ok(msg) = &read {
        assert!(bytes.len() <= MESSAGE_MAX);
        let again = msg.encode().unwrap_or_else(|e| panic!("what was read cannot be written: {e}"));
        assert_eq!(again, bytes, "a message has one spelling");
    }
    if bytes.is_empty() {
        return false;
    }
    let before = next_fd();
    let received = over_a_socket(bytes, count);
    match (&received, &read) {
        (Some(received), Ok(msg)) => {
            assert_eq!(&received.msg, msg);
            assert_eq!(
                received.fds.len(),
                msg.descriptors(),
                "exactly as many descriptors as the table says"
            );
            assert_eq!(received.fds.len(), count);
        }
        (Some(received), Err(e)) => panic!("{} came out of bytes that are none: {e}", received.msg.name()),
        (None, _) => {}
    }
    drop(received);
    assert_eq!(next_fd(), before, "a descriptor stayed open");
    read.is_ok()
}

/// The bytes as one packet with so many descriptors, through the connection that guard reads from.
fn over_a_socket(bytes: &[u8], count: usize) -> Option<shoal_ipc::Received> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let mut connection = Connection::from_fd(theirs).unwrap_or_else(|e| panic!("{e}"));
    let fds = vec![NOTHING.as_fd(); count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if count > 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    sendmsg(&ours, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).ok()?;
    connection.try_recv().ok().flatten()
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let d = Digest([7; 32]);
    let all = [
        Msg::Hello {},
        Msg::refused("not_admitted", "no such ticket"),
        Msg::Submit {},
        Msg::Document { kind: "root".into(), name: "web".into(), sequence: 4 },
        Msg::Ticket {},
        Msg::Withdraw { ticket: d, stop: true, grace: 30 },
        Msg::Stage { ticket: d, item: d },
        Msg::HaveIs { startable: true, modules: vec![], missing: vec![d], missing_total: 900 },
        Msg::Start { ticket: d, container: 0, attempt: 1 },
        Msg::Stop { ticket: d, container: None, grace_ms: 1 },
        Msg::Enroll {},
        Msg::Attach {
            id: 1,
            pod: "web_abc".into(),
            container: "main".into(),
            attempt: 1,
            max_size: 9,
            max_files: 3,
        },
        Msg::Launch { id: 1 },
        Msg::Dropped { id: 1, lines: 2, end: true, stderr_tail: "oh".into() },
    ];
    all.iter()
        .filter_map(|m| Some(prefixed(u8::try_from(m.descriptors()).ok()?, &m.encode().ok()?)))
        .collect()
}

fn layout<T: Field>(bytes: &[u8]) -> Option<T> {
    let value = decode::<T>(bytes).ok()?;
    assert_eq!(encode(&value), bytes, "a layout has one spelling");
    Some(value)
}

pub(crate) fn layouts(data: &[u8]) -> bool {
    let (which, bytes) = split_first(data);
    match which {
        0 => layout::<Ticket>(bytes).is_some_and(|t| ticket(&t)),
        1 => layout::<EnrollMaterial>(bytes).is_some(),
        2 => layout::<TrustSummary>(bytes).is_some(),
        3 => layout::<FactList>(bytes).is_some(),
        4 => layout::<Launch>(bytes).is_some(),
        5 => layout::<Spec>(bytes).is_some(),
        6 => layout::<CompileResult>(bytes).is_some(),
        7 => layout::<ExitFact>(bytes).is_some_and(|f| f.status().is_some()),
        8 => layout::<ProofRecord>(bytes).is_some(),
        9 => layout::<Needs>(bytes).is_some(),
        10 => layout::<EndRecord>(bytes).is_some(),
        _ => EndRecord::from_area(bytes).is_some(),
    }
}

fn ticket(t: &Ticket) -> bool {
    let items = t.items();
    let mut digests: Vec<Digest> = items.iter().map(|f| f.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), items.len(), "each item stands once");
    for module in t.modules() {
        assert!(t.is_module(&module.digest) && digests.binary_search(&module.digest).is_ok());
    }
    true
}

pub(crate) fn layout_seeds() -> Vec<Vec<u8>> {
    let d = Digest([7; 32]);
    let file =
        |path: &str, n: u8| TicketFile { path: path.into(), size: 1, mode: 0o644, digest: Digest([n; 32]) };
    let container = TicketContainer {
        name: "main".into(),
        argv: vec!["/app.wasm".into()],
        env: vec![],
        working_dir: "/".into(),
        module: file("/app.wasm", 1),
        files: vec![file("/etc/app", 2)],
        limits: Limits::default(),
        mounts: vec![],
        readonly_rootfs: false,
        restart: Restart::Always,
        interpreter: false,
        self_test: None,
        probes: vec![],
        post_start: None,
        pre_stop: None,
        stdin: false,
        init: false,
        devices: vec![],
        private_env: vec![],
    };
    let ticket = Ticket {
        version: 1,
        id: d,
        name: "web".into(),
        sequence: 2,
        stageable: true,
        startable: true,
        hostname: "h".into(),
        grace: 30,
        limits: Limits::default(),
        volumes: vec![],
        containers: vec![container],
        required_features: vec!["landlock".into()],
        network: Network::None,
        ports: vec![],
    };
    let held = HeldRevision {
        name: "web".into(),
        sequence: 2,
        digest: d,
        role: HeldRole::LastGood,
        stageable: true,
        startable: true,
        reason: String::new(),
        detail: String::new(),
    };
    let enroll = EnrollMaterial { roots: vec![vec![1, 2]], token: vec![3] };
    vec![
        prefixed(0, &encode(&ticket)),
        prefixed(1, &encode(&enroll)),
        prefixed(2, &encode(&TrustSummary { held: vec![held], ..TrustSummary::default() })),
        prefixed(10, &encode(&EndRecord::Exit { code: 3 })),
        prefixed(11, &encode(&EndRecord::Exit { code: 3 })),
    ]
}
