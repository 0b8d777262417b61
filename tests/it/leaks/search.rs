//! Finds secrets in whatever lies in a directory: as they are, in base64 and hex, and in what is
//! compressed (gzip, zlib as in git's objects and packs, zstd).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes of one compressed stream that are looked at.
const INFLATED: u64 = 16 << 20;

/// Secrets by name.
#[derive(Default)]
pub(super) struct Searcher {
    /// What is searched for, and whose form it is.
    forms: BTreeMap<String, &'static str>,
}

impl Searcher {
    /// Searches for `value` too. It must be letters and digits only, so that neither JSON, nor a
    /// URL, nor a shell changes it.
    pub(super) fn add(&mut self, name: &'static str, value: &str) {
        assert!(value.len() >= 20 && value.bytes().all(|c| c.is_ascii_alphanumeric()), "{name}");
        self.forms.insert(value.to_owned(), name);
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.forms.insert(hex.to_uppercase(), name);
        self.forms.insert(hex, name);
        for before in 0..3 {
            // What stands before and after shifts the bits; only whole groups are sure.
            let whole = (value.len() + before) / 3 * 3 - before;
            let bytes = [&b"\0\0"[..before], &value.as_bytes()[..whole]].concat();
            let first = if before == 0 { 0 } else { 4 };
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                self.forms.insert(engine.encode(&bytes)[first..].to_owned(), name);
            }
        }
    }

    /// One form a line, for `grep -f`.
    pub(super) fn lines(&self) -> String {
        self.forms.keys().map(|form| format!("{form}\n")).collect()
    }

    /// What `grep -oHZ` found: the file and the secret.
    pub(super) fn told(&self, output: &[u8]) -> BTreeSet<(String, &'static str)> {
        let mut found = BTreeSet::new();
        for line in output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let at = line.iter().position(|byte| *byte == 0).unwrap();
            let path = String::from_utf8_lossy(&line[..at]).into_owned();
            let form = std::str::from_utf8(&line[at + 1..]).unwrap();
            found.insert((path, self.forms[form]));
        }
        found
    }

    /// Every file in `directory`, relative to it, with the secrets in it.
    pub(super) fn search(&self, directory: &Path) -> BTreeSet<(String, &'static str)> {
        let unpacked = tempfile::TempDir::new().unwrap();
        for file in files(directory) {
            unpack(&file, directory, unpacked.path());
        }
        let mut found = BTreeSet::new();
        for root in [directory, unpacked.path()] {
            let mut grep = Command::new("grep")
                .args(["-raoFHZ", "-D", "skip", "-f", "-", "."])
                .env("LC_ALL", "C")
                .current_dir(root)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            grep.stdin.take().unwrap().write_all(self.lines().as_bytes()).unwrap();
            let output = grep.wait_with_output().unwrap();
            assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
            let told = self.told(&output.stdout);
            found.extend(
                told.into_iter()
                    .map(|(path, name)| (path.trim_start_matches("./").to_owned(), name)),
            );
        }
        found
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => left.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

/// Writes what is compressed in `file` into `to`, as `path@offset`.
fn unpack(file: &Path, root: &Path, to: &Path) {
    // Memory of a program is no archive, and would be searched byte by byte.
    if file.components().any(|part| part.as_os_str() == "memory") {
        return;
    }
    let Ok(bytes) = std::fs::read(file) else { return };
    let name = file.strip_prefix(root).unwrap();
    for at in 0..bytes.len().saturating_sub(4) {
        let rest = &bytes[at..];
        let reader: Option<Box<dyn Read + '_>> = match rest {
            [0x1f, 0x8b, 8, ..] => Some(Box::new(flate2::bufread::GzDecoder::new(rest))),
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => {
                Some(Box::new(flate2::bufread::ZlibDecoder::new(rest)))
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => ruzstd::decoding::StreamingDecoder::new(rest)
                .ok()
                .map(|reader| Box::new(reader) as Box<dyn Read + '_>),
            _ => None,
        };
        let Some(reader) = reader else { continue };
        let mut inflated = Vec::new();
        // A stream that is cut or was none still shows what it held up to there.
        let _ = reader.take(INFLATED).read_to_end(&mut inflated);
        if !inflated.is_empty() {
            let out = to.join(format!("{}@{at}", name.display()));
            std::fs::create_dir_all(out.parent().unwrap()).unwrap();
            std::fs::write(out, inflated).unwrap();
        }
    }
}

/// A control: what is put in every form on purpose is found.
#[test]
fn what_is_hidden_in_any_form_is_found() {
    let value = "cOnTrOl0123456789abcdefXYZ";
    let mut searcher = Searcher::default();
    searcher.add("control", value);
    let directory = tempfile::TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("plain/x", format!("\0a{value}b\0").as_bytes());
    write("json", serde_json::json!({"a\"": format!("\u{1}{value}\"")}).to_string().as_bytes());
    write("hex", value.bytes().map(|b| format!("{b:02x}")).collect::<String>().as_bytes());
    write("HEX", value.bytes().map(|b| format!("{b:02X}")).collect::<String>().as_bytes());
    for before in ["", "a", "ab", "abc"] {
        let text = format!("{before}{value}:x");
        write(&format!("base64{before}"), STANDARD_NO_PAD.encode(text).as_bytes());
    }
    let text = format!("before {value} after");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(text.as_bytes()).unwrap();
    write("in.gz", &gzip.finish().unwrap());
    let mut zlib = flate2::write::ZlibEncoder::new(b"PACK....".to_vec(), Default::default());
    zlib.write_all(text.as_bytes()).unwrap();
    write("pack", &zlib.finish().unwrap());
    let zstd = ruzstd::encoding::compress_to_vec(
        text.as_bytes(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    write("zstd", &zstd);
    write("other", b"nothing here");
    let found = searcher.search(directory.path());
    let mut names: Vec<_> = found.iter().map(|(path, _)| path.split('@').next().unwrap()).collect();
    names.dedup();
    let want = [
        "HEX",
        "base64",
        "base64a",
        "base64ab",
        "base64abc",
        "hex",
        "in.gz",
        "json",
        "pack",
        "plain/x",
        "zstd",
    ];
    assert_eq!(names, want);
}
