//! Tar streams byte by byte, lies included.

/// A stream that is being written.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// A header with its fields as they are given.
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: Vec<u8>,
    pub(crate) size: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) magic: Vec<u8>,
}

impl Header {
    pub(crate) fn new(name: &[u8], flag: u8, size: u64) -> Self {
        Self {
            name: name.to_vec(),
            flag,
            mode: b"0000644\0".to_vec(),
            size: format!("{size:011o}\0").into_bytes(),
            target: Vec::new(),
            magic: b"ustar  \0".to_vec(),
        }
    }

    pub(crate) fn bytes(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name);
        put(100, &self.mode);
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, &self.size);
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[self.flag]);
        put(157, &self.target);
        put(257, &self.magic);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl Tar {
    pub(crate) fn raw(mut self, header: &Header, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&header.bytes());
        self.data(bytes)
    }

    pub(crate) fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A node below `tree/`, as a keeper would send it.
    pub(crate) fn node(
        self,
        path: &[u8],
        flag: u8,
        mode: u32,
        bytes: &[u8],
        target: &[u8],
    ) -> Self {
        let name = [b"tree/", path].concat();
        let mut tar = self;
        if name.len() > 100 {
            let long = [&name[..], b"\0"].concat();
            tar = tar.raw(&Header::new(b"././@LongLink", b'L', long.len() as u64), &long);
        }
        if target.len() > 100 {
            let long = [target, b"\0"].concat();
            tar = tar.raw(&Header::new(b"././@LongLink", b'K', long.len() as u64), &long);
        }
        let mut header = Header::new(&name[..name.len().min(100)], flag, bytes.len() as u64);
        header.mode = format!("{mode:07o}\0").into_bytes();
        header.target = target[..target.len().min(100)].to_vec();
        tar.raw(&header, bytes)
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Self {
        self.node(path.as_ref(), b'0', 0o644, bytes.as_ref(), b"")
    }

    pub(crate) fn directory(self, path: impl AsRef<[u8]>) -> Self {
        self.node(path.as_ref(), b'5', 0o755, b"", b"")
    }

    pub(crate) fn link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.node(path.as_ref(), b'2', 0o777, b"", target.as_ref())
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (rest..).find(|len| rest + len.to_string().len() == *len).unwrap();
            bytes.extend_from_slice(format!("{len} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.raw(&Header::new(b"pax", b'x', bytes.len() as u64), &bytes)
    }

    /// The list of what is gone, and the end.
    pub(crate) fn end(self, deleted: &[&str]) -> Vec<u8> {
        let list = deleted.join("\0");
        let mut tar =
            self.raw(&Header::new(b"meta/deleted", b'0', list.len() as u64), list.as_bytes());
        tar.0.extend([0; 1024]);
        tar.0
    }
}
