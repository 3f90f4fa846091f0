//! No field of the two example files may be dropped in silence: every leaf changes the draft, or a warning names it.

use super::*;
use serde_json::{Value, json};
use shoal_protocol::latest::Network;

const SANDBOX: &str = include_str!("../../../../deploy/examples/cri/sandbox_config.json");
const CONTAINER: &str = include_str!("../../../../deploy/examples/cri/container_wasi.json");

fn read(sandbox: &str, container: &str) -> Result<(Draft, Vec<String>)> {
    let (draft, findings) = parse(
        &Source { file: "sandbox_config.json", text: sandbox },
        &Source { file: "container_wasi.json", text: container },
        None,
    )?;
    let warned =
        findings.iter().flat_map(|f| f.warnings.iter().map(|w| format!("{}#{}", f.file, w.path))).collect();
    Ok((draft, warned))
}

/// JSON pointer and CRI path of every leaf; empty lists and maps are leaves.
fn leaves(value: &Value, pointer: &str, path: &str, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (k, v) in map {
                let escaped = k.replace('~', "~0").replace('/', "~1");
                let path = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
                leaves(v, &format!("{pointer}/{escaped}"), &path, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, v) in items.iter().enumerate() {
                leaves(v, &format!("{pointer}/{i}"), &format!("{path}[{i}]"), out);
            }
        }
        _ => out.push((pointer.to_owned(), path.to_owned())),
    }
}

/// Another value that the field could have.
fn other(pointer: &str, value: &Value) -> Value {
    match (pointer, value) {
        ("/port_mappings", _) => json!([{ "container_port": 80, "host_port": 8080 }]),
        ("/envs", _) => json!([{ "key": "A", "value": "b" }]),
        ("/working_dir" | "/args/0", _) => json!("/other"),
        ("/linux/resources/cpuset_cpus" | "/linux/resources/cpuset_mems", _) => json!("0-1"),
        // Below the pod's limits, which would win otherwise.
        ("/linux/resources/memory_limit_in_bytes", _) => json!(40_000_000),
        (_, Value::String(_)) => json!("other"),
        (_, Value::Bool(b)) => json!(!b),
        (_, Value::Number(n)) => json!(n.as_i64().unwrap() + 1),
        (_, v) => panic!("no other value for {pointer}: {v}"),
    }
}

#[test]
fn every_field_of_the_examples_is_honoured_or_named_in_a_warning() {
    let (base, warned) = read(SANDBOX, CONTAINER).unwrap();
    for (is_pod, text) in [(true, SANDBOX), (false, CONTAINER)] {
        let whole: Value = serde_json::from_str(text).unwrap();
        let mut all = Vec::new();
        leaves(&whole, "", "", &mut all);
        assert!(all.len() > 18);
        for (pointer, path) in all {
            let mut changed = whole.clone();
            let slot = changed.pointer_mut(&pointer).unwrap();
            *slot = other(&pointer, slot);
            let text = changed.to_string();
            let (draft, now) = if is_pod { read(&text, CONTAINER) } else { read(SANDBOX, &text) }.unwrap();
            let file = if is_pod { "sandbox_config.json" } else { "container_wasi.json" };
            let named = |list: &[String]| {
                list.iter().any(|w| {
                    let at = w.strip_prefix(&format!("{file}#")).unwrap_or("\0");
                    path == at || path.starts_with(&format!("{at}[")) || path.starts_with(&format!("{at}."))
                })
            };
            assert!(draft != base || (named(&warned) || named(&now)), "{file}: {path} is dropped in silence");
        }
    }
}

#[test]
fn the_examples_become_the_pod_that_they_describe() {
    let (d, _) = read(SANDBOX, CONTAINER).unwrap();
    let c = &d.containers[0];
    assert_eq!(d.name.as_str(), "podsandbox12");
    assert_eq!(d.pod.restart_policy, RestartPolicy::Never, "as with crictl");
    assert_eq!(d.pod.hostname.as_deref(), Some("crictl_host"));
    assert_eq!(
        (d.pod.resources.memory_limit, d.pod.resources.memory_request),
        (Some(50_000_000), Some(2_000_000))
    );
    assert_eq!((d.pod.resources.cpu_quota, d.pod.resources.cpu_shares), (Some(300_000), Some(2_048)));
    assert_eq!(d.pod.labels.get("group"), Some("test"));
    assert_eq!(d.pod.labels.get("tier"), Some("backend"));
    assert_eq!(d.pod.annotations.get("owner"), Some("hmeng"));
    assert_eq!(c.args, ["/wasi_example_main.wasm", "50000000"]);
    assert_eq!((c.working_dir.as_deref(), c.image.as_str()), (Some("/"), "hydai/wasm-wasi-example:latest"));
    assert_eq!(c.resources.memory_limit, Some(50_000_000), "the pod's lower limit wins");
    assert_eq!((c.resources.cpu_quota, c.resources.cpu_period), (Some(20_000), Some(10_000)));
    assert_eq!((c.resources.cpu_shares, c.resources.oom_score_adj), (Some(512), Some(30)));
    assert_eq!(
        (c.resources.cpuset_cpus.as_deref(), c.resources.cpuset_mems.as_deref()),
        (Some("0"), Some("0"))
    );
    assert!(c.capabilities.is_empty());
}

#[test]
fn an_unknown_field_of_either_file_is_a_problem_with_a_hint() {
    let e = read(&SANDBOX.replace("\"hostname\"", "\"hostName\""), CONTAINER).unwrap_err().render();
    assert!(e.contains("sandbox_config.json:8:3: hostName: unknown field; did you mean `hostname`?"), "{e}");
    let e = read(SANDBOX, &CONTAINER.replace("cpu_quota", "cpuQuota")).unwrap_err().render();
    assert!(e.contains("linux.resources.cpuQuota: unknown field; did you mean `cpu_quota`?"), "{e}");
}

#[test]
fn malformed_json_says_line_and_column() {
    let e = read(&SANDBOX.replace("\"attempt\": 1", "\"attempt\": 1,"), CONTAINER).unwrap_err().render();
    assert!(e.contains("sandbox_config.json:7:3: not valid JSON (line 7, column 3): trailing comma"), "{e}");
}

#[test]
fn every_field_of_both_cri_messages_is_known() {
    let pod = json!({
        "metadata": { "name": "a", "uid": "u", "namespace": "n", "attempt": 2 },
        "hostname": "h", "log_directory": "/var/log",
        "dns_config": { "servers": ["192.0.2.1"], "searches": ["x"], "options": ["ndots:1"] },
        "port_mappings": [{ "protocol": 0, "container_port": 80, "host_port": 8080, "host_ip": "192.0.2.1" }],
        "labels": { "a": "b" }, "annotations": { "c": "d" },
        "linux": {
            "cgroup_parent": "/x", "sysctls": { "a": "b" },
            "overhead": { "memory_limit_in_bytes": 1_048_576 }, "resources": { "memory_limit_in_bytes": 33_554_432 },
            "security_context": {
                "namespace_options": { "network": 0, "pid": 0, "ipc": 0, "target_id": "x", "userns_options": { "mode": 1 } },
                "selinux_options": { "user": "a", "role": "b", "type": "c", "level": "d" },
                "run_as_user": { "value": 1 }, "run_as_group": { "value": 1 }, "readonly_rootfs": true,
                "supplemental_groups": [1], "supplemental_groups_policy": 1, "privileged": true,
                "seccomp": { "profile_type": 1 }, "apparmor": { "profile_type": 1 }, "seccomp_profile_path": "x"
            }
        },
        "windows": { "security_context": { "run_as_username": "x" } }
    });
    let container = json!({
        "metadata": { "name": "c", "attempt": 3 },
        "image": { "image": "x:1", "annotations": { "a": "b" }, "user_specified_image": "y", "runtime_handler": "z" },
        "command": ["/x.wasm"], "args": ["1"], "working_dir": "/w", "envs": [{ "key": "A", "value": "B" }],
        "mounts": [{
            "container_path": "/data", "host_path": "/srv/data", "readonly": true, "selinux_relabel": true, "propagation": 1,
            "uidMappings": [{ "host_id": 1 }], "gidMappings": [{ "host_id": 1 }], "recursive_read_only": true,
            "image": { "image": "i" }, "image_sub_path": "p"
        }],
        "devices": [{ "container_path": "/dev/a", "host_path": "/dev/b", "permissions": "rwm" }],
        "labels": { "l": "m" }, "annotations": { "n": "o" }, "log_path": "c.log",
        "stdin": true, "stdin_once": true, "tty": true,
        "linux": {
            "resources": {
                "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 100, "memory_limit_in_bytes": 16_777_216,
                "oom_score_adj": 1, "cpuset_cpus": "0", "cpuset_mems": "0",
                "hugepage_limits": [{ "page_size": "2MB", "limit": 1 }], "unified": { "memory.high": "1" },
                "memory_swap_limit_in_bytes": 33_554_432
            },
            "security_context": {
                "capabilities": { "add_capabilities": ["a"], "drop_capabilities": ["b"], "add_ambient_capabilities": ["c"] },
                "privileged": true, "namespace_options": { "pid": 1 }, "selinux_options": { "user": "x" },
                "run_as_user": { "value": 1 }, "run_as_group": { "value": 1 }, "run_as_username": "x", "readonly_rootfs": true,
                "supplemental_groups": [1], "apparmor_profile": "x", "seccomp_profile_path": "x", "no_new_privs": false,
                "masked_paths": ["/x"], "readonly_paths": ["/y"], "seccomp": { "profile_type": 1 }, "apparmor": { "profile_type": 1 },
                "supplemental_groups_policy": 1
            }
        },
        "windows": { "resources": { "cpu_shares": 1 } }, "CDI_devices": [{ "name": "x" }], "stop_signal": 15
    });
    let (d, warned) = read(&pod.to_string(), &container.to_string()).unwrap();
    assert_eq!(d.pod.volumes.len(), 1);
    assert!(d.containers[0].mounts[0].read_only && d.containers[0].readonly_rootfs);
    assert_eq!(d.pod.ports.len(), 1);
    assert!(warned.len() > 45, "{} warnings", warned.len());
}

/// The sandbox of the example, changed.
fn sandbox(change: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(SANDBOX).unwrap();
    change(&mut value);
    value.to_string()
}

#[test]
fn a_pod_has_the_network_that_its_ports_its_mode_or_its_annotation_ask_for() {
    let network = |text: &str| read(text, CONTAINER).map(|(d, _)| (d.pod.network, d.pod.ports.len()));
    assert_eq!(network(SANDBOX).unwrap(), (Network::None, 0), "whoever asks for nothing gets nothing");
    let ports = |v: &mut Value| {
        v["port_mappings"] = json!([{ "container_port": 80, "host_port": 8080 }, { "container_port": 90 }]);
    };
    assert_eq!(network(&sandbox(ports)).unwrap(), (Network::Pod, 2));
    let mode = |v: &mut Value| v["linux"]["security_context"]["namespace_options"]["network"] = json!(2);
    assert_eq!(network(&sandbox(mode)).unwrap(), (Network::Host, 0));
    let with = |word: &'static str| sandbox(move |v| v["annotations"][NETWORK] = json!(word));
    assert_eq!(network(&with("pod")).unwrap().0, Network::Pod);
    assert_eq!(network(&with("host")).unwrap().0, Network::Host);
    assert!(network(&with("all")).unwrap_err().render().contains("expected none, pod or host"));
    // Ports that would lead nowhere are told of, and not signed.
    let both = sandbox(|v| {
        ports(v);
        mode(v);
    });
    let (draft, warned) = read(&both, CONTAINER).unwrap();
    assert!(draft.pod.ports.is_empty() && warned.iter().any(|w| w.ends_with("#port_mappings")), "{warned:?}");
    let mut container: Value = serde_json::from_str(CONTAINER).unwrap();
    container["linux"]["security_context"]["namespace_options"]["network"] = json!(2);
    assert!(read(SANDBOX, &container.to_string()).is_err(), "a container's network is its pod's");
}
