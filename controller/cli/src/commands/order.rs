//! `shoal restart`, `activate`, `return`: asks the controller to order something about what is signed already.

use super::{Session, get};
use crate::args::Order;
use crate::error::{CliError, Result};
use crate::output;
use shoal_controller_core::api::{OrderAccepted, PostOrder};

/// What devices are asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Restart,
    Activate,
    Return,
}

pub(super) fn run(s: &Session, args: &Order, verb: Verb) -> Result<()> {
    let deployment = args.deployment.clone();
    let (word, order) = match verb {
        Verb::Restart => ("restart", PostOrder::Restart { deployment }),
        Verb::Activate => ("activate", PostOrder::Activate { deployment }),
        Verb::Return => ("return", PostOrder::Return { deployment }),
    };
    let devices = match &args.device {
        Some(d) => vec![s.device(d)?.id],
        None => get::fetch_pods(s, None, Some(args.deployment.as_str()))?
            .pods
            .into_iter()
            .map(|p| p.device)
            .collect(),
    };
    if devices.is_empty() {
        return Err(CliError::usage(format!("no device has a pod of {}", args.deployment))
            .hint(format!("`shoal describe deployment {}` says why", args.deployment)));
    }
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for id in devices {
        let path = format!("/v1/devices/{id}/orders");
        match s.client.post::<_, OrderAccepted>(&path, &order, &format!("ordering {word} on {id}")) {
            Ok(accepted) => done.push(accepted),
            Err(e) => failed.push((id, e)),
        }
    }
    if args.output.format.is_data() {
        output::data(args.output.format, &serde_json::json!({ "orders": done }))?;
    } else {
        for o in &done {
            output::line(&format!(
                "{word} {} ordered on {} (order {})",
                args.deployment,
                super::short_id(&o.device),
                o.counter
            ));
        }
    }
    let details: Vec<String> = failed.iter().map(|(id, e)| format!("{id}: {e}")).collect();
    match failed.into_iter().next() {
        None => Ok(()),
        Some((_, first)) if details.len() == 1 => Err(first),
        Some((_, first)) => Err(CliError::failure(format!("{} devices were not told", details.len()))
            .details(details)
            .because(first)),
    }
}
