//! Tar entries with every length capped: names, sizes and types as the archive states them, judged by who reads.
//!
//! The `tar` crate reads long names and pax records of any length into memory, so the raw headers are read here.

use crate::error::{Context as _, Error, Result};
use shoal_protocol::refusal::Code;
use std::borrow::Cow;
use std::io::{self, Read};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Longest pax record or GNU long name.
const EXTENSION: u64 = 64 << 10;

/// One entry; its contents follow in the reader.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As written, unchecked.
    pub path: Vec<u8>,
    /// What a link points to, as written.
    pub link: Vec<u8>,
    /// Its type.
    pub kind: EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Bytes of contents.
    pub size: u64,
    /// Where the contents begin in the archive.
    pub offset: u64,
}

/// Walks an archive once, in order.
pub(crate) struct Entries<R> {
    reader: R,
    position: u64,
    /// Contents and padding of the current entry that nobody read yet.
    pending: u64,
    size: u64,
}

impl<R: Read> Entries<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, position: 0, pending: 0, size: 0 }
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let (mut long_name, mut long_link, mut pax) = (None, None, Pax::default());
        loop {
            self.skip()?;
            let mut header = Header::new_old();
            if !self.fill(header.as_mut_bytes())? || header.as_bytes().iter().all(|b| *b == 0) {
                return Ok(None);
            }
            let malformed =
                |what: &str| Error::refused(Code::Malformed, format!("the tar archive has {what}"));
            let sum = header.cksum().map_err(|_| malformed("a header without a checksum"))?;
            if sum != checksum(header.as_bytes()) {
                return Err(malformed("a header with a wrong checksum"));
            }
            self.size = header.entry_size().map_err(|_| malformed("a size that is no number"))?;
            self.pending =
                self.size.checked_next_multiple_of(BLOCK).ok_or_else(|| malformed("an absurd size"))?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.extension()?),
                EntryType::GNULongLink => long_link = Some(self.extension()?),
                EntryType::XHeader => pax = Pax::parse(&self.extension()?)?,
                EntryType::XGlobalHeader => drop(self.extension()?),
                kind => {
                    let size = pax.size.unwrap_or(self.size);
                    self.size = size;
                    self.pending =
                        size.checked_next_multiple_of(BLOCK).ok_or_else(|| malformed("an absurd size"))?;
                    let cut = |b: &[u8]| b.split(|c| *c == 0).next().unwrap_or_default().to_vec();
                    let path = pax.path.or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
                    let link =
                        pax.link.or(long_link).or_else(|| header.link_name_bytes().map(Cow::into_owned));
                    return Ok(Some(Entry {
                        path: cut(&path),
                        link: cut(&link.unwrap_or_default()),
                        kind: if pax.sparse { EntryType::GNUSparse } else { kind },
                        mode: header.mode().unwrap_or(0o644) & 0o777,
                        size,
                        offset: self.position,
                    }));
                }
            }
        }
    }

    /// Reads on to the end of the underlying stream, past the archive's own.
    pub(crate) fn drain(mut self) -> Result<R> {
        self.skip()?;
        io::copy(&mut self.reader, &mut io::sink()).context(|| "cannot read the archive's end".to_owned())?;
        Ok(self.reader)
    }

    fn extension(&mut self) -> Result<Vec<u8>> {
        if self.size > EXTENSION {
            return Err(Error::refused(Code::TooLarge, format!("a tar extension of {} bytes", self.size)));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).context(|| "cannot read a tar extension".to_owned())?;
        Ok(bytes)
    }

    fn skip(&mut self) -> Result<()> {
        let what = || "cannot read the archive".to_owned();
        let skipped =
            io::copy(&mut self.reader.by_ref().take(self.pending), &mut io::sink()).context(what)?;
        self.position += skipped;
        if skipped < self.pending {
            return Err(Error::refused(Code::Malformed, "the tar archive is cut short"));
        }
        (self.pending, self.size) = (0, 0);
        Ok(())
    }

    /// Fills `block`; false at a clean end.
    fn fill(&mut self, block: &mut [u8]) -> Result<bool> {
        let what = || "cannot read the archive".to_owned();
        let n =
            io::copy(&mut self.reader.by_ref().take(block.len() as u64), &mut &mut *block).context(what)?;
        self.position += n;
        match n {
            0 => Ok(false),
            n if n == block.len() as u64 => Ok(true),
            _ => Err(Error::refused(Code::Malformed, "the tar archive is cut short")),
        }
    }
}

/// The current entry's contents.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.by_ref().take(self.size).read(buffer)?;
        if n == 0 && self.size > 0 && !buffer.is_empty() {
            return Err(Error::refused(Code::Malformed, "the tar archive is cut short").into());
        }
        self.size -= n as u64;
        self.pending -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Pax {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let malformed =
            || Error::refused(Code::Malformed, "the tar archive has a pax record that is not readable");
        let mut pax = Self::default();
        for record in tar::PaxExtensions::new(bytes) {
            let record = record.map_err(|_| malformed())?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => pax.path = Some(value.to_vec()),
                b"linkpath" => pax.link = Some(value.to_vec()),
                b"size" => {
                    let text = std::str::from_utf8(value).map_err(|_| malformed())?;
                    pax.size = Some(text.parse().map_err(|_| malformed())?);
                }
                key if key.starts_with(b"GNU.sparse") => pax.sparse = true,
                _ => {}
            }
        }
        Ok(pax)
    }
}

fn checksum(header: &[u8]) -> u32 {
    let field = 148..156;
    header.iter().enumerate().map(|(i, b)| if field.contains(&i) { 32 } else { u32::from(*b) }).sum()
}
