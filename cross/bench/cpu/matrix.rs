//! Floating point and streaming memory: the product of two matrices of f64, row by row.

include!("common.rs");

const N: usize = 256;

fn filled(seed: u64) -> Vec<f64> {
    let mut x = seed;
    (0..N * N)
        .map(|_| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 40) as f64 / 65536.0
        })
        .collect()
}

fn product(a: &[f64], b: &[f64], c: &mut [f64]) {
    for i in 0..N {
        let row = &mut c[i * N..(i + 1) * N];
        row.fill(0.0);
        for k in 0..N {
            let factor = a[i * N + k];
            for (out, value) in row.iter_mut().zip(&b[k * N..(k + 1) * N]) {
                *out += factor * value;
            }
        }
    }
}

fn main() {
    let (a, b) = (filled(1), filled(2));
    measure(|| {
        let mut c = vec![0.0; N * N];
        product(&a, &b, &mut c);
        c.iter().fold(0, |sum, value| sum ^ value.to_bits())
    });
}
