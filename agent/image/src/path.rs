//! Paths inside images: absolute, normalised, nothing that leads out. Pure.

use crate::error::{Error, Result};
use crate::limits;
use shoal_protocol::refusal::Code;

/// The normalised absolute path of a layer's entry; `None` is the root itself.
///
/// Layers name their entries relative to the root (OCI image-spec 1.1, layer.md), so an absolute one is refused.
pub(crate) fn of_entry(raw: &[u8]) -> Result<Option<String>> {
    let shown = || String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned();
    let forbidden = |why: &str| Error::refused(Code::LayerForbidden, format!("entry {:?} {why}", shown()));
    if raw.len() > limits::PATH {
        return Err(forbidden("has too long a path"));
    }
    let text = std::str::from_utf8(raw).map_err(|_| forbidden("has a path that is not UTF-8"))?;
    if text.bytes().any(|b| b < 0x20 || b == 0x7f || b == b'\\') {
        return Err(forbidden("has a path with control characters or backslashes"));
    }
    if text.starts_with('/') {
        return Err(forbidden("has an absolute path"));
    }
    let mut out = String::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(forbidden("leads out of the image")),
            name => {
                out.push('/');
                out.push_str(name);
            }
        }
    }
    Ok((!out.is_empty()).then_some(out))
}

/// `path` from `dir`, normalised as a file system without links would; `..` stops at the root.
pub(crate) fn join(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { dir };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m5_paths_that_lead_out_or_lie() {
        for bad in ["../x", "a/../../x", "a/..", "/etc/passwd", "a\\b", "a\nb", "a\0b"] {
            assert_eq!(of_entry(bad.as_bytes()).unwrap_err().code(), Some(Code::LayerForbidden), "{bad:?}");
        }
        assert_eq!(of_entry(b"\xff").unwrap_err().code(), Some(Code::LayerForbidden));
        assert_eq!(of_entry(&[b'a'; 1_025]).unwrap_err().code(), Some(Code::LayerForbidden));
    }

    #[test]
    fn entries_become_absolute() {
        assert_eq!(of_entry(b"./a//b/").unwrap().as_deref(), Some("/a/b"));
        assert_eq!(of_entry(b"./").unwrap(), None);
    }

    #[test]
    fn joining_stops_at_the_root() {
        assert_eq!(join("/srv", "a.wasm"), "/srv/a.wasm");
        assert_eq!(join("/srv", "/a.wasm"), "/a.wasm");
        assert_eq!(join("/srv", "../../../a"), "/a");
        assert_eq!(join("/", "."), "/");
    }
}
