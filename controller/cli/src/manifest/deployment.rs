//! `apiVersion: shoal/v1, kind: Deployment`: the operator's file, field by field.
//!
//! Never here: the pod spec (`pod`), images, keys.

use super::config::{self, ConfigDraft};
use super::reader::{Field, Findings, Object};
use super::tree::parse_yaml;
use super::{Draft, empty_pod, not_readable, pod, report};
use crate::error::{CliError, Result};
use shoal_protocol::ids::{DeviceId, Name, Timestamp};
use shoal_protocol::latest::{
    Activation, LogConsent, Operator, Ramp, Require, Requirement, Rollout, Selector, Target, Window,
};

/// What a YAML stream holds.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) deployments: Vec<Draft>,
    pub(crate) configs: Vec<ConfigDraft>,
}

/// Reads all deployments and configs of a YAML stream; problems of all of them come back together.
pub(crate) fn parse(file: &str, text: &str) -> Result<(Parsed, Findings)> {
    let documents = parse_yaml(text).map_err(|e| not_readable(file, "YAML", &e))?;
    if documents.is_empty() {
        return Err(CliError::usage(format!("{file} holds no deployment")));
    }
    let mut f = Findings::new(file);
    let mut parsed = Parsed::default();
    for node in &documents {
        document(&Field { path: String::new(), node }, &mut f, &mut parsed);
    }
    let read = parsed.deployments.len() + parsed.configs.len();
    if !f.problems.is_empty() || read != documents.len() {
        return Err(report(&f));
    }
    Ok((parsed, f))
}

#[derive(Clone, Copy)]
enum What {
    Deployment,
    Config,
    Secret,
}

fn document(field: &Field<'_>, f: &mut Findings, parsed: &mut Parsed) {
    let mut o = field.object(f);
    let version = o.need("apiVersion", f);
    let kind = o.need("kind", f);
    let words = [("Deployment", What::Deployment), ("ConfigMap", What::Config), ("Secret", What::Secret)];
    let what = kind.as_ref().and_then(|k| k.word(f, &words));
    // A ConfigMap is taken as it is in Kubernetes' own files.
    let versions: &[(&str, ())] = match what {
        Some(What::Config | What::Secret) => &[("shoal/v1", ()), ("v1", ())],
        _ => &[("shoal/v1", ())],
    };
    version.and_then(|v| v.word(f, versions));
    match (what, kind) {
        (Some(What::Deployment), _) => parsed.deployments.extend(deployment(o, f)),
        (Some(What::Config), _) => {
            parsed.configs.extend(config::read(&mut o, f, field));
            o.finish(f);
        }
        (Some(What::Secret), Some(kind)) => kind.problem(
            f,
            "a secret's values belong in no file beside deployments: `shoal secret create NAME --for DEPLOYMENT --from-file KEY=FILE`",
        ),
        _ => {}
    }
}

fn deployment(mut o: Object<'_>, f: &mut Findings) -> Option<Draft> {
    let mut template = empty_pod();
    let mut name = None;
    if let Some(metadata) = o.need("metadata", f) {
        let mut m = metadata.object(f);
        name = m.need("name", f).and_then(|n| n.parsed::<Name>(f));
        template.labels = m.get("labels").map(|l| l.text_map(f)).unwrap_or_default();
        template.annotations = m.get("annotations").map(|l| l.text_map(f)).unwrap_or_default();
        m.unsupported(
            "namespace",
            f,
            "ignored: names are unique in the whole fleet; use a prefix, which keys can be bound to",
        );
        m.finish(f);
    }
    let mut draft = Draft {
        name: name.clone().or_else(|| "x".parse().ok())?,
        target: Target::default(),
        rollout: Rollout::default(),
        logs: LogConsent::default(),
        expires: None,
        not_before: None,
        requires: Vec::new(),
        pod: template,
        containers: Vec::new(),
        init_containers: Vec::new(),
    };
    if let Some(s) = o.need("spec", f) {
        spec(&s, f, &mut draft);
    }
    o.finish(f);
    name.map(|_| draft)
}

fn spec(field: &Field<'_>, f: &mut Findings, draft: &mut Draft) {
    let mut o = field.object(f);
    target(field, &mut o, f, &mut draft.target);
    if let Some(r) = o.get("rollout") {
        rollout(&r, f, &mut draft.rollout);
    }
    if let Some(v) = o.get("logs") {
        let words = [("none", LogConsent::None), ("tail", LogConsent::Tail), ("full", LogConsent::Full)];
        draft.logs = v.word(f, &words).unwrap_or_default();
    }
    draft.expires = o.get("expires").and_then(|e| e.seconds(f));
    draft.not_before = o.get("notBefore").and_then(|t| timestamp(&t, f));
    for r in o.get("requires").map(|l| l.list(f)).unwrap_or_default() {
        let mut q = r.object(f);
        let name = q.need("name", f).and_then(|n| n.parsed::<Name>(f));
        let sequence = q.get("sequence").map_or(Some(1), |s| s.count(f));
        q.finish(f);
        if let (Some(name), Some(sequence)) = (name, sequence) {
            draft.requires.push(Require { name, sequence });
        }
    }
    if let Some(t) = o.need("template", f) {
        let mut t_o = t.object(f);
        if let Some(metadata) = t_o.get("metadata") {
            let mut m = metadata.object(f);
            for (k, v) in m.get("labels").map(|l| l.text_map(f)).unwrap_or_default().iter() {
                draft.pod.labels.insert(k, v);
            }
            for (k, v) in m.get("annotations").map(|l| l.text_map(f)).unwrap_or_default().iter() {
                draft.pod.annotations.insert(k, v);
            }
            m.unsupported("name", f, "ignored: the pod is called like the deployment");
            m.finish(f);
        }
        if let Some(s) = t_o.need("spec", f) {
            (draft.containers, draft.init_containers) = pod::read(&s, f, &mut draft.pod);
        }
        t_o.finish(f);
    }
    o.unsupported("replicas", f, "ignored: each selected device runs the pod once");
    o.unsupported("strategy", f, "ignored: use spec.rollout");
    o.finish(f);
}

fn target(field: &Field<'_>, o: &mut Object<'_>, f: &mut Findings, target: &mut Target) {
    target.selector = o.get("selector").map(|s| selector(&s, f));
    if let Some(list) = o.get("devices") {
        target.devices = list.list(f).iter().filter_map(|d| d.parsed::<DeviceId>(f)).collect();
    }
    if target.selector.is_none() && target.devices.is_empty() {
        field.problem(f, "expected a selector (`{}` selects every device) or a list of devices");
    }
    target.architectures = o.get("architectures").map(|a| a.texts(f)).unwrap_or_default();
    target.min_agent = o.get("minAgent").and_then(|v| version(&v, f));
    target.min_engine = o.get("minEngine").and_then(|v| version(&v, f));
}

fn version(field: &Field<'_>, f: &mut Findings) -> Option<String> {
    let text = field.loose_text(f)?;
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 3 || parts.iter().any(|p| p.parse::<u32>().is_err()) {
        field.problem(f, format!("expected a version such as 0.17.1, found {text:?}"));
        return None;
    }
    Some(text)
}

fn selector(field: &Field<'_>, f: &mut Findings) -> Selector {
    const OPERATORS: [(&str, Operator); 4] = [
        ("In", Operator::In),
        ("NotIn", Operator::NotIn),
        ("Exists", Operator::Exists),
        ("DoesNotExist", Operator::DoesNotExist),
    ];
    let mut o = field.object(f);
    let mut s = Selector {
        match_labels: o.get("matchLabels").map(|m| m.text_map(f)).unwrap_or_default(),
        ..Selector::default()
    };
    for e in o.get("matchExpressions").map(|l| l.list(f)).unwrap_or_default() {
        let mut x = e.object(f);
        let key = x.need("key", f).and_then(|k| k.text(f));
        let operator = x.need("operator", f).and_then(|v| v.word(f, &OPERATORS));
        let values = x.get("values").map(|v| v.texts(f)).unwrap_or_default();
        x.finish(f);
        let (Some(key), Some(operator)) = (key, operator) else { continue };
        let wants = matches!(operator, Operator::In | Operator::NotIn);
        if wants == values.is_empty() {
            e.problem(
                f,
                if wants { "In and NotIn need values" } else { "Exists and DoesNotExist take no values" },
            );
        }
        s.match_expressions.push(Requirement { key, operator, values });
    }
    o.finish(f);
    s
}

fn rollout(field: &Field<'_>, f: &mut Findings, rollout: &mut Rollout) {
    let mut o = field.object(f);
    if let Some(v) = o.get("activation") {
        let words = [("automatic", Activation::Automatic), ("ordered", Activation::Ordered)];
        rollout.activation = v.word(f, &words).unwrap_or_default();
    }
    rollout.max_unavailable =
        o.get("maxUnavailable").and_then(|v| v.integer(f, 1, 1_000_000)).map(i64::unsigned_abs);
    rollout.max_failed = o.get("maxFailed").and_then(|v| v.integer(f, 1, 1_000_000)).map(i64::unsigned_abs);
    rollout.deadline = o.get("deadline").and_then(|v| v.seconds(f));
    if let Some(ramp) = o.get("ramp") {
        let mut r = ramp.object(f);
        let start = r.need("start", f).and_then(|t| timestamp(&t, f));
        let duration = r.need("duration", f).and_then(|d| d.seconds(f));
        r.finish(f);
        rollout.ramp = start.zip(duration).map(|(start, duration)| Ramp { start, duration });
    }
    rollout.download_windows = windows(o.get("downloadWindows"), f);
    rollout.update_windows = windows(o.get("updateWindows"), f);
    o.finish(f);
}

fn windows(list: Option<Field<'_>>, f: &mut Findings) -> Vec<Window> {
    const DAYS: [(&str, u64); 7] =
        [("Mon", 1), ("Tue", 2), ("Wed", 4), ("Thu", 8), ("Fri", 16), ("Sat", 32), ("Sun", 64)];
    let mut all = Vec::new();
    for w in list.map(|l| l.list(f)).unwrap_or_default() {
        let mut o = w.object(f);
        let days = o
            .get("days")
            .map_or(127, |d| d.list(f).iter().filter_map(|x| x.word(f, &DAYS)).fold(0, |set, bit| set | bit));
        let start = o.need("start", f).and_then(|s| clock(&s, f));
        let length = o.need("length", f).and_then(|l| l.seconds(f));
        o.finish(f);
        if let (Some(start), Some(length)) = (start, length) {
            all.push(Window { days, start, length });
        }
    }
    all
}

/// `02:30`, UTC.
fn clock(field: &Field<'_>, f: &mut Findings) -> Option<u64> {
    let text = field.loose_text(f)?;
    let parsed = text.split_once(':').and_then(|(h, m)| {
        let (h, m): (u64, u64) = (h.parse().ok()?, m.parse().ok()?);
        (h < 24 && m < 60).then_some(h * 3_600 + m * 60)
    });
    if parsed.is_none() {
        field.problem(f, format!("expected a time of day in UTC such as \"02:30\", found {text:?}"));
    }
    parsed
}

/// RFC 3339.
fn timestamp(field: &Field<'_>, f: &mut Findings) -> Option<Timestamp> {
    let text = field.loose_text(f)?;
    let seconds = text.parse::<jiff::Timestamp>().ok().and_then(|t| u64::try_from(t.as_second()).ok());
    if seconds.is_none() {
        field.problem(f, format!("expected a time such as 2027-01-31T12:00:00Z, found {text:?}"));
    }
    seconds.map(Timestamp)
}

/// `k=v,k2!=v2,k3,!k4`: the selector form of command lines.
pub(crate) fn selector_from_text(text: &str) -> Result<Selector> {
    let mut s = Selector::default();
    let bad = || {
        CliError::usage(format!("{text:?} is not a selector"))
            .hint("write key=value, key!=value, key or !key, separated by commas; `all=` is not needed: use {} in a file for every device")
    };
    for part in text.split(',').map(str::trim) {
        let requirement = |key: &str, operator, values: &[&str]| Requirement {
            key: key.trim().to_owned(),
            operator,
            values: values.iter().map(|v| v.trim().to_owned()).collect(),
        };
        if let Some((k, v)) = part.split_once("!=") {
            s.match_expressions.push(requirement(k, Operator::NotIn, &[v]));
        } else if let Some((k, v)) = part.split_once('=') {
            let v = v.strip_prefix('=').unwrap_or(v);
            if k.trim().is_empty() {
                return Err(bad());
            }
            s.match_labels.insert(k.trim(), v.trim());
        } else if let Some(k) = part.strip_prefix('!') {
            s.match_expressions.push(requirement(k, Operator::DoesNotExist, &[]));
        } else if part.is_empty() {
            return Err(bad());
        } else {
            s.match_expressions.push(requirement(part, Operator::Exists, &[]));
        }
    }
    if s.match_expressions.iter().any(|r| r.key.is_empty()) { Err(bad()) } else { Ok(s) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = include_str!("../../../../deploy/examples/reference.yaml");

    #[test]
    fn the_reference_file_uses_every_field_and_has_no_problem() {
        let (drafts, f) = parse("reference.yaml", FULL).unwrap();
        assert_eq!(f.lines(&f.warnings), Vec::<String>::new());
        let d = &drafts.deployments[0];
        assert_eq!(d.name.as_str(), "thermostat");
        assert_eq!(d.target.selector.as_ref().unwrap().match_labels.get("site"), Some("north"));
        assert_eq!((d.rollout.max_unavailable, d.rollout.deadline), (Some(2), Some(600)));
        assert_eq!(d.containers[0].resources.memory_limit, Some(32 << 20));
        assert_eq!(d.containers[0].mounts.len(), 2);
        assert_eq!(d.pod.termination_grace, 5);
    }

    #[test]
    fn several_problems_are_reported_together_with_line_column_and_path() {
        let text = FULL.replace("image: ", "imgae: ").replace("32Mi", "32MB").replace("Always", "always");
        let e = parse("app.yaml", &text).unwrap_err().render();
        assert!(
            e.contains("spec.template.spec.containers[0].imgae: unknown field; did you mean `image`?"),
            "{e}"
        );
        assert!(e.contains("unit \"MB\" is unknown, did you mean Mi or M?"), "{e}");
        assert!(e.contains("found \"always\"; did you mean Always?"), "{e}");
        assert!(e.lines().filter(|l| l.trim_start().starts_with("app.yaml:")).count() >= 4, "{e}");
    }

    #[test]
    fn a_deployment_for_nobody_is_a_problem() {
        let text = "apiVersion: shoal/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  template: {spec: {containers: [{name: a, image: x}]}}\n";
        let e = parse("a.yaml", text).unwrap_err().render();
        assert!(e.contains("expected a selector"), "{e}");
    }

    #[test]
    fn ports_mean_what_the_pods_network_makes_of_them() {
        let read = |pod: &str, ports: &str| {
            let text = format!(
                "apiVersion: shoal/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec:\n  selector: {{}}\n  template:\n    spec:\n      \
                 {pod}\n      containers: [{{name: a, image: x, ports: [{ports}]}}]\n"
            );
            parse("a.yaml", &text).map(|(drafts, f)| {
                let ports = &drafts.deployments[0].pod.ports;
                (ports.iter().map(|p| (p.container_port, p.host_port)).collect::<Vec<_>>(), f.warnings.len())
            })
        };
        let both = "{containerPort: 80, hostPort: 8080}, {containerPort: 90}";
        assert_eq!(read("network: pod", both).unwrap(), (vec![(80, 8080), (90, 0)], 0));
        let e = read("network: none", both).unwrap_err().render();
        assert!(e.contains("write `network: pod`"), "{e}");
        assert_eq!(read("network: none", "{containerPort: 90}").unwrap(), (vec![], 1));
        assert_eq!(read("hostNetwork: true", "{containerPort: 80, hostPort: 80}").unwrap(), (vec![], 1));
        assert!(read("hostNetwork: true", both).is_err());
    }

    #[test]
    fn selectors_of_command_lines() {
        let s = selector_from_text("site=north, zone!=a,gpu,!old").unwrap();
        assert_eq!(s.match_labels.get("site"), Some("north"));
        assert_eq!(s.match_expressions.len(), 3);
        for bad in ["", "=x", "a,,b", "!"] {
            assert!(selector_from_text(bad).is_err(), "{bad}");
        }
    }
}
