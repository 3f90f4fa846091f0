use super::super::testing::{deployment, fleet, name, snapshot};
use super::*;
use shoal_protocol::ids::{DeviceId, Timestamp};
use shoal_protocol::sealing::SecretKey;
use shoal_protocol::signer::{Ed25519Signer, Signer as _};
use shoal_protocol::v1::{Entry, EnvFrom, EnvSource, EnvVar, Volume, VolumeSource as Source};

/// What opens this device's grants.
const SEALING: [u8; 32] = [0x42; 32];

fn id(called: &str, sequence: u64) -> Digest {
    Digest::of(format!("{called} {sequence}").as_bytes())
}

fn config(called: &str, sequence: u64, data: &[(&str, &[u8])]) -> Config {
    Config {
        fleet: fleet(),
        epoch: 1,
        name: name(called),
        sequence,
        issued_at: Timestamp(100),
        not_after: Timestamp(10_000),
        data: data.iter().copied().collect(),
    }
}

/// A secret for `web` with a value that says its sequence.
fn secret(sequence: u64) -> Secret {
    let mut secret = Secret {
        fleet: fleet(),
        epoch: 1,
        name: name("password"),
        sequence,
        issued_at: Timestamp(100),
        not_after: Timestamp(10_000),
        deployments: vec!["web".into()],
        keys: vec!["token".into()],
        commitment: Digest([0; 32]),
        sealed: shoal_protocol::ids::Bytes(vec![]),
    };
    let value = format!("hush {sequence}");
    let data: ByteMap = [("token", value.as_bytes())].into_iter().collect();
    sealing::seal(&mut secret, &SecretKey::new([3; 32]), &data).unwrap();
    secret
}

fn grant(sequence: u64) -> Grant {
    let device: DeviceId = Ed25519Signer::from_seed([7; 32]).key().device_id();
    let revision = Revision { sequence, digest: id("password", sequence) };
    let public = sealing::public_of(&SEALING);
    let (fleet, called) = (fleet(), name("password"));
    let place = (&fleet, &device);
    let sealed =
        sealing::wrap(&SecretKey::new([3; 32]), &public, place, (&called, &revision), [5; 32]).unwrap();
    Grant {
        fleet: fleet.clone(),
        epoch: 1,
        device,
        name: called,
        revision,
        issued_at: Timestamp(100),
        sealed,
    }
}

impl Documents {
    fn with_config(mut self, config: Config) -> Self {
        let digest = id(config.name.as_str(), config.sequence);
        self.held.insert(digest, Held::Config(Arc::new(config)));
        self
    }

    fn with_secret(mut self, sequence: u64) -> Self {
        self.held.insert(id("password", sequence), Held::Secret(Arc::new(secret(sequence))));
        self
    }

    fn with_grant(mut self, sequence: u64) -> Self {
        self.grants.insert(id("password", sequence), Arc::new(grant(sequence)));
        self
    }

    fn finds(&self, kind: EntryKind, reference: &DocumentRef) -> Option<Digest> {
        self.find(kind, reference).map(|(digest, _)| digest)
    }
}

fn settings(sequences: &[u64]) -> Documents {
    let one = |all: Documents, s: &u64| all.with_config(config("settings", *s, &[("zone", b"lab")]));
    sequences.iter().fold(Documents::default(), one)
}

fn to(called: &str) -> DocumentRef {
    DocumentRef { name: name(called), pin: None, optional: false }
}

fn pinned(called: &str, sequence: u64) -> DocumentRef {
    let digest = id(called, sequence);
    DocumentRef { pin: Some(Revision { sequence, digest }), ..to(called) }
}

/// A deployment with these volumes of files.
fn web(volumes: Vec<Source>) -> Deployment {
    let mut d = deployment("web", 1);
    let called = |(n, source)| Volume { name: name(&format!("v{n}")), source };
    d.template.volumes = volumes.into_iter().enumerate().map(called).collect();
    d
}

fn of_config(document: DocumentRef, items: Vec<KeyFile>) -> Source {
    Source::Config { document, mode: 0o640, items }
}

fn of_secret(document: DocumentRef) -> Source {
    Source::Secret { document, mode: 0o600, items: vec![] }
}

fn item(key: &str, path: &str) -> KeyFile {
    KeyFile { key: key.into(), path: path.into(), mode: Some(0o444) }
}

#[test]
fn a_reference_means_the_newest_or_exactly_what_it_pins() {
    let all = settings(&[1, 2]).with_config(config("other", 9, &[]));
    assert_eq!(all.finds(EntryKind::Config, &to("settings")), Some(id("settings", 2)));
    assert_eq!(all.finds(EntryKind::Config, &pinned("settings", 1)), Some(id("settings", 1)));
    assert_eq!(all.finds(EntryKind::Config, &pinned("settings", 3)), None);
    let forged = Revision { sequence: 1, digest: id("settings", 2) };
    assert_eq!(all.finds(EntryKind::Config, &DocumentRef { pin: Some(forged), ..to("settings") }), None);
    assert_eq!(all.finds(EntryKind::Secret, &to("settings")), None);
    assert_eq!(all.finds(EntryKind::Config, &to("none")), None);
    let anew = Config { epoch: 2, ..config("settings", 1, &[]) };
    let mut all = settings(&[2]);
    all.held.insert(id("anew", 1), Held::Config(Arc::new(anew)));
    assert_eq!(all.finds(EntryKind::Config, &to("settings")), Some(id("anew", 1)), "of a newer epoch");
}

#[test]
fn what_the_snapshot_calls_removed_or_puts_a_floor_above_is_meant_by_nothing() {
    let listed = |kind, liveness, floor| {
        let mut s = snapshot(&[("settings", 2, liveness)]);
        s.entries = s.entries.into_iter().map(|e| Entry { kind, floor, ..e }).collect();
        let mut all = settings(&[1, 2]);
        all.listed_by(Some(&s));
        [to("settings"), pinned("settings", 1)].map(|r| all.finds(EntryKind::Config, &r).is_some())
    };
    assert_eq!(listed(EntryKind::Config, Liveness::Live, 0), [true, true]);
    assert_eq!(listed(EntryKind::Config, Liveness::Live, 2), [true, false]);
    assert_eq!(listed(EntryKind::Config, Liveness::Live, 3), [false, false]);
    assert_eq!(listed(EntryKind::Config, Liveness::Removed, 0), [false, false]);
    // What is said of another kind of that name says nothing here.
    assert_eq!(listed(EntryKind::Secret, Liveness::Removed, 3), [true, true]);
    assert_eq!(listed(EntryKind::Deployment, Liveness::Removed, 3), [true, true]);
}

#[test]
fn s25_a_secrets_new_value_takes_over_once_it_can_be_read_and_both_are_kept_until_then() {
    let d = web(vec![of_secret(to("password"))]);
    let used = |all: &Documents| all.used_by(&d).collect::<BTreeSet<_>>();
    let one = Documents::default().with_secret(1).with_grant(1);
    assert_eq!(used(&one), BTreeSet::from([id("password", 1)]));
    let waiting = one.clone().with_secret(2);
    assert_eq!(waiting.finds(EntryKind::Secret, &to("password")), Some(id("password", 1)));
    assert_eq!(used(&waiting), BTreeSet::from([id("password", 1), id("password", 2)]));
    let both = waiting.clone().with_grant(2);
    assert_eq!(both.finds(EntryKind::Secret, &to("password")), Some(id("password", 2)));
    assert_eq!(used(&both), BTreeSet::from([id("password", 2)]));
    // Each of these steps makes another ticket.
    let stamps = [&one, &waiting, &both, &Documents::default()].map(|all| all.stamp(&d));
    assert_eq!(BTreeSet::from(stamps).len(), 4);
    let open = |all: &Documents| {
        all.summary().into_iter().map(|h| (h.kind, h.sequence, h.open)).collect::<BTreeSet<_>>()
    };
    let said = |n, open| ("secret".to_owned(), n, open);
    assert_eq!(open(&waiting), BTreeSet::from([said(1, true), said(2, false)]));
    let config = settings(&[3]).summary().remove(0);
    assert_eq!(
        (config.kind.as_str(), config.name.as_str(), config.sequence, config.open),
        ("config", "settings", 3, true)
    );
    let named = both.named(&used(&both));
    assert_eq!(named, BTreeSet::from([(EntryKind::Secret, "password".to_owned(), 2)]));
    let mut kept = both.clone();
    kept.keep_only(&used(&both));
    assert_eq!((kept.held.len(), kept.grants.len()), (1, 1));
    assert!(kept.grants.contains_key(&id("password", 2)));
}

#[test]
fn s25_what_is_missing_has_a_code_by_its_kind_and_says_what_it_is() {
    let why = |all: &Documents, source: Source, key: Option<&[u8; 32]>| {
        all.resolve(&web(vec![source]), key).err().map(|m| (m.code, m.detail))
    };
    let key = Some(&SEALING);
    let (code, detail) = why(&settings(&[1]), of_config(to("none"), vec![]), key).unwrap();
    assert_eq!((code, detail.as_str()), (Code::WaitingConfig, "config none is not here"));
    let (code, detail) = why(&settings(&[1]), of_config(pinned("settings", 4), vec![]), key).unwrap();
    assert_eq!((code, detail.as_str()), (Code::WaitingConfig, "config settings revision 4 is not here"));
    let (code, detail) = why(&Documents::default(), of_secret(to("password")), key).unwrap();
    assert_eq!((code, detail.as_str()), (Code::WaitingSecret, "secret password is not here"));
    let granted = Documents::default().with_secret(1).with_grant(1);
    assert_eq!(why(&granted, of_secret(to("password")), key), None);
    assert_eq!(why(&granted, of_secret(to("password")), None).unwrap().0, Code::WaitingSecret);
    let sealed = Documents::default().with_secret(1);
    assert_eq!(why(&sealed, of_secret(to("password")), key).unwrap().0, Code::WaitingSecret);
    let other = Some(&[0x43; 32]);
    assert_eq!(why(&granted, of_secret(to("password")), other).unwrap().0, Code::SecretContext);
    let mut elsewhere = web(vec![of_secret(to("password"))]);
    elsewhere.name = name("web2");
    let refused = granted.resolve(&elsewhere, key).err().unwrap();
    assert_eq!(refused.code, Code::SecretContext);
    assert!(refused.detail.contains("sealed for web"), "{}", refused.detail);
    // What may be absent is; what is needed in one place is needed.
    let optional = || of_config(DocumentRef { optional: true, ..to("none") }, vec![]);
    assert_eq!(why(&settings(&[1]), optional(), key), None);
    for both in [[optional(), of_config(to("none"), vec![])], [of_config(to("none"), vec![]), optional()]] {
        assert_eq!(settings(&[1]).resolve(&web(both.into()), key).err().unwrap().code, Code::WaitingConfig);
    }
}

#[test]
fn entries_become_files_by_key_or_by_item() {
    let data: &[(&str, &[u8])] = &[("a", b"same"), ("b", b"same"), ("c", b"other")];
    let all = Documents::default().with_config(config("settings", 1, data)).with_secret(1).with_grant(1);
    let chosen = of_config(to("settings"), vec![item("c", "deep/c"), item("a", "a")]);
    let d = web(vec![of_config(to("settings"), vec![]), chosen, of_secret(to("password"))]);
    let resolved = all.resolve(&d, Some(&SEALING)).unwrap();
    let files = |n: &str| match &resolved.volumes[&name(n)] {
        VolumeSource::Files { private, files } => {
            let all: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.size, f.mode)).collect();
            (*private, all)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(files("v0"), (false, vec![("a", 4, 0o640), ("b", 4, 0o640), ("c", 5, 0o640)]));
    assert_eq!(files("v1"), (false, vec![("deep/c", 5, 0o444), ("a", 4, 0o444)]));
    assert_eq!(files("v2"), (true, vec![("token", 6, 0o600)]));
    let mut contents: Vec<_> = resolved.contents.iter().map(|b| b.1.clone()).collect();
    contents.sort();
    assert_eq!(contents, [b"hush 1".to_vec(), b"other".to_vec(), b"same".to_vec()], "each once");
    let lacking = |optional| {
        let d = web(vec![of_config(DocumentRef { optional, ..to("settings") }, vec![item("z", "z")])]);
        all.resolve(&d, None).err().map(|m| m.code)
    };
    assert_eq!(lacking(false), Some(Code::WaitingConfig));
    assert_eq!(lacking(true), None);
}

#[test]
fn s16_what_documents_bring_into_one_pod_has_its_edges() {
    let fits = |sizes: &[usize]| {
        let all = Documents::default();
        let one = |all: Documents, (n, size): (usize, &usize)| {
            all.with_config(config(&format!("c{n}"), 1, &[("k", &vec![b'x'; *size])]))
        };
        let all = sizes.iter().enumerate().fold(all, one);
        let volumes = (0..sizes.len()).map(|n| of_config(to(&format!("c{n}")), vec![])).collect();
        all.resolve(&web(volumes), None).err().map(|m| m.code)
    };
    let most = usize::try_from(CONTENTS_MAX).unwrap();
    assert_eq!(fits(&[most]), None);
    assert_eq!(fits(&[most - 1, 1]), None);
    assert_eq!(fits(&[most, 1]), Some(Code::TooLarge));
    let count = |of: [usize; 2]| {
        let items = |n: usize| (0..n).map(|i| item("zone", &format!("p{i}"))).collect();
        let volumes = of.map(|n| of_config(to("settings"), items(n)));
        settings(&[1]).resolve(&web(volumes.into()), None).err().map(|m| m.code)
    };
    assert_eq!(count([CONTENTS_COUNT - 1, 1]), None);
    assert_eq!(count([CONTENTS_COUNT, 1]), Some(Code::TooLarge));
}

#[test]
fn entries_become_variables_and_a_containers_own_win() {
    let data: &[(&str, &[u8])] = &[("A", b"1"), ("B", b"2"), ("bin", b"\xff"), ("nul", b"a\0b")];
    let all = Documents::default().with_config(config("settings", 1, data)).with_secret(1).with_grant(1);
    let variable = |n: &str, key: &str, optional| {
        let document = DocumentRef { optional, ..to("settings") };
        EnvVar { from: Some(EnvSource::Config { document, key: key.into() }), ..EnvVar::plain(n, "") }
    };
    let values = |env: Vec<EnvVar>, env_from: Vec<EnvFrom>| {
        let mut d = web(vec![]);
        (d.template.containers[0].env, d.template.containers[0].env_from) = (env, env_from);
        let resolved = all.resolve(&d, Some(&SEALING)).map_err(|m| m.code)?;
        let of = resolved.variables.get(&name("main")).cloned().unwrap_or_default();
        Ok(of.into_iter().map(|v| format!("{}={}", v.name, v.value)).collect::<Vec<_>>())
    };
    assert_eq!(values(vec![EnvVar::plain("A", "own")], vec![]), Ok(vec![]), "plain ones are in the ticket");
    assert_eq!(values(vec![variable("X", "B", false)], vec![]), Ok(vec!["X=2".to_owned()]));
    assert_eq!(values(vec![variable("X", "none", true)], vec![]), Ok(vec![]));
    assert_eq!(values(vec![variable("X", "none", false)], vec![]), Err(Code::WaitingConfig));
    assert_eq!(values(vec![variable("X", "bin", false)], vec![]), Err(Code::WaitingConfig));
    assert_eq!(values(vec![variable("X", "nul", false)], vec![]), Err(Code::WaitingConfig));
    let whole = |prefix: &str| EnvFrom::Secret { document: to("password"), prefix: prefix.into() };
    assert_eq!(values(vec![], vec![whole("P_")]), Ok(vec!["P_token=hush 1".to_owned()]));
    assert_eq!(values(vec![EnvVar::plain("token", "own")], vec![whole("")]), Ok(vec![]));
    let both = vec![variable("token", "A", false)];
    assert_eq!(values(both, vec![whole("")]), Ok(vec!["token=1".to_owned()]));
}
