//! Networks over supervise's own end: found again by their records, or taken back with everything else.

use super::super::Supervise;
use super::super::record::boot_id;
use super::{Phase, PodNetwork};
use crate::network::{Place, Request, conf::Verb, netns};
use crate::say;
use rustix::process::{WaitOptions, waitpid};
use shoal_ipc::{Digest, decode};
use std::fs::{self, File};
use std::io;

impl Supervise {
    /// Finds the networks that an earlier supervise made; those that nobody needs are taken back.
    pub(in super::super) fn adopt_networks(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(self.layout.networks())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let place = Place::of(&self.layout, &name);
            let request = fs::read(place.request()).ok().and_then(|b| decode::<Request>(&b).ok());
            let (Some(request), Some(ticket)) = (request, digest(&name)) else {
                // Cut short before anything was made.
                fs::remove_dir_all(&place.folder)?;
                continue;
            };
            let namespace = File::open(&place.netns).ok().filter(|_| netns::is_there(&place.netns));
            let wanted = request.boot == boot_id() && self.containers.keys().any(|k| k.0 == ticket);
            let (verb, namespace) = match namespace {
                Some(namespace) if wanted => (Verb::Check, Some(namespace)),
                _ => (Verb::Del, None),
            };
            let helper = match self.network_helper(verb, &ticket) {
                Ok(helper) => helper,
                Err(e) => {
                    say::line(format!("a network is left as it is: {}", e.detail));
                    continue;
                }
            };
            let phase = match namespace {
                Some(namespace) => Phase::Ready { namespace: namespace.into(), check: Some(helper) },
                None => Phase::Removing(helper),
            };
            self.networks.pods.insert(ticket, PodNetwork { request, phase, ending: false });
        }
        Ok(())
    }

    /// Takes all networks back and waits for it: nothing runs any more.
    pub(in super::super) fn end_networks(&mut self) {
        let pods: Vec<Digest> = self.networks.pods.keys().copied().collect();
        for ticket in &pods {
            let Some(network) = self.networks.pods.remove(ticket) else { continue };
            let busy = match network.phase {
                Phase::Adding(h) | Phase::Removing(h) => Some(h),
                Phase::Ready { check, .. } => check,
            };
            if let Some(helper) = busy {
                super::super::shutdown::end_of(&helper.child);
            }
            let place = Place::of(&self.layout, &ticket.hex());
            if !place.request().exists() {
                continue;
            }
            match self.network_helper(Verb::Del, ticket) {
                // It has a time of its own.
                Ok(helper) => match waitpid(Some(helper.child.pid), WaitOptions::empty()) {
                    Ok(Some((_, status))) if status.exit_status() == Some(0) => {}
                    _ => say::line(format!(
                        "{}: its network is taken back at the next start",
                        network.request.name
                    )),
                },
                Err(e) => say::line(e.detail),
            }
        }
    }
}

/// A ticket by its hexadecimal name.
fn digest(hex: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_is_a_tickets() {
        let ticket = Digest([0xa7; 32]);
        assert_eq!(digest(&ticket.hex()), Some(ticket));
        for bad in ["", "a7", &"zz".repeat(32), &"é".repeat(32)] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }
}
