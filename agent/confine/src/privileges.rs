//! Identity and capabilities: given up for good.

use super::{StepError, at};
use rustix::fs::{Gid, Uid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use std::io;

/// Gives up everything that uid 0 may. Also what services of the guard do before they execute.
pub fn drop_privileges(uid: u32, gid: u32) -> Result<(), StepError> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    keep_in_bounding_set(CapabilitySet::empty());
    // The ambient set is empty in a supervise that root started; clearing it is for one that inherited some.
    let _ = clear_ambient_capability_set();
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED,
    )
    .map_err(at("lock capabilities"))?;
    set_thread_groups(&[]).map_err(at("drop groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(at("change the group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(at("change the user"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(at("drop capabilities"))
}

/// What an execution as uid 0 can still give: these and no others.
pub fn keep_in_bounding_set(keep: CapabilitySet) {
    for capability in every().filter(|c| !keep.contains(*c)) {
        // The kernel refuses numbers that it does not know; those are not in the set either.
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
}

/// All capabilities that have a number, known to the kernel or not.
pub(crate) fn every() -> impl Iterator<Item = CapabilitySet> {
    (0..64).map_while(|bit| CapabilitySet::from_bits(1 << bit))
}

/// No debugger, no core, and `/proc/PID` belongs to root. Also what the guard does with its own memory.
pub fn hide_memory() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
