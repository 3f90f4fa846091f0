//! From uid 0 to the agent's own uid, before any network. The agent's folder, made by the guard, says which uid that is.

use crate::failure::{Explained, Kind};
use anyhow::{Context, Result};
use rustix::process::{Gid, Uid, geteuid, getuid};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use shoal_ipc::Layout;
use std::os::unix::fs::MetadataExt;

/// Whether this process is uid 0.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Becomes the owner of the agent's folder. The process must have one thread: the kernel changes no other.
pub(crate) fn become_agent(layout: &Layout) -> Result<()> {
    let dir = layout.agent_dir();
    let meta = match std::fs::metadata(&dir) {
        Ok(m) => m,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Explained::new(
                Kind::Unavailable,
                format!("there is no device below {}", layout.root().display()),
            )
            .hint(format!("start its guard first: shoal-guard supervise --root {}", layout.root().display()))
            .into());
        }
        Err(e) => return Err(e).with_context(|| format!("cannot look at {}", dir.display())),
    };
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    if geteuid() == uid && getuid() == uid {
        return Ok(());
    }
    if !is_root() {
        let (own, wanted) = (geteuid().as_raw(), uid.as_raw());
        return Err(Explained::new(
            Kind::Usage,
            format!("{} belongs to uid {wanted}, this is uid {own}", dir.display()),
        )
        .hint("run it as uid 0 (it drops to the agent's uid by itself) or as that uid")
        .into());
    }
    let what = || format!("cannot become uid {}", uid.as_raw());
    set_thread_groups(&[]).with_context(what)?;
    set_thread_res_gid(gid, gid, gid).with_context(what)?;
    set_thread_res_uid(uid, uid, uid).with_context(what)?;
    set_no_new_privs(true).context("cannot give up new privileges")
}
