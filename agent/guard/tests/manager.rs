//! The guard under a service manager: what that hears of it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, needs_root, nothing_is_left};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

fn hear(manager: &UnixDatagram) -> String {
    let mut text = [0; 256];
    let n = manager.recv(&mut text).unwrap();
    String::from_utf8(text[..n].to_vec()).unwrap()
}

#[test]
fn a_service_manager_hears_that_the_guard_is_ready_then_alive_then_ending() {
    if needs_root("a_service_manager_hears_that_the_guard_is_ready_then_alive_then_ending") {
        return;
    }
    let mut device = Device::prepare("");
    let path = device.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    device.environment = vec![("NOTIFY_SOCKET", path.into()), ("WATCHDOG_USEC", "1000000".into())];
    device.launch();
    assert_eq!(hear(&manager), "READY=1");
    // Nothing else happens on this device: it wakes for this alone, again and again.
    assert_eq!([hear(&manager), hear(&manager)], ["WATCHDOG=1", "WATCHDOG=1"]);
    device.stop_all();
    let last = std::iter::repeat_with(|| hear(&manager)).find(|word| word != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    nothing_is_left(&device);
}
