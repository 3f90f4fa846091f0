//! Join files: what is read is written back as the same file.

use crate::fleet::{Fleet, full};
use shoal_protocol::join::{from_text, to_text};

pub(crate) fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(join) = from_text(text) else { return false };
    let again = from_text(&to_text(&join));
    assert!(again.is_ok_and(|j| j == join), "what was read is written back the same");
    true
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![to_text(&full::join(&Fleet::new())).into_bytes()]
}
