//! The join file as text: base64 between two marker lines, so that it survives mail, consoles and USB sticks.
//!
//! It holds a private key. Never here: whether what it holds is to be believed (that is `verify`'s).

use crate::codec::{self, CodecError, Limits};
use crate::v1::JoinFile;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// First line.
pub const BEGIN: &str = "-----BEGIN SHOAL JOIN FILE-----";
/// Last line.
pub const END: &str = "-----END SHOAL JOIN FILE-----";
/// The most bytes of a join file as text.
pub const SIZE_CAP: usize = 1 << 20;

/// Why a text is not a join file.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Longer than [`SIZE_CAP`].
    #[error("the join file has {0} bytes, at most {SIZE_CAP} are accepted")]
    TooLarge(usize),
    /// The markers are not there.
    #[error("not a join file: the lines \"{BEGIN}\" and \"{END}\" are missing; copy the whole file")]
    Markers,
    /// What is between them is not base64.
    #[error(
        "the join file is damaged: what stands between the marker lines is not base64; copy the whole file again"
    )]
    Base64(#[source] base64::DecodeError),
    /// What was encoded is not a join file.
    #[error("the join file is damaged; make a new one with `shoal token create`")]
    Codec(#[source] CodecError),
    /// Made by a later version.
    #[error("the join file has version {0}, this side knows version 1; upgrade it")]
    Version(u64),
}

/// Writes a join file.
pub fn to_text(join: &JoinFile) -> String {
    let body = STANDARD.encode(codec::encode(join));
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 80);
    out.push_str(BEGIN);
    out.push('\n');
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(END);
    out.push('\n');
    out
}

/// Reads a join file; text around the markers, line ends and spaces do not matter.
///
/// # Errors
/// [`JoinError`] when it is not one, or a damaged one.
pub fn from_text(text: &str) -> Result<JoinFile, JoinError> {
    if text.len() > SIZE_CAP {
        return Err(JoinError::TooLarge(text.len()));
    }
    let (_, after) = text.split_once(BEGIN).ok_or(JoinError::Markers)?;
    let (body, _) = after.split_once(END).ok_or(JoinError::Markers)?;
    let compact: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let bytes = STANDARD.decode(compact).map_err(JoinError::Base64)?;
    let join: JoinFile = codec::decode(&bytes, Limits::of_size(SIZE_CAP)).map_err(JoinError::Codec)?;
    if join.version == 1 { Ok(join) } else { Err(JoinError::Version(join.version)) }
}
