//! A job of the guard's own in its walls: confined by the same steps as containers, then another program.

pub(crate) use shoal_confine::{Plan, StepError, drop_privileges};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Confines this process and executes the command. Runs in a child of supervise's, which has one thread.
pub(crate) fn execute(plan: &mut Plan<'_>, argv: &[OsString], env: &[(OsString, OsString)]) -> StepError {
    if let Err(e) = shoal_confine::enter(plan) {
        return e;
    }
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env_clear().envs(env.iter().map(|(k, v)| (k, v)));
    StepError("execute the runner", command.exec())
}
