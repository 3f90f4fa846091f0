//! Control groups where v2 is the only tree: what the kernel itself says about a container's group. `cargo xtask vm` runs it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    Device, Fleet, SOON, as_agent, ended, needs_runner, nothing_is_left, skipped, stage_and_compile, wait_for,
};
use shoal_ipc::{Cause, EventStream};
use shoal_protocol::v1::Resources;
use std::fs;
use std::path::Path;

/// Goes on for ever.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

#[test]
fn c2_on_v2_a_container_is_in_a_leaf_of_its_own_whose_limits_hold_it() {
    let test = "c2_on_v2_a_container_is_in_a_leaf_of_its_own_whose_limits_hold_it";
    if needs_runner(test) {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    if device.status().features.cgroup != "v2" {
        skipped(test, "control groups here are not v2 alone (cargo xtask vm)");
        return;
    }
    fleet.enroll(&device);
    let module = wat::parse_str(LOOPS).unwrap();
    let limits = Resources {
        memory_limit: Some(64 << 20),
        cpu_quota: Some(20_000),
        cpu_period: Some(100_000),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(8),
        ..Resources::default()
    };
    let d = fleet.pod("held", 1, &module, limits);
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let pid = device.supervise().start(ticket, 0, 1).unwrap().pid;

    let line = text(Path::new(&format!("/proc/{pid}/cgroup")));
    let own = line.strip_prefix("0::/").unwrap_or_else(|| panic!("one tree only: {line}"));
    assert!(own.starts_with(&format!("{}/", device.group)), "{own}");
    let leaf = Path::new("/sys/fs/cgroup").join(own);
    let file = |name: &str| text(&leaf.join(name));
    assert_eq!(file("cgroup.procs"), pid.to_string());
    assert_eq!((file("memory.max"), file("memory.swap.max")), ((64 << 20).to_string(), "0".to_owned()));
    assert_eq!((file("cpu.max"), file("pids.max")), ("20000 100000".to_owned(), "8".to_owned()));
    assert_eq!(file("cpuset.cpus.effective"), "0");
    let status = text(Path::new(&format!("/proc/{pid}/status")));
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    // Every group above it hands controllers on and holds no process of its own.
    for above in leaf.ancestors().skip(1).take_while(|f| *f != Path::new("/sys/fs/cgroup")) {
        assert_eq!(text(&above.join("cgroup.procs")), "", "{}", above.display());
        let passed = text(&above.join("cgroup.subtree_control"));
        for controller in ["cpu", "cpuset", "memory", "pids"] {
            assert!(passed.split(' ').any(|word| word == controller), "{}: {passed}", above.display());
        }
    }
    wait_for("throttling by the kernel", || {
        let stat = fs::read_to_string(leaf.join("cpu.stat")).ok()?;
        stat.lines().find_map(|l| l.strip_prefix("nr_throttled ")?.parse::<u64>().ok()).filter(|n| *n > 2)
    });

    // The kernel's own word ends it whole, and is told as the signal that it is.
    fs::write(leaf.join("cgroup.kill"), "1").unwrap();
    let state = ended(&mut events);
    assert_eq!(state.cause, Some(Cause::Signal { number: 9 }));
    let stats = state.stats;
    assert!(stats.cpu_throttled_periods > 2 && stats.cpu_throttled > 0, "{stats:?}");
    assert!(stats.cpu_usage > 0 && stats.memory_peak > 0 && stats.memory_peak <= 64 << 20, "{stats:?}");
    device.supervise().stop(ticket, None, SOON).unwrap();
    device.stop_all();
    nothing_is_left(&device);
}
