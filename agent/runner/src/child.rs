//! What a forked container does: walls first, then its code, then the one answer. Never comes back.

use crate::run::{self, Gate, NotRun, seal};
use crate::{exit_code, handover};
use shoal_confine::process::exit_now;
use shoal_confine::{Filter, Namespaces, StepError, container, enter};
use shoal_ipc::{Content, Launch, read_sealed};
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::BorrowedFd;

/// What the zygote has ready for all of them.
#[derive(Debug)]
pub(crate) struct Walls<'a> {
    pub(crate) filter: &'a Filter,
    pub(crate) host: Option<&'a Namespaces>,
}

/// Where supervise lets a container through, or never does.
struct Supervised<'a> {
    gate: Option<File>,
    filter: &'a Filter,
}

impl Gate for Supervised<'_> {
    fn seal(&mut self) -> Result<(), NotRun> {
        seal(self.filter)
    }

    fn wait(&mut self) -> Result<(), NotRun> {
        // The guest finds it closed.
        let word = self.gate.take().map(|mut gate| gate.read_exact(&mut [0]));
        match word {
            Some(Ok(())) => Ok(()),
            // Supervise is gone, or does not want it any more.
            _ => Err(NotRun("not_admitted", "it was made ready and never let go".to_owned())),
        }
    }
}

/// Confines this process, makes the guest ready and runs it once it is let go. `fds` are standard input, output, error, the
/// answer area and the gate.
pub(crate) fn run(
    launch: &Launch,
    content: BorrowedFd<'_>,
    fds: &[BorrowedFd<'_>; 5],
    network: Option<BorrowedFd<'_>>,
    walls: &Walls<'_>,
) -> Infallible {
    let content = match take(launch, content) {
        Ok(content) => content,
        Err(e) => {
            report(&e, fds);
            exit_now(71);
        }
    };
    let plan = container(launch, &content.folders, fds, network, walls.filter, walls.host);
    if let Err(e) = plan.and_then(|mut plan| enter(&mut plan)) {
        report(&e, fds);
        exit_now(71);
    }
    let mut spec = launch.spec.clone();
    spec.env.extend(content.env);
    let Ok((mut area, mut gate)) = handover::container() else { exit_now(72) };
    // Whoever started it may be gone; then it finds out below.
    let _ = gate.write_all(&[1]);
    let end = run::run(&spec, &mut Supervised { gate: Some(gate), filter: walls.filter });
    let code = exit_code(&end);
    if area.write_all(&end.encode()).is_err() {
        exit_now(73);
    }
    exit_now(code)
}

/// What this container alone gets to see.
fn take(launch: &Launch, content: BorrowedFd<'_>) -> Result<Content, StepError> {
    if !launch.content {
        return Ok(Content::default());
    }
    let read = read_sealed(content, Content::MAX).and_then(|bytes| Content::decode(&bytes));
    read.map_err(|e| StepError("read what it is given", std::io::Error::other(e)))
}

/// Says which step failed. Before descriptors were placed the gate has the parent's number, afterwards its own.
fn report(e: &StepError, fds: &[BorrowedFd<'_>; 5]) {
    let text = format!("cannot {}: {}", e.0, e.1);
    if rustix::io::write(fds[4], text.as_bytes()).is_err()
        && let Ok((_, mut status)) = handover::container()
    {
        // If even this cannot be said, the exit code still tells.
        let _ = status.write_all(text.as_bytes());
    }
}
