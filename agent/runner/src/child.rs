//! What a forked container does: walls first, then its code, then the one answer. Never comes back.

use crate::{exit_code, handover, run};
use rustix::process::Resource;
use rustix::thread::UnshareFlags;
use shoal_confine::process::exit_now;
use shoal_confine::{Filter, Grant, Namespaces, Others, Plan, StepError, enter, no_new_code};
use shoal_ipc::Launch;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What it must not raise again. No file of its own size limit: volumes have theirs.
const LIMITS: [(Resource, u64); 5] = [
    (Resource::Core, 0),
    (Resource::Nofile, 1024),
    (Resource::Memlock, 0),
    (Resource::Nproc, 0),
    (Resource::Rtprio, 0),
];

/// What the zygote has ready for all of them.
#[derive(Debug)]
pub(crate) struct Walls<'a> {
    pub(crate) filter: &'a Filter,
    pub(crate) host: Option<&'a Namespaces>,
}

/// Confines this process and runs the guest. `fds` are standard input, output, error, the answer area and the status pipe.
pub(crate) fn run(
    launch: &Launch,
    fds: &[BorrowedFd<'_>; 5],
    network: Option<BorrowedFd<'_>>,
    walls: &Walls<'_>,
) -> Infallible {
    if let Err(e) = confine(launch, fds, network, walls) {
        report(&e, fds);
        exit_now(71);
    }
    let Ok((mut area, mut status)) = handover::container() else { exit_now(72) };
    // Whoever started it may be gone; the guest runs all the same.
    let _ = status.write_all(&[1]);
    drop(status);
    let end =
        run::run(&launch.spec, || no_new_code(walls.filter).map_err(|e| format!("seal its memory: {e}")));
    let code = exit_code(&end);
    if area.write_all(&end.encode()).is_err() {
        exit_now(73);
    }
    exit_now(code)
}

fn confine(
    launch: &Launch,
    fds: &[BorrowedFd<'_>; 5],
    network: Option<BorrowedFd<'_>>,
    walls: &Walls<'_>,
) -> Result<(), StepError> {
    let open = |path: &String| File::options().write(true).open(path);
    let groups: io::Result<Vec<File>> = launch.groups.iter().map(open).collect();
    let jailed = launch.jail.is_some();
    let grants = grants(launch);
    let mut plan = Plan {
        groups: groups.map_err(|e| StepError("open a control group", e))?,
        oom_score_adj: launch.oom_score_adj,
        // The group's own, which begins where it is joined; all others it was born into.
        namespaces: UnshareFlags::NEWCGROUP,
        first: jailed,
        network,
        jail: launch.jail.as_ref(),
        ids: launch.uid.map(|u| (u, u)),
        limits: &LIMITS,
        fds: fds.to_vec(),
        others: Others::Close,
        working_dir: Path::new("/"),
        walls: Some(shoal_confine::Walls {
            grants: &grants,
            sockets: false,
            filter: walls.filter,
            host: walls.host,
        }),
    };
    enter(&mut plan)
}

/// What the engine opens for the guest: its folders, and its code.
fn grants(launch: &Launch) -> Vec<Grant> {
    let spec = &launch.spec;
    let mut all: Vec<Grant> = spec
        .preopens
        .iter()
        .map(|p| Grant { path: p.host.clone(), write: !p.read_only, code: false })
        .collect();
    all.push(Grant { path: spec.code.clone(), write: false, code: true });
    all
}

/// Says which step failed. Before descriptors were placed the pipe has the parent's number, afterwards its own.
fn report(e: &StepError, fds: &[BorrowedFd<'_>; 5]) {
    let text = format!("cannot {}: {}", e.0, e.1);
    if rustix::io::write(fds[4], text.as_bytes()).is_err()
        && let Ok((_, mut status)) = handover::container()
    {
        // If even this cannot be said, the exit code still tells.
        let _ = status.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::{NetworkPlace, Preopen, Spec};

    #[test]
    fn c1_only_preopened_folders_and_the_code_are_granted() {
        let preopen = |guest: &str, read_only| Preopen {
            guest: guest.into(),
            host: format!("/rootfs{guest}"),
            read_only,
        };
        let spec = Spec {
            version: shoal_ipc::VERSION,
            code: "/code.so".into(),
            argv: Vec::new(),
            env: Vec::new(),
            preopens: vec![preopen("/", true), preopen("/data", false)],
            working_dir: "/".into(),
            wasm_pages: None,
        };
        let launch = Launch {
            version: shoal_ipc::VERSION,
            attempt: 1,
            spec,
            jail: None,
            uid: None,
            groups: Vec::new(),
            birth: None,
            oom_score_adj: None,
            network: NetworkPlace::Nowhere,
        };
        let all: Vec<_> = grants(&launch).into_iter().map(|g| (g.path, g.write, g.code)).collect();
        assert_eq!(
            all,
            [
                ("/rootfs/".to_owned(), false, false),
                ("/rootfs/data".to_owned(), true, false),
                ("/code.so".to_owned(), false, true)
            ]
        );
    }
}
