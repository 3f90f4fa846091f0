//! A place to mount on, reached without following a link.
//!
//! Mount points may lie in what others may write to: a container's folder in a volume of its pod, a volume in another one. A link
//! there would lead the mount, and the folders that are made for it, into the host's own tree, in which the jail is still built.

use super::root::plain;
use super::{StepError, at};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

const STEP: &str = "make a mount point, on whose way no link may be";

/// A folder or file below a root, made if it was not there.
#[derive(Debug)]
pub(crate) struct Place {
    parent: OwnedFd,
    last: OsString,
    itself: OwnedFd,
    is_folder: bool,
}

impl Place {
    pub(crate) fn folder(top: &Path, inner: &str) -> Result<Self, StepError> {
        Self::make(top, inner, true)
    }

    pub(crate) fn file(top: &Path, inner: &str) -> Result<Self, StepError> {
        Self::make(top, inner, false)
    }

    fn make(top: &Path, inner: &str, is_folder: bool) -> Result<Self, StepError> {
        let names: Vec<&OsStr> = plain(inner)?.iter().collect();
        let Some((last, way)) = names.split_last() else {
            return Err(StepError(STEP, std::io::Error::other("it has no name")));
        };
        // The root itself is this side's own, wherever it is.
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut parent = openat(CWD, top, how, Mode::empty()).map_err(at(STEP))?;
        for name in way {
            parent = open_or_make(&parent, name, true).map_err(at(STEP))?;
        }
        let itself = open_or_make(&parent, last, is_folder).map_err(at(STEP))?;
        Ok(Self { parent, last: (*last).to_owned(), itself, is_folder })
    }

    /// What is there by now: a mount, once there is one.
    pub(crate) fn again(&self) -> Result<Self, StepError> {
        let itself = open(&self.parent, &self.last, self.is_folder).map_err(at(STEP))?;
        let parent = self.parent.try_clone().map_err(at(STEP))?;
        Ok(Self { parent, last: self.last.clone(), itself, is_folder: self.is_folder })
    }

    /// By what name the kernel takes exactly this one; for as long as this value lives.
    pub(crate) fn name(&self) -> String {
        format!("/proc/self/fd/{}", self.itself.as_raw_fd())
    }
}

fn open(parent: impl AsFd, name: &OsStr, is_folder: bool) -> Result<OwnedFd, Errno> {
    let kind = if is_folder { OFlags::DIRECTORY } else { OFlags::empty() };
    openat2(parent, name, OFlags::PATH | OFlags::CLOEXEC | kind, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn open_or_make(parent: &OwnedFd, name: &OsStr, is_folder: bool) -> Result<OwnedFd, Errno> {
    match open(parent, name, is_folder) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    if is_folder {
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let how = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(parent, name, how, Mode::from_raw_mode(0o444))?;
    }
    open(parent, name, is_folder)
}
