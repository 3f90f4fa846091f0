//! Image references as people write them: `host/repository:tag@digest`, with Docker's defaults. Pure.

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
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| bad("the digest is no sha256"))?)),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), rest),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if registry.is_some_and(|h| !h.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))) {
            return Err(bad("the host has characters that hosts cannot have"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(bad("a repository is lower-case words of a-z, 0-9, '.', '_', '-' between slashes"));
        }
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(bad("a tag is up to 128 letters, digits, '.', '_', '-'"));
        }
        Ok(Self {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
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

/// OCI distribution-spec 1.1: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.first().is_some_and(|b| word(*b))
        && bytes.last().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || b"._-".contains(b))
        && !part.contains("..")
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
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
        ] {
            assert_eq!(bad.parse::<Reference>().unwrap_err().code(), Some(Code::Malformed), "{bad:?}");
        }
    }
}
