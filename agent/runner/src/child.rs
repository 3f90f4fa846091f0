//! What a forked container does: walls first, then its code, then the one answer. Never comes back.

use crate::{exit_code, handover, run};
use shoal_confine::process::exit_now;
use shoal_confine::{Filter, Namespaces, StepError, container, enter, no_new_code};
use shoal_ipc::Launch;
use std::convert::Infallible;
use std::io::Write as _;
use std::os::fd::BorrowedFd;

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
    let plan = container(launch, fds, network, walls.filter, walls.host);
    if let Err(e) = plan.and_then(|mut plan| enter(&mut plan)) {
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
