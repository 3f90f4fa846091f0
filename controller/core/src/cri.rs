//! Lines in the CRI log format (`TIME STREAM TAG TEXT`), taken apart for people to read.

use crate::api::LogEvent;
use shoal_protocol::ids::Name;

/// Takes a chunk of whole lines apart. A line of another form is passed on as text of `stdout`, never dropped.
pub fn lines(container: &Name, chunk: &[u8]) -> Vec<LogEvent> {
    String::from_utf8_lossy(chunk).lines().map(|line| event(container, line)).collect()
}

fn event(container: &Name, line: &str) -> LogEvent {
    let mut parts = line.splitn(4, ' ');
    let known = (|| {
        let time = parts.next()?;
        let stream = parts.next().filter(|s| matches!(*s, "stdout" | "stderr"))?;
        let tag = parts.next().filter(|t| matches!(*t, "F" | "P"))?;
        Some((time, stream, tag == "F", parts.next().unwrap_or_default()))
    })();
    let (time, stream, full, text) = known.unwrap_or(("", "stdout", true, line));
    LogEvent::Line {
        container: container.clone(),
        time: time.to_owned(),
        stream: stream.to_owned(),
        full,
        text: text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_and_odd_ones_kept() {
        let name: Name = "a".parse().unwrap();
        let chunk = b"2026-01-02T03:04:05.6Z stderr P half a line\n2026-01-02T03:04:05.6Z stdout F \nodd\n";
        let got: Vec<_> = lines(&name, chunk)
            .into_iter()
            .map(|e| match e {
                LogEvent::Line { stream, full, text, .. } => (stream, full, text),
                other => panic!("{other:?}"),
            })
            .collect();
        let want = [("stderr", false, "half a line"), ("stdout", true, ""), ("stdout", true, "odd")];
        assert_eq!(got, want.map(|(s, f, t)| (s.to_owned(), f, t.to_owned())));
    }
}
