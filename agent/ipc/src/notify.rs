//! Words to a service manager that listens for them (`sd_notify(3)`): ready, alive, ending. Without one, nothing is said.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The shortest pause between two signs of life, whatever the manager asks for.
const SHORTEST: Duration = Duration::from_millis(500);

/// The way to the manager, and when it expects the next sign of life.
#[derive(Debug, Default)]
pub struct Notify {
    way: Option<(UnixDatagram, SocketAddr)>,
    every: Option<Duration>,
    next: Option<Instant>,
}

impl Notify {
    /// As the manager says it in the environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let socket = std::env::var_os("NOTIFY_SOCKET");
        let own = u64::from(std::process::id());
        // Meant for another process, which started this one.
        let is_own = number("WATCHDOG_PID").is_none_or(|pid| pid == own);
        Self::new(socket.as_deref(), number("WATCHDOG_USEC").filter(|_| is_own))
    }

    fn new(socket: Option<&OsStr>, micros: Option<u64>) -> Self {
        let address = socket.and_then(|name| match name.as_bytes().split_first()? {
            (b'@', rest) => SocketAddr::from_abstract_name(rest).ok(),
            (b'/', _) => SocketAddr::from_pathname(name).ok(),
            _ => None,
        });
        let way = address.and_then(|a| Some((UnixDatagram::unbound().ok()?, a)));
        if let Some((socket, _)) = &way {
            // A manager that does not read must not hold up what it manages.
            let _ = socket.set_nonblocking(true);
        }
        let micros = micros.filter(|n| *n > 0 && way.is_some());
        let every = micros.map(|n| Duration::from_micros(n / 2).max(SHORTEST));
        Self { way, every, next: every.map(|e| Instant::now() + e) }
    }

    /// The start is over.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// When the next sign of life is due.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Gives the sign of life, if it is due.
    pub fn beat(&mut self, now: Instant) {
        if let (Some(every), Some(next)) = (self.every, self.next)
            && next <= now
        {
            self.say("WATCHDOG=1");
            self.next = Some(now + every);
        }
    }

    fn say(&self, word: &str) {
        if let Some((socket, address)) = &self.way {
            // A manager that went away hears nothing, and expects nothing.
            let _ = socket.send_to_addr(word.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(socket: &UnixDatagram) -> String {
        let mut text = [0; 64];
        let n = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..n].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_ready_alive_and_stopping_and_no_more_than_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut notify = Notify::new(Some(path.as_os_str()), Some(4_000_000));
        let due = notify.due().unwrap();
        notify.ready();
        notify.beat(due.checked_sub(Duration::from_millis(1)).unwrap());
        notify.beat(due);
        assert_eq!(notify.due(), Some(due + Duration::from_secs(2)));
        notify.stopping();
        assert_eq!([hear(&socket), hear(&socket), hear(&socket)], ["READY=1", "WATCHDOG=1", "STOPPING=1"]);
    }

    #[test]
    fn an_abstract_name_is_understood() {
        let name = format!("shoal-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notify::new(Some(format!("@{name}").as_ref()), None).ready();
        assert_eq!(hear(&socket), "READY=1");
    }

    #[test]
    fn without_a_manager_nothing_is_due_and_nothing_fails() {
        let mut none = Notify::new(None, Some(4_000_000));
        assert_eq!(none.due(), None);
        none.ready();
        none.beat(Instant::now());
        Notify::new(Some("relative".as_ref()), None).stopping();
        assert_eq!(Notify::new(Some("/nobody".as_ref()), Some(0)).due(), None);
    }
}
