/// Runs `work` once to warm up and then `rounds` times; prints what it computed and the best time of one round in
/// microseconds, by the program's own clock, so that neither process start nor loading counts.
fn measure(work: impl Fn() -> u64) {
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(5_u32);
    let mut sum = work();
    let mut best = u128::MAX;
    for _ in 0..rounds {
        let start = std::time::Instant::now();
        sum = sum.rotate_left(1) ^ work();
        best = best.min(start.elapsed().as_micros());
    }
    println!("{:016x} {}", sum, best);
}
