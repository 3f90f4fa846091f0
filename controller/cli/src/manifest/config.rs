//! `kind: ConfigMap`, and how pods refer to configs and secrets, in Kubernetes' words.
//!
//! Never here: the values of secrets, which no file of this sort holds.

use super::reader::{Field, Findings, Object};
use base64::Engine as _;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{DocumentRef, EnvFrom, EnvSource, EnvVar, KeyFile, Revision, VolumeSource};
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::verify::{MAX_DATA, MAX_KEYS, is_key};

/// Permission bits where the file says none, as in Kubernetes.
const MODE: u64 = 0o644;

/// Stands for the newest revision in a draft's pin, until that is known; no document has it.
pub(crate) const NEWEST: Revision = Revision { sequence: 0, digest: Digest([0; 32]) };

/// A config as its file says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConfigDraft {
    pub(crate) name: Name,
    pub(crate) data: ByteMap,
    /// Seconds until devices accept it no longer for the first time.
    pub(crate) expires: Option<u64>,
}

/// Reads the body of a ConfigMap, whose `apiVersion` and `kind` were read.
pub(super) fn read(o: &mut Object<'_>, f: &mut Findings, at: &Field<'_>) -> Option<ConfigDraft> {
    let mut name = None;
    if let Some(metadata) = o.need("metadata", f) {
        let mut m = metadata.object(f);
        name = m.need("name", f).and_then(|n| n.parsed::<Name>(f));
        m.unsupported("labels", f, "ignored: nothing selects a config");
        m.unsupported("annotations", f, "ignored: a config has none");
        m.unsupported("namespace", f, "ignored: names are unique in the whole fleet");
        m.finish(f);
    }
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut put = |field: &Field<'_>, key: &str, value: Vec<u8>, f: &mut Findings| {
        if !is_key(key) {
            field.problem(f, format!("{key:?} is no key: letters, digits, `-`, `_` and `.`, at most 253"));
        } else if all.iter().any(|(k, _)| k == key) {
            field.problem(f, format!("the key {key} stands twice"));
        } else {
            all.push((key.to_owned(), value));
        }
    };
    if let Some(data) = o.get("data") {
        for (key, field) in data.pairs(f) {
            if let Some(text) = field.text(f) {
                put(&field, key, text.into_bytes(), f);
            }
        }
    }
    if let Some(data) = o.get("binaryData") {
        for (key, field) in data.pairs(f) {
            let Some(text) = field.loose_text(f) else { continue };
            let plain: String = text.split_ascii_whitespace().collect();
            match base64::engine::general_purpose::STANDARD.decode(plain) {
                Ok(bytes) => put(&field, key, bytes, f),
                Err(e) => field.problem(f, format!("expected base64: {e}")),
            }
        }
    }
    let expires = o.get("expires").and_then(|e| e.seconds(f));
    o.unsupported("immutable", f, "ignored: a deployment that wants one exact revision says `pin: true`");
    let size: usize = all.iter().map(|(k, v)| k.len() + v.len()).sum();
    if all.len() > MAX_KEYS || size > MAX_DATA {
        let found = format!("{} of {size} bytes", all.len());
        at.problem(
            f,
            format!("a config has at most {MAX_KEYS} entries of {MAX_DATA} bytes together, found {found}"),
        );
    }
    Some(ConfigDraft { name: name?, data: all.into_iter().collect(), expires })
}

fn reference(o: &mut Object<'_>, f: &mut Findings, name: &'static str) -> Option<DocumentRef> {
    let name = o.need(name, f).and_then(|n| n.parsed::<Name>(f));
    let optional = o.get("optional").and_then(|v| v.bool(f)).unwrap_or(false);
    let pin = o.get("pin").and_then(|v| v.bool(f)).unwrap_or(false).then_some(NEWEST);
    Some(DocumentRef { name: name?, optional, pin })
}

/// Permission bits: octal when they begin with 0, as Kubernetes' files have them.
fn mode(field: &Field<'_>, f: &mut Findings) -> Option<u64> {
    let text = field.loose_text(f)?;
    let parsed = match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')).filter(|t| !t.is_empty()) {
        Some(octal) => u64::from_str_radix(octal, 8),
        None => text.parse(),
    };
    let mode = parsed.ok().filter(|m| *m <= 0o777);
    if mode.is_none() {
        field.problem(f, format!("expected permission bits from 0 to 0777, found {text:?}"));
    }
    mode
}

/// `configMap: {name, items, defaultMode, optional, pin}` or `secret: {secretName, …}`.
pub(super) fn volume(field: &Field<'_>, f: &mut Findings, is_secret: bool) -> Option<VolumeSource> {
    let mut o = field.object(f);
    let document = reference(&mut o, f, if is_secret { "secretName" } else { "name" });
    let default = o.get("defaultMode").map_or(Some(MODE), |m| mode(&m, f));
    let mut items = Vec::new();
    for item in o.get("items").map(|l| l.list(f)).unwrap_or_default() {
        let mut i = item.object(f);
        let key = i.need("key", f).and_then(|k| k.text(f));
        let path = i.need("path", f).and_then(|p| relative(&p, f));
        let mode = i.get("mode").and_then(|m| mode(&m, f));
        i.finish(f);
        if let (Some(key), Some(path)) = (key, path) {
            items.push(KeyFile { key, path, mode });
        }
    }
    o.finish(f);
    let (document, mode) = (document?, default?);
    Some(if is_secret {
        VolumeSource::Secret { document, mode, items }
    } else {
        VolumeSource::Config { document, mode, items }
    })
}

fn relative(field: &Field<'_>, f: &mut Findings) -> Option<String> {
    let text = field.text(f)?;
    let plain = text.split('/').all(|p| !matches!(p, "" | "." | "..")) && !text.starts_with("..");
    if !plain || text.contains('\0') {
        field.problem(f, format!("expected a relative path without `.` or `..`, found {text:?}"));
        return None;
    }
    Some(text)
}

/// `valueFrom: {configMapKeyRef | secretKeyRef: {name, key, optional}}`.
pub(super) fn value_from(field: &Field<'_>, f: &mut Findings) -> Option<EnvSource> {
    let mut o = field.object(f);
    let mut found = Vec::new();
    for (name, is_secret) in [("configMapKeyRef", false), ("secretKeyRef", true)] {
        let Some(r) = o.get(name) else { continue };
        let mut r_o = r.object(f);
        let document = reference(&mut r_o, f, "name");
        let key = r_o.need("key", f).and_then(|k| k.text(f));
        r_o.finish(f);
        if let (Some(document), Some(key)) = (document, key) {
            found.push(if is_secret {
                EnvSource::Secret { document, key }
            } else {
                EnvSource::Config { document, key }
            });
        }
    }
    for other in ["fieldRef", "resourceFieldRef"] {
        o.unsupported(other, f, "a guest is told nothing of its pod in this way: write the value out");
    }
    o.finish(f);
    if found.len() != 1 {
        field.problem(f, "expected exactly one of configMapKeyRef, secretKeyRef");
    }
    found.pop()
}

/// `envFrom: [{prefix, configMapRef | secretRef: {name, optional}}]`.
pub(super) fn env_from(field: &Field<'_>, f: &mut Findings) -> Option<EnvFrom> {
    let mut o = field.object(f);
    let prefix = o.get("prefix").map_or(Some(String::new()), |p| p.text(f));
    let mut found = Vec::new();
    for (name, is_secret) in [("configMapRef", false), ("secretRef", true)] {
        let Some(r) = o.get(name) else { continue };
        let mut r_o = r.object(f);
        let document = reference(&mut r_o, f, "name");
        r_o.finish(f);
        if let (Some(document), Some(prefix)) = (document, prefix.clone()) {
            found.push(if is_secret {
                EnvFrom::Secret { document, prefix }
            } else {
                EnvFrom::Config { document, prefix }
            });
        }
    }
    o.finish(f);
    if found.len() != 1 {
        field.problem(f, "expected exactly one of configMapRef, secretRef");
    }
    found.pop()
}

/// Everything in a list of variables that is no plain value.
pub(crate) fn is_plain(e: &EnvVar) -> bool {
    e.from.is_none()
}

#[cfg(test)]
mod tests {
    use super::super::deployment::{Parsed, parse};
    use super::*;

    fn pod(volumes: &str, container: &str) -> String {
        format!(
            "apiVersion: shoal/v1\nkind: Deployment\nmetadata: {{name: app}}\nspec:\n  selector: {{}}\n  template:\n    spec:\n      volumes: [{volumes}]\n      containers:\n        - {{name: main, image: x, {container}}}\n"
        )
    }

    fn read(text: &str) -> (Parsed, Vec<String>) {
        let (parsed, f) = parse("a.yaml", text).unwrap_or_else(|e| panic!("{}", e.render()));
        let warnings = f.lines(&f.warnings);
        (parsed, warnings)
    }

    fn problems(text: &str) -> String {
        parse("a.yaml", text).unwrap_err().render()
    }

    #[test]
    fn a_config_map_of_kubernetes_is_read_beside_a_deployment() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n  zone: north\n  app.toml: |\n    a = 1\nbinaryData: {curve.bin: AAEC}\n---\n";
        let (parsed, warnings) = read(&(text.to_owned() + &pod("", "args: [a]")));
        assert_eq!((parsed.configs.len(), parsed.deployments.len(), warnings.len()), (1, 1, 0));
        let data = &parsed.configs[0].data;
        assert_eq!(data.get("zone"), Some(&b"north"[..]));
        assert_eq!(data.get("app.toml"), Some(&b"a = 1\n"[..]));
        assert_eq!(data.get("curve.bin"), Some(&[0, 1, 2][..]));
    }

    #[test]
    fn what_is_no_config_is_told_with_its_place() {
        let map =
            |body: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\n{body}\n");
        for (body, wanted) in [
            ("data: {a/b: x}", "is no key"),
            ("data: {n: 1}", "put it in quotes"),
            ("binaryData: {a: '*'}", "expected base64"),
            ("data: {a: x}\nbinaryData: {a: AAEC}", "stands twice"),
            ("dada: {a: x}", "did you mean `data`?"),
        ] {
            let text = problems(&map(body));
            assert!(text.contains(wanted), "{body}: {text}");
        }
        let big = map(&format!("data: {{a: {}}}", "x".repeat(MAX_DATA)));
        assert!(problems(&big).contains("at most"), "size");
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: AAEC}\n";
        assert!(problems(secret).contains("shoal secret create"), "secrets");
    }

    #[test]
    fn references_are_read_as_kubernetes_has_them() {
        let volumes = "{name: conf, configMap: {name: settings, items: [{key: a, path: x/a, mode: 0400}], defaultMode: 0444}}, {name: keys, secret: {secretName: password, optional: true, pin: true}}";
        let container = "volumeMounts: [{name: conf, mountPath: /conf}], env: [{name: A, valueFrom: {secretKeyRef: {name: password, key: k}}}, {name: B, value: $(A)}], envFrom: [{prefix: P_, configMapRef: {name: settings}}]";
        let (parsed, _) = read(&pod(volumes, container));
        let d = &parsed.deployments[0];
        let follow = DocumentRef { name: "settings".parse().unwrap(), optional: false, pin: None };
        let items = vec![KeyFile { key: "a".into(), path: "x/a".into(), mode: Some(0o400) }];
        assert_eq!(
            d.pod.volumes[0].source,
            VolumeSource::Config { document: follow.clone(), mode: 0o444, items }
        );
        let (_, secret, mode, _) = d.pod.volumes[1].source.files().unwrap();
        assert_eq!((secret.optional, secret.pin, mode), (true, Some(NEWEST), 0o644));
        let c = &d.containers[0];
        assert!(c.mounts[0].read_only, "always");
        assert!(matches!(&c.env[0].from, Some(EnvSource::Secret { key, .. }) if key == "k"));
        assert_eq!(c.env[1].value, "$(A)", "what a device resolves is not known here");
        assert_eq!(c.env_from, [EnvFrom::Config { document: follow, prefix: "P_".into() }]);
    }

    #[test]
    fn references_that_mean_nothing_are_problems() {
        for (volumes, container, wanted) in [
            ("{name: a, configMap: {name: s, items: [{key: a, path: ../a}]}}", "args: []", "relative path"),
            ("{name: a, configMap: {name: s, defaultMode: 0999}}", "args: []", "permission bits"),
            ("{name: a, configMap: {name: s}, emptyDir: {}}", "args: []", "exactly one of"),
            ("{name: a, secret: {name: s}}", "args: []", "secretName"),
            ("", "env: [{name: A, value: x, valueFrom: {configMapKeyRef: {name: s, key: k}}}]", "not both"),
            ("", "env: [{name: A, valueFrom: {}}]", "exactly one of configMapKeyRef"),
            ("", "envFrom: [{prefix: A}]", "exactly one of configMapRef"),
        ] {
            let text = problems(&pod(volumes, container));
            assert!(text.contains(wanted), "{volumes} {container}: {text}");
        }
    }
}
