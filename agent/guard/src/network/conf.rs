//! CNI's configuration lists (CNI spec 1.0): read, checked, and turned into what each plugin gets. Pure.

use serde_json::{Map, Value, json};
use shoal_ipc::TicketPort;
use std::path::Path;

/// Versions of the specification that plugins may be spoken to in.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Plugins of one list.
const PLUGINS: usize = 16;

/// What CNI asks of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Makes a network interface ready.
    Add,
    /// Takes back whatever an earlier `Add` left.
    Del,
    /// Says whether it is still as it was made.
    Check,
}

impl Verb {
    /// CNI's word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
        }
    }
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    /// Its program's name.
    pub(crate) kind: String,
    maps_ports: bool,
    body: Map<String, Value>,
}

/// A list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List {
    version: String,
    name: String,
    /// Whether `Check` means anything to it.
    pub(crate) checks: bool,
    /// In the order of `Add`.
    pub(crate) plugins: Vec<Plugin>,
}

fn is_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn text(o: &Map<String, Value>, key: &str) -> Result<String, String> {
    o.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("no text {key:?} in it"))
}

fn plugin(value: Value) -> Result<Plugin, String> {
    let Value::Object(mut body) = value else { return Err("a plugin that is no object".into()) };
    let kind = text(&body, "type")?;
    if !is_name(&kind) {
        return Err(format!("{kind:?} is no name of a plugin"));
    }
    let capabilities = body.remove("capabilities");
    let maps_ports = capabilities.is_some_and(|c| c.get("portMappings") == Some(&Value::Bool(true)));
    Ok(Plugin { kind, maps_ports, body })
}

impl List {
    /// Reads a list, or a single plugin's configuration.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("no JSON: {e}"))?;
        let Value::Object(mut o) = value else { return Err("no JSON object".into()) };
        let (version, name) = (text(&o, "cniVersion")?, text(&o, "name")?);
        if !VERSIONS.contains(&version.as_str()) {
            return Err(format!("cniVersion {version:?}, known are {}", VERSIONS.join(", ")));
        }
        if !is_name(&name) {
            return Err(format!("{name:?} is no name of a network"));
        }
        let disabled = o.get("disableCheck") == Some(&Value::Bool(true));
        let checks = !disabled && !version.starts_with("0.3.");
        let all = match o.remove("plugins") {
            Some(Value::Array(all)) => all,
            Some(_) => return Err("\"plugins\" is no list".into()),
            None => vec![Value::Object(o)],
        };
        if all.is_empty() || all.len() > PLUGINS {
            return Err(format!("{} plugins, 1 to {PLUGINS} are possible", all.len()));
        }
        let plugins = all.into_iter().map(plugin).collect::<Result<_, _>>()?;
        Ok(Self { version, name, checks, plugins })
    }

    /// Only the pod's own loopback, which no list of a site has.
    pub(crate) fn loopback() -> Self {
        let kind = "loopback".to_owned();
        let body = Map::from_iter([("type".to_owned(), json!(kind))]);
        let plugins = vec![Plugin { kind, maps_ports: false, body }];
        Self { version: "1.0.0".into(), name: "loopback".into(), checks: false, plugins }
    }

    /// Whether it can do what these ports ask for.
    pub(crate) fn serves(&self, ports: &[TicketPort]) -> bool {
        ports.iter().all(|p| p.host_port == 0) || self.plugins.iter().any(|p| p.maps_ports)
    }

    /// The standard input of a plugin: its configuration, completed.
    pub(crate) fn input(&self, plugin: &Plugin, ports: &[TicketPort], before: Option<&Value>) -> Vec<u8> {
        let mut body = plugin.body.clone();
        body.insert("cniVersion".into(), json!(self.version));
        body.insert("name".into(), json!(self.name));
        if let Some(result) = before {
            body.insert("prevResult".into(), result.clone());
        }
        let mapped: Vec<Value> = ports.iter().filter(|p| p.host_port != 0).map(|p| mapping(*p)).collect();
        if plugin.maps_ports && !mapped.is_empty() {
            body.insert("runtimeConfig".into(), json!({ "portMappings": mapped }));
        }
        Value::Object(body).to_string().into_bytes()
    }
}

fn mapping(p: TicketPort) -> Value {
    let protocol = if p.udp { "udp" } else { "tcp" };
    json!({ "hostPort": p.host_port, "containerPort": p.container_port, "protocol": protocol })
}

/// The list for a device whose owner brought none: a bridge with addresses of its own and mapped ports. `leases` is kept in
/// memory, as the addresses are; a second device on one machine gets a bridge of another name.
pub(crate) fn own(root: &Path, leases: &Path) -> Vec<u8> {
    let text = root.as_os_str().as_encoded_bytes();
    let bridge = if text == b"/" {
        "shoal0".to_owned()
    } else {
        // FNV-1a: no more than a short name that stays the same.
        let hash = text.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        format!("shoal{hash:08x}")
    };
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "shoal",
        // portmap 1.1 looks for rules of IPv6 that it never made.
        "disableCheck": true,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": true,
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": leases,
                    "ranges": [[{ "subnet": "10.213.0.0/16" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    });
    list.to_string().into_bytes()
}

/// The ends of a result's cables on the device's side.
pub(crate) fn outer_interfaces(result: &Value) -> Vec<String> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let outer = interfaces
        .into_iter()
        .flatten()
        .filter(|i| i.get("sandbox").and_then(Value::as_str).is_none_or(str::is_empty));
    let names = outer.filter_map(|i| i.get("name")?.as_str());
    names.filter(|n| is_name(n) && n.len() < 16).map(str::to_owned).collect()
}

/// What a plugin says of its failure (CNI spec, section 5).
pub(crate) fn complaint(stdout: &[u8], stderr: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(stdout).ok();
    let field = |key: &str| Some(said.as_ref()?.get(key)?.as_str()?.trim()).filter(|t| !t.is_empty());
    match (field("msg"), field("details")) {
        (Some(msg), Some(details)) => format!("{msg}; {details}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => {
            let last = String::from_utf8_lossy(stderr);
            last.trim().lines().last().unwrap_or("it said nothing").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: TicketPort = TicketPort { container_port: 80, host_port: 8080, udp: false };

    fn object(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn each_plugin_gets_its_own_configuration_the_result_before_and_what_it_can_do() {
        let list = List::parse(&own(Path::new("/"), Path::new("/run/shoal/cni"))).unwrap();
        let kinds: Vec<&str> = list.plugins.iter().map(|p| p.kind.as_str()).collect();
        assert_eq!(kinds, ["bridge", "portmap"]);
        let bridge = object(&list.input(&list.plugins[0], &[PORT], None));
        assert_eq!((&bridge["name"], &bridge["bridge"]), (&json!("shoal"), &json!("shoal0")));
        assert!(bridge.get("runtimeConfig").is_none() && bridge.get("prevResult").is_none());
        let portmap = object(&list.input(&list.plugins[1], &[PORT], Some(&json!({ "ips": [] }))));
        assert_eq!(portmap["cniVersion"], "1.0.0");
        assert_eq!(portmap["prevResult"], json!({ "ips": [] }));
        assert!(portmap.get("capabilities").is_none());
        let mapped = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
        assert_eq!(portmap["runtimeConfig"]["portMappings"], mapped);
        let open = TicketPort { host_port: 0, ..PORT };
        assert!(object(&list.input(&list.plugins[1], &[open], None)).get("runtimeConfig").is_none());
    }

    #[test]
    fn two_devices_of_one_machine_have_two_bridges() {
        let bridge =
            |root: &str| object(&own(Path::new(root), Path::new("/x")))["plugins"][0]["bridge"].clone();
        let names = ["/", "/srv/a", "/srv/b"].map(bridge);
        assert!(names[0] != names[1] && names[1] != names[2]);
        assert!(names.iter().all(|n| n.as_str().unwrap().len() < 16), "a name of an interface");
    }

    #[test]
    fn lists_that_cannot_be_used_are_refused_and_single_plugins_are_not() {
        let plugin = |kind: &str| format!(r#"{{"cniVersion": "1.0.0", "name": "n", "type": "{kind}"}}"#);
        assert_eq!(List::parse(plugin("ptp").as_bytes()).unwrap().plugins.len(), 1);
        for bad in [
            "",
            "[]",
            r#"{"cniVersion": "1.0.0", "name": "n"}"#,
            r#"{"cniVersion": "9.0.0", "name": "n", "plugins": [{"type": "bridge"}]}"#,
            r#"{"cniVersion": "1.0.0", "name": "../n", "plugins": [{"type": "bridge"}]}"#,
            r#"{"cniVersion": "1.0.0", "name": "n", "plugins": []}"#,
            r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": 1}]}"#,
            &plugin("../../bin/sh"),
            &plugin("/bin/sh"),
            &plugin(".."),
        ] {
            assert!(List::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_need_a_plugin_that_maps_them() {
        let single = List::parse(br#"{"cniVersion": "0.4.0", "name": "n", "type": "ptp"}"#).unwrap();
        assert!(single.checks && !single.serves(&[PORT]));
        assert!(single.serves(&[TicketPort { host_port: 0, ..PORT }]) && single.serves(&[]));
        assert!(!List::parse(br#"{"cniVersion": "0.3.1", "name": "n", "type": "ptp"}"#).unwrap().checks);
    }

    #[test]
    fn a_failure_is_told_in_the_plugins_own_words() {
        let json = br#"{"cniVersion": "1.0.0", "code": 7, "msg": "no range", "details": "set one"}"#;
        assert_eq!(complaint(json, b""), "no range; set one");
        assert_eq!(complaint(b"", b"first\npanic: x\n"), "panic: x");
        assert_eq!(complaint(b"", b""), "it said nothing");
    }

    #[test]
    fn only_ends_on_the_devices_side_are_its_own() {
        let result = json!({ "interfaces": [{ "name": "shoal0" }, { "name": "veth1", "sandbox": "" },
            { "name": "eth0", "sandbox": "/run/netns/x" }, { "name": "../x" }] });
        assert_eq!(outer_interfaces(&result), ["shoal0", "veth1"]);
    }
}
