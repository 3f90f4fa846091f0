//! Calls and branches: Fibonacci numbers by plain recursion.

include!("common.rs");

fn fib(n: u32) -> u64 {
    if n < 2 { u64::from(n) } else { fib(n - 1) + fib(n - 2) }
}

fn main() {
    // Not known when it is compiled, so that nothing is worked out ahead.
    let n = std::env::args().nth(2).and_then(|a| a.parse().ok()).unwrap_or(34);
    measure(|| fib(n));
}
