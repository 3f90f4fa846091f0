//! CBOR on the level of bytes: the check before decoding, and the small reader and writer that lay out envelopes.
//!
//! Never builds values and never trusts a length: a declared length beyond the bytes that are there is an error on the spot.

use super::{CodecError, Limits};

/// CBOR's major types (RFC 8949 §3.1).
pub(crate) mod major {
    pub(crate) const BYTES: u8 = 2;
    pub(crate) const TEXT: u8 = 3;
    pub(crate) const ARRAY: u8 = 4;
    pub(crate) const MAP: u8 = 5;
    pub(crate) const TAG: u8 = 6;
}

/// Reads heads and strings off a slice, in shortest form only.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn refuse<T>(&self, what: &'static str) -> Result<T, CodecError> {
        Err(CodecError::NotStrict { offset: self.at, what })
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], CodecError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(count).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => self.refuse("the input ends inside an item"),
        }
    }

    /// A head: major type and argument, definite and in shortest form. Simple values other than false and true are refused.
    pub(crate) fn head(&mut self) -> Result<(u8, u64), CodecError> {
        let Some(&first) = self.bytes.get(self.at) else {
            return self.refuse("the input ends where an item should begin");
        };
        let (major, info) = (first >> 5, first & 31);
        if major == 7 && !(info == 20 || info == 21) {
            return self.refuse(match info {
                25..=27 => "a float",
                22 | 23 => "null or undefined",
                31 => "a break without an indefinite item",
                _ => "a simple value",
            });
        }
        let width: u64 = match info {
            0..=23 => {
                self.at += 1;
                return Ok((major, u64::from(info)));
            }
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            31 => return self.refuse("an indefinite length"),
            _ => return self.refuse("a reserved length"),
        };
        let start = self.at;
        self.at += 1;
        let value = self.take(width)?.iter().fold(0_u64, |acc, b| acc << 8 | u64::from(*b));
        let least = if width == 1 { 24 } else { 1_u64 << (width * 4) };
        if value < least {
            self.at = start;
            return self.refuse("a length or number that is not in shortest form");
        }
        Ok((major, value))
    }

    fn expect(&mut self, wanted: u8, what: &'static str) -> Result<u64, CodecError> {
        let start = self.at;
        let (major, value) = self.head()?;
        if major == wanted {
            Ok(value)
        } else {
            self.at = start;
            self.refuse(what)
        }
    }

    /// An array head; the number of its items.
    pub(crate) fn array(&mut self) -> Result<u64, CodecError> {
        self.expect(major::ARRAY, "not the array that should be here")
    }

    /// A byte string.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let count = self.expect(major::BYTES, "not the byte string that should be here")?;
        self.take(count)
    }

    /// A text string.
    pub(crate) fn text(&mut self) -> Result<&'a str, CodecError> {
        let count = self.expect(major::TEXT, "not the text that should be here")?;
        match std::str::from_utf8(self.take(count)?) {
            Ok(text) => Ok(text),
            Err(_) => self.refuse("text that is not UTF-8"),
        }
    }

    /// Exactly these bytes.
    pub(crate) fn literal(&mut self, wanted: &[u8], what: &'static str) -> Result<(), CodecError> {
        if self.bytes[self.at..].starts_with(wanted) {
            self.at += wanted.len();
            Ok(())
        } else {
            self.refuse(what)
        }
    }

    /// The end of the input.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.at == self.bytes.len() { Ok(()) } else { self.refuse("bytes after the end") }
    }
}

/// An array or map that is being walked.
struct Frame {
    left: u64,
    /// In a map: whether a key comes next, and the bytes of the key before it.
    keys: Option<Keys>,
}

struct Keys {
    next_is_key: bool,
    previous: Option<(usize, usize)>,
    began: usize,
}

/// Checks that `bytes` are one item of the strict subset within the caps. Uses memory only for the depth that the caps allow.
pub(super) fn check(bytes: &[u8], limits: Limits) -> Result<(), CodecError> {
    let mut reader = Reader::new(bytes);
    let mut stack: Vec<Frame> = Vec::new();
    loop {
        if let Some(Frame { keys: Some(keys), .. }) = stack.last_mut()
            && keys.next_is_key
        {
            keys.began = reader.at;
        }
        let (major, value) = reader.head()?;
        match major {
            major::BYTES | major::TEXT => {
                let taken = reader.take(value)?;
                let sound = major == major::BYTES || std::str::from_utf8(taken).is_ok();
                sound.then_some(()).map_or_else(|| reader.refuse("text that is not UTF-8"), Ok)?;
            }
            major::ARRAY | major::MAP => {
                let is_map = major == major::MAP;
                if value > limits.entries as u64 {
                    return reader.refuse("an array or map of too many entries");
                }
                if stack.len() == limits.depth {
                    return reader.refuse("nested too deeply");
                }
                let keys = is_map.then_some(Keys { next_is_key: true, previous: None, began: 0 });
                stack.push(Frame { left: if is_map { value * 2 } else { value }, keys });
                if value > 0 {
                    continue;
                }
            }
            major::TAG => return reader.refuse("a tag"),
            _ => {}
        }
        // An item ended: so may the collections around it.
        loop {
            match stack.last_mut() {
                None => return reader.end(),
                Some(frame) if frame.left == 0 => {
                    stack.pop();
                }
                Some(frame) => {
                    frame.left -= 1;
                    if let Some(keys) = &mut frame.keys {
                        if keys.next_is_key {
                            let key = (keys.began, reader.at);
                            if keys.previous.is_some_and(|p| bytes[p.0..p.1] >= bytes[key.0..key.1]) {
                                return reader.refuse("a map key that stands twice or out of order");
                            }
                            keys.previous = Some(key);
                        }
                        keys.next_is_key = !keys.next_is_key;
                    }
                    if frame.left > 0 {
                        break;
                    }
                }
            }
        }
    }
}

/// Writes heads and strings in shortest form.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(size: usize) -> Self {
        Self(Vec::with_capacity(size))
    }

    pub(crate) fn head(&mut self, major: u8, value: u64) {
        let top = major << 5;
        let be = value.to_be_bytes();
        match value {
            0..=23 => self.0.push(top | be[7]),
            24..=0xff => self.0.extend_from_slice(&[top | 0x18, be[7]]),
            0x100..=0xffff => {
                self.0.push(top | 0x19);
                self.0.extend_from_slice(&be[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.0.push(top | 0x1a);
                self.0.extend_from_slice(&be[4..]);
            }
            _ => {
                self.0.push(top | 0x1b);
                self.0.extend_from_slice(&be);
            }
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.head(major::BYTES, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.head(major::TEXT, text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn array(&mut self, count: u64) {
        self.head(major::ARRAY, count);
    }

    pub(crate) fn literal(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}
