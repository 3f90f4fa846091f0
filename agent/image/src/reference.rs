//! Image references as people write them: `host/repository:tag@digest`, with Docker's defaults. Pure.
//!
//! The grammar is `oci-client`'s, read by hand: there it is one regular expression, which takes 4 MiB of an idle device for ever
//! (docs/benchmarks.md). A test holds the two together. Kept is what was written, since no registry may also mean the fleet's own.

use crate::error::Error;
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::fmt;
use std::str::FromStr;

/// A reference to an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host and port as written; `None` when the reference names none, which means Docker Hub or the fleet's own.
    pub registry: Option<String>,
    /// The repository, without Docker Hub's `library/`.
    pub repository: String,
    /// The tag as written.
    pub tag: Option<String>,
    /// The manifest as written.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The host to ask: the one written, or Docker Hub's.
    pub fn host(&self) -> &str {
        match self.registry.as_deref() {
            None | Some("docker.io" | "index.docker.io") => "registry-1.docker.io",
            Some(host) => host,
        }
    }

    /// The repository's name at [`Self::host`].
    pub fn path(&self) -> String {
        if self.host() == "registry-1.docker.io" && !self.repository.contains('/') {
            format!("library/{}", self.repository)
        } else {
            self.repository.clone()
        }
    }

    /// The tag, or `latest` when neither tag nor digest was written.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            let shown: String = text.chars().take(200).collect();
            Error::refused(
                Code::Malformed,
                format!("{shown:?} is no image reference ([host[:port]/]repository[:tag][@sha256:…]): {why}"),
            )
        };
        let (written, digest) = match text.split_once('@') {
            Some((written, digest)) => {
                let digest = digest.parse().map_err(|_| bad("the digest is no sha256"))?;
                (written, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it, the port.
        let last = written.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match written[last..].find(':') {
            Some(colon) => (&written[..last + colon], Some(&written[last + colon + 1..])),
            None => (written, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), rest),
            _ => (None, name),
        };
        if !registry.is_none_or(is_host) {
            return Err(bad("the host is no name, or its port no number"));
        }
        if repository.len() > REPOSITORY || !repository.split('/').all(is_component) {
            return Err(bad("a repository is made of lower-case letters, digits and single separators"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(bad("a tag is made of at most 128 letters, digits and . _ -"));
        }
        Ok(Self {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// Longest repository, bytes, with Docker Hub's `library/`.
const REPOSITORY: usize = 255 - "library/".len();

/// `label(.label)*(:port)?`.
fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_label = |l: &str| {
        let bytes = l.as_bytes();
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        ends(bytes.first())
            && ends(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    name.split('.').all(is_label)
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case words with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators: Vec<&str> = text.split(is_word).filter(|s| !s.is_empty()).collect();
    text.starts_with(is_word)
        && text.ends_with(is_word)
        && separators.iter().all(|s| matches!(*s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_round_trip_with_dockers_defaults() {
        for (text, host, path, tag) in [
            ("hydai/wasm-wasi-example:latest", "registry-1.docker.io", "hydai/wasm-wasi-example", "latest"),
            ("alpine", "registry-1.docker.io", "library/alpine", "latest"),
            ("docker.io/library/alpine:3", "registry-1.docker.io", "library/alpine", "3"),
            ("localhost:5000/a/b_c:V1", "localhost:5000", "a/b_c", "V1"),
            ("index.docker.io/a", "registry-1.docker.io", "library/a", "latest"),
            ("h.example:5000/library/a", "h.example:5000", "library/a", "latest"),
            ("ghcr.io/x/y", "ghcr.io", "x/y", "latest"),
        ] {
            let r: Reference = text.parse().unwrap();
            assert_eq!(
                (r.host(), r.path().as_str(), r.tag_or_latest(), r.to_string().as_str()),
                (host, path, tag, text)
            );
        }
        let pinned = format!("h.example/r@{}", Digest::of(b"x"));
        assert_eq!(pinned.parse::<Reference>().unwrap().digest, Some(Digest::of(b"x")));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            "A/b",
            "a/../b",
            "a//b",
            "a:b c",
            "h.x/a@sha256:12",
            "h.x/a@md5:00",
            "user@h.x/a",
            "a?b",
            "-a",
            "h.x/a:caf\u{e9}",
            "h.x/a:..%2f",
        ] {
            assert_eq!(bad.parse::<Reference>().unwrap_err().code(), Some(Code::Malformed), "{bad:?}");
        }
    }

    /// As `oci-client` reads it, where that takes it and no capital is in the repository.
    fn theirs(text: &str) -> Option<(String, Option<String>)> {
        let r: oci_client::Reference = text.parse().ok()?;
        if r.repository().bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let written = text.split('@').next().unwrap_or_default();
        let tag = r.tag().filter(|tag| written.strip_suffix(tag).is_some_and(|t| t.ends_with(':')));
        let short = r.repository().strip_prefix("library/").filter(|_| !written.contains("library/"));
        Some((short.unwrap_or(r.repository()).to_owned(), tag.map(str::to_owned)))
    }

    fn same(text: &str) {
        let ours = text.parse::<Reference>().ok().map(|r| (r.repository, r.tag));
        assert_eq!(ours, theirs(text), "{text:?}");
    }

    #[test]
    fn every_short_text_is_read_as_oci_client_reads_it() {
        const ALPHABET: &[u8] = b"aZ0.:/_-";
        let mut all: Vec<String> = vec![String::new()];
        for _ in 0..5 {
            all = all
                .iter()
                .flat_map(|t| ALPHABET.iter().map(move |b| format!("{t}{}", char::from(*b))))
                .collect();
            for text in &all {
                same(text);
            }
        }
        for long in [
            format!("h.x/{}", "a".repeat(240)),
            format!("h.x/a:{}", "t".repeat(128)),
            format!("h.x/a:{}", "t".repeat(129)),
            "localhost/a__b/c---d:_x".to_owned(),
            "h.x:80/a___b".to_owned(),
            "h-.x/a".to_owned(),
            "a.b:c/d".to_owned(),
            format!("h.x/a:1@{}", Digest::of(b"x")),
        ] {
            same(&long);
        }
    }
}
