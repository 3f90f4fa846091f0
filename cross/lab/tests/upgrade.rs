//! The engine of a device is upgraded under its feet: what has to start anew is compiled anew, by the device itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// Puts a runner in place whose engine calls itself another: the real one, with another word in the line that names it.
fn install_other_engine(from: &Path, libexec: &Path) {
    let mut bytes = std::fs::read(from.join("shoal-runner")).unwrap();
    let (old, new) = (b" proposals-1", b" proposals-X");
    let places = bytes.windows(old.len()).enumerate().filter(|(_, w)| w == old).map(|(at, _)| at);
    let places: Vec<usize> = places.collect();
    assert!(!places.is_empty(), "the runner does not name its options any more");
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    let file = libexec.join("shoal-runner.new");
    std::fs::write(&file, bytes).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(file, libexec.join("shoal-runner")).unwrap();
}

#[test]
fn a_device_whose_engine_is_upgraded_compiles_anew_what_has_to_start_again() {
    if needs_root("a_device_whose_engine_is_upgraded_compiles_anew_what_has_to_start_again") {
        return;
    }
    let mut fleet = fleet();
    let bins = binaries().dir().to_path_buf();
    let libexec = fleet.dir.path().join("libexec");
    std::fs::create_dir(&libexec).unwrap();
    for name in ["shoal-guard", "engine"] {
        symlink(bins.join(name), libexec.join(name)).unwrap();
    }
    std::fs::copy(bins.join("shoal-runner"), libexec.join("shoal-runner")).unwrap();
    let set = ("SHOAL_LIBEXEC".to_owned(), utf8(&libexec).to_owned());
    fleet
        .lab
        .add_device_with("site=here", |device| {
            device.env.push(set);
            Ok(())
        })
        .unwrap();
    // One goes on, the other ends at once and starts again after ten seconds.
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.import_wat("exits:1", &exits_with(0));
    fleet.apply(&manifest("stays", "sleeps:1", "Always", ""));
    let stays = fleet.wait_running("stays", 1).remove(0);
    fleet.apply(&manifest("comes", "exits:1", "Always", ""));
    let attempt = |p: &serde_json::Value| p["containers"][0]["attempt"].as_u64().unwrap_or(0);
    let ended = |p: &serde_json::Value| p["containers"][0]["last_end"]["cause"] == "exited";
    let first = fleet.wait_pod("comes", "its first end", |p| attempt(p) == 1 && ended(p));
    let code = || {
        let cache = fleet.lab.devices[0].root.join("var/lib/shoal/supervise/cache");
        let all = std::fs::read_dir(cache).unwrap().flatten();
        all.filter(|e| e.path().extension().is_some_and(|e| e == "so")).count()
    };
    let proven = || fleet.lab.devices[0].guard_output().matches("are the same on this CPU").count();
    assert_eq!((code(), proven()), (2, 1));
    install_other_engine(&bins, &libexec);
    // The second attempt is counted as soon as it is prepared, with the end of the first beside it.
    let finished = |p: &serde_json::Value| p["containers"][0]["finished_at"].as_u64();
    let again =
        fleet.wait_pod("comes", "its next end", |p| attempt(p) >= 2 && finished(p) > finished(&first));
    assert_eq!(proven(), 2, "the other engine proved itself first: {again:#}");
    assert_eq!(code(), 3, "what runs keeps its code");
    let same = fleet.wait_running("stays", 1).remove(0);
    assert_eq!(attempt(&same), attempt(&stays));
    assert_eq!(same["containers"][0]["started_at"], stays["containers"][0]["started_at"], "{same:#}");
}
