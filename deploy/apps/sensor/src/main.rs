//! Logs a simulated temperature reading at every interval: one line each, flushed at once, warnings on stderr.
//! Settings come from the environment (SENSOR_NAME, SENSOR_INTERVAL_MS, SENSOR_COUNT) and, before it, from arguments.
#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

const USAGE: &str = "usage: sensor [--name NAME] [--interval-ms 10..=3600000] [--count N, 0 = for ever]\n\
                     The environment may say the same: SENSOR_NAME, SENSOR_INTERVAL_MS, SENSOR_COUNT";

/// Above this many thousandths of a degree a warning goes to stderr.
const HOT: i64 = 24_000;

#[derive(Debug, PartialEq, Eq)]
struct Settings {
    name: String,
    interval: Duration,
    count: u64,
}

fn main() -> ExitCode {
    let settings = match settings(|name| env::var(name).ok(), env::args().skip(1)) {
        Ok(settings) => settings,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            // Not `ExitCode::from(2)`: Rust 1.63 makes a 1 of it on WASI.
            process::exit(2);
        }
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write a reading: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> io::Result<()> {
    let Settings { name, interval, count } = settings;
    let mut out = io::stdout().lock();
    let mut temperature = 21_500;
    let mut sequence: u64 = 0;
    writeln!(out, "sensor={name} interval_ms={} started", interval.as_millis())?;
    loop {
        sequence += 1;
        temperature = next(temperature, RandomState::new().build_hasher().finish());
        let (degrees, thousandths) = (temperature / 1000, temperature % 1000);
        writeln!(out, "sensor={name} seq={sequence} temperature_c={degrees}.{thousandths:03}")?;
        out.flush()?;
        if temperature > HOT {
            eprintln!("sensor={name} seq={sequence} warning=hot");
        }
        if sequence == *count {
            return Ok(());
        }
        thread::sleep(*interval);
    }
}

/// The next reading, in thousandths of a degree: a random step, drawn back towards 21.5 °C.
fn next(temperature: i64, random: u64) -> i64 {
    let step = (random % 801) as i64 - 400;
    temperature + step + (21_500 - temperature) / 16
}

fn settings(
    environment: impl Fn(&str) -> Option<String>,
    mut arguments: impl Iterator<Item = String>,
) -> Result<Settings, String> {
    let mut name = environment("SENSOR_NAME").unwrap_or_else(|| "sensor-1".to_owned());
    let mut interval = environment("SENSOR_INTERVAL_MS").unwrap_or_else(|| "1000".to_owned());
    let mut count = environment("SENSOR_COUNT").unwrap_or_else(|| "0".to_owned());
    while let Some(option) = arguments.next() {
        let slot = match option.as_str() {
            "--name" => &mut name,
            "--interval-ms" => &mut interval,
            "--count" => &mut count,
            _ => return Err(format!("unknown argument `{option}`")),
        };
        *slot = arguments.next().ok_or_else(|| format!("`{option}` needs a value"))?;
    }
    let milliseconds = match interval.parse() {
        Ok(milliseconds @ 10..=3_600_000) => milliseconds,
        _ => {
            return Err(format!("the interval `{interval}` is not a number of milliseconds in 10..=3600000"))
        }
    };
    let count = count.parse().map_err(|_| format!("the count `{count}` is not a number"))?;
    Ok(Settings { name, interval: Duration::from_millis(milliseconds), count })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(environment: &[(&str, &str)], arguments: &[&str]) -> Result<Settings, String> {
        let find =
            |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        settings(find, arguments.iter().map(|argument| argument.to_string()))
    }

    #[test]
    fn arguments_win_over_the_environment_and_both_over_defaults() {
        let found = parse(&[("SENSOR_NAME", "a"), ("SENSOR_COUNT", "3")], &["--name", "b"]).unwrap();
        assert_eq!(found, Settings { name: "b".into(), interval: Duration::from_secs(1), count: 3 });
    }

    #[test]
    fn wrong_settings_say_what_is_wrong() {
        assert!(parse(&[("SENSOR_INTERVAL_MS", "9")], &[]).unwrap_err().contains("10..=3600000"));
        assert!(parse(&[], &["--count", "x"]).unwrap_err().contains("count `x`"));
        assert!(parse(&[], &["--name"]).unwrap_err().contains("needs a value"));
        assert!(parse(&[], &["-h"]).unwrap_err().contains("unknown argument `-h`"));
    }

    #[test]
    fn readings_stay_near_a_room_temperature() {
        let (mut high, mut low) = (21_500, 21_500);
        for _ in 0..10_000 {
            high = next(high, 800);
            low = next(low, 0);
        }
        assert!(high < 28_500 && low > 14_500, "{high} {low}");
    }
}
