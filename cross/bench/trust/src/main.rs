//! The device's admission of signed documents beside tough's update of a TUF repository, on the same machine in turn.
//!
//! Prints one JSON object: microseconds and bytes.

#[allow(
    dead_code,
    unused_imports,
    reason = "the fleet that the protocol's own tests use; a part of it is needed here"
)]
#[path = "../../../../protocol/tests/common/mod.rs"]
mod common;
mod ours;
mod theirs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The system's allocator, with a mark at the most that was in use.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it came; counting touches two atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(used, Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Roots after the first.
const ROTATIONS: u64 = 100;
/// Rounds of what takes microseconds, and of what takes milliseconds.
const MANY: usize = 2000;
const FEW: usize = 50;

fn main() {
    let ours = ours::Repository::new(ROTATIONS);
    let theirs = theirs::Repository::new(ROTATIONS, ours.deployment_size());
    // In turn, so that both see the same machine.
    let mut out = serde_json::Map::new();
    let mut put = |name: &str, value: f64| {
        out.insert(name.to_owned(), value.into());
    };
    put("deployment_bytes", ours.deployment_size() as f64);
    put("deployment_us", median(MANY, || ours.deployment()));
    put("deployment_peak_bytes", peak(|| ours.deployment()) as f64);
    put("update_us", median(MANY, || ours.update()));
    put("tough_update_us", median(MANY, || theirs.update()));
    put("roots_us", median(FEW, || ours.roots()));
    put("tough_roots_us", median(FEW, || theirs.roots()));
    put("update_peak_bytes", peak(|| ours.update()) as f64);
    put("tough_update_peak_bytes", peak(|| theirs.update()) as f64);
    println!("{}", serde_json::Value::Object(out));
}

/// Microseconds of the middle one of some rounds, after a few that do not count.
fn median(rounds: usize, mut work: impl FnMut()) -> f64 {
    (0..rounds / 10).for_each(|_| work());
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

/// The most that one round has allocated at a time, above what was in use before it.
fn peak(work: impl FnOnce()) -> usize {
    let before = USED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    work();
    MOST.load(Ordering::Relaxed) - before
}
