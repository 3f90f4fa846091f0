//! The one strict CBOR codec: decides on raw bytes whether they are well formed and deterministic, before anything is built from them.
//!
//! No other module names `serde_cbor`. It never allocates from a declared length and never accepts two spellings of one value.

mod raw;
mod value;

pub(crate) use raw::{Reader, Writer};
pub use value::Value;

use serde::{Serialize, de::DeserializeOwned};

/// Caps that hold before anything is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole input.
    pub size: usize,
    /// How deeply arrays and maps may nest.
    pub depth: usize,
    /// How many entries one array or map may have.
    pub entries: usize,
}

impl Limits {
    /// Caps for an input of at most `size` bytes: 32 levels, 4,096 entries.
    pub const fn of_size(size: usize) -> Self {
        Self { size, depth: 32, entries: 4096 }
    }
}

/// Why bytes are not the strict encoding of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than the cap.
    #[error("{size} bytes, at most {limit} are accepted")]
    TooLarge {
        /// What came.
        size: usize,
        /// The cap.
        limit: usize,
    },
    /// Not in the strict subset of CBOR.
    #[error("at byte {offset}: {what}")]
    NotStrict {
        /// Where.
        offset: usize,
        /// What stands there.
        what: &'static str,
    },
    /// Strict CBOR, but not the expected type.
    #[error("not a {expected}: {reason}")]
    Shape {
        /// The Rust name of the type.
        expected: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// It decodes, but encodes to other bytes: an unknown field, a name in place of a number, or an empty option written out.
    #[error("not the one encoding of a {expected}: differs from byte {offset} on")]
    OtherEncoding {
        /// The Rust name of the type.
        expected: &'static str,
        /// The first byte that differs.
        offset: usize,
    },
}

/// Encodes a wire type: structs as maps with integer keys, enums by number.
///
/// # Panics
/// If the type's own `Serialize` reports an error, which no wire type's does: writing to memory cannot fail.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut serializer = serde_cbor::Serializer::new(&mut out).packed_format();
    match value.serialize(&mut serializer) {
        Ok(()) => out,
        Err(e) => unreachable!("encoding {}: {e}", short_name::<T>()),
    }
}

/// Decodes a wire type from exactly its one encoding.
///
/// # Errors
/// [`CodecError::TooLarge`] over `limits.size`, another [`CodecError`] for everything that [`encode`] would not have written.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, CodecError> {
    if bytes.len() > limits.size {
        return Err(CodecError::TooLarge { size: bytes.len(), limit: limits.size });
    }
    raw::check(bytes, limits)?;
    // Named fields cannot be disabled here (that would refuse text maps as well): the comparison below refuses them.
    let mut deserializer = serde_cbor::Deserializer::from_slice(bytes).disable_legacy_enums();
    let value = T::deserialize(&mut deserializer)
        .and_then(|v| deserializer.end().map(|()| v))
        .map_err(|e| CodecError::Shape { expected: short_name::<T>(), reason: e.to_string() })?;
    let again = encode(&value);
    if again != bytes {
        let offset = again.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        return Err(CodecError::OtherEncoding { expected: short_name::<T>(), offset });
    }
    Ok(value)
}

fn short_name<T: ?Sized>() -> &'static str {
    let full = std::any::type_name::<T>();
    full.rsplit("::").next().unwrap_or(full)
}
