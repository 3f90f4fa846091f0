//! From files and images to what is signed, and what is not signed at all.

use super::*;
use crate::compose::{self, Stamp};
use crate::images::{self, Lock, Pinned};
use crate::manifest::{Draft, deployment as file};
use crate::trust::tests::{Fleet, code, role, signer};
use shoal_protocol::latest::{Deployment, Revision};
use std::collections::BTreeMap;

/// `(module (memory (export "memory") 2) (func (export "_start")))`.
const MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x02\x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

fn draft(pod: &str, container: &str) -> Draft {
    let text = format!(
        "apiVersion: shoal/v1\nkind: Deployment\nmetadata: {{name: app}}\nspec:\n  selector: {{}}\n  template:\n    spec:\n      {pod}\n      containers:\n        - name: main\n          image: app:1\n          {container}\n"
    );
    file::parse("app.yaml", &text).unwrap().0.deployments.remove(0)
}

fn pinned(home: &Home, module: &[u8]) -> BTreeMap<String, Pinned> {
    let store = images::store(home).unwrap();
    let image = shoal_image::import_module(&store, module, Some("app.wasm")).unwrap();
    shoal_image::tag(&store, "app:1", &image.manifest).unwrap();
    let found = images::pin(&store, &Lock::default(), "app:1").unwrap();
    BTreeMap::from([("app:1".to_owned(), found)])
}

fn compose(fleet: &Fleet, trust: &Trust, draft: &Draft) -> Result<Deployment> {
    compose_of(fleet, trust, draft, MODULE)
}

fn compose_of(fleet: &Fleet, trust: &Trust, draft: &Draft, module: &[u8]) -> Result<Deployment> {
    let stamp = Stamp {
        fleet: trust.anchor().unwrap().fleet.clone(),
        epoch: 1,
        sequence: 1,
        issued_at: now(),
        lifetime: 60,
    };
    compose::deployment(draft, &pinned(&fleet.home("founder"), module), &stamp)
}

/// Some deployment, complete.
pub(crate) fn sample() -> Deployment {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    compose(&fleet, &trust, &draft("hostname: box", "args: [one]")).unwrap()
}

fn ring(seeds: &[u8]) -> Keyring {
    let keys = seeds.iter().map(|n| OwnKey::open(format!("key{n}"), signer(*n)));
    Keyring::of(keys.collect())
}

#[test]
fn a_draft_becomes_a_pinned_deployment_that_verifies() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let d = compose(&fleet, &trust, &draft("hostname: box", "args: [one]")).unwrap();
    let c = &d.template.containers[0];
    assert_eq!(c.argv, ["/app.wasm", "one"]);
    assert_eq!(c.image.module.digest, Digest::of(MODULE));
    assert_eq!(
        c.env.iter().map(|e| (e.name.as_str(), e.value.as_str())).collect::<Vec<_>>(),
        [("HOSTNAME", "box")]
    );
    assert_eq!(d.not_after, d.issued_at.plus(60));
    let sealed = precheck(&trust, &ring(&[2]), &d.name, &d).unwrap();
    assert_eq!(Envelope::parse(&sealed.envelope).unwrap().identity(), sealed.digest);
}

#[test]
fn the_cri_examples_are_signed_as_they_are() {
    use crate::manifest::cri::{Source, parse};
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let text = |text| Source { file: "cri.json", text };
    let (mut draft, _) = parse(
        &text(include_str!("../../../deploy/examples/cri/sandbox_config.json")),
        &text(include_str!("../../../deploy/examples/cri/container_wasi.json")),
        None,
    )
    .unwrap();
    draft.target.selector = Some(file::selector_from_text("site=here").unwrap());
    draft.containers[0].image = "app:1".to_owned();
    let d = compose(&fleet, &trust, &draft).unwrap();
    let sealed = precheck(&trust, &ring(&[2]), &d.name, &d);
    assert!(sealed.is_ok(), "{}", sealed.unwrap_err().render());
}

#[test]
fn s16_a_reserved_value_is_refused_before_it_is_published() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    for (pod, container) in
        [("runtimeClassName: oci", ""), ("", "securityContext: {capabilities: {add: [NET_ADMIN]}}")]
    {
        let d = compose(&fleet, &trust, &draft(pod, container)).unwrap();
        let e = precheck(&trust, &ring(&[2]), &d.name, &d).unwrap_err();
        assert_eq!(code(&e), "unsupported_value", "{pod}{container}");
    }
}

#[test]
fn a_network_and_its_ports_are_signed_shown_and_checked() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let shown = |pod: &str, container: &str| {
        let d = compose(&fleet, &trust, &draft(pod, container)).unwrap();
        precheck(&trust, &ring(&[2]), &d.name, &d).unwrap();
        crate::review::facts(&d, &BTreeMap::new())
    };
    let none = shown("", "");
    let ports = "ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 9000}]";
    let pod = shown("network: pod", ports);
    let changes = crate::review::lines(&crate::review::diff(&none, &pod)).join("\n");
    for line in [
        "~ pod.network: none → a network of its own",
        "+ pod.port.8080/tcp: of the device leads to 80 in the pod",
        "+ pod.port.inner-9000/tcp: listened at in the pod, not mapped",
    ] {
        assert!(changes.contains(line), "{line} is not in\n{changes}");
    }
    assert_eq!(shown("hostNetwork: true", "ports: [{containerPort: 80}]")["pod.network"], "the device's");
    assert!(shown("network: pod", "").contains_key("pod.port"), "nothing can listen");
}

#[test]
fn a_module_that_cannot_fit_its_limits_is_not_signed() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let small = draft("", "resources: {limits: {wasmMemory: 64Ki}}");
    assert_eq!(code(&compose(&fleet, &trust, &small).unwrap_err()), "guest_memory");
    let other = draft("", "command: [nothing.wasm]");
    assert!(
        compose(&fleet, &trust, &other).is_ok(),
        "an artifact is its module, whatever the program is called"
    );
}

#[test]
fn c3_an_import_without_its_grant_is_named_before_anything_is_signed() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let text = r#"(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (func (export "_start")))"#;
    let module = wat::parse_str(text).unwrap();
    let e = compose_of(&fleet, &trust, &draft("", ""), &module).unwrap_err();
    assert_eq!(code(&e), "import_denied");
    assert!(e.render().contains("wasi_snapshot_preview1.sock_open"), "{}", e.render());
}

#[test]
fn an_interpreted_container_and_its_self_test_are_signed_and_shown() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let wanted = draft("", "engine: interpreter\n          selfTest: _start");
    let d = compose(&fleet, &trust, &wanted).unwrap();
    precheck(&trust, &ring(&[2]), &d.name, &d).unwrap();
    let shown = crate::review::facts(&d, &BTreeMap::new());
    assert!(shown["main.engine"].starts_with("interpreted"), "{shown:?}");
    assert!(shown["main.selfTest"].starts_with("_start must pass"), "{shown:?}");
    let absent = compose(&fleet, &trust, &draft("", "selfTest: nothing")).unwrap_err();
    assert_eq!(code(&absent), "malformed");
    assert!(absent.render().contains("it exports: memory, _start"), "{}", absent.render());
}

#[test]
fn c3_required_features_are_signed_and_shown_and_their_form_is_checked() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let wanted = draft("requiredFeatures: [landlock-network, cgroup-v2]", "");
    let d = compose(&fleet, &trust, &wanted).unwrap();
    precheck(&trust, &ring(&[2]), &d.name, &d).unwrap();
    assert_eq!(d.template.required_features, ["landlock-network", "cgroup-v2"]);
    let shown = crate::review::facts(&d, &BTreeMap::new());
    assert_eq!(shown["pod.requiredFeatures"], "landlock-network cgroup-v2");
    let without = compose(&fleet, &trust, &draft("", "")).unwrap();
    let change = crate::review::diff(&crate::review::facts(&without, &BTreeMap::new()), &shown);
    assert_eq!(change.len(), 1, "the one difference to a revision without them: {change:?}");
    let bad = compose(&fleet, &trust, &draft("requiredFeatures: [seccomp, seccomp]", "")).unwrap();
    assert_eq!(code(&precheck(&trust, &ring(&[2]), &bad.name, &bad).unwrap_err()), "malformed");
}

#[test]
fn s19_a_key_of_another_role_or_no_role_signs_nothing() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let d = compose(&fleet, &trust, &draft("", "")).unwrap();
    for seeds in [&[1][..], &[3], &[9], &[1, 3, 9]] {
        let e = precheck(&trust, &ring(seeds), &d.name, &d).unwrap_err();
        assert_eq!(code(&e), "role_scope");
        assert!(e.render().contains("your keys: key"), "{}", e.render());
    }
    // The one that fits is found among others.
    assert!(precheck(&trust, &ring(&[9, 2]), &d.name, &d).is_ok());
}

#[test]
fn a_role_with_a_prefix_signs_only_names_below_it() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let mut root = trust.root().unwrap().clone();
    let mut ci = role(RoleName::Deployment, signer(5).key());
    ci.prefix = "ci-".to_owned();
    root.roles.push(ci);
    let ring = ring(&[5]);
    assert_eq!(ring.of_role(&root, RoleName::Deployment, "ci-app").unwrap().len(), 1);
    assert_eq!(code(&ring.of_role(&root, RoleName::Deployment, "app").unwrap_err()), "role_scope");
    assert_eq!(code(&ring.of_role(&root, RoleName::Snapshot, "").unwrap_err()), "role_scope");
}

#[test]
fn the_next_snapshot_keeps_the_rest_and_names_its_predecessor() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let name: Name = "app".parse().unwrap();
    let at = |sequence| Revision { sequence, digest: Digest::of(&[u8::try_from(sequence).unwrap()]) };
    let first = entry(None, &name, at(1), None);
    assert_eq!((first.stable, first.floor), (None, 0));
    let second = entry(Some(&first), &name, at(2), Some(at(1)));
    assert_eq!(second.stable, Some(at(1)));
    let other = entry(None, &"aaa".parse().unwrap(), at(1), None);
    let snapshot = next_snapshot(&trust, &[second.clone(), other.clone()], now()).unwrap();
    assert_eq!(snapshot.entries, [other, second]);
    assert_eq!((snapshot.version, snapshot.previous), (2, Some(trust.snapshot().unwrap().digest)));
}
