//! Reads what a virtual device says on its first serial port, and counts. Pure.

use crate::test::parse_result;

/// What a line means to whoever shows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Kernel and init are up: version and controllers.
    Up(String),
    /// A test program began.
    Start(String),
    /// A test program ended: its name and how.
    End(String, Result<(), String>),
    /// All are through.
    Done,
    /// Anything else that a test printed.
    Line(String),
}

/// The count so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: Vec<String>,
    /// What failed of the program that runs now: `None` until it printed its own count.
    current: Option<u64>,
    /// What it skipped, before that count.
    returned_early: u64,
}

impl Tally {
    /// Takes in a line.
    pub(crate) fn hear(&mut self, line: &str) -> Said {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix('@') {
            let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "up" => return Said::Up(rest.to_owned()),
                "start" => {
                    (self.current, self.returned_early) = (None, 0);
                    return Said::Start(rest.to_owned());
                }
                "end" => return self.end(rest),
                "done" => return Said::Done,
                _ => {}
            }
        }
        if let Some((passed, failed)) = parse_result(line) {
            self.passed += passed.saturating_sub(self.returned_early);
            self.failed += failed;
            self.current = Some(failed);
        }
        // libtest leaves its own line open while a test prints.
        if let Some((_, skipped)) = line.split_once("SKIPPED ") {
            // It will be in the program's `passed`; it must not count as such.
            self.returned_early += 1;
            self.skipped.push(skipped.to_owned());
        }
        Said::Line(line.to_owned())
    }

    fn end(&mut self, rest: &str) -> Said {
        let (name, code) = rest.split_once(' ').unwrap_or((rest, "?"));
        let how = match (code, self.current) {
            ("0", Some(0)) => Ok(()),
            (_, Some(failed)) if failed > 0 => Err(format!("{failed} failed")),
            ("137", _) => {
                self.failed += 1;
                Err("took too long and was killed".to_owned())
            }
            _ => {
                self.failed += 1;
                Err(format!("ended with {code} before its tests did"))
            }
        };
        Said::End(name.to_owned(), how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear_all(lines: &[&str]) -> (Tally, Vec<Said>) {
        let mut tally = Tally::default();
        let said = lines.iter().map(|line| tally.hear(line)).collect();
        (tally, said)
    }

    const RESULT: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\r";

    #[test]
    fn results_are_counted_and_a_skipped_test_has_not_passed() {
        let (tally, said) = hear_all(&[
            "@up 6.12: cpu memory\r",
            "@start log\r",
            "test a ... SKIPPED a: no runner\r",
            RESULT,
            "@end log 0\r",
            "@done\r",
        ]);
        assert_eq!((tally.passed, tally.failed), (1, 0));
        assert_eq!(tally.skipped, ["a: no runner"]);
        assert_eq!(said[4], Said::End("log".into(), Ok(())));
        assert_eq!(said[5], Said::Done);
    }

    #[test]
    fn a_failure_counts_once_and_an_end_without_results_is_one() {
        let failed = RESULT.replace("0 failed", "1 failed").replace("ok", "FAILED");
        let (tally, said) = hear_all(&["@start a", &failed, "@end a 101"]);
        assert_eq!(tally.failed, 1);
        assert_eq!(said[2], Said::End("a".into(), Err("1 failed".into())));
        for code in ["0", "137", "139"] {
            let (tally, said) =
                hear_all(&["@start a", RESULT, "@end a 0", "@start b", &format!("@end b {code}")]);
            assert_eq!(tally.failed, 1, "{code}");
            assert!(matches!(&said[4], Said::End(name, Err(_)) if name == "b"), "{code}");
        }
    }
}
