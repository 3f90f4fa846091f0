//! A device whose identity key never leaves its TPM: it joins, is told, reports and renews as every other.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Finished, Service};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// A TPM 2.0 in software, with a P-256 signing key at a persistent handle, as a factory would put it there.
struct Tpm {
    service: Helper,
    /// How the tools reach it.
    reached: (String, String),
}

const HANDLE: &str = "0x81010001";

impl Tpm {
    fn start(dir: &Path) -> Self {
        let state = dir.join("tpm");
        std::fs::create_dir(&state).unwrap();
        // The tools take the port after the commands' for control.
        let (port, control) = loop {
            let one = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = one.local_addr().unwrap().port();
            if let Ok(two) = TcpListener::bind(("127.0.0.1", port.wrapping_add(1))) {
                break (port, two.local_addr().unwrap().port());
            }
        };
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        command.arg(format!("dir={}", utf8(&state)));
        command.arg("--server").arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"));
        command.arg("--ctrl").arg(format!("type=tcp,port={control},bindaddr=127.0.0.1"));
        let service = Service::spawn(&mut command, &dir.join("swtpm.log")).unwrap();
        shoal_lab::wait_until("the TPM to listen", LONG, || {
            Ok(TcpStream::connect(("127.0.0.1", control)).is_ok().then_some(()))
        })
        .unwrap();
        Self {
            service: Helper(service),
            reached: ("TPM2TOOLS_TCTI".to_owned(), format!("swtpm:host=127.0.0.1,port={port}")),
        }
    }

    /// Without the kernel's resource manager, what a command loads stays, and the next ones find no room.
    fn tool(&self, dir: &Path, line: &str) {
        self.run(dir, line);
        self.run(dir, "tpm2_flushcontext -t");
    }

    fn run(&self, dir: &Path, line: &str) {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let (name, value) = &self.reached;
        Finished::of(command.args(words).env(name, value).current_dir(dir))
            .and_then(Finished::ok)
            .unwrap_or_else(|e| panic!("{e:#}\n{}", self.service.0.output()));
    }
}

#[test]
fn a_device_whose_key_is_in_a_tpm_joins_runs_and_renews() {
    if needs_root("a_device_whose_key_is_in_a_tpm_joins_runs_and_renews") {
        return;
    }
    let mut fleet = controlled_by(&["--device-certificate-life=20"]);
    let dir = fleet.dir.path().to_path_buf();
    let mut tpm = Tpm::start(&dir);
    for line in [
        "tpm2_createprimary -Q -C o -G ecc256 -c primary.ctx",
        "tpm2_create -Q -C primary.ctx -G ecc256:ecdsa-sha256 -u key.pub -r key.priv -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign",
        "tpm2_load -Q -C primary.ctx -u key.pub -r key.priv -c key.ctx",
        "tpm2_evictcontrol -Q -C o -c key.ctx 0x81010001",
        "tpm2_readpublic -Q -c 0x81010001 -f pem -o device.pem",
    ] {
        tpm.tool(&dir, line);
    }
    let public = fleet.dir.path().join("device.pem");
    let sign = format!(
        "f=$(mktemp) && cat >$f && tpm2_sign -Q -c {HANDLE} -g sha256 -f plain -o $f.sig $f && cat $f.sig; rm -f $f $f.sig"
    );
    let reached = tpm.reached.clone();
    let place = fleet
        .lab
        .add_device_with("site=here", |device| {
            device.env.push(reached);
            let words = ["--key-command", &sign, "--key-public", utf8(&public)];
            device.enroll_args = words.map(str::to_owned).to_vec();
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", tpm.service.0.output()));
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let before = fleet.wait_running("app", 1).remove(0);

    let identity = fleet.lab.devices[place].root.join("var/lib/shoal/agent/identity");
    assert!(!identity.join("device.key").exists(), "no private key is on the disk");
    let own = std::fs::read_to_string(identity.join("device.pub")).unwrap();
    assert_eq!(own.replace('\n', ""), std::fs::read_to_string(&public).unwrap().replace('\n', ""));

    // A new certificate is asked for and proven by the TPM's signature.
    let serial = |fleet: &Fleet| {
        let status = fleet.lab.devices[place].cli(&["status", "--output", "json"]).unwrap().json().unwrap();
        status["certificate"]["serial"].clone()
    };
    let first = serial(&fleet);
    shoal_lab::wait_until("another certificate", LONG, || Ok((serial(&fleet) != first).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    let after = fleet.wait_running("app", 1).remove(0);
    assert_eq!(after["containers"][0]["started_at"], before["containers"][0]["started_at"]);

    // Without the TPM the device cannot speak as itself; what runs goes on.
    tpm.service.0.kill();
    fleet.lab.controller.kill();
    fleet.lab.controller.start_again().unwrap();
    shoal_lab::wait_until("the device to miss its key", LONG, || {
        Ok(fleet.lab.devices[place].agent_output().contains("the signer command").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    let ps = fleet.lab.devices[place].cli(&["ps", "--output", "json"]).unwrap().json().unwrap();
    assert!(ps.to_string().contains("CONTAINER_RUNNING"), "{ps:#}");
    fleet.lab.stop().unwrap();
}
