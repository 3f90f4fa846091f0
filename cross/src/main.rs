//! cargo xtask: engine, demo, test, bench, package, device VMs

fn main() {}
