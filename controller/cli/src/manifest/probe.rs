//! Kubernetes probes and lifecycle hooks, read into drafts. `fileFresh` is Shoal's own: a file that has to change.

use super::pod::absolute;
use super::reader::{Field, Findings};
use super::{ProbeActionDraft, ProbeDraft};
use shoal_protocol::latest::{Network, ProbeKind};

fn port(field: &Field<'_>, f: &mut Findings) -> Option<u64> {
    field.integer(f, 1, 65_535).and_then(|p| u64::try_from(p).ok())
}

/// One `livenessProbe`, `readinessProbe` or `startupProbe`.
pub(super) fn read(
    field: &Field<'_>,
    f: &mut Findings,
    kind: ProbeKind,
    network: Network,
) -> Option<ProbeDraft> {
    let mut o = field.object(f);
    let mut actions = Vec::new();
    if let Some(exec) = o.get("exec") {
        let mut e = exec.object(f);
        let command = e.need("command", f).map(|c| c.texts(f)).unwrap_or_default();
        if command.is_empty() {
            exec.problem(f, "expected a command: a module of the image and its arguments");
        }
        actions.push(ProbeActionDraft::Exec(command));
        e.finish(f);
    }
    if let Some(tcp) = o.get("tcpSocket") {
        let mut t = tcp.object(f);
        actions.extend(t.need("port", f).and_then(|p| port(&p, f)).map(ProbeActionDraft::Tcp));
        t.unsupported("host", f, "a probe always connects inside the pod's own network");
        t.finish(f);
    }
    if let Some(http) = o.get("httpGet") {
        let mut h = http.object(f);
        let path = h.get("path").and_then(|p| p.text(f)).unwrap_or_else(|| "/".to_owned());
        actions.extend(h.need("port", f).and_then(|p| port(&p, f)).map(|p| ProbeActionDraft::Http(p, path)));
        h.unsupported("host", f, "a probe always connects inside the pod's own network");
        h.unsupported("scheme", f, "a probe speaks plain HTTP inside the pod's own network");
        h.unsupported("httpHeaders", f, "a probe sends no headers of its own");
        h.finish(f);
    }
    if let Some(file) = o.get("fileFresh") {
        let mut h = file.object(f);
        let path = h.need("path", f).and_then(|p| absolute(&p, f));
        let age = h.need("maxAgeSeconds", f).and_then(|a| a.count(f));
        actions.extend(path.zip(age).map(|(path, age)| ProbeActionDraft::FileFresh(path, age)));
        h.finish(f);
    }
    if let Some(grpc) = o.get("grpc") {
        grpc.problem(f, "gRPC probes are not supported: use tcpSocket, httpGet, exec or fileFresh");
    }
    let mut seconds =
        |name: &'static str, default: u64| o.get(name).and_then(|v| v.count(f)).unwrap_or(default);
    let initial_delay = seconds("initialDelaySeconds", 0);
    let period = seconds("periodSeconds", 10);
    let timeout = seconds("timeoutSeconds", 1);
    let failure_threshold = seconds("failureThreshold", 3);
    let success_threshold = o.get("successThreshold").and_then(|v| v.count(f)).filter(|n| *n != 1);
    o.unsupported("terminationGracePeriodSeconds", f, "the pod's own grace period counts");
    o.finish(f);
    if actions.len() != 1 {
        field.problem(f, "expected exactly one of exec, tcpSocket, httpGet, fileFresh");
    }
    if kind != ProbeKind::Readiness && success_threshold.is_some() {
        field.problem(f, "only a readinessProbe may ask for more than one success");
    }
    let action = actions.pop()?;
    if network == Network::None && matches!(action, ProbeActionDraft::Tcp(_) | ProbeActionDraft::Http(..)) {
        field.problem(f, "the pod has no network to connect to: use exec or fileFresh, or grant a network");
    }
    Some(ProbeDraft { action, initial_delay, period, timeout, failure_threshold, success_threshold })
}

/// `lifecycle`: the commands after the start and before the end.
pub(super) fn lifecycle(field: &Field<'_>, f: &mut Findings) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let mut o = field.object(f);
    let mut hook = |name: &'static str| {
        let at = o.get(name)?;
        let mut h = at.object(f);
        let command = h.get("exec").map(|exec| {
            let mut e = exec.object(f);
            let command = e.need("command", f).map(|c| c.texts(f)).unwrap_or_default();
            e.finish(f);
            command
        });
        for other in ["httpGet", "tcpSocket", "sleep"] {
            if let Some(v) = h.get(other) {
                v.problem(f, "a hook is a module of the image: write exec.command");
            }
        }
        h.finish(f);
        if command.as_ref().is_none_or(Vec::is_empty) {
            at.problem(f, "expected exec.command: a module of the image and its arguments");
        }
        command
    };
    let hooks = (hook("postStart"), hook("preStop"));
    o.unsupported("stopSignal", f, "ignored: a wasm guest gets no signals");
    o.finish(f);
    hooks
}
