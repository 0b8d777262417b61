//! Reads a tar stream that nobody vouches for.
//!
//! The tar crate is made for archives that people keep: it passes over what it does not
//! understand. Here everything that is not understood is an error: an unknown extension, a
//! number that is no number, a checksum that does not fit, bytes after the end.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// Zero bytes that may follow the end; writers fill up to a record, usually 10 KiB.
const MAX_PADDING: u64 = 1024 * 1024;
/// Longest extension record: a path and a link target with their keys, and some times. It is read
/// into memory before anything is known of it.
const MAX_EXTENSION: u64 = 9 * 1024;
/// Longest name as an extension of its own: a path under a folder of the archive.
const MAX_NAME: u64 = 4096 + 64;

/// Why a stream is no archive as it should be.
#[derive(Debug, thiserror::Error)]
pub(in crate::workspace) enum TarError {
    /// Reading failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended in the middle.
    #[error("the archive is cut off")]
    CutOff,
    /// It is not well-formed.
    #[error("the archive is malformed: {0}")]
    Malformed(&'static str),
}

/// The head of an entry.
#[derive(Debug)]
pub(in crate::workspace) struct Entry {
    pub(in crate::workspace) name: Vec<u8>,
    pub(in crate::workspace) flag: u8,
    pub(in crate::workspace) mode: u32,
    pub(in crate::workspace) size: u64,
    pub(in crate::workspace) target: Vec<u8>,
}

/// The stream, entry by entry.
#[derive(Debug)]
pub(in crate::workspace) struct TarReader<R> {
    from: R,
    /// Bytes of the present entry that were not read, and its padding.
    left: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(in crate::workspace) fn new(from: R) -> Self {
        Self { from, left: 0, padding: 0 }
    }

    /// The next entry; `None` once the archive ended properly and the stream with it.
    pub(in crate::workspace) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_rest()?;
        let mut name: Option<Vec<u8>> = None;
        let mut target: Option<Vec<u8>> = None;
        let mut records: Option<()> = None;
        // Each kind of extension comes at most once, so an entry ends after at most three.
        loop {
            let Some(mut entry) = self.header()? else {
                if name.is_some() || target.is_some() || records.is_some() {
                    return Err(TarError::Malformed("an extension without an entry"));
                }
                self.end()?;
                return Ok(None);
            };
            match entry.flag {
                b'L' => set_once(&mut name, self.long_name(entry.size)?)?,
                b'K' => set_once(&mut target, self.long_name(entry.size)?)?,
                b'x' => {
                    set_once(&mut records, ())?;
                    for (key, value) in pax(&self.extension(entry.size, MAX_EXTENSION)?)? {
                        match &key[..] {
                            b"path" => set_once(&mut name, value)?,
                            b"linkpath" => set_once(&mut target, value)?,
                            b"mtime" | b"atime" | b"ctime" => {}
                            _ => return Err(TarError::Malformed("an unknown pax key")),
                        }
                    }
                }
                b'g' | b'S' => {
                    return Err(TarError::Malformed("an extension that is not used here"));
                }
                _ => {
                    if let Some(name) = name {
                        entry.name = name;
                    }
                    if let Some(target) = target {
                        entry.target = target;
                    }
                    self.left = entry.size;
                    self.padding = padding(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn header(&mut self) -> Result<Option<Entry>, TarError> {
        let mut block = [0; BLOCK];
        self.exactly(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) })
            .sum();
        if number(&block[148..156])? != sum {
            return Err(TarError::Malformed("a checksum does not fit"));
        }
        let posix = &block[257..263] == b"ustar\0";
        if !posix && &block[257..265] != b"ustar  \0" {
            return Err(TarError::Malformed("an unknown format"));
        }
        let mut name = until_nul(&block[..100]).to_vec();
        let prefix = until_nul(&block[345..500]);
        if posix && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let mode = u32::try_from(number(&block[100..108])?)
            .map_err(|_| TarError::Malformed("a mode that is none"))?;
        Ok(Some(Entry {
            name,
            flag: block[156],
            mode,
            size: number(&block[124..136])?,
            target: until_nul(&block[157..257]).to_vec(),
        }))
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        c_string(self.extension(size, MAX_NAME)?)
    }

    fn extension(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(TarError::Malformed("an extension that is too long"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.exactly(&mut bytes)?;
        self.padding = padding(size);
        self.skip_rest()?;
        Ok(bytes)
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        self.from.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => TarError::CutOff,
            _ => TarError::Io(error),
        })
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        while self.left > 0 {
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
            self.exactly(&mut buffer[..n])?;
            self.left -= n as u64;
        }
        let n = usize::try_from(self.padding).unwrap_or(0);
        self.exactly(&mut buffer[..n])?;
        self.padding = 0;
        Ok(())
    }

    /// The second block of zeros, then nothing but zeros to the end of the stream.
    fn end(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        self.exactly(&mut buffer[..BLOCK])?;
        let mut seen = 0;
        let mut len = BLOCK;
        loop {
            if buffer[..len].iter().any(|b| *b != 0) || seen > MAX_PADDING {
                return Err(TarError::Malformed("bytes after its end"));
            }
            len = match self.from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error.into()),
            };
            seen += len as u64;
        }
    }
}

/// The bytes of the present entry.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if n == 0 {
            return Ok(0);
        }
        let read = self.from.read(&mut buffer[..n])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), TarError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(TarError::Malformed("an extension given twice")),
    }
}

fn c_string(mut bytes: Vec<u8>) -> Result<Vec<u8>, TarError> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(TarError::Malformed("a long name that is none"));
    }
    Ok(bytes)
}

/// Octal with blanks around it, or base 256 where the first byte says so.
fn number(field: &[u8]) -> Result<u64, TarError> {
    const WRONG: TarError = TarError::Malformed("a number that is none");
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len().saturating_sub(8));
        if high.first() != Some(&0x80) || high[1..].iter().any(|b| *b != 0) {
            return Err(WRONG);
        }
        return Ok(low.iter().fold(0, |value, b| (value << 8) | u64::from(*b)));
    }
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|b| *b == b' ')
        .take_while(|b| !matches!(b, 0 | b' '))
        .collect();
    let start = field.iter().take_while(|b| **b == b' ').count();
    if field[start + digits.len()..].iter().any(|b| !matches!(b, 0 | b' ')) {
        return Err(WRONG);
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
            .ok_or(WRONG),
        _ => Err(WRONG),
    })
}

/// Key and value.
type Record = (Vec<u8>, Vec<u8>);

fn pax(mut bytes: &[u8]) -> Result<Vec<Record>, TarError> {
    const WRONG: TarError = TarError::Malformed("a pax record that is none");
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').ok_or(WRONG)?;
        let len: usize = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(WRONG)?;
        if len <= space + 1 || len > bytes.len() || bytes[len - 1] != b'\n' {
            return Err(WRONG);
        }
        let record = &bytes[space + 1..len - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or(WRONG)?;
        let (key, value) = (record[..equals].to_vec(), record[equals + 1..].to_vec());
        if value.is_empty() || value.contains(&0) {
            return Err(WRONG);
        }
        records.push((key, value));
        bytes = &bytes[len..];
    }
    Ok(records)
}
