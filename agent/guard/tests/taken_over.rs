//! C5: an agent that somebody has taken over speaks to supervise as it likes, with a good ticket in its hands and a container
//! that runs under it. It gets what the ticket says and nothing else, and nobody's service suffers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "taken_over/every.rs"]
mod every;

use common::{AGENT, Device, Fleet, as_agent, needs_runner, nothing_is_left, stage_and_compile, wait_for};
use every::Agents;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType, connect,
    send, sendmsg, socket,
};
use rustix::process::{Pid, Signal, kill_process};
use shoal_ipc::{Connection, Digest as Id, Error, FactEvent, MESSAGE_MAX, Msg, SuperviseClient};
use shoal_protocol::v1::Resources;
use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Goes on for ever.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;
const OTHER: Id = Id([9; 32]);
const SOON: Duration = Duration::from_secs(20);

struct World {
    device: Device,
    ticket: Id,
    module: Id,
    pid: u32,
}

impl World {
    fn new(policy: &str) -> Self {
        let (device, fleet) = (Device::start_with(policy), Fleet::new(10));
        fleet.enroll(&device);
        let module = wat::parse_str(LOOPS).unwrap();
        let d =
            fleet.pod("victim", 1, &module, Resources { cpu_quota: Some(10_000), ..Resources::default() });
        let ticket = fleet.roll_out(&device, 1, &d);
        stage_and_compile(&device, ticket, &d, &module);
        let pid = device.supervise().start(ticket, 0, 1).unwrap().pid;
        Self { device, ticket, module: Id(d.template.containers[0].image.module.digest.0), pid }
    }

    /// As the agent, on its own socket.
    fn connection(&self) -> Connection {
        as_agent(|| Connection::connect(&self.device.layout.supervise_socket(), SOON)).unwrap()
    }

    /// A socket on which nothing is checked before it is sent.
    fn raw(&self) -> OwnedFd {
        as_agent(|| {
            let addr = SocketAddrUnix::new(self.device.layout.supervise_socket()).unwrap();
            let raw = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            connect(&raw, &addr).unwrap();
            // One connection too many is closed, perhaps before it has said anything.
            let _ = send(&raw, &Msg::Hello {}.encode().unwrap(), SendFlags::NOSIGNAL);
            raw
        })
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.device.guard_pid())).unwrap().count()
    }

    fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.device.guard_pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The one container runs as it did, under the one ticket, and supervise, admit and log are who they were.
    fn nothing_changed(&self, before: &shoal_ipc::GuardStatus) {
        let now = self.device.status();
        assert_eq!((now.tickets, now.containers), (before.tickets, 1));
        assert_eq!(
            (now.admit_pid, now.log_pid, now.zygote_pid),
            (before.admit_pid, before.log_pid, before.zygote_pid)
        );
        let list = self.device.supervise().list().unwrap();
        assert!(list.iter().any(|c| c.running && c.pid == self.pid), "{list:?}");
    }

    fn finish(mut self) {
        self.device.stop_all();
        nothing_is_left(&self.device);
    }
}

fn refusal(answer: Result<shoal_ipc::Received, Error>) -> String {
    match answer {
        Err(Error::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn c5_what_only_others_may_say_is_refused_also_with_a_good_ticket() {
    if needs_runner("c5_what_only_others_may_say_is_refused_also_with_a_good_ticket") {
        return;
    }
    let world = World::new("local_unsigned = true");
    let before = world.device.status();
    let mut c = world.connection();
    let ticket = world.ticket;
    // A ticket of its own making: root's folders, no limits, in a sealed memfd as admission would send it.
    let forged = shoal_ipc::sealed_memfd(&[1; 400]).unwrap();
    let says = [
        (Msg::Ticket {}, 1),
        (Msg::LocalTicket {}, 1),
        (Msg::Withdraw { ticket, stop: true, grace: 0 }, 0),
        (Msg::FactAck { id: 1 }, 0),
        (Msg::Done {}, 0),
        (Msg::Dropped { id: 1, lines: 0, end: true, stderr_tail: String::new() }, 0),
        (Msg::Stream { id: 1 }, 2),
        (Msg::ListEnd {}, 0),
        (Msg::StartAttached { ticket, container: 0, attempt: 9 }, 0),
        (Msg::Feed { ticket, container: 0 }, 1),
        (Msg::RemoveContainer { ticket, container: 0 }, 0),
        (Msg::Status {}, 0),
        (Msg::Shutdown {}, 0),
        (Msg::Submit {}, 1),
        (Msg::Facts { after: 0 }, 0),
        (
            Msg::Fact {
                id: 1,
                ticket,
                name: "victim".into(),
                container: "main".into(),
                attempt: 1,
                event: FactEvent::Healthy,
                at: 1,
            },
            0,
        ),
    ];
    for (msg, count) in says {
        let fds: Vec<BorrowedFd<'_>> = std::iter::repeat_n(forged.as_fd(), msg.descriptors()).collect();
        assert_eq!(fds.len(), count, "{}", msg.name());
        assert_eq!(refusal(c.call(&msg, &fds, SOON)), "not_admitted", "{}", msg.name());
    }
    world.nothing_changed(&before);
    world.finish();
}

#[test]
fn c5_every_message_of_the_table_is_an_agents_to_say_or_refused() {
    if needs_runner("c5_every_message_of_the_table_is_an_agents_to_say_or_refused") {
        return;
    }
    let world = World::new("local_unsigned = true");
    let before = world.device.status();
    let running = world.device.supervise().list().unwrap().remove(0);
    let forged = shoal_ipc::sealed_memfd(&[1; 400]).unwrap();
    // Each on a connection of its own, as the agent.
    let said = |socket: &std::path::Path, msg: &Msg| {
        let fds: Vec<BorrowedFd<'_>> = std::iter::repeat_n(forged.as_fd(), msg.descriptors()).collect();
        let mut c = as_agent(|| Connection::connect(socket, SOON)).unwrap();
        c.call(msg, &fds, SOON)
    };
    let (supervise, admit) = (world.device.layout.supervise_socket(), world.device.layout.admit_socket());
    let all = every::every(world.ticket, &running);
    assert_eq!(all.len(), Msg::TAGS.len(), "one of each");
    for (mine, foreign) in all.iter().zip(every::every(OTHER, &running)) {
        let agents = every::agents(mine);
        if matches!(agents, Agents::Nowhere | Agents::Admit) {
            assert_eq!(refusal(said(&supervise, mine)), "not_admitted", "{} to supervise", mine.name());
        }
        if !matches!(agents, Agents::Admit | Agents::Both) {
            assert_eq!(refusal(said(&admit, mine)), "not_admitted", "{} to admit", mine.name());
        }
        if agents == Agents::WithATicket {
            assert_eq!(
                refusal(said(&supervise, &foreign)),
                "not_admitted",
                "{} of a foreign ticket",
                mine.name()
            );
        }
    }
    // Of what admission keeps the agent reads what came through it, and no key, count or mark.
    for kind in ["grant", "token", "order", "fact", "attest", "sealing", "", "deployment' OR '1'='1"] {
        let asked = Msg::Document { kind: kind.into(), name: "victim".into(), sequence: 0 };
        assert_eq!(refusal(said(&admit, &asked)), "not_admitted", "{kind}");
    }
    world.nothing_changed(&before);
    world.finish();
}

#[test]
fn c5_a_ticket_is_worth_its_own_containers_modules_and_attempts() {
    if needs_runner("c5_a_ticket_is_worth_its_own_containers_modules_and_attempts") {
        return;
    }
    let world = World::new("");
    let before = world.device.status();
    let ticket = world.ticket;
    let mut c = world.connection();
    let mut code = |msg: Msg| refusal(c.call(&msg, &[], SOON));
    for container in [1, 2, 15, 16, 255, 256, 0x7fff, 0x8000, 0xffff] {
        assert_eq!(code(Msg::Start { ticket, container, attempt: 9 }), "not_admitted", "{container}");
        assert_eq!(code(Msg::Stats { ticket, container }), "not_admitted", "{container}");
        assert_eq!(code(Msg::ReopenLog { ticket, container }), "conflict", "{container}");
    }
    for attempt in [0, 1, 2, u64::MAX] {
        assert_eq!(code(Msg::Start { ticket, container: 0, attempt }), "conflict", "it runs");
    }
    assert_eq!(code(Msg::Compile { ticket, module: OTHER }), "not_admitted");
    assert_eq!(code(Msg::Compile { ticket: world.module, module: world.module }), "not_admitted");
    assert_eq!(code(Msg::Start { ticket: OTHER, container: 0, attempt: 1 }), "not_admitted");
    assert_eq!(code(Msg::Remove { ticket }), "conflict", "it runs");
    world.nothing_changed(&before);
    world.finish();
}

#[test]
fn c5_the_agents_user_reaches_no_process_socket_or_folder_of_the_guards() {
    if needs_runner("c5_the_agents_user_reaches_no_process_socket_or_folder_of_the_guards") {
        return;
    }
    let world = World::new("");
    let layout = &world.device.layout;
    let status = world.device.status();
    let pids = [world.device.guard_pid(), status.admit_pid, status.log_pid, status.zygote_pid, world.pid];
    let open: Vec<_> = fs::read_dir(layout.run()).unwrap().flatten().map(|e| e.path()).collect();
    assert!(open.len() >= 5, "{open:?}");
    as_agent(|| {
        for pid in pids {
            let pid = Pid::from_raw(pid.cast_signed()).unwrap();
            assert!(kill_process(pid, Signal::KILL).is_err(), "a signal to {pid:?}");
            for file in ["mem", "environ", "fd", "root", "cwd", "maps"] {
                let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
                assert!(fs::File::open(&path).is_err() && fs::read_dir(&path).is_err(), "{path}");
            }
        }
        for socket in &open {
            let own = *socket == layout.supervise_socket() || *socket == layout.admit_socket();
            let reached = Connection::connect(socket, Duration::from_secs(1)).is_ok();
            assert_eq!(reached, own, "{}", socket.display());
        }
        for folder in [
            layout.supervise_dir(),
            layout.admit_dir(),
            layout.cache(),
            layout.modules(),
            layout.containers(),
        ] {
            assert!(fs::read_dir(&folder).is_err(), "{}", folder.display());
            assert!(fs::write(folder.join("x"), "x").is_err(), "{}", folder.display());
        }
        assert!(fs::write(layout.policy(), "local_unsigned = true").is_err());
        // Logs may be read and not written.
        let log = layout.log_file("victim", &world.ticket, "main", 1);
        wait_for("the log", || fs::read(&log).ok());
        assert!(fs::OpenOptions::new().append(true).open(&log).is_err());
        assert!(fs::remove_file(&log).is_err() && fs::rename(&log, log.with_extension("x")).is_err());
        assert!(SuperviseClient::connect_root(layout).is_err());
    });
    assert_ne!(AGENT, 0);
    world.nothing_changed(&status);
    world.finish();
}

/// Sends bytes with so many descriptors; what the kernel refuses is as good.
fn send_with(raw: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    let _ = sendmsg(raw, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

#[test]
fn c5_floods_of_descriptors_frames_connections_and_unread_answers_leave_supervise_as_it_was() {
    if needs_runner(
        "c5_floods_of_descriptors_frames_connections_and_unread_answers_leave_supervise_as_it_was",
    ) {
        return;
    }
    let world = World::new("");
    let before = world.device.status();
    let (descriptors, memory) = (world.descriptors(), world.memory_kib());
    let null = fs::File::open("/dev/null").unwrap();
    let good = Msg::Features {}.encode().unwrap();
    // Descriptors that no message carries, with messages and without.
    for n in [1, 5, 11, 100, 253] {
        let fds = vec![null.as_fd(); n];
        for bytes in [&good[..], b"\x01", &[0xff; 64]] {
            for _ in 0..20 {
                send_with(&world.raw(), bytes, &fds);
            }
        }
    }
    // Frames at and above the largest.
    for size in [MESSAGE_MAX - 1, MESSAGE_MAX, MESSAGE_MAX + 1, 64 << 10, 200 << 10] {
        let raw = world.raw();
        for _ in 0..20 {
            send_with(&raw, &vec![1; size], &[]);
        }
    }
    // More connections than there is room for, all held; uid 0 is served, and so is the next agent once they are gone.
    let held: Vec<OwnedFd> = (0..300)
        .filter_map(|_| {
            as_agent(|| {
                let addr = SocketAddrUnix::new(world.device.layout.supervise_socket()).unwrap();
                let raw = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
                rustix::io::ioctl_fionbio(&raw, true).unwrap();
                connect(&raw, &addr).ok().map(|()| raw)
            })
        })
        .collect();
    world.device.status();
    drop(held);
    // Questions without end whose answers nobody reads: they are not even heard before the first answers are.
    let unread: Vec<OwnedFd> = (0..30).map(|_| world.raw()).collect();
    for raw in &unread {
        rustix::io::ioctl_fionbio(raw, true).unwrap();
    }
    for _ in 0..50 {
        for raw in &unread {
            for _ in 0..100 {
                if send(raw, &good, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_err() {
                    break;
                }
            }
        }
        world.device.status();
    }
    let grown = world.memory_kib().saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB more are held for answers that nobody reads");
    drop(unread);
    wait_for("all descriptors back", || (world.descriptors() <= descriptors + 2).then_some(()));
    world.device.supervise().features().unwrap();
    world.nothing_changed(&before);
    world.finish();
}

#[test]
fn c5_messages_with_bytes_changed_by_chance_are_refused_or_mean_what_they_say() {
    if needs_runner("c5_messages_with_bytes_changed_by_chance_are_refused_or_mean_what_they_say") {
        return;
    }
    let world = World::new("");
    let before = world.device.status();
    let descriptors = world.descriptors();
    let ticket = world.ticket;
    // None of them, as it is or with the right ticket, ends or removes what runs: those two verbs are the agent's to ask.
    let seeds = [
        Msg::Subscribe {},
        Msg::Features {},
        Msg::List {},
        Msg::Have { ticket },
        Msg::Compile { ticket, module: world.module },
        Msg::Start { ticket, container: 0, attempt: 7 },
        Msg::Stats { ticket, container: 0 },
        Msg::ReopenLog { ticket, container: 0 },
        Msg::refused("x", "y"),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..3000 {
        let mut bytes = seeds[next(seeds.len())].encode().unwrap();
        for _ in 0..=next(4) {
            match next(4) {
                0 => bytes.truncate(next(bytes.len()).max(1)),
                1 => bytes.push(next(256).to_le_bytes()[0]),
                _ => {
                    let at = next(bytes.len());
                    bytes[at] = next(256).to_le_bytes()[0];
                }
            }
        }
        // A stop is what an agent may ask for; by chance it would be one of this ticket, once in never.
        let raw = world.raw();
        send_with(&raw, &bytes, &[]);
    }
    wait_for("all descriptors back", || (world.descriptors() <= descriptors + 2).then_some(()));
    world.nothing_changed(&before);
    world.finish();
}
