//! Releases: software of the device itself, signed by a role of its own, for this device, listed, and never older than what
//! proved healthy here.

use super::config::check_sequence;
use super::deployment::{check_floor, check_listed};
use super::signatures::of_role;
use super::target::{Selection, parse_version, selection};
use super::{Case, Standing, Verified, refuse};
use crate::refusal::{Code, Refusal};
use crate::v1::{Build, EntryKind, Release, ReleaseFile, Revision, RoleName};

/// Files of one build.
pub const MAX_FILES: usize = 256;
/// Bytes of all files of one build together.
pub const MAX_BYTES: u64 = 1 << 30;
/// What every build must bring.
pub const PROGRAMS: [&str; 3] = ["shoal-agent", "shoal-guard", "shoal-runner"];
const MAX_BUILDS: usize = 8;
const MAX_PATH: usize = 200;
const MAX_REFERENCE: usize = 512;
/// A day: a device that cannot say within it that it is well is not well.
const MAX_DEADLINE: u64 = 24 * 3600;

pub(super) fn verify(case: &Case<'_>) -> Result<Verified<Release>, Refusal> {
    let (met, signers) = of_role(&case.signed, case.anchor()?, RoleName::Release)?;
    let release: Release = case.decode()?;
    let name = &release.name;
    if let Some(why) = unsound(&release) {
        return refuse(Code::Malformed, format!("release {name}: {why}"));
    }
    case.check_fleet(&release.fleet)?;
    if !met.iter().any(|r| name.as_str().starts_with(&r.prefix)) {
        return refuse(Code::RoleScope, format!("release {name}: the signers' roles are for other prefixes"));
    }
    check_target(case, &release)?;
    case.check_epoch(release.epoch)?;
    let revision = Revision { sequence: release.sequence, digest: case.identity };
    let held = check_sequence(case, EntryKind::Release, (name, release.epoch), &revision, false)?;
    check_version(case, &release)?;
    check_floor(case, EntryKind::Release, name, release.epoch, &revision)?;
    if !held {
        check_listed(case, EntryKind::Release, name, &revision)?;
        case.check_time(release.issued_at, Some(release.not_after), "time to accept it")?;
    }
    let standing = if held { Standing::Held } else { Standing::New };
    Ok(Verified::new(release, case.identity, standing, signers))
}

/// Why it is no sound document by itself.
fn unsound(release: &Release) -> Option<&'static str> {
    let ascending = |w: &[Build]| w[0].architecture < w[1].architecture;
    if release.sequence == 0 {
        Some("sequences begin at 1")
    } else if !is_version(&release.version) {
        Some("its version is not major.minor.patch in plain numbers")
    } else if release.deadline.is_some_and(|d| d == 0 || d > MAX_DEADLINE) {
        Some("its deadline is not within a day")
    } else if !(1..=MAX_BUILDS).contains(&release.builds.len()) || !release.builds.windows(2).all(ascending) {
        Some("it has no build, more than 8, or two for one architecture, or they are not ascending")
    } else {
        release.builds.iter().find_map(unsound_build)
    }
}

fn unsound_build(build: &Build) -> Option<&'static str> {
    let files = &build.files;
    let ascending = |w: &[ReleaseFile]| w[0].path < w[1].path;
    let sizes = || files.iter().flat_map(|f| [f.size, f.blob().size]);
    let program = |p: &str| files.iter().any(|f| f.path == p && f.executable);
    if build.architecture.is_empty() || build.architecture.len() > 32 || build.reference.len() > MAX_REFERENCE
    {
        Some("a build names no architecture, or its reference is too long")
    } else if files.len() > MAX_FILES || !files.windows(2).all(ascending) {
        Some("a build has more than 256 files, or they are not ascending")
    } else if !files.iter().all(|f| is_path(&f.path)) {
        Some("a file's path is not relative, normalised and of letters, digits, -, _, + and .")
    } else if files.iter().any(|f| files.iter().any(|o| is_below(&o.path, &f.path))) {
        Some("one file's path is a folder of another")
    } else if sizes().try_fold(0_u64, u64::checked_add).is_none_or(|n| n > 2 * MAX_BYTES) {
        Some("its files are larger than 1 GiB together")
    } else if !PROGRAMS.iter().all(|p| program(p)) {
        Some("a build lacks one of shoal-agent, shoal-guard and shoal-runner as a program")
    } else {
        None
    }
}

/// Three plain numbers, so that of two versions one is the older.
fn is_version(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && parse_version(text).is_some()
}

/// A path below a folder, and nothing else on any file system.
fn is_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'.');
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && p.bytes().all(plain);
    path.len() <= MAX_PATH && path.split('/').all(part)
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether it is for this device, and has something for its CPU. Uptane §5.4.4.6; REQ.SEC.COMPATIBLE.
fn check_target(case: &Case<'_>, release: &Release) -> Result<(), Refusal> {
    if !case.on_device() || case.is_stored() {
        return Ok(());
    }
    let name = &release.name;
    let Some(record) = &case.state.record else {
        return refuse(Code::WrongTarget, "this device has no record yet, so nothing selects it");
    };
    let platform = case.state.platform.as_ref();
    match selection(&release.target, &record.document, platform) {
        Selection::Selected => {}
        Selection::EngineTooOld => {
            return refuse(
                Code::EngineTooOld,
                format!("release {name}: it needs a newer engine to come from"),
            );
        }
        Selection::Not(why) => return refuse(Code::WrongTarget, format!("release {name}: {why}")),
    }
    match platform.filter(|p| release.build(&p.architecture).is_none()) {
        Some(p) => {
            refuse(Code::WrongTarget, format!("release {name}: it has no build for {}", p.architecture))
        }
        None => Ok(()),
    }
}

/// Nothing older than what proved healthy here (S26). Uptane §5.4.4.6 (rollback of an image).
fn check_version(case: &Case<'_>, release: &Release) -> Result<(), Refusal> {
    let proved = parse_version(&case.state.proved_agent);
    match proved.filter(|p| case.on_device() && parse_version(&release.version).is_some_and(|v| v < *p)) {
        Some(_) => refuse(
            Code::AgentRollback,
            format!(
                "release {} is version {}, and {} proved healthy here",
                release.name, release.version, case.state.proved_agent
            ),
        ),
        None => Ok(()),
    }
}
