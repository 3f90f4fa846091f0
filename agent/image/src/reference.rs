//! Image references as people write them: `host/repository:tag@digest`, with Docker's defaults. Pure.
//!
//! The grammar is `oci-client`'s; kept is what was written, since no registry may also mean the fleet's own.

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
        let parsed: oci_client::Reference = text.parse().map_err(|e| bad(&format!("{e}")))?;
        if !text.is_ascii() || parsed.repository().bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("a repository is in lower case, and all of it in ASCII"));
        }
        let digest =
            parsed.digest().map(str::parse).transpose().map_err(|_| bad("the digest is no sha256"))?;
        // Docker's defaults are filled in there; here it matters what was written.
        let written = text.split('@').next().unwrap_or_default();
        let tag = parsed.tag().filter(|tag| written.strip_suffix(tag).is_some_and(|t| t.ends_with(':')));
        let registry = written
            .split_once('/')
            .map(|(host, _)| host)
            .filter(|host| host.contains(['.', ':']) || *host == "localhost");
        let repository = match parsed.repository().strip_prefix("library/") {
            Some(short) if !written.contains("library/") => short,
            _ => parsed.repository(),
        };
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
}
