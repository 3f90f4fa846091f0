//! What a compilation costs, by the size of the module: time, and the peak of memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::Row;
use super::engine_job::{Runner, watch};
use crate::{output, paths};

/// Copies of the example guest's functions in one module of a real compiler's code, and bytes of debug information beside it.
const SIZES: [(&str, usize, usize); 4] = [
    ("100 KB", 1, 0),
    ("6 MB, a debug build: nearly all of it sections that are stripped", 1, 6 << 20),
    ("1 MB", 14, 0),
    ("6 MB, all of it code", 84, 0),
];
/// What a module of 6 MB may take, MiB.
const MEMORY: f64 = 256.0;

/// Measures all sizes.
pub(super) fn rows() -> Result<Vec<Row>> {
    let runner = Runner::build()?;
    let wasmtime = super::wasmtime();
    let out = paths::target()?.join("bench/compile");
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let source = fs::read(paths::workspace().join("deploy/apps/prebuilt/sensor.wasm"))?;
    let mut rows = Vec::new();
    for (name, copies, debug) in SIZES {
        let module = out.join("module.wasm");
        let mut bytes = grown(&source, copies).context("the example guest is no plain module")?;
        if debug > 0 {
            bytes.push(0);
            bytes.extend(leb128(debug + 7));
            bytes.extend(b"\x06.debug");
            bytes.resize(bytes.len() + debug, 0);
        }
        fs::write(&module, &bytes)?;
        output::step("compile", &format!("{name}: {} bytes", bytes.len()));
        let cost = runner.compile(&module, &out)?;
        let budget = name.starts_with("6 MB").then_some(MEMORY);
        rows.push(Row::new(format!("{name}: Shoal, time"), cost.seconds, "s", None));
        rows.push(Row::new(format!("{name}: Shoal, peak memory"), cost.peak, "MiB", budget));
        if let Some(wasmtime) = &wasmtime {
            let (seconds, peak) = rival(wasmtime, &module, &out)?;
            rows.push(Row::new(format!("{name}: wasmtime, time"), seconds, "s", None));
            rows.push(Row::new(format!("{name}: wasmtime, peak memory"), peak, "MiB", None));
        }
    }
    Ok(rows)
}

/// Wasmtime on one thread, as a device's compilation is.
fn rival(wasmtime: &Path, module: &Path, out: &Path) -> Result<(f64, f64)> {
    let mut command = Command::new(wasmtime);
    command
        .args(["compile", "-C", "parallel-compilation=n"])
        .arg(module)
        .arg("-o")
        .arg(out.join("module.cwasm"));
    let began = Instant::now();
    let peak = watch(command.spawn().context("start wasmtime")?)?;
    Ok((began.elapsed().as_secs_f64(), peak))
}

/// The module with its functions `copies` times: the same calls, the same types, other numbers. Without custom sections.
fn grown(module: &[u8], copies: usize) -> Option<Vec<u8>> {
    let mut out = module.get(..8)?.to_vec();
    let mut rest = module.get(8..)?;
    while let Some((id, after)) = rest.split_first() {
        let (size, after) = number(after)?;
        let (body, next) = after.split_at_checked(size)?;
        rest = next;
        // Functions and their code: lists of the same length.
        let body = if [3, 10].contains(id) {
            let (count, items) = number(body)?;
            let mut all = leb128(count * copies);
            (0..copies).for_each(|_| all.extend_from_slice(items));
            all
        } else {
            body.to_vec()
        };
        if *id != 0 {
            out.push(*id);
            out.extend(leb128(body.len()));
            out.extend(body);
        }
    }
    Some(out)
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

fn leb128(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(0x80 | n.to_le_bytes()[0]);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grown_module_has_each_function_so_many_times_and_no_custom_section() {
        // One type, two functions with empty bodies, and a custom section.
        let module = [
            &b"\0asm\x01\0\0\0"[..],
            &[1, 4, 1, 0x60, 0, 0],
            &[3, 3, 2, 0, 0],
            &[10, 7, 2, 2, 0, 0x0b, 2, 0, 0x0b],
            &[0, 2, 1, b'x'],
        ]
        .concat();
        let big = grown(&module, 100).unwrap();
        assert_eq!(big[14..18], [3, 202, 1, 200]);
        assert!(!big.ends_with(b"x"));
        assert_eq!(grown(&module, 1).unwrap(), module[..module.len() - 4]);
        assert!(grown(&module[..20], 1).is_none());
    }

    #[test]
    fn lengths_come_back() {
        for n in [0, 127, 128, 5_721_547] {
            assert_eq!(number(&leb128(n)).unwrap().0, n);
        }
    }
}
