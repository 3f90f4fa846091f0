//! Image configurations (OCI image-spec 1.1, config.md; the CNCF wasm artifact's): what the image wants to run. Pure.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;

/// What an image says about how to run it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, as name and value.
    pub env: Vec<(String, String)>,
    /// `WorkingDir`; `/` when the image names none.
    pub working_dir: String,
    /// The digests of the unpacked layers, lowest first.
    #[serde(skip)]
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Default)]
struct Raw {
    #[serde(default)]
    config: Option<RawRun>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl ImageConfig {
    /// Reads a configuration of an image with layers.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let malformed = |e: String| {
            Error::refused(Code::Malformed, format!("the image configuration is not readable: {e}"))
        };
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        let run = raw.config.unwrap_or_default();
        let diff_ids = raw.rootfs.unwrap_or_default().diff_ids.unwrap_or_default();
        Ok(Self {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default().iter().map(|pair| split(pair)).collect(),
            working_dir: match run.working_dir {
                Some(dir) if !dir.is_empty() => crate::path::join("/", &dir),
                _ => "/".to_owned(),
            },
            diff_ids: diff_ids
                .iter()
                .map(|d| d.parse::<Digest>().map_err(|e| malformed(e.to_string())))
                .collect::<Result<_>>()?,
        })
    }

    /// Of an artifact, which is a module and nothing else.
    pub(crate) fn of_artifact() -> Self {
        Self { working_dir: "/".to_owned(), ..Self::default() }
    }
}

fn split(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_fields_are_empty_ones() {
        let text = br#"{"config":{"Entrypoint":null,"Cmd":["/a.wasm"],"Env":["A=1=2","B"]},"rootfs":null}"#;
        let c = ImageConfig::parse(text).unwrap();
        assert_eq!((c.entrypoint.len(), c.cmd.len(), c.working_dir.as_str()), (0, 1, "/"));
        assert_eq!(c.env, [("A".to_owned(), "1=2".to_owned()), ("B".to_owned(), String::new())]);
        assert_eq!(ImageConfig::parse(b"{}").unwrap(), ImageConfig::of_artifact());
        assert_eq!(ImageConfig::parse(b"[").unwrap_err().code(), Some(Code::Malformed));
    }
}
