//! What systemd's tree of groups makes of a container's limits, looked at where the kernel keeps them.

use anyhow::{Context as _, Result, bail, ensure};

use crate::device::site::Site;

/// Grows its memory a page at a time, touches each, and traps when it gets no more.
const EATS: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (local $at i32)
        (loop $more
            (local.set $at (memory.grow (i32.const 1)))
            (if (i32.eq (local.get $at) (i32.const -1)) (then unreachable))
            (i32.store (i32.mul (local.get $at) (i32.const 65536)) (i32.const 1))
            (br $more))))"#;
/// Computes for ever.
const SPINS: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (local $n i64)
        (loop $more
            (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (i64.store (i32.const 0) (local.get $n))
            (br $more))))"#;

pub(super) fn run(site: &mut Site) -> Result<()> {
    let before = site.pids()?;
    let [sensor] = before[..] else { bail!("containers {before:?}, expected one") };
    // The container's own group, and those above it up to the unit's.
    let files = site.ok(&format!(
        "g=/sys/fs/cgroup$(cut -d: -f3 /proc/{sensor}/cgroup); while [ \"$g\" != /sys/fs/cgroup/shoal.slice/shoal-payload.service ]; do \
         for f in memory.max cpu.max pids.max; do [ ! -e $g/$f ] || echo \"$f $(cat $g/$f)\"; done; g=${{g%/*}}; done"
    ))?;
    for line in ["memory.max 33554432", "cpu.max 30000 100000", "pids.max 8"] {
        ensure!(files.lines().any(|l| l == line), "no {line:?} in the container's groups:\n{files}");
    }

    site.import_text("eats:1", EATS)?;
    site.apply("eats", "eats:1", "Never", "resources:\n  limits:\n    memory: 32Mi")?;
    let pod = site.wait_pod("eats", "an end of memory", |p| !p["containers"][0]["last_end"].is_null())?;
    let end = &pod["containers"][0]["last_end"];
    ensure!(end["cause"] == "oom_killed", "memory over its limit ended by {end}");

    site.import_text("spins:1", SPINS)?;
    site.apply("spins", "spins:1", "Always", "resources:\n  limits:\n    cpu: 100m\n    memory: 32Mi")?;
    site.wait_runs("spins")?;
    let pid = site.wait_here("its process", |s| Ok(s.pids()?.into_iter().find(|pid| *pid != sensor)))?;
    let used = site.ok(&format!(
        "g=/sys/fs/cgroup$(cut -d: -f3 /proc/{pid}/cgroup); u() {{ sed -n 's/^usage_usec //p' $g/cpu.stat; }}; \
         t() {{ cut -d. -f1 /proc/uptime; }}; a=$(u); s=$(t); sleep 15; b=$(u); e=$(t); echo $((b - a)) $((e - s)); \
         sed -n 's/^nr_throttled //p' $g/cpu.stat"
    ))?;
    let numbers: Vec<u64> = used.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [micros, seconds, throttled] = numbers[..] else { bail!("read cpu.stat: {used}") };
    let share = micros / (seconds.max(1) * 10_000);
    ensure!(share <= 12, "a container with a tenth of a CPU took {share} % of one");
    ensure!(throttled > 0, "it was never throttled: {used}");
    site.note(format!("CPU quota of 10 %: {share} % used over {seconds} s, throttled {throttled} times"));

    let forked = site.ok(&format!(
        "g=/sys/fs/cgroup$(cut -d: -f3 /proc/{sensor}/cgroup); while [ \"$(cat $g/pids.max)\" != 8 ]; do g=${{g%/*}}; done; \
         cat > /root/forks <<'EOF'\necho $$ > $1/cgroup.procs\nfor i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done\nwait\nEOF\n\
         d=$g; [ -z \"$(cat $g/cgroup.subtree_control)\" ] || d=/sys/fs/cgroup$(cut -d: -f3 /proc/{sensor}/cgroup); \
         sh /root/forks $d > /root/forks.out 2>&1; cat $g/pids.events /root/forks.out"
    ))?;
    let held = forked.lines().find_map(|l| l.strip_prefix("max ")?.trim().parse::<u64>().ok());
    ensure!(held.context("read pids.events")? > 0, "more processes than 8 were let in:\n{forked}");

    ensure!(site.pids()?.contains(&sensor), "the neighbour did not outlive all that");
    for name in ["eats", "spins"] {
        site.shoal(&["delete", "deployment", name, "--yes"])?;
    }
    site.wait_here("the others to be gone", |s| Ok((s.pids()? == [sensor]).then_some(())))
}
