//! Reads the host's apt sources, both formats, to find its Debian mirror; `mirror` alone touches files. Changes nothing.

use std::path::Path;

use anyhow::{Result, bail};

/// One place that the host gets packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The archive's base address.
    pub uri: String,
    /// The suites taken from it.
    pub suites: Vec<String>,
}

/// Parses the deb822 format (`*.sources`): stanzas of fields, continuation lines, comments (`sources.list(5)`).
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let without_comments: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#')).map(str::trim_end).collect();
    for stanza in without_comments.split(|line| line.is_empty()) {
        let field = |name: &str| -> Vec<String> {
            let mut words = Vec::new();
            let mut inside = false;
            for line in stanza {
                if line.starts_with([' ', '\t']) {
                    if inside {
                        words.extend(line.split_whitespace().map(str::to_owned));
                    }
                    continue;
                }
                let (key, value) = line.split_once(':').unwrap_or((line, ""));
                inside = key.eq_ignore_ascii_case(name);
                if inside {
                    words.extend(value.split_whitespace().map(str::to_owned));
                }
            }
            words
        };
        let is_disabled = field("Enabled").first().is_some_and(|word| word.eq_ignore_ascii_case("no"));
        if is_disabled || !field("Types").iter().any(|word| word == "deb") {
            continue;
        }
        let suites = field("Suites");
        sources.extend(field("URIs").into_iter().map(|uri| Source { uri, suites: suites.clone() }));
    }
    sources
}

/// Parses the one-line format (`sources.list`, `*.list`): `deb [options] URI SUITE COMPONENT…`.
pub(crate) fn parse_one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with(char::is_whitespace)) else {
            continue;
        };
        let mut rest = rest.trim_start();
        if let Some(options) = rest.strip_prefix('[') {
            let Some((_, after)) = options.split_once(']') else { continue };
            rest = after;
        }
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            sources.push(Source { uri: uri.to_owned(), suites: vec![suite.to_owned()] });
        }
    }
    sources
}

/// The first source that is Debian's main archive, by the end of its path (a snapshot of it counts too).
pub(crate) fn pick_mirror(sources: &[Source]) -> Option<&str> {
    let is_archive = |source: &&Source| {
        let uri = source.uri.trim_end_matches('/');
        let is_http = uri.starts_with("http://") || uri.starts_with("https://");
        is_http && (uri.ends_with("/debian") || uri.contains("/archive/debian/"))
    };
    sources.iter().find(is_archive).map(|source| source.uri.trim_end_matches('/'))
}

/// The Debian mirror to use: `SHOAL_DEBIAN_MIRROR`, or the one in the host's own sources.
pub(crate) fn mirror() -> Result<String> {
    if let Ok(uri) = std::env::var("SHOAL_DEBIAN_MIRROR")
        && !uri.is_empty()
    {
        return Ok(uri.trim_end_matches('/').to_owned());
    }
    let sources = read_host(Path::new("/etc/apt"));
    match pick_mirror(&sources) {
        Some(uri) => Ok(uri.to_owned()),
        None => bail!(
            "no Debian mirror found in /etc/apt/sources.list and /etc/apt/sources.list.d \
             ({} sources read); set SHOAL_DEBIAN_MIRROR to one",
            sources.len()
        ),
    }
}

/// The archive that holds a suite: security updates are beside the main one.
pub(crate) fn archive_of(mirror: &str, suite: &str) -> String {
    match mirror.strip_suffix("/debian") {
        Some(base) if suite.ends_with("-security") => format!("{base}/debian-security"),
        _ if suite.ends_with("-security") => {
            mirror.replacen("/archive/debian/", "/archive/debian-security/", 1)
        }
        _ => mirror.to_owned(),
    }
}

fn read_host(apt: &Path) -> Vec<Source> {
    let mut sources =
        std::fs::read_to_string(apt.join("sources.list")).map_or_else(|_| Vec::new(), |t| parse_one_line(&t));
    let Ok(entries) = std::fs::read_dir(apt.join("sources.list.d")) else { return sources };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|e| e.to_str()) {
            Some("sources") => sources.extend(parse_deb822(&text)),
            Some("list") => sources.extend(parse_one_line(&text)),
            _ => {}
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deb822_stanzas_comments_and_continuations_are_read() {
        let text = "Types: deb deb-src\n# a comment inside\nURIs: http://mirror.example/debian\n http://other.example/debian\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://mirror.example/debian-security\n\
                    Suites: bookworm-security\n";
        let sources = parse_deb822(text);
        assert_eq!(sources.len(), 3);
        assert_eq!(sources[0].uri, "http://mirror.example/debian");
        assert_eq!(sources[1].uri, "http://other.example/debian");
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[2].suites, ["bookworm-security"]);
    }

    #[test]
    fn deb822_that_is_disabled_or_only_source_is_left_out() {
        let text = "Types: deb\nURIs: http://a.example/debian\nSuites: sid\nEnabled: no\n\n\
                    Types: deb-src\nURIs: http://b.example/debian\nSuites: sid\n";
        assert_eq!(parse_deb822(text), []);
    }

    #[test]
    fn one_line_with_and_without_options_is_read() {
        let text = "# deb http://x.example/debian sid main\n\
                    deb http://a.example/debian/ bookworm main contrib # trailing\n\
                    deb [arch=amd64 signed-by=/k.gpg] https://b.example/debian trixie main\n\
                    deb-src http://a.example/debian bookworm main\ndeb [broken http://c.example/debian sid main\ndeb lonely\n";
        let sources = parse_one_line(text);
        let uris: Vec<&str> = sources.iter().map(|s| s.uri.as_str()).collect();
        assert_eq!(uris, ["http://a.example/debian/", "https://b.example/debian"]);
        assert_eq!(sources[1].suites, ["trixie"]);
    }

    #[test]
    fn security_updates_are_beside_the_main_archive() {
        let main = "http://m.example/debian";
        assert_eq!(archive_of(main, "bookworm"), main);
        assert_eq!(archive_of(main, "bookworm-security"), "http://m.example/debian-security");
        let snapshot = "http://s.example/archive/debian/20260101T000000Z";
        let security = "http://s.example/archive/debian-security/20260101T000000Z";
        assert_eq!(archive_of(snapshot, "bookworm-security"), security);
    }

    #[test]
    fn the_main_archive_is_picked_not_security_nor_a_stranger() {
        let source = |uri: &str| Source { uri: uri.into(), suites: vec!["x".into()] };
        let sources = [
            source("http://m.example/debian-security"),
            source("https://vendor.example/apt"),
            source("file:/srv/debian"),
            source("http://m.example/debian/"),
        ];
        assert_eq!(pick_mirror(&sources), Some("http://m.example/debian"));
        assert_eq!(pick_mirror(&sources[..3]), None);
        let snapshot = [source("http://s.example/archive/debian/20260101T000000Z")];
        assert_eq!(pick_mirror(&snapshot), Some("http://s.example/archive/debian/20260101T000000Z"));
    }
}
