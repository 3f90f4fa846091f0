//! Integer arithmetic: SHA-256 (FIPS 180-4) over four MiB.

include!("common.rs");

/// The first `count` primes.
fn primes(count: usize) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::new();
    let mut n = 2;
    while found.len() < count {
        if found.iter().all(|p| n % p != 0) {
            found.push(n);
        }
        n += 1;
    }
    found
}

/// The first 32 bits behind the point of the `degree`-th root of `n`, by bisection in whole numbers.
fn root_bits(n: u64, degree: u32) -> u32 {
    let (mut low, mut high) = (0_u128, 1_u128 << 40);
    let target = u128::from(n) << (32 * degree);
    while low + 1 < high {
        let middle = (low + high) / 2;
        let mut power = 1_u128;
        let mut above = false;
        for _ in 0..degree {
            match power.checked_mul(middle) {
                Some(p) => power = p,
                None => above = true,
            }
        }
        if above || power > target { high = middle } else { low = middle }
    }
    low as u32
}

struct Tables {
    round: [u32; 64],
    start: [u32; 8],
}

fn tables() -> Tables {
    let mut t = Tables { round: [0; 64], start: [0; 8] };
    for (i, p) in primes(64).into_iter().enumerate() {
        t.round[i] = root_bits(p, 3);
        if i < 8 {
            t.start[i] = root_bits(p, 2);
        }
    }
    t
}

fn compress(t: &Tables, state: &mut [u32; 8], block: &[u8]) {
    let mut w = [0_u32; 64];
    for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for i in 16..64 {
        let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
        let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for i in 0..64 {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let one = h.wrapping_add(s1).wrapping_add(choice).wrapping_add(t.round[i]).wrapping_add(w[i]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let two = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d.wrapping_add(one);
        d = c;
        c = b;
        b = a;
        a = one.wrapping_add(two);
    }
    for (s, v) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *s = s.wrapping_add(v);
    }
}

fn digest(t: &Tables, bytes: &[u8]) -> [u32; 8] {
    let mut state = t.start;
    let whole = bytes.len() / 64 * 64;
    for block in bytes[..whole].chunks_exact(64) {
        compress(t, &mut state, block);
    }
    let mut end = bytes[whole..].to_vec();
    end.push(0x80);
    while end.len() % 64 != 56 {
        end.push(0);
    }
    end.extend_from_slice(&(bytes.len() as u64 * 8).to_be_bytes());
    for block in end.chunks_exact(64) {
        compress(t, &mut state, block);
    }
    state
}

fn main() {
    let t = tables();
    // The standard's own example, so that nothing wrong is measured.
    assert_eq!(digest(&t, b"abc")[0], 0xba78_16bf);
    let bytes: Vec<u8> = (0..4_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    measure(|| digest(&t, &bytes).iter().fold(0, |sum, word| sum << 4 ^ u64::from(*word)));
}
