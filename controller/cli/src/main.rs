//! The operator's command line: it signs, and talks to the controller

fn main() {}
