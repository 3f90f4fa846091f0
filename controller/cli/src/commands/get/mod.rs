//! `shoal get`: lists, once or as they change.

mod documents;

use super::{Session, short_id, show};
use crate::api::query;
use crate::args::{Get, Resource};
use crate::error::{CliError, Result};
use crate::manifest::quantity::show_bytes;
use crate::output::{self, Cell, Format, Tone, clean, toned};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_protocol::ids::Name;
use std::time::Duration;

/// How often the controller is asked while watching.
const WATCH: Duration = Duration::from_secs(2);

/// A table, and the same as data.
struct Listing {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    data: serde_json::Value,
    empty: &'static str,
}

impl Listing {
    /// The cells that change only when something happens: no ages, no measurements.
    fn lasting<'r>(&self, row: &'r [Cell]) -> Vec<&'r Cell> {
        let passing = ["AGE", "LAST SEEN", "LAST", "ENDS", "DEADLINE", "MEMORY", "PEAK", "CPU", "DISK FREE"];
        row.iter().zip(&self.headers).filter(|(_, h)| !passing.contains(h)).map(|(cell, _)| cell).collect()
    }
}

pub(super) fn run(s: &Session, args: &Get) -> Result<()> {
    let device = args.device.as_deref().map(|d| s.device(d)).transpose()?.map(|d| d.id.to_string());
    let first = list(s, args, device.as_deref())?;
    print(&first, args.output.format, args.watch)?;
    if !args.watch {
        return Ok(());
    }
    let mut last = first;
    loop {
        std::thread::sleep(WATCH);
        let next = list(s, args, device.as_deref())?;
        let before: Vec<Vec<&Cell>> = last.rows.iter().map(|r| last.lasting(r)).collect();
        let changed: Vec<Vec<Cell>> =
            next.rows.iter().filter(|r| !before.contains(&next.lasting(r))).cloned().collect();
        if next.data != last.data && args.output.format.is_data() {
            output::data_line(&next.data)?;
        } else if !changed.is_empty() {
            output::table(&next.headers, &changed);
        }
        last = next;
    }
}

fn print(l: &Listing, format: Format, watch: bool) -> Result<()> {
    if format.is_data() {
        return if watch { output::data_line(&l.data) } else { output::data(format, &l.data) };
    }
    if l.rows.is_empty() {
        output::note(l.empty);
    } else {
        output::table(&l.headers, &l.rows);
    }
    Ok(())
}

fn data<T: Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| CliError::failure("cannot write JSON").because(e))
}

fn list(s: &Session, args: &Get, device: Option<&str>) -> Result<Listing> {
    let wide = args.output.format == Format::Wide;
    match args.resource {
        Resource::Devices => devices(s, args.selector.as_deref(), device, wide),
        Resource::Deployments => deployments(s, args, wide),
        Resource::Pods => pods(s, args, device, wide),
        Resource::Configs => documents::configs(s),
        Resource::Secrets => documents::secrets(s),
        Resource::Releases => documents::releases(s),
        Resource::Refusals => refusals(s, device),
        Resource::Tokens => tokens(s),
        Resource::Enrollments => enrollments(s),
    }
}

fn devices(s: &Session, selector: Option<&str>, only: Option<&str>, wide: bool) -> Result<Listing> {
    let path =
        selector.map_or_else(|| "/v1/devices".to_owned(), |t| format!("/v1/devices?selector={}", query(t)));
    let mut list: api::DeviceList = s.client.get(&path, "the devices")?;
    list.devices.retain(|d| only.is_none_or(|o| d.id.as_str() == o));
    let mut headers = vec!["DEVICE", "HOST", "STATE", "PODS", "ARCH", "AGENT", "LAST SEEN", "LABELS"];
    if wide {
        headers.extend(["ENGINE", "KERNEL", "CGROUPS", "MEMORY", "DISK FREE", "SNAPSHOT", "CONDITIONS"]);
    }
    let rows = list.devices.iter().map(|d| device_row(d, wide)).collect();
    let empty = "no devices; make a join file with `shoal token create --labels k=v -o join.shoal`";
    Ok(Listing { headers, rows, data: data(&list)?, empty })
}

fn device_row(d: &api::Device, wide: bool) -> Vec<Cell> {
    let text =
        |f: fn(&api::System) -> &str| d.system.as_ref().map_or_else(|| "-".to_owned(), |s| clean(f(s)));
    let labels: Vec<String> = d.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let unconfined = d.system.as_ref().is_some_and(|s| s.unconfined);
    let state = if unconfined {
        toned(format!("{} (unconfined)", d.state), Tone::Waiting)
    } else {
        show::device_state(d.state)
    };
    let full = d.pods_healthy == d.pods_total;
    let mut row = vec![
        short_id(&d.id).into(),
        text(|s| &s.hostname).into(),
        state,
        toned(format!("{}/{}", d.pods_healthy, d.pods_total), if full { Tone::Plain } else { Tone::Waiting }),
        text(|s| &s.architecture).into(),
        text(|s| &s.agent).into(),
        show::age(d.last_seen).into(),
        clean(&labels.join(",")).into(),
    ];
    if wide {
        row.extend([
            Cell::from(text(|s| &s.engine)),
            text(|s| &s.kernel).into(),
            text(|s| &s.cgroups).into(),
            d.system.as_ref().map_or_else(|| "-".to_owned(), |s| show_bytes(s.memory)).into(),
            d.system.as_ref().map_or_else(|| "-".to_owned(), |s| show_bytes(s.disk_free)).into(),
            d.snapshot.map_or_else(|| "-".to_owned(), |s| s.version.to_string()).into(),
            clean(&d.conditions.join(",")).into(),
        ]);
    }
    row
}

fn deployments(s: &Session, args: &Get, wide: bool) -> Result<Listing> {
    let mut list: api::DeploymentList = s.client.get("/v1/deployments", "the deployments")?;
    list.deployments.retain(|d| args.deployment.as_ref().is_none_or(|n| d.name == *n));
    let mut headers = vec!["NAME", "REVISION", "STATE", "HEALTHY", "UPDATING", "FAILED", "AGE", "REASON"];
    if wide {
        headers.extend(["TARGET", "IMAGES", "STABLE", "DIGEST"]);
    }
    let rows = list
        .deployments
        .iter()
        .map(|d| {
            let failed = d.counts.failed + d.counts.unfit;
            let mut row = vec![
                d.name.to_string().into(),
                d.newest.sequence.to_string().into(),
                show::rollout_state(d.state),
                format!("{}/{}", d.counts.healthy, d.counts.selected).into(),
                (d.counts.updating + d.counts.held + d.counts.unknown).to_string().into(),
                toned(failed.to_string(), if failed > 0 { Tone::Bad } else { Tone::Plain }),
                show::age(Some(d.issued_at)).into(),
                clean(d.reason.as_deref().unwrap_or("")).into(),
            ];
            if wide {
                let stable = d.stable.map_or_else(|| "-".to_owned(), |r| r.sequence.to_string());
                row.extend([
                    Cell::from(clean(&d.target)),
                    clean(&d.images.join(",")).into(),
                    stable.into(),
                    crate::review::short(&d.newest.digest.0).into(),
                ]);
            }
            row
        })
        .collect();
    let empty = "no deployments; publish one with `shoal apply -f FILE`";
    Ok(Listing { headers, rows, data: data(&list)?, empty })
}

/// The pods of a device, a deployment, or both; and of devices with certain labels.
pub(super) fn fetch_pods(
    s: &Session,
    device: Option<&str>,
    deployment: Option<&str>,
) -> Result<api::PodList> {
    let filters: Vec<String> = [("device", device), ("deployment", deployment)]
        .into_iter()
        .filter_map(|(k, v)| v.map(|v| format!("{k}={}", query(v))))
        .collect();
    let path =
        if filters.is_empty() { "/v1/pods".to_owned() } else { format!("/v1/pods?{}", filters.join("&")) };
    s.client.get(&path, "the pods")
}

fn pods(s: &Session, args: &Get, device: Option<&str>, wide: bool) -> Result<Listing> {
    let mut list = fetch_pods(s, device, args.deployment.as_ref().map(Name::as_str))?;
    if let Some(selector) = &args.selector {
        let path = format!("/v1/devices?selector={}", query(selector));
        let selected: api::DeviceList = s.client.get(&path, "the devices")?;
        list.pods.retain(|p| selected.devices.iter().any(|d| d.id == p.device));
    }
    let mut headers =
        vec!["DEPLOYMENT", "DEVICE", "HOST", "REVISION", "STATE", "STARTS", "MEMORY", "AGE", "REASON"];
    if wide {
        headers.extend(["CONTAINERS", "PEAK", "LIMIT", "CPU", "CPU LIMIT", "DEADLINE", "MESSAGE"]);
    }
    let rows = list.pods.iter().map(|p| pod_row(p, wide)).collect();
    let empty = "no pods; publish a deployment with `shoal apply -f FILE`, or see `shoal get devices`";
    Ok(Listing { headers, rows, data: data(&list)?, empty })
}

fn sum(p: &api::Pod, f: fn(&api::Container) -> Option<u64>) -> Option<u64> {
    p.containers.iter().filter_map(f).reduce(u64::saturating_add)
}

fn pod_row(p: &api::Pod, wide: bool) -> Vec<Cell> {
    let starts: u64 = p.containers.iter().map(|c| c.attempt).sum();
    let silent = p.device_state == api::DeviceState::Unknown;
    let reason = if silent { "device silent".to_owned() } else { clean(p.reason.as_deref().unwrap_or("")) };
    let mut row = vec![
        p.deployment.to_string().into(),
        short_id(&p.device).into(),
        clean(&p.hostname).into(),
        p.revision.sequence.to_string().into(),
        if silent { toned(format!("{}?", p.phase), Tone::Bad) } else { show::phase(p.phase) },
        starts.to_string().into(),
        show::bytes(sum(p, |c| c.memory)).into(),
        show::age(Some(p.since)).into(),
        reason.into(),
    ];
    if wide {
        let running = p.containers.iter().filter(|c| c.running).count();
        row.extend([
            Cell::from(format!("{running}/{}", p.containers.len())),
            show::bytes(sum(p, |c| c.memory_peak)).into(),
            show::bytes(sum(p, |c| c.memory_limit)).into(),
            show::micros(sum(p, |c| c.cpu_usage)).into(),
            p.containers.iter().map(show::cpu_limit).collect::<Vec<_>>().join(",").into(),
            p.deadline.map_or_else(|| "-".to_owned(), show::due).into(),
            clean(p.message.as_deref().unwrap_or("")).into(),
        ]);
    }
    row
}

fn refusals(s: &Session, device: Option<&str>) -> Result<Listing> {
    let path =
        device.map_or_else(|| "/v1/refusals".to_owned(), |d| format!("/v1/refusals?device={}", query(d)));
    let list: api::RefusalList = s.client.get(&path, "the refusals")?;
    let rows = list
        .refusals
        .iter()
        .map(|r| {
            vec![
                short_id(&r.device).into(),
                clean(&r.code).into(),
                r.count.to_string().into(),
                show::age(Some(r.last)).into(),
                clean(&r.message).into(),
            ]
        })
        .collect();
    let headers = vec!["DEVICE", "CODE", "COUNT", "LAST", "MESSAGE"];
    Ok(Listing { headers, rows, data: data(&list)?, empty: "nothing was refused" })
}

fn tokens(s: &Session) -> Result<Listing> {
    let list: api::TokenList = s.client.get("/v1/tokens", "the tokens")?;
    let rows = list
        .tokens
        .iter()
        .map(|t| {
            let labels: Vec<String> = t.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            vec![
                crate::review::short(&t.digest.0).into(),
                format!("{}/{}", t.used, t.uses).into(),
                show::due(t.not_after).into(),
                if t.approval { "by operator" } else { "-" }.into(),
                clean(&labels.join(",")).into(),
            ]
        })
        .collect();
    let headers = vec!["TOKEN", "USED", "ENDS", "APPROVAL", "LABELS"];
    Ok(Listing { headers, rows, data: data(&list)?, empty: "no tokens; make one with `shoal token create`" })
}

fn enrollments(s: &Session) -> Result<Listing> {
    let list: api::EnrollmentList = s.client.get("/v1/enrollments", "the enrollments")?;
    let rows = list
        .enrollments
        .iter()
        .map(|e| {
            let labels: Vec<String> = e.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let tone = match e.state {
                api::EnrollmentState::Pending => Tone::Waiting,
                api::EnrollmentState::Approved => Tone::Good,
                api::EnrollmentState::Denied => Tone::Bad,
            };
            vec![
                short_id(&e.device).into(),
                clean(e.name.as_deref().unwrap_or("-")).into(),
                toned(e.state.to_string(), tone),
                show::age(Some(e.requested_at)).into(),
                e.fingerprint.to_string().into(),
                clean(&labels.join(",")).into(),
            ]
        })
        .collect();
    let headers = vec!["DEVICE", "NAME", "STATE", "AGE", "FINGERPRINT", "LABELS"];
    let empty = "no device asked; tokens that ask for approval: `shoal token create --approve`";
    Ok(Listing { headers, rows, data: data(&list)?, empty })
}

/// `shoal token ls`.
pub(super) fn list_tokens(s: &Session, format: Format) -> Result<()> {
    print(&tokens(s)?, format, false)
}
