//! A module's first run on this device: put together once, and its self-test. Its own start function runs here already, so
//! what holds a container holds it too: the walls are raised between the engine, which is loaded, and the module, which is not.
//!
//! Group, root, user, capabilities and namespaces come from supervise, before this program was executed.

use crate::engine;
use crate::run::{self, Gate, NotRun, seal};
use shoal_confine::{Filter, Grant, Sockets, Walls, raise};
use shoal_ipc::{EndRecord, Spec};

/// Raises the walls and runs what `spec` asks for.
pub(crate) fn run(spec: &Spec) -> EndRecord {
    match behind_walls(spec) {
        Ok(filter) => run::run(spec, &mut Trial(filter)),
        Err(message) => EndRecord::Refused { code: "kernel_unsupported".to_owned(), message },
    }
}

/// Sealed, and waiting for nobody.
struct Trial(Filter);

impl Gate for Trial {
    fn seal(&mut self) -> Result<(), NotRun> {
        seal(&self.0)
    }
    fn wait(&mut self) -> Result<(), NotRun> {
        Ok(())
    }
}

fn behind_walls(spec: &Spec) -> Result<Filter, String> {
    // What the engine opens and asks for once is behind it then, as in a zygote.
    engine::warm().map_err(|e| format!("the engine cannot be made ready: {e}"))?;
    let filter = Filter::new().map_err(|e| format!("cannot make the filter of system calls: {e}"))?;
    // A trial is granted its code and nothing else.
    let grants = vec![Grant { path: spec.code.clone(), write: false, code: true }];
    let walls = Walls { grants, sockets: Sockets::None, filter: &filter, host: None };
    raise(&walls).map_err(|e| format!("cannot {}: {}", e.0, e.1))?;
    Ok(filter)
}
