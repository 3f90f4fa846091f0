//! The fleet controller: store, broker, API, registry endpoint

fn main() {}
