//! The rules of another broker than the own one, from the table that the own one asks: `Topic`.
//!
//! Mosquitto's form: a user is a certificate's common name (`use_identity_as_username`), and `%u` stands for it.

use shoal_protocol::topics::{CONTROLLER, Topic};
use std::fmt::Write as _;
use std::path::Path;

const HEAD: &str = "# Made by `shoald mosquitto`; changes are lost. A device reaches its own branch of any fleet, the controller reaches what goes\n\
                    # up and down; whatever is not named here is denied.\n";

/// Where Debian's package of Mosquitto looks for what an administrator adds.
pub(crate) const FOLDER: &str = "/etc/mosquitto/shoal";

/// One rule about what is below a device's branch, in whatever fleet.
fn line(out: &mut String, rule: &str, access: &str, device: &str, rest: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{rule} {access} shoal/v1/+/{device}/{rest}");
}

/// Mosquitto's `acl_file`.
pub(crate) fn mosquitto() -> String {
    let mut out = HEAD.to_owned();
    let (up, down): (Vec<Topic>, Vec<Topic>) = Topic::ALL.into_iter().partition(|t| t.is_up());
    let _ = writeln!(out, "user {CONTROLLER}");
    line(&mut out, "topic", "read", "+", "up/#");
    for topic in down {
        line(&mut out, "topic", "write", "+", topic.suffix());
    }
    out.push('\n');
    line(&mut out, "pattern", "read", "%u", "down/#");
    for topic in up {
        line(&mut out, "pattern", "write", "%u", topic.suffix());
    }
    out
}

/// `mosquitto.conf` for files in `folder`, listening on `listen`.
pub(crate) fn configuration(folder: &Path, port: u16, address: Option<&str>) -> String {
    let (folder, address) = (folder.display(), address.map(|a| format!(" {a}")).unwrap_or_default());
    format!(
        "# Made by `shoald mosquitto`; changes are lost. For Mosquitto 2.0 as the broker of `shoald run --broker`.\n\
         per_listener_settings true\n\
         persistence false\n\
         listener {port}{address}\n\
         # Who somebody is says their certificate alone: user name and client id are its common name, whatever the client says.\n\
         allow_anonymous false\n\
         require_certificate true\n\
         use_identity_as_username true\n\
         use_username_as_clientid true\n\
         cafile {folder}/ca.pem\n\
         certfile {folder}/broker.pem\n\
         keyfile {folder}/broker.key\n\
         acl_file {folder}/acl\n\
         # As the embedded broker has it: no session outlives its connection, nothing is kept for those who are not there.\n\
         max_qos 1\n\
         retain_available false\n\
         max_packet_size {}\n\
         max_keepalive 600\n\
         # For the controller, which many devices speak to at once.\n\
         max_inflight_messages 1024\n\
         max_queued_messages 100000\n\
         set_tcp_nodelay true\n",
        super::child::MAX_PACKET
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::ids::{DeviceId, Digest, FleetId};

    /// Whether an MQTT filter matches a topic.
    fn matches(filter: &str, topic: &str) -> bool {
        let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
        loop {
            match (filter.next(), topic.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(f), Some(t)) if f == t => {}
                _ => return false,
            }
        }
    }

    /// What Mosquitto makes of the rules: lines below a user are that user's, patterns are everybody's.
    fn allows(client: &str, access: &str, topic: &str) -> bool {
        let mut user = None;
        mosquitto().lines().any(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["user", name] => user = Some(name.to_owned()),
                ["topic", a, filter] => {
                    return user.as_deref() == Some(client) && a == access && matches(filter, topic);
                }
                ["pattern", a, filter] => {
                    return a == access && matches(&filter.replace("%u", client), topic);
                }
                _ => {}
            }
            false
        })
    }

    #[test]
    fn b1_mosquittos_rules_say_what_the_embedded_brokers_hooks_say() {
        let fleet = FleetId::of_root(&Digest::of(b"fleet"));
        let devices = [DeviceId::of_spki(b"a"), DeviceId::of_spki(b"b")];
        let clients = [devices[0].as_str(), devices[1].as_str(), CONTROLLER, "nobody"];
        for client in clients {
            for device in &devices {
                for topic in Topic::ALL {
                    let topic = topic.of(&fleet, device);
                    assert_eq!(
                        allows(client, "write", &topic),
                        Topic::may_publish(client, &topic),
                        "{client} to {topic}"
                    );
                    assert_eq!(
                        allows(client, "read", &topic),
                        Topic::may_subscribe(client, &topic),
                        "{client} from {topic}"
                    );
                }
            }
            for topic in [
                "shoal",
                "shoal/v2/x/y/up/hello",
                "shoal/v1/x/y/down/shell",
                "$SYS/broker/uptime",
                "x/y/z/up/hello",
            ] {
                assert!(
                    !allows(client, "write", topic) && !allows(client, "read", topic),
                    "{client}: {topic}"
                );
            }
        }
    }

    #[test]
    fn the_samples_in_deploy_are_what_the_command_makes() {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/mosquitto");
        for (name, made) in [
            ("acl", mosquitto()),
            ("mosquitto.conf", configuration(Path::new(FOLDER), super::super::foreign::PORT, None)),
        ] {
            let kept = std::fs::read_to_string(deploy.join(name)).unwrap_or_default();
            assert_eq!(
                kept, made,
                "deploy/mosquitto/{name}: make it anew with `shoald mosquitto --sample --out deploy/mosquitto`"
            );
        }
    }
}
