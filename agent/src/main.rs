//! The device daemon and its own command line

fn main() {}
