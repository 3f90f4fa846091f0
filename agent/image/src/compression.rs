//! Layers as plain tar bytes, whatever they are packed with: gzip, zstd or nothing, told apart by their first bytes.
//!
//! Never trusts a length that the packed data states; who reads counts.

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder, errors::FrameDecoderError, errors::ReadFrameHeaderError,
};
use std::io::{self, BufRead, BufReader, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A reader of the unpacked bytes of `packed`.
pub(crate) fn unpacked<'a>(packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut packed = BufReader::with_capacity(crate::store::CHUNK, packed);
    let head = packed.fill_buf()?;
    Ok(if head.starts_with(GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(packed))
    } else if head.starts_with(ZSTD) || is_skippable(head) {
        Box::new(Zstd { source: packed, decoder: FrameDecoder::new(), inside: false })
    } else {
        Box::new(packed)
    })
}

/// Whether bytes that begin so are packed.
pub(crate) fn is_packed(head: &[u8]) -> bool {
    head.starts_with(GZIP) || head.starts_with(ZSTD) || is_skippable(head)
}

/// The name of the packing of bytes that begin so, as media types end in it.
pub(crate) fn suffix(head: &[u8]) -> &'static str {
    match head {
        h if h.starts_with(GZIP) => "+gzip",
        h if is_packed(h) => "+zstd",
        _ => "",
    }
}

/// RFC 8878 §3.1.2: frames that carry no data of ours.
fn is_skippable(head: &[u8]) -> bool {
    head.len() >= 4 && (0x50..=0x5f).contains(&head[0]) && head[1..4] == [0x2a, 0x4d, 0x18]
}

/// All frames of a zstd stream after each other; tools that seek in layers write many.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Enters the next frame with data; false at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                self.inside = self.next_frame()?;
                if !self.inside {
                    return Ok(0);
                }
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            if self.decoder.is_finished() {
                self.inside = false;
            } else {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        unpacked(packed)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn all_packings_give_the_same_bytes() {
        let data = b"some tar ".repeat(40_000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&data).unwrap();
        assert_eq!(read(&data).unwrap(), data);
        assert_eq!(read(&gz.finish().unwrap()).unwrap(), data);
        assert_eq!(read(&zstd(&data)).unwrap(), data);
    }

    #[test]
    fn zstd_frames_follow_each_other_and_skippable_ones_are_skipped() {
        let skip = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let stream = [&skip[..], &zstd(b"one"), &skip, &zstd(b"two")].concat();
        assert_eq!(read(&stream).unwrap(), b"onetwo");
    }

    #[test]
    fn a_cut_stream_is_an_error_and_not_a_short_layer() {
        let data = b"0123456789abcdef".repeat(9_000);
        let packed = zstd(&data);
        assert!(read(&packed[..packed.len() - 5]).is_err());
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&data).unwrap();
        let gz = gz.finish().unwrap();
        assert!(read(&gz[..gz.len() - 9]).is_err());
    }
}
