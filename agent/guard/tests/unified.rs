//! Control groups where v2 is the only tree: what the kernel itself says about a container's group. `cargo xtask vm` runs it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    Device, Fleet, SOON, as_agent, ended, name, needs_runner, nothing_is_left, skipped, stage_and_compile,
    wait_for,
};
use shoal_ipc::{Cause, EventStream};
use shoal_protocol::v1::{DiskLimits, Mount, Resources, Volume, VolumeSource};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Goes on for ever.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

/// Writes 3 MiB to its volume and waits until they are on the disk.
const WRITES: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_sync" (func $sync (param i32) (result i32)))
  (memory (export "memory") 17)
  (data (i32.const 0) "data/filled")
  (func $must (param i32) (if (local.get 0) (then unreachable)))
  (func (export "_start") (local $left i32)
    (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 11) (i32.const 1)
      (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 16)))
    (i32.store (i32.const 32) (i32.const 65536))
    (i32.store (i32.const 36) (i32.const 1048576))
    (local.set $left (i32.const 3))
    (loop $more
      (call $must (call $write (i32.load (i32.const 16)) (i32.const 32) (i32.const 1) (i32.const 40)))
      (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $must (call $sync (i32.load (i32.const 16))))))"#;

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

#[test]
fn c2_on_v2_a_guest_writes_its_disk_no_faster_than_its_limit() {
    let test = "c2_on_v2_a_guest_writes_its_disk_no_faster_than_its_limit";
    if needs_runner(test) {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(11));
    let on_disk = fs::metadata(device.layout.volumes().parent().unwrap()).unwrap().dev() >> 8 != 0;
    if device.status().features.cgroup != "v2" || !on_disk {
        skipped(
            test,
            "control groups here are not v2 alone, or the device's folders are on no disk (cargo xtask vm)",
        );
        return;
    }
    fleet.enroll(&device);
    let module = wat::parse_str(WRITES).unwrap();
    let disk = DiskLimits { write_bps: Some(1 << 20), read_iops: Some(10_000), ..DiskLimits::default() };
    let mut d = fleet.pod("slow", 1, &module, Resources { disk: Some(disk), ..Resources::default() });
    d.template
        .volumes
        .push(Volume { name: name("data"), source: VolumeSource::Persistent { size_limit: None } });
    d.template.containers[0].mounts.push(Mount {
        volume: name("data"),
        path: "/data".into(),
        read_only: false,
    });
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let begun = Instant::now();
    let started = device.supervise().start(ticket, 0, 1).unwrap();
    assert_eq!(started.applied.disk.write_bps, Some(1 << 20));

    let state = ended(&mut events);
    assert_eq!(state.cause, Some(Cause::Exited { code: 0 }));
    // The kernel lets the first slice of a tenth of a second or so through at once.
    assert!(begun.elapsed() >= Duration::from_secs(2), "3 MiB at 1 MiB/s took {:?}", begun.elapsed());
    device.stop_all();
    nothing_is_left(&device);
}
