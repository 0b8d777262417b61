//! Request bodies that come encoded: they are decoded here, checked as what they are, and sent on
//! decoded.
//!
//! Decoding runs over text from a container. Both decoders are safe code, what comes out is cut at
//! a limit before it is kept, and what a decoder needs besides is bounded by [`MAX_WINDOW`].

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use ruzstd::decoding::StreamingDecoder;

/// The largest window of a zstd frame that is decoded, in bytes. Codex's are at most 8 MiB.
const MAX_WINDOW: u64 = 32 << 20;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Not at all.
    Identity,
    /// One gzip member or more.
    Gzip,
    /// One zstd frame or more.
    Zstd,
}

/// Why a body could not be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undecoded {
    /// It is longer than the limit.
    TooLarge,
    /// It is not what its header says, or cut off.
    Broken,
}

impl Encoding {
    /// The encoding that `headers` tell.
    ///
    /// # Errors
    ///
    /// What stands there instead of one known encoding.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let (first, more) = (values.next(), values.next());
        let Some(value) = first else { return Ok(Self::Identity) };
        let text = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
        match (&*text, more) {
            ("identity", None) => Ok(Self::Identity),
            ("gzip" | "x-gzip", None) => Ok(Self::Gzip),
            ("zstd", None) => Ok(Self::Zstd),
            (_, Some(_)) => Err(format!("{text} and more")),
            (_, None) => Err(text.chars().take(40).collect()),
        }
    }

    /// `body` decoded, if that is at most `limit` bytes. Takes time in proportion to the outcome.
    ///
    /// # Errors
    ///
    /// [`Undecoded`].
    pub(super) fn decode(self, body: &[u8], limit: usize) -> Result<Vec<u8>, Undecoded> {
        let mut whole = Vec::new();
        match self {
            Self::Identity if body.len() > limit => return Err(Undecoded::TooLarge),
            Self::Identity => whole.extend_from_slice(body),
            // What follows the last member and is none is an error of the decoder.
            Self::Gzip => append(MultiGzDecoder::new(body), &mut whole, limit)?,
            Self::Zstd => {
                let mut rest = body;
                loop {
                    let frame = StreamingDecoder::new_with_max_window_size(&mut rest, MAX_WINDOW);
                    append(frame.map_err(|_| Undecoded::Broken)?, &mut whole, limit)?;
                    if rest.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(whole)
    }
}

fn append(mut from: impl Read, to: &mut Vec<u8>, limit: usize) -> Result<(), Undecoded> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(Undecoded::Broken),
        };
        if to.len() + read > limit {
            return Err(Undecoded::TooLarge);
        }
        to.extend_from_slice(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn encoding(values: &[&str]) -> Result<Encoding, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, value.parse().unwrap());
        }
        Encoding::of(&headers)
    }

    #[test]
    fn one_known_encoding_is_taken_and_no_nest_of_them() {
        assert_eq!(encoding(&[]), Ok(Encoding::Identity));
        assert_eq!(encoding(&["identity"]), Ok(Encoding::Identity));
        assert_eq!(encoding(&["GZIP"]), Ok(Encoding::Gzip));
        assert_eq!(encoding(&["zstd"]), Ok(Encoding::Zstd));
        for nested in [&["zstd, gzip"][..], &["gzip", "zstd"], &["gzip,"], &["br"], &[""]] {
            assert!(encoding(nested).is_err(), "{nested:?}");
        }
    }

    #[test]
    fn members_and_frames_are_joined() {
        let both = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(Encoding::Gzip.decode(&both, 7).unwrap(), b"one two");
        assert_eq!(Encoding::Gzip.decode(&both, 6), Err(Undecoded::TooLarge));
        let both = [zstd(b"one "), zstd(b"two")].concat();
        assert_eq!(Encoding::Zstd.decode(&both, 7).unwrap(), b"one two");
        assert_eq!(Encoding::Zstd.decode(&both, 6), Err(Undecoded::TooLarge));
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let zeros = vec![0; 64 << 20];
        for (encoding, body) in [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd(&zeros))] {
            assert!(body.len() < 1 << 20);
            assert_eq!(encoding.decode(&body, 1 << 20), Err(Undecoded::TooLarge));
        }
        // A frame whose header asks for a window of 1 GiB: nothing is reserved for it.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00];
        assert_eq!(Encoding::Zstd.decode(&window, 1 << 20), Err(Undecoded::Broken));
    }

    #[test]
    fn what_is_cut_off_or_followed_by_something_is_broken() {
        for (encoding, body) in
            [(Encoding::Gzip, gzip(b"some text")), (Encoding::Zstd, zstd(b"some text"))]
        {
            assert_eq!(encoding.decode(&body, 9).unwrap(), b"some text");
            for cut in 0..body.len() {
                assert_eq!(encoding.decode(&body[..cut], 9), Err(Undecoded::Broken), "{cut}");
            }
            let longer = [&body[..], b"{\"store\":true}"].concat();
            assert_eq!(encoding.decode(&longer, 100), Err(Undecoded::Broken));
        }
    }

    proptest! {
        #[test]
        fn noise_ends(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let framed = [&[0x28, 0xb5, 0x2f, 0xfd][..], &noise].concat();
            let member = [&[0x1f, 0x8b, 8, 0][..], &noise].concat();
            let _ = Encoding::Zstd.decode(&framed, 1 << 16);
            let _ = Encoding::Gzip.decode(&member, 1 << 16);
        }
    }
}
