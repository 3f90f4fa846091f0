//! Whether a device can run a deployment, as far as it said what it is; and why not.
//!
//! A hint for people and waves: the device itself decides, by the same signed bounds.

use shoal_protocol::latest::{Deployment, System};

/// Why a device cannot run a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// A stable code: `wrong_target`, `agent_too_old`, `engine_too_old`, `memory_low` or `disk_low`.
    pub code: &'static str,
    /// Found and wanted, in words.
    pub message: String,
}

/// Checks architecture, versions, memory and disk. A device that was never heard fits until it is.
///
/// # Errors
/// The first [`Misfit`], the hardest to mend first.
pub fn fit(deployment: &Deployment, system: Option<&System>) -> Result<(), Misfit> {
    let Some(system) = system else { return Ok(()) };
    let target = &deployment.target;
    if !target.architectures.is_empty() && !target.architectures.contains(&system.architecture) {
        let message = format!("{} is none of {}", system.architecture, target.architectures.join(", "));
        return Err(Misfit { code: "wrong_target", message });
    }
    at_least("agent", "agent_too_old", &system.agent, target.min_agent.as_deref())?;
    at_least("engine", "engine_too_old", &system.engine, target.min_engine.as_deref())?;
    let template = &deployment.template;
    let planned: u64 = template
        .resources
        .memory_request
        .unwrap_or_else(|| template.containers.iter().filter_map(|c| c.resources.memory_request).sum());
    // Zero is what a device says that could not find out.
    if system.memory > 0 && planned > system.memory {
        let message = format!("asks for {planned} bytes of memory, the device has {}", system.memory);
        return Err(Misfit { code: "memory_low", message });
    }
    let images: u64 = template
        .containers
        .iter()
        .map(|c| c.image.module.size + c.image.files.iter().map(|f| f.size).sum::<u64>())
        .fold(0, u64::saturating_add);
    if system.disk_free > 0 && images > system.disk_free {
        let message = format!("its files have {images} bytes, the device has {} free", system.disk_free);
        return Err(Misfit { code: "disk_low", message });
    }
    Ok(())
}

fn at_least(what: &str, code: &'static str, found: &str, wanted: Option<&str>) -> Result<(), Misfit> {
    match wanted {
        Some(wanted) if version(found) < version(wanted) => {
            Err(Misfit { code, message: format!("{what} {found} is older than {wanted}") })
        }
        _ => Ok(()),
    }
}

/// `major.minor.patch`; what follows the digits of a part is left aside, a missing part is 0.
fn version(text: &str) -> [u64; 3] {
    let mut out = [0; 3];
    for (slot, part) in out.iter_mut().zip(text.split('.')) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        *slot = digits.parse().unwrap_or(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::deployment;

    fn system() -> System {
        System {
            agent: "0.2.0".into(),
            engine: "0.17.1".into(),
            architecture: "aarch64".into(),
            memory: 1 << 30,
            disk_free: 1 << 30,
            ..System::default()
        }
    }

    #[test]
    fn each_bound_has_its_reason() {
        let code = |change: fn(&mut Deployment)| {
            let mut d = deployment();
            change(&mut d);
            fit(&d, Some(&system())).map_err(|m| m.code)
        };
        assert_eq!(code(|_| ()), Ok(()));
        assert_eq!(code(|d| d.target.architectures = vec!["x86_64".into()]), Err("wrong_target"));
        assert_eq!(code(|d| d.target.architectures = vec!["x86_64".into(), "aarch64".into()]), Ok(()));
        assert_eq!(code(|d| d.target.min_agent = Some("0.10.0".into())), Err("agent_too_old"));
        assert_eq!(code(|d| d.target.min_agent = Some("0.2".into())), Ok(()));
        assert_eq!(code(|d| d.target.min_engine = Some("0.17.2".into())), Err("engine_too_old"));
        assert_eq!(code(|d| d.template.resources.memory_request = Some(2 << 30)), Err("memory_low"));
        assert_eq!(code(|d| d.template.containers[0].image.module.size = 2 << 30), Err("disk_low"));
    }

    #[test]
    fn an_unheard_device_fits_until_it_is_heard() {
        let mut d = deployment();
        d.target.architectures = vec!["x86_64".into()];
        assert_eq!(fit(&d, None), Ok(()));
    }
}
