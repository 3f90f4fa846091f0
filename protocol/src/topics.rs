//! MQTT topics: `shoal/v1/{fleet}/{device}/up|down/…`. A device reaches only its own branch.
//!
//! Never here: what a message means. A topic is a hint for routing; what counts is signed.

use crate::ids::{DeviceId, FleetId};

/// The client id, user name and certificate common name of the controller.
pub const CONTROLLER: &str = "controller";

/// What a message on one device's branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Up: what the device holds (unsigned).
    Hello,
    /// Up: still here (unsigned).
    Heartbeat,
    /// Up: an envelope of a report.
    Report,
    /// Up: log lines that an order asked for (unsigned).
    Log,
    /// Down: an envelope of a root.
    Root,
    /// Down: an envelope of a snapshot.
    Snapshot,
    /// Down: an envelope of a deployment or device record.
    Document,
    /// Down: an envelope of an order.
    Order,
    /// Down: the highest stored report counter (unsigned).
    Ack,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 9] = [
        Self::Hello,
        Self::Heartbeat,
        Self::Report,
        Self::Log,
        Self::Root,
        Self::Snapshot,
        Self::Document,
        Self::Order,
        Self::Ack,
    ];

    /// The last two levels.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Hello => "up/hello",
            Self::Heartbeat => "up/heartbeat",
            Self::Report => "up/report",
            Self::Log => "up/log",
            Self::Root => "down/root",
            Self::Snapshot => "down/snapshot",
            Self::Document => "down/document",
            Self::Order => "down/order",
            Self::Ack => "down/ack",
        }
    }

    /// Whether devices publish it.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Hello | Self::Heartbeat | Self::Report | Self::Log)
    }

    /// The most bytes of a message on it.
    pub const fn size_cap(self) -> usize {
        use crate::v1::Kind;
        match self {
            Self::Hello => 256 << 10,
            Self::Heartbeat | Self::Ack => 1 << 10,
            Self::Report => Kind::Report.size_cap(),
            Self::Log => 40 << 10,
            Self::Root => Kind::Root.size_cap(),
            Self::Snapshot => Kind::Snapshot.size_cap(),
            Self::Document => Kind::Deployment.size_cap(),
            Self::Order => Kind::Order.size_cap(),
        }
    }

    /// The full topic for one device.
    pub fn of(self, fleet: &FleetId, device: &DeviceId) -> String {
        format!("shoal/v1/{fleet}/{device}/{}", self.suffix())
    }

    /// The filter that a device subscribes to: all that goes down to it.
    pub fn filter_device(fleet: &FleetId, device: &DeviceId) -> String {
        format!("shoal/v1/{fleet}/{device}/down/#")
    }

    /// The filter that the controller subscribes to: all that comes up in the fleet.
    pub fn filter_controller(fleet: &FleetId) -> String {
        format!("shoal/v1/{fleet}/+/up/#")
    }

    /// Takes a full topic apart; nothing when it is not exactly one of ours.
    pub fn parse(topic: &str) -> Option<(FleetId, DeviceId, Self)> {
        let mut parts = topic.strip_prefix("shoal/v1/")?.splitn(3, '/');
        let fleet = parts.next()?.parse().ok()?;
        let device = parts.next()?.parse().ok()?;
        let suffix = parts.next()?;
        let topic = Self::ALL.into_iter().find(|t| t.suffix() == suffix)?;
        Some((fleet, device, topic))
    }

    /// Whether the client with this certificate common name may publish to `topic` (a name, not a filter).
    pub fn may_publish(client: &str, topic: &str) -> bool {
        Self::parse(topic).is_some_and(|(_, device, t)| {
            if t.is_up() { client == device.as_str() } else { client == CONTROLLER }
        })
    }

    /// Whether the client with this certificate common name may subscribe to `filter`: devices to what goes down to
    /// them, with `#` as the last level at most; the controller to what comes up. Shared subscriptions are refused to devices.
    pub fn may_subscribe(client: &str, filter: &str) -> bool {
        if client == CONTROLLER {
            let own =
                filter.strip_prefix("$share/").and_then(|f| f.split_once('/')).map_or(filter, |(_, f)| f);
            return own.strip_prefix("shoal/v1/").is_some_and(|f| {
                let mut parts = f.splitn(3, '/');
                let fleet = parts.next().is_some_and(|p| p.parse::<FleetId>().is_ok());
                let device = parts.next().is_some_and(|p| p == "+" || p.parse::<DeviceId>().is_ok());
                fleet && device && parts.next().is_some_and(|p| p == "up/#" || Self::is_suffix(p, true))
            });
        }
        let Some(rest) = filter.strip_prefix("shoal/v1/") else { return false };
        let mut parts = rest.splitn(3, '/');
        let fleet = parts.next().is_some_and(|p| p.parse::<FleetId>().is_ok());
        let device = parts.next().is_some_and(|p| p == client && p.parse::<DeviceId>().is_ok());
        fleet && device && parts.next().is_some_and(|p| p == "down/#" || Self::is_suffix(p, false))
    }

    fn is_suffix(text: &str, up: bool) -> bool {
        Self::ALL.into_iter().any(|t| t.is_up() == up && t.suffix() == text)
    }
}
