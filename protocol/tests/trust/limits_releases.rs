//! The edges of what a release may say: of each rule the last value that is good, and the first that is not (as in `limits.rs`).

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use shoal_protocol::v1::*;
use shoal_protocol::verify::{MAX_JUMP, Viewpoint};

type Outcome = Result<(), Code>;

const GIB: u64 = 1 << 30;

/// A fleet whose root names a key for releases.
fn fleet() -> Fleet {
    let mut root = root_1();
    root.roles.push(role(RoleName::Release, 1, &[seed::RELEASE]));
    Fleet::with_root(&root)
}

fn submit(fleet: &mut Fleet, release: &Release) -> Outcome {
    let (bytes, digest) = seal(release, &[seed::RELEASE]);
    let newest = revision(release.sequence, digest);
    let listed = Entry { kind: EntryKind::Release, ..entry(release.name.as_str(), newest) };
    let snapshot = fleet.list(listed);
    fleet.accept(&snapshot).map_err(|r| r.code)?;
    fleet.accept(&bytes).map(|_| ()).map_err(|r| r.code)
}

fn release(change: impl FnOnce(&mut Release)) -> Outcome {
    let mut fleet = fleet();
    let mut release = fleet.release("agent", 1, "0.2.0");
    change(&mut release);
    submit(&mut fleet, &release)
}

fn builds(release: &mut Release, architectures: &[&str]) {
    let one = release.builds[0].clone();
    let named = |a: &&str| Build { architecture: (*a).to_owned(), ..one.clone() };
    release.builds = architectures.iter().map(named).collect();
}

/// One more file beside the programs, in its place.
fn with_file(release: &mut Release, path: &str, size: u64) {
    for build in &mut release.builds {
        let file = ReleaseFile {
            path: path.into(),
            size,
            digest: Digest::of(b"x"),
            executable: false,
            packed: None,
        };
        build.files.push(file);
        build.files.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

const MALFORMED: Outcome = Err(Code::Malformed);

#[test]
fn s16_a_releases_version_deadline_and_builds_have_their_edges() {
    for (version, outcome) in
        [("0.2.0", Ok(())), ("0.2", MALFORMED), ("0.2.0-rc1", MALFORMED), ("+0.2.0", MALFORMED)]
    {
        assert_eq!(release(|r| r.version = version.into()), outcome, "{version}");
    }
    for (deadline, outcome) in [(0, MALFORMED), (1, Ok(())), (86_400, Ok(())), (86_401, MALFORMED)] {
        assert_eq!(release(|r| r.deadline = Some(deadline)), outcome, "{deadline} s");
    }
    let eight = ["a", "b", "c", "d", "e", "f", "g", "x86_64"];
    assert_eq!(release(|r| builds(r, &eight)), Ok(()));
    assert_eq!(release(|r| builds(r, &[&eight[..], &["z"]].concat())), MALFORMED);
    assert_eq!(release(|r| builds(r, &[])), MALFORMED);
    assert_eq!(release(|r| builds(r, &["x86_64", "x86_64"])), MALFORMED);
    assert_eq!(release(|r| builds(r, &["x86_64", "aarch64"])), MALFORMED);
    let (long, longer) = ("y".repeat(32), "y".repeat(33));
    assert_eq!(release(|r| builds(r, &["x86_64", &long])), Ok(()));
    assert_eq!(release(|r| builds(r, &["x86_64", &longer])), MALFORMED);
    assert_eq!(release(|r| builds(r, &["", "x86_64"])), MALFORMED);
    for (length, outcome) in [(512, Ok(())), (513, MALFORMED)] {
        assert_eq!(release(|r| r.builds[1].reference = "r".repeat(length)), outcome);
    }
}

#[test]
fn s16_a_releases_files_have_their_edges() {
    let called = |path: &str| release(|r| with_file(r, path, 1));
    for good in ["a", "a-b_c+d.e", "lib/a", &"p".repeat(200)] {
        assert_eq!(called(good), Ok(()), "{good}");
    }
    let below = "shoal-agent/a";
    for bad in ["", ".a", "a/.b", "/a", "a/", "a//b", "a b", "ä", below, &"p".repeat(201)] {
        assert_eq!(called(bad), MALFORMED, "{bad}");
    }
    assert_eq!(called("shoal-agent2"), Ok(()), "no folder of another");
    let many = |n: usize| {
        release(|r| {
            let more = n - r.builds[0].files.len();
            (0..more).for_each(|i| with_file(r, &format!("n{i:03}"), 1));
            r.builds.remove(0);
        })
    };
    assert_eq!(many(256), Ok(()));
    assert_eq!(many(257), MALFORMED);
    assert_eq!(release(|r| r.builds[1].files.swap(0, 1)), MALFORMED);
    assert_eq!(release(|r| r.builds[1].files[1] = r.builds[1].files[0].clone()), MALFORMED);
    // What is fetched and what it becomes count both, so that neither alone is beyond the cap.
    let sized = |size| {
        release(|r| {
            r.builds.remove(0);
            r.builds[0].files.iter_mut().for_each(|f| (f.size, f.packed) = (0, None));
            with_file(r, "zzz", size);
        })
    };
    assert_eq!(sized(GIB), Ok(()));
    assert_eq!(sized(GIB + 1), MALFORMED);
    assert_eq!(sized(u64::MAX), MALFORMED);
    for program in ["shoal-agent", "shoal-guard", "shoal-runner"] {
        let of = |r: &mut Release, change: fn(&mut ReleaseFile)| {
            r.builds[1].files.iter_mut().filter(|f| f.path == program).for_each(change);
        };
        assert_eq!(release(|r| of(r, |f| f.executable = false)), MALFORMED, "{program}");
        assert_eq!(release(|r| r.builds[1].files.retain(|f| f.path != program)), MALFORMED, "{program}");
    }
}

#[test]
fn s9_s12_s26_who_takes_which_release_has_its_edges() {
    assert_eq!(release(|r| r.sequence = 0), MALFORMED);
    assert_eq!(release(|r| r.sequence = MAX_JUMP), Ok(()));
    assert_eq!(release(|r| builds(r, &["aarch64"])), Err(Code::WrongTarget));
    let elsewhere = |r: &mut Release| {
        let devices = vec![key(seed::STRANGER).public().device_id()];
        r.target = Target { devices, ..Target::default() };
    };
    assert_eq!(release(elsewhere), Err(Code::WrongTarget));
    assert_eq!(release(|r| r.target.min_engine = Some("0.99.0".into())), Err(Code::EngineTooOld));
    // Without a record nothing selects a device; an observer takes what is for others.
    let mut unknown = fleet();
    unknown.state.record = None;
    let good = unknown.release("agent", 1, "0.2.0");
    assert_eq!(submit(&mut unknown, &good), Err(Code::WrongTarget));
    let mut observer = fleet();
    observer.state.viewpoint = Viewpoint::Observer;
    let mut foreign = good.clone();
    elsewhere(&mut foreign);
    assert_eq!(submit(&mut observer, &foreign), Ok(()));
    // As good as what proved itself is good enough.
    for (proved, outcome) in [("0.2.0", Ok(())), ("0.2.1", Err(Code::AgentRollback)), ("", Ok(()))] {
        let mut fleet = fleet();
        fleet.state.proved_agent = proved.into();
        assert_eq!(submit(&mut fleet, &good), outcome, "{proved}");
        fleet.state.viewpoint = Viewpoint::Observer;
        fleet.state.documents.clear();
        let (bytes, _) = seal(&good, &[seed::RELEASE]);
        fleet.accept(&bytes).unwrap();
    }
}
