//! Which ports pods may have at one time, and which of them a container may listen at. Pure.

use shoal_ipc::{Ticket, TicketPort};

/// A port of the device that both would have.
pub(super) fn shared(one: &[TicketPort], other: &[TicketPort]) -> Option<u16> {
    let same = |p: &TicketPort| other.iter().any(|o| (o.host_port, o.udp) == (p.host_port, p.udp));
    one.iter().find(|p| p.host_port != 0 && same(p)).map(|p| p.host_port)
}

/// The TCP ports that a container may listen at: those that the pod declares, mapped or not.
pub(in super::super) fn listened(ticket: &Ticket) -> Vec<u16> {
    let mut all: Vec<u16> = ticket.ports.iter().filter(|p| !p.udp).map(|p| p.container_port).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_mapped_port_of_one_protocol_is_shared() {
        let tcp = TicketPort { container_port: 80, host_port: 8080, udp: false };
        let udp = TicketPort { udp: true, ..tcp };
        let open = TicketPort { host_port: 0, ..tcp };
        assert_eq!(shared(&[open, tcp], &[udp, tcp]), Some(8080));
        assert_eq!(shared(&[tcp], &[udp]), None);
        assert_eq!(shared(&[open], &[open]), None);
    }
}
