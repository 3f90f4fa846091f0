//! CRI v1 `PodSandboxConfig` and `ContainerConfig`, as JSON files carry them (`crictl runp`, `crictl create`). Parsing only.
//!
//! Field names are CRI's. What is here and not obeyed is told of when it is read; unknown fields are kept apart and told as well.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The longest configuration file, bytes.
pub const CONFIG_MAX: usize = 1 << 20;

/// Text by text.
pub type Map = BTreeMap<String, String>;
type Other = BTreeMap<String, Value>;

macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* })*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $ty,)*
            /// Fields that CRI v1 does not have.
            #[serde(flatten)]
            pub other: Other,
        }
    )* };
}

messages! {
    /// CRI v1 `PodSandboxMetadata`.
    PodSandboxMetadata {
        /// Name of the pod.
        name: String,
        /// Its uid in the caller's world.
        uid: String,
        /// Its namespace there.
        namespace: String,
        /// Which attempt to create it.
        attempt: u32,
    }
    /// CRI v1 `PortMapping`.
    PortMapping {
        /// 0 TCP, 1 UDP, 2 SCTP; by number or name.
        protocol: Value,
        /// In the pod.
        container_port: i32,
        /// On the device.
        host_port: i32,
        /// Address on the device.
        host_ip: String,
    }
    /// CRI v1 `NamespaceOption`; modes are 0 POD, 1 CONTAINER, 2 NODE, 3 TARGET.
    NamespaceOption {
        /// The network.
        network: i32,
        /// Processes.
        pid: i32,
        /// System V IPC.
        ipc: i32,
        /// The container that `TARGET` names.
        target_id: String,
        /// User namespaces.
        userns_options: Value,
    }
    /// CRI v1 `LinuxSandboxSecurityContext` and `LinuxContainerSecurityContext`: their fields together.
    SecurityContext {
        /// Namespaces.
        namespace_options: Option<NamespaceOption>,
        /// SELinux labels.
        selinux_options: Value,
        /// User.
        run_as_user: Value,
        /// User by name.
        run_as_username: String,
        /// Group.
        run_as_group: Value,
        /// Whether `/` refuses writing.
        readonly_rootfs: bool,
        /// More groups.
        supplemental_groups: Vec<i64>,
        /// Everything.
        privileged: bool,
        /// Seccomp profile.
        seccomp: Value,
        /// AppArmor profile.
        apparmor: Value,
        /// Linux capabilities to add and drop.
        capabilities: Value,
        /// Whether privileges cannot be gained.
        no_new_privs: bool,
        /// Paths hidden.
        masked_paths: Vec<String>,
        /// Paths that refuse writing.
        readonly_paths: Vec<String>,
    }
    /// CRI v1 `LinuxContainerResources`; 0 and the empty text are "not set".
    LinuxContainerResources {
        /// Microseconds.
        cpu_period: i64,
        /// Microseconds in each period.
        cpu_quota: i64,
        /// Relative weight.
        cpu_shares: i64,
        /// Bytes.
        memory_limit_in_bytes: i64,
        /// −1000 to 1000.
        oom_score_adj: i64,
        /// CPU list.
        cpuset_cpus: String,
        /// Memory node list.
        cpuset_mems: String,
        /// Huge pages.
        hugepage_limits: Vec<Value>,
        /// Raw values for cgroup v2.
        unified: Map,
        /// Bytes of memory and swap together.
        memory_swap_limit_in_bytes: i64,
    }
    /// CRI v1 `LinuxPodSandboxConfig`.
    LinuxPodSandboxConfig {
        /// Parent group; the device's policy names it here.
        cgroup_parent: String,
        /// Walls.
        security_context: Option<SecurityContext>,
        /// Kernel settings.
        sysctls: Map,
        /// Cost of the sandbox itself.
        overhead: Value,
        /// Limits of all containers together.
        resources: Option<LinuxContainerResources>,
    }
    /// CRI v1 `PodSandboxConfig`.
    PodSandboxConfig {
        /// Who it is.
        metadata: PodSandboxMetadata,
        /// Host name inside.
        hostname: String,
        /// Where its logs should be.
        log_directory: String,
        /// Name servers.
        dns_config: Value,
        /// Ports of the pod on the device.
        port_mappings: Vec<PortMapping>,
        /// Labels to find it by.
        labels: Map,
        /// Notes.
        annotations: Map,
        /// What is Linux's.
        linux: Option<LinuxPodSandboxConfig>,
        /// What is not.
        windows: Value,
        /// `cpu` and `memory`, each with `limits` and `requests`: not CRI's, but in many files.
        resources: Option<Value>,
    }
    /// CRI v1 `ContainerMetadata`.
    ContainerMetadataConfig {
        /// Name in the pod.
        name: String,
        /// Which attempt to create it.
        attempt: u32,
    }
    /// CRI v1 `ImageSpec`.
    ImageSpec {
        /// Reference or digest.
        image: String,
        /// Notes.
        annotations: Map,
        /// As a person wrote it.
        user_specified_image: String,
        /// What is to run it.
        runtime_handler: String,
    }
    /// CRI v1 `KeyValue`.
    KeyValue {
        /// Name.
        key: String,
        /// Value.
        value: String,
    }
    /// CRI v1 `Mount`.
    Mount {
        /// In the container.
        container_path: String,
        /// On the device.
        host_path: String,
        /// Whether writing is refused.
        readonly: bool,
        /// SELinux.
        selinux_relabel: bool,
        /// Whether mounts below it show up.
        propagation: Value,
        /// An image instead of a folder.
        image: Value,
    }
    /// CRI v1 `Device`.
    Device {
        /// In the container.
        container_path: String,
        /// On the device.
        host_path: String,
        /// `r`, `w`, `m`.
        permissions: String,
    }
    /// CRI v1 `LinuxContainerConfig`.
    LinuxContainerConfig {
        /// Limits.
        resources: Option<LinuxContainerResources>,
        /// Walls.
        security_context: Option<SecurityContext>,
    }
    /// CRI v1 `ContainerConfig`.
    ContainerConfig {
        /// Who it is.
        metadata: ContainerMetadataConfig,
        /// What runs.
        image: ImageSpec,
        /// Replaces the image's entry point.
        command: Vec<String>,
        /// Replaces the image's arguments.
        args: Vec<String>,
        /// Where relative paths begin.
        working_dir: String,
        /// Environment, over the image's.
        envs: Vec<KeyValue>,
        /// Folders of the device.
        mounts: Vec<Mount>,
        /// Device nodes.
        devices: Vec<Device>,
        /// Labels to find it by.
        labels: Map,
        /// Notes.
        annotations: Map,
        /// Where its log should be, below the pod's.
        log_path: String,
        /// Whether standard input is kept open.
        stdin: bool,
        /// Whether it closes after the first attach.
        stdin_once: bool,
        /// Whether it has a terminal.
        tty: bool,
        /// What is Linux's.
        linux: Option<LinuxContainerConfig>,
        /// What is not.
        windows: Value,
        /// Devices by name.
        #[serde(rename = "CDI_devices")]
        cdi_devices: Vec<Value>,
        /// How it is asked to end.
        stop_signal: Value,
    }
}

fn security_notes(s: &SecurityContext, say: &mut impl FnMut(&str, &str)) {
    let set = |v: &Value| !v.is_null() && v.as_object().is_none_or(|o| !o.is_empty());
    let added = ["add_capabilities", "add_ambient_capabilities"]
        .iter()
        .any(|k| s.capabilities.get(*k).and_then(Value::as_array).is_some_and(|list| !list.is_empty()));
    if added {
        say("capabilities", "not granted: a guest makes no system calls of its own");
    }
    if s.privileged {
        say("privileged", "not granted: no container is");
    }
    if set(&s.run_as_user) || set(&s.run_as_group) || !s.run_as_username.is_empty() {
        say("run_as_user", "ignored: every pod has an unprivileged user of its own");
    }
    if set(&s.seccomp) || set(&s.apparmor) {
        say("seccomp", "ignored: every container runs under Shoal's own filters");
    }
    if set(&s.selinux_options) {
        say("selinux_options", "ignored: the sandbox does not rely on SELinux");
    }
}

fn unknown(place: &str, other: &Other, say: &mut impl FnMut(&str, &str)) {
    for key in other.keys() {
        say(&format!("{place}{key}"), "ignored: CRI v1 has no such field");
    }
}

fn collect(fill: impl FnOnce(&mut dyn FnMut(&str, &str))) -> Vec<String> {
    let mut all = Vec::new();
    fill(&mut |field: &str, why: &str| all.push(format!("{field}: {why}")));
    all
}

/// What of a sandbox's configuration is not obeyed, and why.
pub fn sandbox_notes(pod: &PodSandboxConfig) -> Vec<String> {
    collect(|mut say| {
        if pod.port_mappings.iter().any(|p| !p.host_ip.is_empty()) {
            say("port_mappings.host_ip", "ignored: a port is on all of the device's addresses");
        }
        if !pod.log_directory.is_empty() {
            say("log_directory", "ignored: logs are kept below the device's own folder, with a quota");
        }
        if let Some(linux) = &pod.linux {
            if !linux.cgroup_parent.is_empty() {
                say("linux.cgroup_parent", "ignored: the device's policy names the parent of all groups");
            }
            if !linux.sysctls.is_empty() {
                say("linux.sysctls", "ignored: no kernel settings are changed for a pod");
            }
            if let Some(s) = &linux.security_context {
                security_notes(s, &mut say);
            }
            unknown("linux.", &linux.other, &mut say);
        }
        unknown("", &pod.other, &mut say);
    })
}

/// What of a container's configuration is not obeyed, and why.
pub fn container_notes(config: &ContainerConfig) -> Vec<String> {
    collect(|mut say| {
        if !config.log_path.is_empty() {
            say("log_path", "ignored: logs are kept below the device's own folder, with a quota");
        }
        if config.devices.iter().any(|d| d.permissions.contains('m')) {
            say("devices.permissions", "m (mknod) is never granted");
        }
        if config.tty {
            say("tty", "ignored: a container has no terminal");
        }
        if let Some(linux) = &config.linux {
            if let Some(s) = &linux.security_context {
                security_notes(s, &mut say);
            }
            unknown("linux.", &linux.other, &mut say);
        }
        unknown("", &config.other, &mut say);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorials_two_files_are_read_and_what_is_not_obeyed_is_told() {
        let pod: PodSandboxConfig =
            serde_json::from_str(include_str!("../../../../deploy/examples/cri/sandbox_config.json"))
                .unwrap();
        let c: ContainerConfig =
            serde_json::from_str(include_str!("../../../../deploy/examples/cri/container_wasi.json"))
                .unwrap();
        assert_eq!((pod.metadata.name.as_str(), pod.metadata.attempt), ("podsandbox12", 1));
        assert_eq!(pod.hostname, "crictl_host");
        assert!(pod.resources.is_some() && pod.other.is_empty());
        assert_eq!(c.args, ["/wasi_example_main.wasm", "50000000"]);
        let limits = c.linux.as_ref().unwrap().resources.as_ref().unwrap();
        assert_eq!((limits.memory_limit_in_bytes, limits.cpu_quota), (209_715_200, 20_000));
        let notes = [sandbox_notes(&pod), container_notes(&c)].concat().join("\n");
        for what in ["cgroup_parent", "selinux_options", "capabilities: not granted"] {
            assert!(notes.contains(what), "{notes}");
        }
    }

    #[test]
    fn a_misspelt_field_is_told() {
        let c: ContainerConfig =
            serde_json::from_str(r#"{"arguments": ["x"], "linux": {"resorces": {}}}"#).unwrap();
        let notes = container_notes(&c).join("\n");
        assert!(notes.contains("arguments: ignored") && notes.contains("linux.resorces"), "{notes}");
    }
}
