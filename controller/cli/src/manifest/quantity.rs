//! Kubernetes quantities (`500m`, `200Mi`, `1e3`) and durations (`90s`, `24h`), as pure arithmetic.
//!
//! Never here: where a quantity stands or what it limits. Exact: no floating point, nothing wraps.

/// Why a text is no quantity of its sort; says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {why}; allowed: {allowed}")]
pub(crate) struct QuantityError {
    text: String,
    what: &'static str,
    why: String,
    allowed: &'static str,
}

const MEMORY: &str = "bytes as a number, with Ki, Mi, Gi, Ti, Pi, Ei (powers of 1024) or k, M, G, T, P, E (powers of 1000), as in 200Mi";
const CPU: &str = "CPUs as a number (2, 0.5) or thousandths of one (500m)";
const DURATION: &str = "seconds as a number, or a number with s, m, h or d, as in 90s, 10m, 24h, 30d";

/// Nano-units, the finest that Kubernetes writes.
const NANO: u128 = 1_000_000_000;

/// A suffix and what one of it is worth in nano-units.
const SUFFIXES: [(&str, u128); 15] = [
    ("", NANO),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", NANO * 1_000),
    ("M", NANO * 1_000_000),
    ("G", NANO * 1_000_000_000),
    ("T", NANO * 1_000_000_000_000),
    ("P", NANO * 1_000_000_000_000_000),
    ("E", NANO * 1_000_000_000_000_000_000),
    ("Ki", NANO << 10),
    ("Mi", NANO << 20),
    ("Gi", NANO << 30),
    ("Ti", NANO << 40),
    ("Pi", NANO << 50),
];
const EXBI: (&str, u128) = ("Ei", NANO << 60);

/// Why the number itself does not parse, in words.
fn nanos(text: &str) -> Result<(u128, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if text.starts_with('-') {
        return Err("it is negative".to_owned());
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err("it does not begin with a number".to_owned());
    }
    if whole.len() > 19 || fraction.len() > 9 {
        return Err("it has too many digits".to_owned());
    }
    let (scale, unit) = unit_of(suffix)?;
    let digits = format!("{whole}{fraction}");
    let value: u128 = digits.parse().map_err(|_| "it does not begin with a number".to_owned())?;
    let ten = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
    let product = value.checked_mul(scale).ok_or_else(|| "it is too large".to_owned())?;
    Ok((product.div_ceil(ten), unit))
}

fn unit_of(suffix: &str) -> Result<(u128, &str), String> {
    if let Some((unit, scale)) = SUFFIXES.iter().chain([&EXBI]).find(|(unit, _)| *unit == suffix) {
        return Ok((*scale, unit));
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
        let power: i32 = exponent.parse().map_err(|_| format!("{suffix:?} is no exponent"))?;
        let scale = match power {
            0..=18 => 10_u128.pow(power.unsigned_abs()).checked_mul(NANO),
            -9..=-1 => Some(NANO / 10_u128.pow(power.unsigned_abs())),
            _ => None,
        };
        return Ok((scale.ok_or_else(|| "its exponent is out of range".to_owned())?, ""));
    }
    let near = match suffix.trim().to_ascii_lowercase().as_str() {
        "b" => Some("no unit at all"),
        "kb" | "kib" | "ki" => Some("Ki or k"),
        "mb" | "mib" | "mi" => Some("Mi or M"),
        "g" | "gb" | "gib" | "gi" => Some("Gi or G"),
        "t" | "tb" | "tib" | "ti" => Some("Ti or T"),
        "cpu" | "cpus" | "core" | "cores" | "%" => Some("the number of CPUs alone"),
        _ if suffix == "K" => Some("Ki or k"),
        _ => None,
    };
    Err(match near {
        Some(near) => format!("unit {suffix:?} is unknown, did you mean {near}?"),
        None => format!("unit {suffix:?} is unknown"),
    })
}

fn refuse(text: &str, what: &'static str, allowed: &'static str) -> impl Fn(String) -> QuantityError {
    let text: String = text.chars().take(40).collect();
    move |why| QuantityError { text: text.clone(), what, why, allowed }
}

/// Bytes. A fraction of a byte (`200m`) is refused: it is a slip for `200Mi` wherever it was seen.
pub(crate) fn bytes(text: &str) -> Result<u64, QuantityError> {
    let refuse = refuse(text, "an amount of memory", MEMORY);
    let (value, unit) = nanos(text.trim()).map_err(&refuse)?;
    if matches!(unit, "m" | "u" | "n") {
        return Err(refuse(format!("{unit:?} means a fraction of a byte, did you mean Mi?")));
    }
    u64::try_from(value.div_ceil(NANO)).map_err(|_| refuse("it is too large".to_owned()))
}

/// Thousandths of a CPU, rounded up.
pub(crate) fn millicpus(text: &str) -> Result<u64, QuantityError> {
    let refuse = refuse(text, "an amount of CPU", CPU);
    let (value, unit) = nanos(text.trim()).map_err(&refuse)?;
    if !matches!(unit, "" | "m" | "u" | "n" | "k") {
        return Err(refuse(format!("{unit:?} is no unit of CPU")));
    }
    u64::try_from(value.div_ceil(1_000_000)).map_err(|_| refuse("it is too large".to_owned()))
}

/// Seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, QuantityError> {
    let trimmed = text.trim();
    let refuse = refuse(text, "a duration", DURATION);
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let value: u64 =
        number.parse().map_err(|_| refuse("it does not begin with a whole number".to_owned()))?;
    let scale = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(refuse(format!("unit {unit:?} is unknown"))),
    };
    value.checked_mul(scale).ok_or_else(|| refuse("it is too large".to_owned()))
}

/// Bytes for people: the largest binary unit that keeps at most one decimal.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scale = 1024_u64;
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    if tenths % 10 == 0 || tenths >= 1000 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_kubernetes_reads_it() {
        for (text, expected) in [
            ("0", 0),
            ("209715200", 209_715_200),
            ("200Mi", 209_715_200),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("128M", 128_000_000),
            ("1e3", 1_000),
            ("1E3", 1_000),
            ("2E", 2_000_000_000_000_000_000),
            ("1Ei", 1 << 60),
            (".5Ki", 512),
            ("129e6", 129_000_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn cpu_is_read_in_thousandths_rounded_up() {
        for (text, expected) in [
            ("2", 2_000),
            ("500m", 500),
            ("0.5", 500),
            ("0.1", 100),
            ("1.0005", 1_001),
            ("3000u", 3),
            ("1n", 1),
        ] {
            assert_eq!(millicpus(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_wrong_unit_names_what_is_allowed_and_what_was_meant() {
        let e = bytes("200MB").unwrap_err().to_string();
        assert!(e.contains("did you mean Mi or M?") && e.contains("as in 200Mi"), "{e}");
        let e = bytes("200m").unwrap_err().to_string();
        assert!(e.contains("fraction of a byte, did you mean Mi?"), "{e}");
        assert!(millicpus("500Mi").unwrap_err().to_string().contains("no unit of CPU"));
        assert!(millicpus("2 cores").is_err());
        for bad in
            ["", "Mi", "-1", "1.2.3", "1,5", "99999999999999999999", "99Ei", "1e99", "1e", "1e-30", "½"]
        {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units_of_their_own() {
        assert_eq!(
            (seconds("90"), seconds("10m"), seconds("24h"), seconds("30d")),
            (Ok(90), Ok(600), Ok(86_400), Ok(2_592_000))
        );
        for bad in ["", "h", "-1", "1w", "99999999999999999d", "1.5h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(200 << 20), "200 MiB");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(u64::MAX), "16383 PiB");
    }
}
