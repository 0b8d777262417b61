//! The change set as a person or `git apply` reads it: `diff.patch`, in git's unified format.
//!
//! It is made before the change set is applied, while the host still has what was sent. What can
//! never be applied is named in a comment and not shown as a patch, so that nobody applies it by
//! hand unawares. Lines that begin with `#` are comments; git passes over them. Its size and the time
//! it takes are bounded, however much changed: what is beyond is only counted, in its last line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use similar::{Algorithm, ChangeTag, TextDiff};

use super::NodeKind;
use super::Workspace;
use super::change::{BaseNode, Change, ChangeKind, ChangeSet, ContentHash, Hold, NewNode};
use super::host::Host;
use crate::path::RelPath;

/// Files over this size are named and not compared line by line; two of them are in memory.
const MAX_TEXT: u64 = 1024 * 1024;
/// The same of files with more lines; a line takes some hundred bytes while it is compared.
const MAX_LINES: usize = 100_000;
/// How long one file may be searched for the smallest difference; after that it is only a right
/// one.
const SEARCH: Duration = Duration::from_millis(300);
/// How far git looks for a NUL byte, which makes a file binary.
const BINARY_PROBE: usize = 8000;

/// What one patch may take.
#[derive(Clone, Copy, Debug)]
struct Most {
    /// Bytes, but for the last file in it.
    bytes: u64,
    /// Time, but for the last file in it.
    time: Duration,
}

const MOST: Most = Most { bytes: 64 << 20, time: Duration::from_secs(10) };

/// Writes the patch of all changes to `to`. Blocks, for about 10 s at most. Memory is bounded by two
/// files of 1 MiB and their lines, the patch by 64 MiB and one file more.
///
/// # Errors
///
/// Where `archive` cannot be read or `to` cannot be written. A base that is no longer on the host
/// is no error: a comment says so.
pub fn patch(
    workspace: &Workspace,
    changes: &ChangeSet,
    archive: &Path,
    to: impl Write,
) -> io::Result<()> {
    patch_within(MOST, workspace, changes, archive, to)
}

fn patch_within(
    most: Most,
    workspace: &Workspace,
    changes: &ChangeSet,
    archive: &Path,
    to: impl Write,
) -> io::Result<()> {
    let host = Host::of(workspace);
    let archive = File::open(archive)?;
    let mut out = Counted { to: BufWriter::new(to), bytes: 0 };
    let started = Instant::now();
    let mut changes = changes.changes.iter().filter(|change| change.counts());
    loop {
        let left = most.time.saturating_sub(started.elapsed());
        if left.is_zero() || out.bytes >= most.bytes {
            break;
        }
        let Some(change) = changes.next() else { break };
        write_change(&host, change, &archive, left.min(SEARCH), &mut out)?;
    }
    match changes.count() {
        0 => {}
        left => out.write_all(cut_line(left).as_bytes())?,
    }
    out.flush()
}

/// The last line of a patch that is cut.
fn cut_line(left: usize) -> String {
    format!("# diff cut: {left} more changes are not shown\n")
}

/// Says of a patch that is cut how many changes it does not show.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn not_shown(file: &Path) -> io::Result<Option<usize>> {
    let mut file = File::open(file)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(100)))?;
    let mut end = Vec::new();
    file.take(100).read_to_end(&mut end)?;
    let line = end.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(cut_count(line))
}

/// The count in a [`cut_line`]. Nothing else looks like one: a line of a file has a sign, and a
/// comment on a path goes on after it.
fn cut_count(line: &[u8]) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let count = line.strip_prefix("# diff cut: ")?.strip_suffix(" more changes are not shown")?;
    count.parse().ok()
}

/// Counts what is written.
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// One page of a text that may be large; pages count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its text; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// How many pages there are, at least one.
    pub pages: u64,
}

/// Reads one page of `file`, of about `page_bytes` bytes: a page begins and ends at the end of a
/// line where there is one within reach. A page past the end is empty.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn page(file: &Path, page: u64, page_bytes: u64) -> io::Result<Page> {
    let mut file = File::open(file)?;
    let len = file.metadata()?.len();
    let page_bytes = page_bytes.max(1);
    let pages = len.div_ceil(page_bytes).max(1);
    let start = line_start(&mut file, page.saturating_mul(page_bytes).min(len), page_bytes)?;
    let end = page.saturating_add(1).saturating_mul(page_bytes).min(len);
    let end = line_start(&mut file, end, page_bytes)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end.saturating_sub(start)).read_to_end(&mut bytes)?;
    Ok(Page { text: String::from_utf8_lossy(&bytes).into_owned(), pages })
}

/// As [`page`], of the sections for `paths` alone: a path stands for itself and what lies in it. That
/// the patch is cut is not among them, see [`not_shown`].
/// Reads the whole file for every page.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn page_of(
    file: &Path,
    paths: &[RelPath],
    wanted_page: u64,
    page_bytes: u64,
) -> io::Result<Page> {
    let mut file = BufReader::new(File::open(file)?);
    let page_bytes = page_bytes.max(1);
    let (mut text, mut line, mut at, mut inside) = (Vec::new(), Vec::new(), 0, false);
    while file.read_until(b'\n', &mut line)? > 0 {
        let shown = match line.strip_prefix(b"diff --git ") {
            Some(names) => {
                inside = named(names).is_some_and(|name| paths.iter().any(|p| name.is_within(p)));
                inside
            }
            // In a hunk every line has a sign, so this is a comment of ours.
            None if cut_count(&line).is_some() => false,
            None if line.starts_with(b"# ") => inside || comments_on(&line, paths),
            None => inside,
        };
        if shown {
            if at / page_bytes == wanted_page {
                text.extend_from_slice(&line);
            }
            at += line.len() as u64;
        }
        line.clear();
    }
    let pages = at.div_ceil(page_bytes).max(1);
    Ok(Page { text: String::from_utf8_lossy(&text).into_owned(), pages })
}

/// The path in `a/path b/path`, the two of which are equally long.
fn named(names: &[u8]) -> Option<RelPath> {
    let names = names.trim_ascii_end();
    let name = std::str::from_utf8(names.get(..names.len().checked_sub(1)? / 2)?).ok()?;
    let path = RelPath::parse(name).ok()?;
    RelPath::new(path.as_bytes().strip_prefix(b"a/")?).ok()
}

/// Whether a comment is about one of the paths.
fn comments_on(line: &[u8], paths: &[RelPath]) -> bool {
    let line = String::from_utf8_lossy(line);
    let about = line.trim_start_matches("# ").trim_start_matches("directory ");
    paths.iter().any(|path| {
        about.strip_prefix(&path.to_string()).is_some_and(|rest| rest.starts_with([' ', '/']))
    })
}

/// The first beginning of a line at `at` or after it, at most a page further; else `at`.
fn line_start(file: &mut File, at: u64, page_bytes: u64) -> io::Result<u64> {
    let Some(before) = at.checked_sub(1) else { return Ok(0) };
    file.seek(SeekFrom::Start(before))?;
    let mut bytes = Vec::new();
    file.take(page_bytes.min(64 * 1024)).read_to_end(&mut bytes)?;
    Ok(match bytes.iter().position(|b| *b == b'\n') {
        Some(index) => before + index as u64 + 1,
        None => at,
    })
}

/// One side of a comparison.
struct Side {
    /// As git writes it: `100644`, `100755` or `120000`.
    mode: &'static str,
    content: Content,
}

enum Content {
    Text(Vec<u8>),
    Large,
    Gone,
}

fn write_change(
    host: &Host,
    change: &Change,
    archive: &File,
    search: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    let path = &change.path;
    if change.hold == Some(Hold::Never) {
        let reason = change.reason.as_deref().unwrap_or("it cannot be applied");
        return writeln!(out, "# {path} is held and not shown: {reason}");
    }
    if let Some(reason) = &change.reason {
        writeln!(out, "# {path} is held: {reason}")?;
    }
    let is_directory = |kind| kind == NodeKind::Directory;
    if change.kind == ChangeKind::Deleted
        && change.base.as_ref().is_some_and(|base| is_directory(base.kind))
    {
        return writeln!(out, "# directory {path} is deleted");
    }
    if change.new.as_ref().is_some_and(|new| is_directory(new.kind)) {
        writeln!(out, "# directory {path} is new")?;
    }
    let old = match &change.base {
        Some(base) if !is_directory(base.kind) => Some(old_side(host, change, base)?),
        _ => None,
    };
    let new = match &change.new {
        Some(new) if !is_directory(new.kind) => Some(new_side(archive, new)?),
        _ => None,
    };
    let name = path.as_bytes();
    match (old, new) {
        (Some(old), Some(new)) if old.mode[..3] != new.mode[..3] => {
            // A link in the place of a file, or the other way round, is two changes to git.
            compare(out, name, Some(&old), None, search)?;
            compare(out, name, None, Some(&new), search)
        }
        (old, new) => compare(out, name, old.as_ref(), new.as_ref(), search),
    }
}

fn old_side(host: &Host, change: &Change, base: &BaseNode) -> io::Result<Side> {
    if base.kind == NodeKind::Link {
        let target = base.target.as_ref().map_or(Vec::new(), |target| target.0.clone());
        return Ok(Side { mode: "120000", content: Content::Text(target) });
    }
    let mode = if base.executable() { "100755" } else { "100644" };
    if base.size > MAX_TEXT {
        return Ok(Side { mode, content: Content::Large });
    }
    let mut bytes = Vec::new();
    let read = host
        .open(&change.path)
        .map_err(io::Error::from)
        .and_then(|file| file.take(MAX_TEXT + 1).read_to_end(&mut bytes));
    let still = read.is_ok() && Some(ContentHash(*blake3::hash(&bytes).as_bytes())) == base.hash;
    Ok(Side { mode, content: if still { of_text(bytes) } else { Content::Gone } })
}

fn new_side(archive: &File, new: &NewNode) -> io::Result<Side> {
    if let Some(target) = &new.target {
        return Ok(Side { mode: "120000", content: Content::Text(target.0.clone()) });
    }
    let mode = if new.executable { "100755" } else { "100644" };
    if new.size > MAX_TEXT {
        return Ok(Side { mode, content: Content::Large });
    }
    let mut bytes = vec![0; usize::try_from(new.size).unwrap_or(0)];
    archive.read_exact_at(&mut bytes, new.offset)?;
    Ok(Side { mode, content: of_text(bytes) })
}

fn of_text(bytes: Vec<u8>) -> Content {
    match bytes.iter().filter(|byte| **byte == b'\n').count() {
        ..=MAX_LINES => Content::Text(bytes),
        _ => Content::Large,
    }
}

fn compare(
    out: &mut impl Write,
    name: &[u8],
    old: Option<&Side>,
    new: Option<&Side>,
    search: Duration,
) -> io::Result<()> {
    let (a, b) = (prefixed(b"a/", name), prefixed(b"b/", name));
    match (old, new) {
        (None, None) => return Ok(()),
        _ => out.write_all(&[b"diff --git ", &a[..], b" ", &b, b"\n"].concat())?,
    }
    match (old, new) {
        (None, Some(new)) => writeln!(out, "new file mode {}", new.mode)?,
        (Some(old), None) => writeln!(out, "deleted file mode {}", old.mode)?,
        (Some(old), Some(new)) if old.mode != new.mode => {
            write!(out, "old mode {}\nnew mode {}\n", old.mode, new.mode)?;
        }
        _ => {}
    }
    let text = |side: Option<&Side>| match side.map(|side| &side.content) {
        None => Some(false),
        Some(Content::Text(bytes)) => Some(bytes[..bytes.len().min(BINARY_PROBE)].contains(&0)),
        Some(Content::Large) => Some(true),
        Some(Content::Gone) => None,
    };
    let (from, to) = (
        if old.is_some() { &a[..] } else { b"/dev/null" },
        if new.is_some() { &b[..] } else { b"/dev/null" },
    );
    match (text(old), text(new)) {
        (None, _) | (_, None) => {
            out.write_all(b"# what was sent is no longer on the host, so this is not compared\n")
        }
        (Some(false), Some(false)) => hunks(out, from, to, text_of(old), text_of(new), search),
        _ => {
            // The same bytes with another mode are no difference.
            if let (
                Some(Side { content: Content::Text(old), .. }),
                Some(Side { content: Content::Text(new), .. }),
            ) = (old, new)
                && old == new
            {
                return Ok(());
            }
            out.write_all(&[b"Binary files ", from, b" and ", to, b" differ\n"].concat())
        }
    }
}

fn text_of(side: Option<&Side>) -> &[u8] {
    match side.map(|side| &side.content) {
        Some(Content::Text(bytes)) => bytes,
        _ => &[],
    }
}

fn hunks(
    out: &mut impl Write,
    from: &[u8],
    to: &[u8],
    old: &[u8],
    new: &[u8],
    search: Duration,
) -> io::Result<()> {
    if old == new {
        return Ok(());
    }
    let diff =
        TextDiff::configure().algorithm(Algorithm::Myers).timeout(search).diff_lines(old, new);
    // A tab ends a name that has blanks in it.
    let end = |name: &[u8]| if name.contains(&b' ') { &b"\t\n"[..] } else { b"\n" };
    out.write_all(&[b"--- ", from, end(from), b"+++ ", to, end(to)].concat())?;
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        writeln!(out, "{}", hunk.header())?;
        for change in hunk.iter_changes() {
            let sign: &[u8] = match change.tag() {
                ChangeTag::Equal => b" ",
                ChangeTag::Delete => b"-",
                ChangeTag::Insert => b"+",
            };
            out.write_all(sign)?;
            let line: &[u8] = change.value();
            out.write_all(line)?;
            if !line.ends_with(b"\n") {
                out.write_all(b"\n\\ No newline at end of file\n")?;
            }
        }
    }
    Ok(())
}

/// A name as git writes it: with its prefix, and quoted if it has to be.
fn prefixed(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    let whole = [prefix, name].concat();
    let plain = whole.iter().all(|b| !b.is_ascii_control() && !matches!(b, b'"' | b'\\'))
        && std::str::from_utf8(name).is_ok();
    if plain {
        return whole;
    }
    let mut quoted = vec![b'"'];
    for byte in whole {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', byte]),
            0x20..=0x7e => quoted.push(byte),
            _ => quoted.extend(format!("\\{byte:03o}").into_bytes()),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
