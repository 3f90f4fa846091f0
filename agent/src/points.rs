//! Named points at which a test can kill the agent; nothing without the feature `failpoints`.
//!
//! With the feature, `SHOAL_KILL_AT=NAME` or `NAME@N` sends the process SIGKILL at the N-th pass (from 1), and
//! `shoal-agent points` prints all names, so that a test can go through every one of them (F1). Where `SHOAL_KILL_ONCE` names
//! a file it does so only if that is there, and removes it first.

macro_rules! points {
    ($($(#[$meta:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$meta])* pub(crate) const $name: &str = $text;)*
        /// All of them.
        #[cfg(feature = "failpoints")]
        pub(crate) const ALL: &[&str] = &[$($text),*];
    };
}

points! {
    /// A durable file is written and flushed under its temporary name.
    FILE_WRITTEN = "file_written";
    /// It has its name; the folder is not flushed.
    FILE_RENAMED = "file_renamed";
    /// Enrolment: the identity key is durable.
    ENROLL_KEY = "enroll_key";
    /// Enrolment: admit took root and token.
    ENROLL_ADMITTED = "enroll_admitted";
    /// Enrolment: the device record is signed and durable.
    ENROLL_RECORD = "enroll_record";
    /// Enrolment: the request is durable; the daemon would go on with it.
    ENROLL_PENDING = "enroll_pending";
    /// Enrolment: the controller answered.
    ENROLL_ANSWERED = "enroll_answered";
    /// Renewal: the new certificate is proven, the old one still in its place.
    RENEWED = "renewed";
    /// Enrolment: admit took the device record.
    ENROLL_RECORD_ADMITTED = "enroll_record_admitted";
    /// Store: before a record of a revision is committed.
    RECORD_BEFORE = "record_before";
    /// Store: after it.
    RECORD_AFTER = "record_after";
    /// Store: before a report is committed to the outbox.
    OUTBOX_BEFORE = "outbox_before";
    /// Store: after it.
    OUTBOX_AFTER = "outbox_after";
    /// Store: before acknowledged reports are deleted.
    ACK_BEFORE = "ack_before";
    /// Store: after it.
    ACK_AFTER = "ack_after";
    /// Store: a block of counters is reserved.
    COUNTER_RESERVED = "counter_reserved";
    /// A document arrived and goes to admit.
    SUBMIT_BEFORE = "submit_before";
    /// Admit answered.
    SUBMIT_AFTER = "submit_after";
    /// Execute: before a revision is condemned.
    CONDEMN = "condemn";
    /// Execute: a stop was asked for.
    STOP = "stop";
    /// Execute: before supervise is asked to remove a pod.
    REMOVE_BEFORE = "remove_before";
    /// Execute: after it.
    REMOVE_AFTER = "remove_after";
    /// Execute: the attempt is durable, supervise not asked yet.
    START_BEFORE = "start_before";
    /// Execute: the container runs, nothing noted.
    START_AFTER = "start_after";
    /// Execute: the image's blobs are here.
    PULLED = "pulled";
    /// Execute: one item was handed to supervise.
    STAGED_ITEM = "staged_item";
    /// Execute: a compilation was asked for.
    COMPILE = "compile";
    /// A container's end arrived and is not noted yet.
    ENDED = "ended";
    /// Sideload: the bundle is open, nothing is kept of it.
    SIDELOAD_READ = "sideload_read";
    /// Sideload: admission would take all of it.
    SIDELOAD_REHEARSED = "sideload_rehearsed";
    /// Sideload: one image is kept.
    SIDELOAD_IMAGE = "sideload_image";
    /// Sideload: all images are kept, no document counts yet.
    SIDELOAD_IMAGES = "sideload_images";
    /// Sideload: admission took one document.
    SIDELOAD_DOCUMENT = "sideload_document";
    /// A report left, its acknowledgement did not come yet.
    REPORT_SENT = "report_sent";
    /// Software: all that was missing of a release was handed to supervise.
    SOFTWARE_BROUGHT = "software_brought";
    /// Software: before supervise is asked for the change.
    SOFTWARE_SWITCH = "software_switch";
    /// Software: before supervise hears that what runs works.
    SOFTWARE_CONFIRM = "software_confirm";
}

/// Passes a point.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn hit(_name: &'static str) {}

/// Passes a point.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(name: &'static str) {
    fail::fail_point!(name);
}

/// Seconds that a test puts the clock back by `SHOAL_CLOCK_BEHIND`.
#[cfg(feature = "failpoints")]
pub(crate) fn clock_behind() -> u64 {
    static BEHIND: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BEHIND.get_or_init(|| std::env::var("SHOAL_CLOCK_BEHIND").ok().and_then(|s| s.parse().ok()).unwrap_or(0))
}

/// No test puts the clock back.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn clock_behind() -> u64 {
    0
}

/// Arms the point that the environment names.
#[cfg(feature = "failpoints")]
pub(crate) fn arm() -> anyhow::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    let Ok(spec) = std::env::var("SHOAL_KILL_AT") else { return Ok(()) };
    let (name, nth) = spec.split_once('@').unwrap_or((&spec, "1"));
    let nth: u64 = nth.parse()?;
    anyhow::ensure!(ALL.contains(&name), "{name:?} is no point; `shoal-agent points` lists them");
    let once = std::env::var_os("SHOAL_KILL_ONCE");
    let passes = AtomicU64::new(0);
    let callback = move || {
        let is_due = passes.fetch_add(1, Ordering::Relaxed) + 1 >= nth;
        if is_due && once.as_ref().is_none_or(|file| std::fs::remove_file(file).is_ok()) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    };
    fail::cfg_callback(name, callback).map_err(anyhow::Error::msg)
}
