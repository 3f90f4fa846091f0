//! Shows what a WASI program can do: random numbers, output, environment, arguments, and a file that it makes, reads and
//! deletes. A number as first argument asks for that many rounds of arithmetic at the end, so that CPU limits show.
#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::process::ExitCode;

const FILE: &str = "tmp.txt";

fn main() -> ExitCode {
    println!("Test 1: Print Random Number");
    println!("Random number: {}", random_i32());

    println!("\nTest 2: Print Random Bytes");
    println!("Random bytes: {:?}", random_bytes());

    println!("\nTest 3: Call an echo function");
    println!("{}", echo("This is from a main function"));

    println!("\nTest 4: Print Environment Variables");
    print_environment();

    if let Err(error) = file_round_trip() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }

    match env::args().nth(1).map(|argument| argument.parse::<u64>()) {
        Some(Ok(rounds)) => {
            println!("\nTest 8: Compute");
            println!("Checksum after {rounds} rounds: {:016x}", compute(rounds));
        }
        Some(Err(_)) | None => {}
    }
    ExitCode::SUCCESS
}

/// 64 random bits. The standard library keys each `RandomState` from WASI's `random_get`.
fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn random_i32() -> i32 {
    (random_u64() >> 32) as i32
}

fn random_bytes() -> Vec<u8> {
    (0..16).flat_map(|_| random_u64().to_le_bytes()).collect()
}

fn echo(text: &str) -> &str {
    println!("Printed from wasi: {text}");
    text
}

fn print_environment() {
    println!("The env vars are as follows.");
    for (name, value) in env::vars() {
        println!("{name}: {value}");
    }
    println!("The args are as follows.");
    for argument in env::args() {
        println!("{argument}");
    }
}

fn file_round_trip() -> Result<(), String> {
    let explain = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("cannot {what} `{FILE}` in the working directory: {error}")
    };
    println!("\nTest 5: Create a file `{FILE}` with content `This is in a file`");
    fs::write(FILE, "This is in a file").map_err(explain("create"))?;

    println!("\nTest 6: Read the content from the previous file");
    println!("File content is {}", fs::read_to_string(FILE).map_err(explain("read"))?);

    println!("\nTest 7: Delete the previous file");
    fs::remove_file(FILE).map_err(explain("delete"))
}

/// Rounds of xorshift64 from a fixed seed: the same number gives the same checksum everywhere.
fn compute(rounds: u64) -> u64 {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..rounds {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_depends_on_the_rounds_alone() {
        assert_eq!(compute(0), 0x9e37_79b9_7f4a_7c15);
        assert_eq!(compute(1000), compute(1000));
        assert_ne!(compute(1000), compute(1001));
    }

    #[test]
    fn there_are_128_random_bytes_and_never_the_same() {
        assert_eq!(random_bytes().len(), 128);
        assert_ne!(random_bytes(), random_bytes());
    }
}
