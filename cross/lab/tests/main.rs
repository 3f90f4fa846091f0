//! The end-to-end tests: whole fleets from the real binaries, each test one of its own. One program, so that the tests of all
//! files run beside each other: they wait much more than they work.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

mod air_gapped;
mod bad_input;
mod capture;
mod ceremony;
mod crash;
mod demo;
mod deploy;
mod documents;
mod ends;
mod enrolment;
mod grants;
mod handover;
mod hardware;
mod hostile;
mod images;
mod limits;
mod mosquitto;
mod probes;
mod proxy;
mod renewal;
mod restarts;
mod run;
mod sideload;
mod sideload_attacks;
mod sideload_faults;
mod sideload_secrets;
mod software;
mod software_crash;
mod stop_all;
mod unconfined;
mod undo;
mod upgrade;
mod volumes;
mod walkthrough;

#[test]
fn every_file_here_is_part_of_this_program() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || include_str!("main.rs").contains(&format!("mod {module};")), "{name}");
    }
}
