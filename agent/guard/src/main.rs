//! The trusted side of a device: admit, supervise, log

fn main() {}
