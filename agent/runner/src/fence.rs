//! What holds a job that compiles, or proves the engine, beside group, root, user and namespaces, which it was given before
//! this program was executed: its working folder and nothing else by Landlock, and no call that such a job has no use for.

use shoal_confine::Grant;

/// Raised before a byte of the module is read.
pub(crate) fn raise() -> Result<(), String> {
    let here = std::env::current_dir().map_err(|e| format!("cannot tell the working folder: {e}"))?;
    let path = here.to_string_lossy().into_owned();
    shoal_confine::fence(&[Grant { path, write: true, code: false }])
        .map_err(|e| format!("cannot {}: {}", e.0, e.1))
}
