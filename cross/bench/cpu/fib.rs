//! Calls and branches: Fibonacci numbers by plain recursion.

include!("common.rs");

fn fib(n: u32) -> u64 {
    if n < 2 { u64::from(n) } else { fib(n - 1) + fib(n - 2) }
}

fn main() {
    let n = 34;
    // Read anew each time, so that nothing is worked out ahead or once for all rounds.
    measure(|| fib(unsafe { std::ptr::read_volatile(&n) }));
}
