//! Limits in Kubernetes' and CRI's words, and which of two limits wins.
//!
//! Never here: what a device does with them.

use super::reader::{Field, Findings, Object};
use super::tree::Value;
use shoal_protocol::latest::{DiskLimits, Resources};

/// The period that `cpu` quantities are turned into, microseconds.
const PERIOD: u64 = 100_000;
/// Bytes of a wasm page.
const PAGE: u64 = 65_536;

/// A quota of `millis` thousandths of a CPU.
fn set_cpu_limit(r: &mut Resources, millis: u64) {
    r.cpu_period = Some(PERIOD);
    // The kernel takes no quota below one millisecond.
    r.cpu_quota = Some((millis * PERIOD / 1_000).max(1_000));
}

/// The weight that Kubernetes gives `millis` thousandths of a CPU.
fn shares(millis: u64) -> u64 {
    (millis * 1_024 / 1_000).clamp(2, 262_144)
}

/// The limit `name`; 0 is a problem, since it would allow nothing.
fn limit<'a>(
    o: &mut Object<'a>,
    name: &'static str,
    f: &mut Findings,
    read: impl FnOnce(&Field<'a>, &mut Findings) -> Option<u64>,
) -> Option<u64> {
    let field = o.get(name)?;
    let value = read(&field, f)?;
    if value == 0 {
        field.problem(f, "0 would allow nothing: leave the field out for no limit");
        return None;
    }
    Some(value)
}

/// A Kubernetes `resources` block (`limits`, `requests`); CRI v1 `LinuxContainerResources` names are taken as well.
pub(crate) fn kubernetes(field: &Field<'_>, f: &mut Findings) -> Resources {
    let mut o = field.object(f);
    let mut r = Resources::default();
    if let Some(limits) = o.get("limits") {
        let mut l = limits.object(f);
        if let Some(v) = limit(&mut l, "cpu", f, Field::millicpus) {
            set_cpu_limit(&mut r, v);
        }
        r.memory_limit = limit(&mut l, "memory", f, Field::bytes);
        r.pids_limit = limit(&mut l, "pids", f, Field::count);
        r.wasm_pages = limit(&mut l, "wasmMemory", f, Field::bytes).map(|b| b.div_ceil(PAGE));
        r.cpu_seconds = l.get("cpuSeconds").and_then(|x| x.count(f));
        r.wall_seconds = l.get("wallSeconds").and_then(|x| x.count(f));
        r.disk = disk(&mut l, f);
        l.unsupported(
            "ephemeral-storage",
            f,
            "not limited: a container writes to memory that counts as its own",
        );
        l.finish(f);
    }
    if let Some(requests) = o.get("requests") {
        let mut q = requests.object(f);
        r.memory_request = q.get("memory").and_then(|x| x.bytes(f));
        r.cpu_shares = q.get("cpu").and_then(|x| x.millicpus(f)).map(shares);
        q.unsupported(
            "ephemeral-storage",
            f,
            "not planned with: a container writes to memory that counts as its own",
        );
        q.finish(f);
    }
    linux_fields(&mut o, f, &mut r);
    o.finish(f);
    check(field, f, &r);
    r
}

/// Bytes and operations in a second, for each disk.
fn disk(l: &mut Object<'_>, f: &mut Findings) -> Option<DiskLimits> {
    let disk = DiskLimits {
        read_bps: limit(l, "diskReadBps", f, Field::bytes),
        write_bps: limit(l, "diskWriteBps", f, Field::bytes),
        read_iops: limit(l, "diskReadIops", f, Field::count),
        write_iops: limit(l, "diskWriteIops", f, Field::count),
    };
    (disk != DiskLimits::default()).then_some(disk)
}

/// CRI v1 `LinuxContainerResources`.
pub(crate) fn cri(field: &Field<'_>, f: &mut Findings) -> Resources {
    let mut o = field.object(f);
    let mut r = Resources::default();
    linux_fields(&mut o, f, &mut r);
    o.unsupported("hugepage_limits", f, "a wasm guest's memory does not come from huge pages");
    o.unsupported("unified", f, "raw cgroup v2 settings are not passed on: use the named limits");
    o.finish(f);
    check(field, f, &r);
    r
}

/// The `resources` of the older sandbox configuration: `cpu` and `memory`, each with `limits` and `requests`.
pub(crate) fn legacy_sandbox(field: &Field<'_>, f: &mut Findings) -> Resources {
    let mut o = field.object(f);
    let mut r = Resources::default();
    if let Some(cpu) = o.get("cpu") {
        let mut c = cpu.object(f);
        if let Some(v) = limit(&mut c, "limits", f, Field::millicpus) {
            set_cpu_limit(&mut r, v);
        }
        r.cpu_shares = c.get("requests").and_then(|x| x.millicpus(f)).map(shares);
        c.finish(f);
    }
    if let Some(memory) = o.get("memory") {
        let mut m = memory.object(f);
        r.memory_limit = limit(&mut m, "limits", f, Field::bytes);
        r.memory_request = m.get("requests").and_then(|x| x.bytes(f));
        m.finish(f);
    }
    o.finish(f);
    check(field, f, &r);
    r
}

/// Zero means "not set" in CRI's messages, so zeros are left out.
fn linux_fields(o: &mut Object<'_>, f: &mut Findings, r: &mut Resources) {
    let mut number = |o: &mut Object<'_>, name: &'static str, slot: &mut Option<u64>, kubernetes: &str| {
        let Some(field) = o.get(name) else { return };
        let Some(value) = field.count(f).filter(|v| *v != 0) else { return };
        if slot.is_some() {
            field.problem(f, format!("says the same as {kubernetes}: leave one of them out"));
        }
        *slot = Some(value);
    };
    number(o, "memory_limit_in_bytes", &mut r.memory_limit, "limits.memory");
    number(o, "cpu_quota", &mut r.cpu_quota, "limits.cpu");
    // `limits.cpu` brings a period of its own, already refused above when a quota stands beside it.
    if o.get("cpu_period").is_some() {
        r.cpu_period = None;
    }
    number(o, "cpu_period", &mut r.cpu_period, "limits.cpu");
    number(o, "cpu_shares", &mut r.cpu_shares, "requests.cpu");
    if let Some(v) = o.get("oom_score_adj").and_then(|x| x.integer(f, -1_000, 1_000))
        && v != 0
    {
        r.oom_score_adj = Some(v);
    }
    r.cpuset_cpus = o.get("cpuset_cpus").and_then(|x| cpu_list(&x, f));
    r.cpuset_mems = o.get("cpuset_mems").and_then(|x| cpu_list(&x, f));
    if let Some(swap) = o.get("memory_swap_limit_in_bytes")
        && let Some(value) = swap.integer(f, -1, i64::MAX)
        && value != 0
        && u64::try_from(value).ok() != r.memory_limit
    {
        swap.warn(f, "the memory limit counts memory and swap together, so there is no other limit for swap");
    }
}

/// A list of CPUs or nodes, `0-3,7`; empty is none.
fn cpu_list(field: &Field<'_>, f: &mut Findings) -> Option<String> {
    let text = field.loose_text(f)?;
    if text.is_empty() {
        return None;
    }
    let number = |s: &str| s.parse::<u32>().ok().filter(|n| *n < 4_096);
    let good = text.split(',').all(|part| match part.split_once('-') {
        Some((a, b)) => matches!((number(a), number(b)), (Some(a), Some(b)) if a <= b),
        None => number(part).is_some(),
    });
    if !good {
        field.problem(f, format!("expected a list such as 0-3,7, found {text:?}"));
        return None;
    }
    Some(text)
}

fn check(field: &Field<'_>, f: &mut Findings, r: &Resources) {
    if r.cpu_period.is_some_and(|p| !(1_000..=1_000_000).contains(&p)) {
        field.problem(f, "cpu_period must be from 1000 to 1000000 microseconds");
    }
    if r.cpu_quota.is_some_and(|q| q < 1_000) {
        field.problem(f, "cpu_quota must be at least 1000 microseconds");
    }
    if r.cpu_shares.is_some_and(|s| !(2..=262_144).contains(&s)) {
        field.problem(f, "cpu_shares must be from 2 to 262144");
    }
    if r.memory_limit.is_some_and(|m| m < 1 << 20) {
        let text = match &field.node.value {
            Value::Map(_) => "a memory limit below 1 MiB starts no container; did you mean Mi?",
            _ => "a memory limit below 1 MiB starts no container",
        };
        field.problem(f, text);
    }
    let disk = r.disk.unwrap_or_default();
    if [disk.read_bps, disk.write_bps].into_iter().flatten().any(|v| v < 4_096) {
        field.problem(f, "a disk limit must be at least 4096 bytes a second; did you mean Ki or Mi?");
    }
    if let (Some(request), Some(limit)) = (r.memory_request, r.memory_limit)
        && request > limit
    {
        field.problem(f, format!("requests {request} bytes of memory, more than the limit of {limit}"));
    }
}

/// Thousandths of a CPU that a quota allows.
pub(crate) fn quota_millis(r: &Resources) -> Option<u64> {
    r.cpu_quota.map(|q| q.saturating_mul(1_000) / r.cpu_period.unwrap_or(PERIOD).max(1))
}

/// One difference between a pod's and a container's limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Which of the two won.
    pub(crate) pod_won: bool,
    /// Both values, and which one counts.
    pub(crate) message: String,
}

/// Where a pod's and a container's limit differ, the lower one wins: lowers the container's limits to the pod's and says
/// of each difference which one counts. The pod's own limits stay, for all containers together.
pub(crate) fn lower_wins(pod: &Resources, container: &mut Resources) -> Vec<Difference> {
    let mut said = Vec::new();
    let mut differ = |what: &str, unit: &str, p: u64, c: u64| {
        if p != c {
            let winner = if p < c { "pod" } else { "container" };
            let message = format!(
                "the pod's {what} is {p}{unit} and the container's {c}{unit}: the lower one, the {winner}'s, wins"
            );
            said.push(Difference { pod_won: p < c, message });
        }
        p < c
    };
    if let (Some(p), Some(c)) = (pod.memory_limit, container.memory_limit)
        && differ("memory limit", " bytes", p, c)
    {
        container.memory_limit = Some(p);
    }
    if let (Some(p), Some(c)) = (quota_millis(pod), quota_millis(container))
        && differ("CPU limit", "m", p, c)
    {
        let period = container.cpu_period.unwrap_or(PERIOD);
        container.cpu_quota = Some((p * period / 1_000).max(1_000));
    }
    if let (Some(p), Some(c)) = (pod.pids_limit, container.pids_limit)
        && differ("process limit", "", p, c)
    {
        container.pids_limit = Some(p);
    }
    if let (Some(p), Some(c)) = (pod.disk, container.disk.as_mut()) {
        for (what, unit, p, c) in [
            ("disk read limit", " bytes/s", p.read_bps, &mut c.read_bps),
            ("disk write limit", " bytes/s", p.write_bps, &mut c.write_bps),
            ("disk read limit", " operations/s", p.read_iops, &mut c.read_iops),
            ("disk write limit", " operations/s", p.write_iops, &mut c.write_iops),
        ] {
            if let (Some(p), Some(own)) = (p, *c)
                && differ(what, unit, p, own)
            {
                *c = Some(p);
            }
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse_yaml;
    use super::*;

    fn read(yaml: &str, how: fn(&Field<'_>, &mut Findings) -> Resources) -> (Resources, Findings) {
        let docs = parse_yaml(yaml).unwrap();
        let mut f = Findings::new("t");
        let r = how(&Field { path: "resources".to_owned(), node: &docs[0] }, &mut f);
        (r, f)
    }

    #[test]
    fn kubernetes_limits_become_cri_units() {
        let (r, f) = read(
            "{limits: {cpu: 500m, memory: 200Mi, pids: 16, wasmMemory: 1Mi}, requests: {cpu: 2, memory: 64Mi}}",
            kubernetes,
        );
        assert!(f.problems.is_empty(), "{:?}", f.problems);
        assert_eq!(
            (r.cpu_quota, r.cpu_period, r.memory_limit),
            (Some(50_000), Some(100_000), Some(200 << 20))
        );
        assert_eq!(
            (r.pids_limit, r.wasm_pages, r.cpu_shares, r.memory_request),
            (Some(16), Some(16), Some(2_048), Some(64 << 20))
        );
    }

    #[test]
    fn disk_limits_are_bytes_and_operations_a_second() {
        let (r, f) = read("{limits: {diskReadBps: 10Mi, diskWriteIops: 50}}", kubernetes);
        assert!(f.problems.is_empty(), "{:?}", f.problems);
        let wanted = DiskLimits { read_bps: Some(10 << 20), write_iops: Some(50), ..DiskLimits::default() };
        assert_eq!(r.disk, Some(wanted));
        let mut own = Resources {
            disk: Some(DiskLimits { read_bps: Some(20 << 20), ..DiskLimits::default() }),
            ..Resources::default()
        };
        let said = lower_wins(&r, &mut own);
        assert_eq!(own.disk.and_then(|d| d.read_bps), Some(10 << 20));
        assert!(said.len() == 1 && said[0].message.contains("disk read limit"), "{said:?}");
    }

    #[test]
    fn cri_names_are_taken_in_yaml_too_but_not_twice() {
        let (r, f) = read(
            "{memory_limit_in_bytes: 209715200, cpu_period: 10000, cpu_quota: 20000, cpu_shares: 512, oom_score_adj: 30, cpuset_cpus: \"0\", cpuset_mems: 0}",
            kubernetes,
        );
        assert!(f.problems.is_empty(), "{:?}", f.problems);
        assert_eq!(
            (r.memory_limit, r.cpu_quota, r.cpu_period),
            (Some(209_715_200), Some(20_000), Some(10_000))
        );
        assert_eq!(
            (r.oom_score_adj, r.cpuset_cpus.as_deref(), r.cpuset_mems.as_deref()),
            (Some(30), Some("0"), Some("0"))
        );
        let (_, f) = read("{limits: {memory: 1Gi}, memory_limit_in_bytes: 209715200}", kubernetes);
        assert!(f.problems[0].message.contains("limits.memory"));
    }

    #[test]
    fn nonsense_limits_are_problems() {
        for yaml in [
            "{limits: {memory: 200m}}",
            "{limits: {memory: 0}}",
            "{limits: {memory: 512}}",
            "{limits: {cpu: 0}}",
            "{limits: {gpu: 1}}",
            "{limits: {memory: 1Mi}, requests: {memory: 2Mi}}",
            "{cpu_period: 10}",
            "{cpu_shares: 1}",
            "{cpuset_cpus: 3-1}",
            "{cpuset_cpus: all}",
            "{oom_score_adj: 5000}",
            "{limits: {diskReadBps: 100}}",
            "{limits: {diskWriteIops: 0}}",
        ] {
            assert_eq!(read(yaml, kubernetes).1.problems.len(), 1, "{yaml}");
        }
    }

    #[test]
    fn the_lower_of_two_limits_wins_and_both_are_named() {
        let pod = Resources {
            memory_limit: Some(50),
            cpu_quota: Some(300_000),
            cpu_period: Some(100_000),
            ..Resources::default()
        };
        let mut c = Resources {
            memory_limit: Some(200),
            cpu_quota: Some(20_000),
            cpu_period: Some(10_000),
            ..Resources::default()
        };
        let said = lower_wins(&pod, &mut c);
        assert_eq!((c.memory_limit, c.cpu_quota), (Some(50), Some(20_000)));
        assert_eq!(said.len(), 2);
        assert!(
            said[0].pod_won && said[0].message.contains("50 bytes and the container's 200 bytes"),
            "{said:?}"
        );
        assert!(!said[1].pod_won && said[1].message.contains("3000m and the container's 2000m"), "{said:?}");
        let tight = Resources { cpu_quota: Some(50_000), ..Resources::default() };
        lower_wins(&tight, &mut c);
        assert_eq!(c.cpu_quota, Some(5_000));
        assert!(lower_wins(&Resources::default(), &mut c).is_empty());
    }
}
