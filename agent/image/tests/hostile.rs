//! Hostile images and modules: each case of M2, M4, M5, M7, M8 and M10 that needs no network.

#![cfg(feature = "images")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use shoal_image::{Document, Image, Store, import, inspect, limits, strip_custom};
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use std::fs;
use support::{Tar, gzip, image, module, store, tar_image, write, zstd};
use tar::EntryType;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const TAR_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn refusal(store: &Store, manifest: &Digest) -> Option<Code> {
    Image::load(store, manifest).unwrap_err().code()
}

#[test]
fn m4_a_document_that_is_manifest_and_index_at_once() {
    let blob = format!(r#"{{"mediaType":"x/y","digest":"{}","size":1}}"#, Digest::of(b"x"));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{blob}]}}"#);
    let both = format!(r#"{{"schemaVersion":2,"manifests":[],"config":{blob},"layers":[]}}"#);
    let liar = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","config":{blob},"layers":[{blob}]}}"#);
    let honest = format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#);
    let manifest_type = "application/vnd.docker.distribution.manifest.v2+json";
    for (bytes, served_as) in [
        (&both, None),
        (&liar, None),
        (&honest, Some(INDEX)),
        (&honest, Some("application/vnd.oci.image.index.v1+json; charset=utf-8")),
        (&index, Some(manifest_type)),
    ] {
        let e = Document::parse(bytes.as_bytes(), served_as).unwrap_err();
        assert_eq!(e.code(), Some(Code::AmbiguousManifest), "{bytes} {served_as:?}");
    }
    assert!(Document::parse(honest.as_bytes(), Some(manifest_type)).is_ok());
    let twice = honest.replace(r#""layers":"#, r#""layers":[],"layers":"#);
    assert_eq!(Document::parse(twice.as_bytes(), None).unwrap_err().code(), Some(Code::Malformed));
}

#[test]
fn manifests_beyond_the_caps_or_with_foreign_urls() {
    let blob =
        |extra: &str| format!(r#"{{"mediaType":"x/y","digest":"{}","size":1{extra}}}"#, Digest::of(b"x"));
    let with = |config: &str, layers: &str| {
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
        Document::parse(text.as_bytes(), None).map(|_| ()).map_err(|e| e.code().unwrap())
    };
    assert_eq!(with(&blob(""), &blob("")), Ok(()));
    assert_eq!(with(&blob(""), &blob(r#","urls":["http://169.254.169.254/"]"#)), Err(Code::UnsupportedValue));
    assert_eq!(with(&blob(""), &vec![blob(""); limits::LAYERS + 1].join(",")), Err(Code::TooLarge));
    assert_eq!(with(&blob("").replace(":1}", ":268435457}"), ""), Err(Code::TooLarge));
    assert_eq!(with(&blob("").replace("sha256:", "sha512:"), ""), Err(Code::Malformed));
    let padded = format!("{}{{}}", " ".repeat(limits::DOCUMENT as usize));
    assert_eq!(Document::parse(padded.as_bytes(), None).unwrap_err().code(), Some(Code::TooLarge));
    let nested = format!(r#"{{"schemaVersion":2,"config":{}"#, "[".repeat(100_000));
    assert_eq!(Document::parse(nested.as_bytes(), None).unwrap_err().code(), Some(Code::Malformed));
    assert_eq!(
        Document::parse(br#"{"schemaVersion":1,"manifests":[]}"#, None).unwrap_err().code(),
        Some(Code::UnsupportedValue)
    );
}

#[test]
fn m5_decompression_bombs_stop_at_the_limit() {
    let (_dir, store) = store();
    let zeros = vec![0; (limits::UNPACKED / 4) as usize + 1_000];
    let tar = Tar::default().file("zeros", &zeros).bytes();
    for packed in [gzip(&tar), zstd(&tar)] {
        store.put(&packed).unwrap();
        let digest = Digest::of(&tar);
        let layer = (TAR_LAYER, packed, digest);
        assert_eq!(refusal(&store, &image(&store, &vec![layer; 4], "{}")), Some(Code::TooLarge));
    }
    // Members of a bomb of an archive, and headers that promise the world.
    let mut header = tar::Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let long_name = [header.as_bytes().as_slice(), &[b'a'; 4096]].concat();
    assert_eq!(refusal(&store, &tar_image(&store, vec![long_name], "{}")), Some(Code::TooLarge));
}

#[test]
fn m5_what_a_layer_must_not_hold() {
    let (dir, store) = store();
    let entry = |path: &str, kind, link: &str| Tar::default().entry(path, kind, link, b"").bytes();
    for layer in [
        entry("../escape", EntryType::Regular, ""),
        entry("a/../../escape", EntryType::Regular, ""),
        entry("/etc/passwd", EntryType::Regular, ""),
        entry("link", EntryType::Symlink, "/etc/passwd"),
        entry("link", EntryType::Symlink, "inside"),
        entry("link", EntryType::Link, "/etc/shadow"),
        entry("dev", EntryType::Char, ""),
        entry("dev", EntryType::Block, ""),
        entry("pipe", EntryType::Fifo, ""),
        entry("sparse", EntryType::GNUSparse, ""),
        entry("x/.wh...", EntryType::Regular, ""),
        entry("x/.wh.", EntryType::Regular, ""),
        entry("../.wh.x", EntryType::Regular, ""),
    ] {
        let name = String::from_utf8_lossy(&layer[..40]).into_owned();
        assert_eq!(
            refusal(&store, &tar_image(&store, vec![layer], "{}")),
            Some(Code::LayerForbidden),
            "{name}"
        );
    }
    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("path", b"../../escape".as_slice())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    pax.append_data(&mut header, "fine", &b""[..]).unwrap();
    let layer = pax.into_inner().unwrap();
    assert_eq!(refusal(&store, &tar_image(&store, vec![layer], "{}")), Some(Code::LayerForbidden));
    assert!(!dir.path().join("escape").exists());
}

#[test]
fn m5_too_many_files_and_entries() {
    let (_dir, store) = store();
    let files = |n: usize| (0..n).fold(Tar::default(), |t, i| t.file(&format!("f{i}"), b"")).bytes();
    let folders = (0..=limits::ENTRIES)
        .fold(Tar::default(), |t, i| t.entry(&format!("d{i}"), EntryType::Directory, "", b""));
    assert!(Image::load(&store, &tar_image(&store, vec![files(limits::FILES)], "{}")).is_ok());
    assert_eq!(
        refusal(&store, &tar_image(&store, vec![files(limits::FILES + 1)], "{}")),
        Some(Code::TooLarge)
    );
    assert_eq!(refusal(&store, &tar_image(&store, vec![folders.bytes()], "{}")), Some(Code::TooLarge));
}

#[test]
fn m2_layers_that_unpack_to_something_else_or_rotted() {
    let (_dir, store) = store();
    let tar = Tar::default().file("a.wasm", &module()).bytes();
    store.put(&tar).unwrap();
    let wrong_diff_id = image(&store, &[(TAR_LAYER, tar.clone(), Digest::of(b"other"))], "{}");
    assert_eq!(refusal(&store, &wrong_diff_id), Some(Code::DigestMismatch));
    let good = tar_image(&store, vec![tar.clone()], "{}");
    Image::load(&store, &good).unwrap();
    let mut rotten = tar.clone();
    rotten[600] ^= 1;
    fs::write(store.path(&Digest::of(&tar)), rotten).unwrap();
    assert_eq!(refusal(&store, &good), Some(Code::DigestMismatch));
}

#[test]
fn broken_tars_and_packings_are_malformed() {
    let (_dir, store) = store();
    let tar = Tar::default().file("a", &[7; 9_000]).bytes();
    let mut bad_sum = tar.clone();
    bad_sum[0] ^= 1;
    let packed = gzip(&tar);
    for layer in [
        bad_sum,
        tar[..4_000].to_vec(),
        packed[..packed.len() - 9].to_vec(),
        vec![0x28, 0xb5, 0x2f, 0xfd, 9, 9],
    ] {
        assert_eq!(refusal(&store, &tar_image(&store, vec![layer], "{}")), Some(Code::Malformed));
    }
}

#[test]
fn archives_with_hostile_members_or_wrong_blobs_import_nothing() {
    let (dir, store) = store();
    let digest = Digest::of(b"{}");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2}}]}}"#
    );
    let with = |name: &str, contents: &[u8]| {
        let tar = Tar::default().file("index.json", index.as_bytes()).file(name, contents).bytes();
        import(&store, &write(dir.path(), "a.tar", &tar)).unwrap_err().code()
    };
    let blob = format!("blobs/sha256/{}", digest.hex());
    assert_eq!(with(&blob, b"[]"), Some(Code::DigestMismatch));
    assert_eq!(with(&blob, b"{}"), Some(Code::UnsupportedValue));
    assert_eq!(with("../outside", b"{}"), Some(Code::LayerForbidden));
    assert_eq!(with("unrelated", b"{}"), Some(Code::Malformed));
    let link = Tar::default()
        .file("index.json", index.as_bytes())
        .entry(&blob, EntryType::Symlink, "../../../../etc/passwd", b"")
        .bytes();
    assert_eq!(import(&store, &write(dir.path(), "l.tar", &link)).unwrap_err().code(), Some(Code::Malformed));
    assert_eq!(store.list().unwrap(), []);
}

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn code_of(bytes: &[u8]) -> Option<Code> {
    inspect(bytes).unwrap_err().code()
}

#[test]
fn m7_what_is_no_module() {
    let elf = fs::read("/bin/true").unwrap();
    for bytes in [&elf[..], b"#!/bin/sh\n", b"", b"hello", b"\0asm", b"\0asm\x02\0\0\0"] {
        assert_eq!(code_of(bytes), Some(Code::NotWasm));
    }
    let component = b"\0asm\x0d\0\x01\0";
    let e = inspect(component).unwrap_err();
    assert_eq!(e.code(), Some(Code::ComponentUnsupported));
    assert!(e.to_string().contains("wasm32-wasip1"), "{e}");
    let mut cut = module();
    cut.truncate(cut.len() - 3);
    assert_eq!(code_of(&cut), Some(Code::Malformed));
    assert_eq!(
        inspect(&wasm("(module)")).unwrap().check(false, None).unwrap_err().code(),
        Some(Code::NotWasm)
    );
}

#[test]
fn m8_native_code_offered_as_a_module_and_in_a_section() {
    let elf = [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 64], b"wasm.code\0wasm.size\0"].concat();
    assert_eq!(code_of(&elf), Some(Code::AotUntrusted));
    let mut with_section = module();
    with_section.extend_from_slice(b"\0\x10\x08wasmedge\x7fELFxxx");
    let facts = inspect(&with_section).unwrap();
    assert_eq!(facts.custom_sections, ["name", "wasmedge"]);
    let stripped = strip_custom(&with_section).unwrap();
    assert_eq!(stripped, strip_custom(&module()).unwrap());
    assert_eq!(facts.stripped_size, stripped.len() as u64);
    assert_eq!(inspect(&stripped).unwrap().custom_sections, [""; 0]);
}

#[test]
fn m10_every_proposal_off_the_list_is_refused_by_name() {
    for (name, text) in [
        ("memory64", "(module (memory i64 1))"),
        ("multi-memory", "(module (memory 1) (memory 1))"),
        ("exception-handling", "(module (tag $e) (func throw $e))"),
        ("threads", "(module (memory 1 2 shared))"),
        ("threads", "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))"),
        (
            "function-references",
            "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))",
        ),
        ("gc", "(module (type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1)))))"),
        ("custom-page-sizes", "(module (memory 1 (pagesize 1)))"),
        (
            "wide-arithmetic",
            "(module (func (param i64 i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (local.get 1))))",
        ),
    ] {
        let e = inspect(&wasm(text)).unwrap_err();
        assert_eq!(e.code(), Some(Code::UnsupportedProposal), "{name}: {e}");
        assert!(e.to_string().contains(name), "{name}: {e}");
    }
}

#[test]
fn m10_the_list_itself_is_accepted() {
    for text in [
        "(module (global (export \"g\") (mut i32) (i32.const 0)))",
        "(module (func (param i32) (result i32) (i32.extend8_s (local.get 0))))",
        "(module (func (param f32) (result i32) (i32.trunc_sat_f32_s (local.get 0))))",
        "(module (func (result i32 i32) i32.const 1 i32.const 2))",
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 1))))",
        "(module (table 1 externref) (func (drop (table.get (i32.const 0)))))",
        "(module (func (param v128) (result v128) (i8x16.popcnt (local.get 0))))",
        "(module (func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))",
        "(module (func $f (return_call $f)))",
        "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))",
    ] {
        inspect(&wasm(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
}

#[test]
fn imports_that_the_engine_does_not_give_are_named() {
    for (import, hint) in [
        (r#"(import "env" "puts" (func))"#, "env.puts"),
        (r#"(import "wasi_unstable" "fd_write" (func))"#, "preview 0"),
        (r#"(import "wasi:io/poll@0.2.0" "poll" (func))"#, "0.2"),
        (r#"(import "wasi" "thread-spawn" (func))"#, "threads"),
        (r#"(import "wasi_snapshot_preview1" "fd_magic" (func))"#, "fd_magic"),
        (r#"(import "wasi_snapshot_preview1" "fd_write" (memory 1))"#, "function"),
        (r#"(import "wasi_nn" "load" (func))"#, "extension"),
    ] {
        let e = inspect(&wasm(&format!("(module {import})"))).unwrap_err();
        assert_eq!(e.code(), Some(Code::ImportDenied), "{e}");
        assert!(e.to_string().contains(hint), "{e}");
    }
}

#[test]
fn tables_of_a_hundred_million_elements() {
    assert_eq!(code_of(&wasm("(module (table 100000000 funcref))")), Some(Code::TooLarge));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), at in 0_usize..100) {
        let _ = Document::parse(&bytes, None);
        let _ = inspect(&bytes);
        let mut bent = module();
        let i = at % bent.len();
        bent[i] = bytes.first().copied().unwrap_or(0);
        let _ = inspect(&bent).map(|_| strip_custom(&bent));
    }

    #[test]
    fn no_bent_layer_makes_the_unpacker_panic(at in 0_usize..1536, byte in proptest::num::u8::ANY) {
        let (_dir, store) = store();
        let mut tar = Tar::default().file("a/b", b"contents").bytes();
        tar[at] = byte;
        let _ = Image::load(&store, &tar_image(&store, vec![tar], "{}"));
    }
}
