//! Kubernetes probes, read into drafts. Never here: whether a device runs them yet.

use super::reader::{Field, Findings};
use super::{ProbeActionDraft, ProbeDraft};

fn port(field: &Field<'_>, f: &mut Findings) -> Option<u64> {
    field.integer(f, 1, 65_535).and_then(|p| u64::try_from(p).ok())
}

/// One `livenessProbe`, `readinessProbe` or `startupProbe`.
pub(super) fn read(field: &Field<'_>, f: &mut Findings) -> Option<ProbeDraft> {
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
    let mut seconds =
        |name: &'static str, default: u64| o.get(name).and_then(|v| v.count(f)).unwrap_or(default);
    let initial_delay = seconds("initialDelaySeconds", 0);
    let period = seconds("periodSeconds", 10);
    let timeout = seconds("timeoutSeconds", 1);
    let failure_threshold = seconds("failureThreshold", 3);
    o.unsupported("successThreshold", f, "one success is enough");
    o.unsupported("terminationGracePeriodSeconds", f, "the pod's own grace period counts");
    o.finish(f);
    if actions.len() != 1 {
        field.problem(f, "expected exactly one of exec, tcpSocket, httpGet");
    }
    let action = actions.pop()?;
    Some(ProbeDraft { action, initial_delay, period, timeout, failure_threshold })
}
