//! Every seed, every committed input and everything that once failed, through its target, in an ordinary build.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use cap::Cap;
use shoal_fuzz::{TARGETS, Target, all, committed, target};
use std::alloc::System;
use std::sync::{LazyLock, Mutex, PoisonError};

/// So that an input which asks for too much fails here as it does under the engine.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// One at a time: descriptors and memory are counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// A panic's report needs more memory than an input may have.
static REPORTS: LazyLock<()> = LazyLock::new(|| {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = MEMORY.set_limit(usize::MAX);
        report(panic);
    }));
});

/// Runs one input; the most that it held at a time is what its target may hold.
fn try_one(target: &Target, input: &[u8]) -> bool {
    let _ = MEMORY.set_limit(MEMORY.allocated() + target.memory);
    let taken = (target.run)(input);
    let _ = MEMORY.set_limit(usize::MAX);
    taken
}

fn replay(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    LazyLock::force(&REPORTS);
    let target = target(name).unwrap();
    (target.run)(&[]);
    for input in all(target) {
        try_one(target, &input);
        // Near misses, the same each time: cut short, and with one byte changed.
        for step in [1, 7, 13] {
            let at = input.len() * step / 14;
            try_one(target, &input[..at]);
            let mut changed = input.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 0x41;
                try_one(target, &changed);
            }
        }
    }
}

macro_rules! replays {
    ($($test:ident: $name:literal),*) => { $(#[test] fn $test() { replay($name); })* };
}

replays! {
    s15_envelopes_hold_for_all_committed_inputs: "envelope",
    s16_documents_hold_for_all_committed_inputs: "documents",
    s25_join_files_hold_for_all_committed_inputs: "join",
    b1_mqtt_messages_hold_for_all_committed_inputs: "mqtt",
    c5_guard_messages_hold_for_all_committed_inputs: "messages",
    c5_guard_layouts_hold_for_all_committed_inputs: "layouts",
    m4_image_documents_hold_for_all_committed_inputs: "manifests",
    m5_image_archives_hold_for_all_committed_inputs: "archives",
    m5_layers_hold_for_all_committed_inputs: "layers",
    m10_modules_hold_for_all_committed_inputs: "module"
}

#[test]
fn every_target_is_replayed_and_begins_with_inputs_that_the_product_takes() {
    let text = include_str!("replay.rs");
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for t in TARGETS {
        assert!(text.contains(&format!(": \"{}\"", t.name)), "{} has no replay", t.name);
        let seeds = (t.seeds)();
        let taken = seeds.iter().filter(|s| (t.run)(s)).count();
        assert!(taken * 2 > seeds.len(), "{}: only {taken} of {} seeds are taken", t.name, seeds.len());
        for s in &seeds {
            assert!(s.len() <= t.max_len, "{}: a seed of {} bytes", t.name, s.len());
        }
    }
}

#[test]
fn committed_corpora_are_small_and_belong_to_a_target() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for folder in ["corpus", "regressions"] {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in std::fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let target = target(name.strip_suffix(".hex").unwrap()).unwrap();
            let size: usize = committed(folder, target.name).iter().map(Vec::len).sum();
            assert!(size > 0 && size <= 16 << 10, "{folder}/{name}: {size} bytes");
        }
    }
}
