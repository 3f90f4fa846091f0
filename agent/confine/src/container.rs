//! The plan of a container, from what supervise had launched. Whoever makes one gets all of its walls.

use super::{Filter, Grant, Namespaces, Others, Plan, ROOTFS, Sockets, StepError, Walls};
use rustix::process::Resource;
use rustix::thread::UnshareFlags;
use shoal_ipc::{ContentFolder, Launch, NetworkPlace};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What it must not raise again. No limit for the size of files: volumes have theirs.
const LIMITS: [(Resource, u64); 5] = [
    (Resource::Core, 0),
    (Resource::Nofile, 1024),
    (Resource::Memlock, 0),
    (Resource::Nproc, 0),
    (Resource::Rtprio, 0),
];

/// Its plan; `fds` become its descriptors from 0 on. It must be born into every namespace but its groups'.
pub fn container<'a>(
    launch: &'a Launch,
    content: &'a [ContentFolder],
    fds: &[BorrowedFd<'a>],
    network: Option<BorrowedFd<'a>>,
    filter: &'a Filter,
    host: Option<&'a Namespaces>,
) -> Result<Plan<'a>, StepError> {
    let open = |path: &String| File::options().write(true).open(path);
    let groups: io::Result<Vec<File>> = launch.groups.iter().map(open).collect();
    Ok(Plan {
        groups: groups.map_err(|e| StepError("open a control group", e))?,
        oom_score_adj: launch.oom_score_adj,
        // The groups' own, which begins where they are joined.
        namespaces: UnshareFlags::NEWCGROUP,
        first: launch.jail.is_some(),
        network,
        jail: launch.jail.as_ref(),
        content,
        ids: launch.uid.map(|u| (u, u)),
        limits: LIMITS.into_iter().chain(launch.cpu_seconds.map(|s| (Resource::Cpu, s))).collect(),
        fds: fds.to_vec(),
        others: Others::Close,
        working_dir: Path::new("/"),
        walls: Some(Walls { grants: grants(launch), sockets: sockets(launch), filter, host }),
    })
}

fn sockets(launch: &Launch) -> Sockets<'_> {
    match launch.network {
        NetworkPlace::Nowhere => Sockets::None,
        NetworkPlace::Given => Sockets::Pod(&launch.bind),
        NetworkPlace::Host => Sockets::Host,
    }
}

/// What the engine opens for the guest: its folders, and its code.
fn grants(launch: &Launch) -> Vec<Grant> {
    let spec = &launch.spec;
    let mut all: Vec<Grant> = spec
        .preopens
        .iter()
        .map(|p| Grant { path: p.host.clone(), write: !p.read_only, code: false })
        .collect();
    // A device is in the guest's `/` but may be written to where that may not.
    let volumes = launch.jail.iter().filter_map(|j| j.rootfs.as_ref()).flat_map(|r| &r.volumes);
    all.extend(volumes.filter(|v| v.device).map(|v| Grant {
        path: format!("{ROOTFS}{}", v.target),
        write: !v.read_only,
        code: false,
    }));
    all.push(Grant { path: spec.code.clone(), write: false, code: true });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::{Preopen, Spec};

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
            interpreter: false,
            entry: shoal_ipc::Entry::Start,
            start_function: false,
        };
        let launch = Launch {
            version: shoal_ipc::VERSION,
            spec,
            jail: None,
            uid: None,
            groups: Vec::new(),
            birth: None,
            oom_score_adj: None,
            network: NetworkPlace::Nowhere,
            cpu_seconds: None,
            bind: Vec::new(),
            content: false,
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
