//! `shoal logs`: lines of one deployment from one device or several, as the deployment's own consent allows.

use super::{Session, get, short_id};
use crate::api::query;
use crate::args::Logs;
use crate::error::{CliError, Result};
use crate::output;
use shoal_controller_core::api::LogEvent;
use shoal_protocol::Code;
use shoal_protocol::ids::DeviceId;
use std::io::{BufRead as _, BufReader, Read};

/// The longest that one request follows; it is then asked anew.
const FOLLOW: u64 = 3_600;
/// The longest line that is read.
const MAX_LINE: u64 = 1 << 20;

pub(super) fn run(s: &Session, args: &Logs) -> Result<()> {
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
    let shown: Vec<DeviceId> = devices.iter().take(args.limit_devices).cloned().collect();
    if shown.len() < devices.len() && args.limit_devices > 1 {
        output::note(&format!(
            "{} of {} devices; see --device and --limit-devices",
            shown.len(),
            devices.len()
        ));
    }
    let many = shown.len() > 1;
    if many && args.follow {
        return follow_many(s, args, &shown);
    }
    let mut first_error = None;
    for id in &shown {
        let prefix = if many { format!("[{}] ", short_id(id)) } else { String::new() };
        if let Err(e) = one(s, args, id, &prefix) {
            if !many {
                return Err(e);
            }
            output::warn(&format!("{}: {e}", short_id(id)));
            first_error.get_or_insert(e);
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// One thread a device; lines interleave whole.
fn follow_many(s: &Session, args: &Logs, devices: &[DeviceId]) -> Result<()> {
    std::thread::scope(|scope| {
        let all: Vec<_> = devices
            .iter()
            .map(|id| scope.spawn(move || one(s, args, id, &format!("[{}] ", short_id(id)))))
            .collect();
        all.into_iter()
            .try_for_each(|t| t.join().unwrap_or_else(|_| Err(CliError::failure("a log stream broke off"))))
    })
}

fn one(s: &Session, args: &Logs, device: &DeviceId, prefix: &str) -> Result<()> {
    let mut tail = args.tail;
    loop {
        let mut path = format!("/v1/logs/{device}/{}?tail={tail}", args.deployment);
        if let Some(c) = &args.container {
            path = format!("{path}&container={}", query(c.as_str()));
        }
        if args.follow {
            path = format!("{path}&follow={FOLLOW}");
        }
        let what = format!("the log of {} on {}", args.deployment, short_id(device));
        stream(args, prefix, &what, s.client.stream(&path, &what)?)?;
        if !args.follow {
            return Ok(());
        }
        // An hour is over: go on with new lines only.
        tail = 0;
    }
}

fn stream(args: &Logs, prefix: &str, what: &str, body: Box<dyn Read>) -> Result<()> {
    let mut reader = BufReader::new(body);
    // A container's long line comes in parts, and another container's may come between.
    let mut open: std::collections::BTreeMap<(String, String), String> = std::collections::BTreeMap::new();
    loop {
        let mut text = String::new();
        let n = reader.by_ref().take(MAX_LINE).read_line(&mut text).map_err(|e| {
            CliError::unreachable(format!("{what} broke off")).because(e).hint("ask again with --tail 0 -f")
        })?;
        if n == 0 {
            return Ok(());
        }
        if text.trim().is_empty() {
            continue;
        }
        let event: LogEvent = serde_json::from_str(&text)
            .map_err(|e| CliError::failure(format!("{what}: a line cannot be understood")).because(e))?;
        match event {
            LogEvent::Opened { .. } => {}
            LogEvent::End { reason: None } => return Ok(()),
            LogEvent::End { reason: Some(reason) } => return Err(ended(what, &reason)),
            LogEvent::Line { .. } if args.output.format.is_data() => output::data_line(&event)?,
            LogEvent::Line { container, time, stream, full, text } => {
                let key = (container.to_string(), stream);
                let whole = open.entry(key.clone()).or_default();
                whole.push_str(&text);
                if full || whole.len() > 64 << 10 {
                    let time = if args.timestamps { format!("{time} ") } else { String::new() };
                    output::line(&format!("{prefix}{time}{}", output::clean(whole)));
                    open.remove(&key);
                }
            }
        }
    }
}

fn ended(what: &str, reason: &str) -> CliError {
    match reason {
        "device_offline" => CliError::unreachable(format!("{what}: the device does not answer"))
            .code(reason)
            .hint("see `shoal get devices`; the log stays on the device until it is back"),
        "lagged" => CliError::failure(format!("{what}: lines came faster than they could be sent"))
            .code(reason)
            .hint("ask for fewer with --tail"),
        "timeout" => CliError::unreachable(format!("{what}: the device said nothing in time"))
            .code(reason)
            .hint("ask again; `shoal get devices` shows when it was last heard"),
        "controller_stopping" => CliError::unreachable(format!("{what}: the controller is stopping"))
            .code(reason)
            .hint("ask again when it is back"),
        "not_found" => CliError::failure(format!("{what}: the device keeps no log of it")).code(reason),
        code => match code.parse::<Code>() {
            Ok(known) => CliError::refused(code, format!("{what}: the device refused")).hint(known.hint()),
            Err(_) => CliError::failure(format!("{what}: {code}")),
        },
    }
}
