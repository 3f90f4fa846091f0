//! What a device costs that has nothing to do.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::device::site::Site;

/// From one look to the next, seconds.
const SPAN: u64 = 300;
const DAY: u64 = 86_400;

/// A line for each process of Shoal: id, PSS in kB and its anonymous part, bytes written, times that it was woken, its words; then
/// the disk's counters.
const LOOK: &str = "for p in $(find /sys/fs/cgroup/shoal.slice -name cgroup.procs | xargs cat | sort -n); do \
    echo \"process $p $(awk '/^Pss:/ {all = $2} /^Pss_Anon:/ {own = $2} END {print all, own}' /proc/$p/smaps_rollup) $(sed -n 's/^write_bytes: //p' /proc/$p/io) \
    $(cat /proc/$p/task/*/status | awk '/^voluntary_ctxt/ {n += $2} END {print n}') $(tr '\\0' ' ' < /proc/$p/cmdline)\"; done; \
    echo \"disk $(awk '{print $5, $7 * 512, $16}' /sys/block/vda/stat)\"; echo \"uptime $(cut -d. -f1 /proc/uptime)\"";

/// From here on the kernel writes down each call that asks for data to be put on disk, and whose it was.
const WATCH_FLUSHES: &str = "set -e; cd /sys/kernel/tracing; [ -e tracing_on ] || mount -t tracefs tracefs .; cd /sys/kernel/tracing; \
    echo > trace; echo 1 > options/record-tgid; \
    for call in fsync fdatasync sync syncfs sync_file_range msync; do echo 1 > events/syscalls/sys_enter_$call/enable; done; \
    echo 1 > tracing_on; sync";
const FLUSHES: &str = "cd /sys/kernel/tracing && echo 0 > tracing_on && grep ': sys_' trace";

#[derive(Debug, PartialEq, Eq)]
struct Process {
    words: String,
    /// PSS, kB.
    pss: u64,
    /// Of it what is nobody else's and no file's.
    anonymous: u64,
    written: u64,
    woken: u64,
}

#[derive(Debug, Default)]
struct Look {
    /// By id.
    processes: BTreeMap<u64, Process>,
    writes: u64,
    bytes: u64,
    flushes: u64,
    uptime: u64,
}

pub(super) fn run(site: &mut Site) -> Result<()> {
    site.shoal(&["delete", "deployment", "sensor", "--yes"])?;
    site.wait_here("nothing to run", |s| Ok(s.pids()?.is_empty().then_some(())))?;
    // As after any start: nothing that was needed for the way here.
    site.off()?;
    site.boot(crate::device::guest::Network::Up)?;
    site.wait_online()?;
    site.ok("sleep 90; sync")?;
    site.ok(WATCH_FLUSHES)?;
    let first = look(&site.ok(LOOK)?)?;
    site.guest()?.run_for(&format!("sleep {SPAN}"), SPAN + 60)?.ok()?;
    let last = look(&site.ok(LOOK)?)?;
    let asked = flushes(&site.ok(FLUSHES)?);
    ensure!(asked.values().sum::<u64>() > 0, "the kernel did not even write down this scenario's own sync");
    let span = last.uptime - first.uptime;
    let mut total = 0;
    for (pid, after) in &last.processes {
        let before = first.processes.get(pid).with_context(|| format!("{} is new", after.words))?;
        total += after.pss;
        site.note(format!(
            "idle {}: PSS {:.1} MiB ({:.1} of them anonymous), {} wake-ups, {} bytes written and {} flushes asked for in {span} s",
            after.words,
            mebi(after.pss),
            mebi(after.anonymous),
            after.woken - before.woken,
            after.written - before.written,
            asked.get(pid).unwrap_or(&0)
        ));
    }
    site.note(format!("idle, all processes of Shoal: PSS {:.1} MiB (budget 12)", mebi(total)));
    let a_day = |n: u64| n * DAY / span.max(1);
    let (bytes, flushes) = (last.bytes - first.bytes, last.flushes - first.flushes);
    site.note(format!(
        "the whole system's disk in {span} s: {} writes, {bytes} bytes, {flushes} flushes; a day at that: {} bytes, {} flushes (budget 1 MB, 24)",
        last.writes - first.writes,
        a_day(bytes),
        a_day(flushes)
    ));
    ensure!(!last.processes.is_empty(), "no process of Shoal runs");
    site.import_sensor()?;
    site.apply("sensor", "sensor:1", "Always", "env: [{name: TURN, value: idle}]")?;
    site.wait_here("the sensor to run again", |s| s.running("sensor")).map(drop)
}

#[allow(clippy::cast_precision_loss, reason = "for a table with one decimal")]
fn mebi(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// How many flushes each process asked for, from the kernel's lines: `sync-801     (    801) [000] .....   310.5: sys_sync()`.
fn flushes(trace: &str) -> BTreeMap<u64, u64> {
    let process = |line: &str| line.split_once('(')?.1.split_once(')')?.0.trim().parse().ok();
    let mut asked = BTreeMap::new();
    for pid in trace.lines().filter_map(process) {
        *asked.entry(pid).or_default() += 1;
    }
    asked
}

fn look(text: &str) -> Result<Look> {
    let mut look = Look::default();
    let number = |word: Option<&str>| -> Result<u64> { word.unwrap_or("0").parse().context("read a number") };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("process") => {
                let pid = number(words.next())?;
                let [pss, anonymous, written, woken] = [
                    number(words.next())?,
                    number(words.next())?,
                    number(words.next())?,
                    number(words.next())?,
                ];
                let names: Vec<&str> = words.filter_map(|w| w.rsplit('/').next()).take(4).collect();
                let process = Process { words: names.join(" "), pss, anonymous, written, woken };
                look.processes.insert(pid, process);
            }
            Some("disk") => {
                (look.writes, look.bytes, look.flushes) =
                    (number(words.next())?, number(words.next())?, number(words.next())?);
            }
            Some("uptime") => look.uptime = number(words.next())?,
            _ => {}
        }
    }
    Ok(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_read() {
        let text = "process 12 3400 900 4096 17 /usr/lib/shoal/shoal-agent run \ndisk 5 2048 3\nuptime 99\n";
        let look = look(text).unwrap();
        let expected = Process {
            words: "shoal-agent run".to_owned(),
            pss: 3400,
            anonymous: 900,
            written: 4096,
            woken: 17,
        };
        assert_eq!(look.processes[&12], expected);
        assert_eq!((look.writes, look.bytes, look.flushes, look.uptime), (5, 2048, 3, 99));
        assert!(super::look("process x\n").is_err());
    }

    #[test]
    fn flushes_are_counted_by_process() {
        let trace = "  tokio-rt-worker-412     (    409) [000] .....   310.5: sys_fdatasync(fd: 9)\n \
                     sync-801     (    801) [000] .....   310.9: sys_sync()\n  x-413     (    409) [001] .....   311.0: sys_fsync(fd: 9)\n";
        assert_eq!(flushes(trace), BTreeMap::from([(409, 2), (801, 1)]));
    }
}
