//! Every form in which images come: each is read to the same module.

#![cfg(feature = "images")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use shoal_image::{
    Capability, Descriptor, Document, Form, Image, Overrides, Store, copy, export_archive, import, inspect,
    resolve, select_platform, tag, tags, untag,
};
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use std::path::Path;
use support::{Tar, gzip, image, module, store, tar_image, write, zstd};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn run(store: &Store, manifest: &Digest) -> (String, Vec<u8>) {
    let image = Image::load(store, manifest).unwrap();
    let resolved = resolve(&image, &Overrides::default()).unwrap();
    (resolved.module.path, store.read(&resolved.module.digest, 1 << 20).unwrap())
}

#[test]
fn docker_layers_of_every_packing_hold_the_module() {
    let (_dir, store) = store();
    let tar = Tar::default()
        .entry("bin/", tar::EntryType::Directory, "", b"")
        .file("./app.wasm", &module())
        .bytes();
    for (kind, bytes) in [
        ("application/vnd.oci.image.layer.v1.tar", tar.clone()),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(&tar)),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd(&tar)),
        // What tools really write: the name of another packing.
        ("application/vnd.oci.image.layer.v1.tar+gzip", tar.clone()),
    ] {
        store.put(&bytes).unwrap();
        for entry in ["/app.wasm", "app.wasm", "./app.wasm"] {
            let config = format!(r#"{{"Cmd":["{entry}"]}}"#);
            let manifest = image(&store, &[(kind, bytes.clone(), Digest::of(&tar))], &config);
            assert_eq!(run(&store, &manifest), ("/app.wasm".to_owned(), module()), "{kind} {entry}");
        }
    }
}

#[test]
fn later_layers_replace_and_whiteouts_remove() {
    let (_dir, store) = store();
    let low = Tar::default()
        .file("app.wasm", b"old")
        .file("etc/a", b"a")
        .file("etc/b", b"b")
        .file("var/x/y", b"y")
        .file("was-file", b"f")
        .bytes();
    let high = Tar::default()
        .file("app.wasm", &module())
        .file("etc/.wh.a", b"")
        .file("var/x/.wh..wh..opq", b"")
        .file("var/x/z", b"z")
        .file("was-file/now-below", b"n")
        .bytes();
    let manifest = tar_image(&store, vec![low, high], r#"{"Entrypoint":["/app.wasm"]}"#);
    let image = Image::load(&store, &manifest).unwrap();
    let paths: Vec<&str> = image.files.keys().map(String::as_str).collect();
    assert_eq!(paths, ["/app.wasm", "/etc/b", "/var/x/z", "/was-file/now-below"]);
    assert_eq!(store.read(&image.files["/app.wasm"].digest, 1 << 20).unwrap(), module());
}

#[test]
fn long_paths_come_in_gnu_and_pax_form() {
    let (_dir, store) = store();
    let long = format!("{}/app.wasm", "d".repeat(150));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o755);
    builder.append_data(&mut header, &long, &b"gnu"[..]).unwrap();
    let gnu = builder.into_inner().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("path", b"from/pax".as_slice()), ("size", b"3".as_slice())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    builder.append_data(&mut header, "short", &b"pax"[..]).unwrap();
    let manifest = tar_image(&store, vec![gnu, builder.into_inner().unwrap()], "{}");
    let image = Image::load(&store, &manifest).unwrap();
    assert_eq!((image.files[&format!("/{long}")].mode, image.files["/from/pax"].size), (0o755, 3));
}

#[test]
fn wasm_artifacts_of_cncf_and_of_older_tools() {
    let (_dir, store) = store();
    for (config_type, layer_type) in [
        ("application/vnd.wasm.config.v0+json", "application/wasm"),
        ("application/vnd.module.wasm.config.v1+json", "application/vnd.module.wasm.content.layer.v1+wasm"),
        ("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm"),
    ] {
        store.put(&module()).unwrap();
        store.put(b"{}").unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI,
            "config": Descriptor::of(config_type, b"{}"),
            "layers": [Descriptor::of(layer_type, &module())],
            "annotations": {"module.wasm.image/variant": "compat"},
        });
        let manifest = store.put(manifest.to_string().as_bytes()).unwrap();
        assert_eq!(Image::load(&store, &manifest).unwrap().form, Form::Artifact);
        assert_eq!(run(&store, &manifest), ("/module.wasm".to_owned(), module()));
    }
}

#[test]
fn an_index_gives_its_wasm_image_and_never_an_attestation() {
    let entry = |n: u8, platform: Option<(&str, &str)>, attests: bool| {
        let mut d = Descriptor::new(OCI, Digest([n; 32]), 100);
        d.platform = platform.map(|(os, arch)| {
            serde_json::from_value(serde_json::json!({"os": os, "architecture": arch})).unwrap()
        });
        if attests {
            d.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        }
        d
    };
    let choose = |entries: &[Descriptor]| {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        let Document::Index(index) = Document::parse(index.to_string().as_bytes(), None).unwrap() else {
            panic!()
        };
        select_platform(&index).map(|d| d.digest.0[0]).map_err(|e| e.code())
    };
    let linux = entry(1, Some(("linux", "amd64")), false);
    let attestation = entry(2, Some(("unknown", "unknown")), true);
    assert_eq!(choose(&[attestation.clone(), linux.clone(), entry(3, Some(("wasi", "wasm")), false)]), Ok(3));
    assert_eq!(choose(&[linux.clone(), entry(4, Some(("wasip1", "wasm")), false)]), Ok(4));
    assert_eq!(choose(&[attestation.clone(), linux]), Ok(1));
    assert_eq!(choose(&[entry(5, None, false)]), Ok(5));
    assert_eq!(choose(&[attestation]), Err(Some(Code::NotWasm)));
    assert_eq!(choose(&[entry(6, Some(("windows", "amd64")), false)]), Err(Some(Code::NotWasm)));
}

fn docker_archive() -> Vec<u8> {
    let layer = Tar::default().file("app.wasm", &module()).bytes();
    let config =
        format!(r#"{{"config":{{"Cmd":["app.wasm"]}},"rootfs":{{"diff_ids":["{}"]}}}}"#, Digest::of(&layer));
    let manifest = r#"[{"Config":"cfg.json","RepoTags":["demo:1","demo:2"],"Layers":["abc/layer.tar"]}]"#;
    Tar::default()
        .file("layers/x.tar", &layer)
        .entry("abc/layer.tar", tar::EntryType::Symlink, "../layers/x.tar", b"")
        .file("cfg.json", config.as_bytes())
        .file("manifest.json", manifest.as_bytes())
        .bytes()
}

#[test]
fn docker_archives_become_the_same_oci_image_each_time() {
    let (dir, store) = store();
    let plain = write(dir.path(), "saved.tar", &docker_archive());
    let packed = write(dir.path(), "saved.tar.gz", &gzip(&docker_archive()));
    let images = import(&store, &plain).unwrap();
    let names: Vec<_> = images.iter().map(|i| i.reference.as_deref()).collect();
    assert_eq!(names, [Some("demo:1"), Some("demo:2")]);
    assert_eq!(run(&store, &images[0].manifest.digest), ("/app.wasm".to_owned(), module()));
    let other = Store::open(dir.path().join("other")).unwrap();
    assert_eq!(import(&other, &packed).unwrap(), images);
}

#[test]
fn a_bare_module_becomes_an_artifact_under_its_own_name() {
    let (dir, store) = store();
    let path = write(dir.path(), "sensor.wasm", &module());
    let image = &import(&store, &path).unwrap()[0];
    assert_eq!(run(&store, &image.manifest.digest), ("/sensor.wasm".to_owned(), module()));
    assert_eq!(import(&store, &path).unwrap()[0], *image);
}

#[test]
fn layouts_and_archives_of_them_round_trip() {
    let (dir, store) = store();
    let image = import(&store, &write(dir.path(), "app.wasm", &module())).unwrap().remove(0);
    let export = || {
        let mut out = Vec::new();
        export_archive(&store, &image.manifest.digest, Some("h.example/app:1"), &mut out).unwrap();
        out
    };
    assert_eq!(export(), export());
    let archive = write(dir.path(), "app.tar", &export());
    let again = Store::open(dir.path().join("again")).unwrap();
    let imported = import(&again, &archive).unwrap();
    assert_eq!(imported[0].reference.as_deref(), Some("h.example/app:1"));
    assert_eq!((imported[0].manifest.digest, imported[0].size), (image.manifest.digest, image.size));

    let layout = Store::open(dir.path().join("layout")).unwrap();
    copy(&store, &layout, &image.manifest.digest).unwrap();
    tag(&layout, "app:1", &image.manifest).unwrap();
    let third = Store::open(dir.path().join("third")).unwrap();
    let imported = import(&third, layout.root()).unwrap();
    assert_eq!((imported.len(), imported[0].reference.as_deref()), (1, Some("app:1")));
    assert_eq!(run(&third, &image.manifest.digest).1, module());
}

#[test]
fn names_are_kept_replaced_and_forgotten() {
    let (_dir, store) = store();
    let d = |n: u8| Descriptor::new(OCI, Digest([n; 32]), 9);
    tag(&store, "b", &d(1)).unwrap();
    tag(&store, "a", &d(2)).unwrap();
    tag(&store, "b", &d(3)).unwrap();
    let all: Vec<_> = tags(&store).unwrap().into_iter().map(|t| (t.name, t.manifest.digest.0[0])).collect();
    assert_eq!(all, [("a".to_owned(), 2), ("b".to_owned(), 3)]);
    assert!(untag(&store, "a").unwrap());
    assert!(!untag(&store, "a").unwrap());
    assert_eq!(tags(&store).unwrap().len(), 1);
}

#[test]
fn what_is_no_image_is_said_with_its_path() {
    let (dir, store) = store();
    for (name, bytes) in [
        ("notes.txt", &b"just some words, long enough to look like nothing at all"[..]),
        ("empty.tar", &[0; 1024]),
        ("cut.tar", &docker_archive()[..3_000]),
        ("packed.gz", &gzip(b"words")),
    ] {
        let e = import(&store, &write(dir.path(), name, bytes)).unwrap_err();
        assert_eq!(e.code(), Some(Code::Malformed), "{name}: {e}");
        assert!(e.to_string().contains(name), "{e}");
    }
    assert!(import(&store, Path::new("/nowhere/at/all")).is_err());
}

#[test]
fn what_a_module_may_do_is_told() {
    let facts = inspect(
        &wat::parse_str(
            r#"(module
                (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
                (memory (export "memory") 2 40) (table 10 funcref) (func (export "_start")))"#,
        )
        .unwrap(),
    )
    .unwrap();
    let can: Vec<Capability> = facts.capabilities.iter().copied().collect();
    assert_eq!(can, [Capability::Random, Capability::Files, Capability::Sockets]);
    let memory = facts.memory.unwrap();
    assert_eq!((memory.min_pages, memory.max_pages, facts.tables[0].min), (2, Some(40), 10));
    assert!(facts.is_command && facts.check(true, Some(2)).is_ok());
    assert_eq!(facts.check(false, None).unwrap_err().code(), Some(Code::ImportDenied));
    assert_eq!(facts.check(true, Some(1)).unwrap_err().code(), Some(Code::GuestMemory));
}
