//! The two descriptors that supervise hands over: what to do comes in on 3, the one answer goes out on 4.

use shoal_image::limits;
use shoal_ipc::Spec;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// The zygote's end of the pair with supervise.
const PAIR: RawFd = 3;
/// Its listening socket.
const SOCKET: RawFd = 4;
/// A forked container's answer area.
pub(crate) const AREA: RawFd = 3;
/// Its gate: there it tells that it is confined, and waits.
pub(crate) const GATE: RawFd = 4;
const TASK: RawFd = 3;
const ANSWER: RawFd = 4;

/// The container to run.
pub(crate) fn spec() -> io::Result<Spec> {
    let fd = take(TASK)?;
    let bytes = shoal_ipc::read_sealed(&fd, Spec::MAX).map_err(io::Error::other)?;
    let spec = Spec::decode(&bytes).map_err(io::Error::other)?;
    if spec.version != shoal_ipc::VERSION {
        return Err(io::Error::other(format!(
            "version {} of the layout, not {}",
            spec.version,
            shoal_ipc::VERSION
        )));
    }
    Ok(spec)
}

/// The module to compile, whole; one byte above the limit stands for all that is longer.
pub(crate) fn module() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(take(TASK)?).take(limits::MODULE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Gives the answer.
pub(crate) fn answer(bytes: &[u8]) -> io::Result<()> {
    File::from(take(ANSWER)?).write_all(bytes)
}

/// The zygote's connection with the supervise that started it, and the socket on which another finds it.
pub(crate) fn zygote() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok((take(PAIR)?, take(SOCKET)?))
}

/// A forked container's answer area and gate, once its descriptors are placed.
pub(crate) fn container() -> io::Result<(File, File)> {
    Ok((take(AREA)?.into(), take(GATE)?.into()))
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only the system call below sees the number, and it answers EBADF for one that is not open; nothing opens
    // or closes descriptors meanwhile, as this process has one thread.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(borrowed).map_err(|_| {
        io::Error::other(format!("descriptor {number} is missing: start this through supervise"))
    })?;
    // SAFETY: the descriptor is open, as just seen, and nobody else owns it: supervise put it there at exec, the engine
    // is not told of it, and each number is taken once: by `main`, or by a forked container after it placed its own there.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
