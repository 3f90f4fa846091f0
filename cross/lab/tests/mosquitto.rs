//! A fleet whose broker is a real Mosquitto, with the files that `shoald mosquitto` wrote: from joining to reporting back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Finished, Lab, Service, wait_until};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// Ends with the test, however that ends.
struct Mosquitto(Service);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.0.kill();
    }
}

#[test]
fn behind_mosquitto_a_fleet_joins_runs_and_reports_back() {
    if needs_root("behind_mosquitto_a_fleet_joins_runs_and_reports_back") {
        return;
    }
    let (bins, dir) = (binaries(), open_dir());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (data, files) = (dir.path().join("controller"), dir.path().join("mosquitto"));
    let mut made = Command::new(bins.path("shoald"));
    made.args(["mosquitto", "--name", "127.0.0.1", "--data"]).arg(&data).arg("--out").arg(&files);
    Finished::of(made.arg(format!("--listen=127.0.0.1:{port}"))).unwrap().ok().unwrap();
    // Its own user may not look into a test's folder.
    let settings = std::fs::read_to_string(files.join("mosquitto.conf")).unwrap() + "user root\n";
    std::fs::write(files.join("mosquitto.conf"), settings).unwrap();
    let log = dir.path().join("mosquitto.log");
    let mosquitto = || {
        let mut command = Command::new("mosquitto");
        let broker =
            Service::spawn(command.arg("-v").arg("-c").arg(files.join("mosquitto.conf")), &log).unwrap();
        wait_until("mosquitto to listen", LONG, || {
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", broker.output()));
        Mosquitto(broker)
    };
    let mut broker = mosquitto();

    let tag = format!("m{}", std::process::id());
    let url = format!("mqtts://127.0.0.1:{port}");
    let lab = Lab::start_with(&bins, dir.path(), &tag, &["--broker", &url]).unwrap();
    let mut fleet = Fleet { lab, dir };
    fleet.lab.add_device("site=here").unwrap();
    fleet.wait_online();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    // An order, a report after it, and a revision for a device that is there already.
    fleet.shoal(&["restart", "app"]);
    fleet.wait_pod("app", "the second start", |p| runs(p) && p["containers"][0]["attempt"] == 2);
    fleet.apply(&manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi"));
    fleet.wait_pod("app", "the next revision", |p| runs(p) && p["revision"]["sequence"] == 2);
    // The broker goes and comes back; nobody's container notices, and what was signed meanwhile arrives.
    broker.0.kill();
    let attempt = fleet.pods("app")[0]["containers"][0]["attempt"].clone();
    broker = mosquitto();
    fleet.apply(&manifest("other", "sleeps:1", "Always", ""));
    fleet.wait_running("other", 1);
    assert_eq!(fleet.pods("app")[0]["containers"][0]["attempt"], attempt);
    fleet.lab.stop().unwrap();
    broker.0.kill();
    let said = broker.0.output();
    assert!(
        said.contains("/up/report'") && said.contains("/down/document'"),
        "all of it went by Mosquitto: {said}"
    );
}
