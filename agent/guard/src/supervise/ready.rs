//! What a container may start with: code that is as it was made, proven and tried, for a container that is granted what it
//! needs. The one place that decides it: when a module is staged, when it is asked for, and at each start.

use super::cache::{Code, CodeInfo, Named};
use super::entries::startable;
use super::jobs::{Proof, Wanted};
use super::{Refused, Supervise, refuse};
use shoal_ipc::{CompiledInfo, Digest, Needs, Ticket, TicketContainer};
use std::path::PathBuf;

/// Part of a disk that stays free: what nothing names is dropped before.
const FREE: u64 = 64 << 20;

/// Code that a container may start with.
#[derive(Debug)]
pub(super) struct Runnable {
    pub(super) path: PathBuf,
    /// Whether putting it together runs code of the guest's.
    pub(super) start_function: bool,
}

/// What of a module's needs this container is not granted.
fn unmet(needs: &Needs, container: &TicketContainer, sockets: bool) -> Option<Refused> {
    if let Some(name) = needs.socket_import.as_ref().filter(|_| !sockets) {
        let detail = format!("the module imports wasi_snapshot_preview1.{name} and the pod has no network");
        return Some(refuse("import_denied", detail));
    }
    let limit = container.limits.wasm_pages?;
    (needs.min_pages > limit).then(|| {
        let detail =
            format!("the module begins with {} pages of memory, the limit is {limit}", needs.min_pages);
        refuse("guest_memory", detail)
    })
}

impl Supervise {
    /// The code for this container, whether or not it passed the container's self-test.
    pub(super) fn code_of(
        &mut self,
        container: &TicketContainer,
        sockets: bool,
    ) -> Result<(PathBuf, CodeInfo), Refused> {
        self.ensure_engine();
        if self.engine.line.is_empty() {
            return Err(refuse("compiler_absent", "no engine is installed beside the guard"));
        }
        let wanted = Wanted::of(container);
        self.may_run(wanted.mode)?;
        let key = self.engine.key(&wanted.module, wanted.mode);
        let path = match self.cache.code(&key) {
            Code::Good(path) => path,
            Code::Absent => {
                return Err(refuse("cache_changed", "the module is not compiled for this engine and CPU"));
            }
            Code::Changed => {
                let module = wanted.module;
                crate::say::line(format!("cache_changed: the code of {module} was changed and is deleted"));
                return Err(refuse(
                    "cache_changed",
                    "compiled code in the cache was changed; it was deleted",
                ));
            }
        };
        let info = self.cache.info(&key).ok_or_else(|| refuse("cache_changed", "its code went away"))?;
        match unmet(&info.needs, container, sockets) {
            Some(refused) => Err(refused),
            None => Ok((path, info)),
        }
    }

    /// What a start needs: the code, and all files.
    pub(super) fn code_for(
        &mut self,
        container: &TicketContainer,
        sockets: bool,
    ) -> Result<Runnable, Refused> {
        if let Some(missing) = container.files.iter().find(|f| !self.cache.has(&f.digest, false)) {
            return Err(refuse("cache_changed", format!("the file {} is not staged", missing.path)));
        }
        let (path, info) = self.code_of(container, sockets)?;
        if info.passed(container.self_test.as_ref()) {
            return Ok(Runnable { path, start_function: info.needs.start_function });
        }
        Err(refuse("cache_changed", "the module has not passed its self-test yet"))
    }

    /// What is known of a module that is ready for every container of the ticket that starts it. Reads no code.
    pub(super) fn ready(&self, ticket: &Ticket, module: &Digest) -> Option<CompiledInfo> {
        let mut found = None;
        for container in startable(ticket).iter().filter(|c| c.module.digest == *module) {
            let wanted = Wanted::of(container);
            self.may_run(wanted.mode).ok()?;
            let code = self.cache.info(&self.engine.key(module, wanted.mode))?;
            let granted = unmet(&code.needs, container, ticket.sockets()).is_none();
            if !code.passed(wanted.self_test.as_ref()) || !granted {
                return None;
            }
            found = Some(code.info);
        }
        found
    }

    /// Asks for the engine while there is none and after an upgrade, and finds what is known of it.
    pub(super) fn ensure_engine(&mut self) {
        let identity = self.runner.identity();
        if (self.engine.line.is_empty() || identity != self.engine_identity) && self.runner.is_there() {
            self.engine = self.runner.ask_engine();
            self.engine_identity = identity;
            self.proof = Proof::load(&self.layout.proof(), &self.engine);
        }
    }

    /// Knows anew whether there is a compiler.
    pub(super) fn ensure_compiler(&mut self) {
        self.ensure_engine();
        self.engine.compiler = !self.engine.line.is_empty() && self.runner.find_compiler();
    }

    /// Drops what nothing needs, as far as quota and disk ask for it; once all tickets are known.
    pub(super) fn sweep(&mut self) {
        if !self.complete {
            return;
        }
        let mut named = Named::default();
        let runs = |id: &Digest| self.containers.iter().any(|(k, c)| k.0 == *id && c.live.is_some());
        for (_, held) in self.tickets.iter().filter(|(id, h)| !h.withdrawn || runs(id)) {
            for container in &startable(&held.ticket) {
                let wanted = Wanted::of(container);
                named.modules.insert(wanted.module.hex());
                named.keys.insert(self.engine.key(&wanted.module, wanted.mode).hex());
                named.files.extend(container.files.iter().map(|f| f.digest.hex()));
            }
        }
        self.cache.sweep(&named, self.policy.cache_size(), FREE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::{Limits, Restart, TicketFile};

    fn container(pages: Option<u32>) -> TicketContainer {
        TicketContainer {
            name: "c".into(),
            argv: vec![],
            env: vec![],
            working_dir: "/".into(),
            module: TicketFile { path: "/m".into(), size: 1, mode: 0, digest: Digest([0; 32]) },
            files: vec![],
            limits: Limits { wasm_pages: pages, ..Limits::default() },
            mounts: vec![],
            readonly_rootfs: false,
            restart: Restart::Never,
            interpreter: false,
            self_test: None,
            probes: vec![],
            post_start: None,
            pre_stop: None,
            stdin: false,
            init: false,
            devices: Vec::new(),
            private_env: Vec::new(),
        }
    }

    #[test]
    fn c3_an_import_without_its_grant_is_named_and_with_it_is_no_matter() {
        let needs = Needs { min_pages: 1, socket_import: Some("sock_open".into()), start_function: false };
        let refused = unmet(&needs, &container(None), false).unwrap();
        assert_eq!(refused.code, "import_denied");
        assert!(refused.detail.contains("wasi_snapshot_preview1.sock_open"), "{}", refused.detail);
        assert!(unmet(&needs, &container(None), true).is_none());
    }

    #[test]
    fn memory_that_begins_above_the_limit_is_refused() {
        let needs = Needs { min_pages: 17, socket_import: None, start_function: false };
        assert_eq!(unmet(&needs, &container(Some(16)), false).unwrap().code, "guest_memory");
        assert!(unmet(&needs, &container(Some(17)), false).is_none());
        assert!(unmet(&needs, &container(None), false).is_none());
    }
}
