//! Paths inside a workspace: bytes, relative, checked once and trusted afterwards.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A relative path inside a workspace: components separated by `/`, none of them empty, `.` or
/// `..`, no NUL, at most [`RelPath::MAX_BYTES`] long. The bytes need not be UTF-8.
///
/// In JSON a path is a plain string where it is UTF-8 without control characters and does not
/// begin with `"`; any other path is quoted as git quotes names (`"a\377b"`), which can be told
/// apart by its first character and read back without loss.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are no [`RelPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelPathError {
    /// No bytes at all.
    #[error("path is empty")]
    Empty,
    /// Begins with `/`.
    #[error("path is absolute")]
    Absolute,
    /// Has an empty, `.` or `..` component.
    #[error("path has an empty, \".\" or \"..\" component")]
    Component,
    /// Has a NUL byte.
    #[error("path has a NUL byte")]
    Nul,
    /// Is longer than the limit.
    #[error("path is {0} bytes long, over the limit of {max}", max = RelPath::MAX_BYTES)]
    TooLong(usize),
    /// A quoted path that cannot be read back.
    #[error("path is quoted wrongly")]
    Quoting,
}

impl RelPath {
    /// The longest path in bytes; Linux refuses longer ones in a system call.
    pub const MAX_BYTES: usize = 4095;

    /// Checks `bytes` and takes them as a path.
    ///
    /// # Errors
    ///
    /// Any byte string that is not a plain relative path, see [`RelPathError`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, RelPathError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(RelPathError::Empty);
        }
        if bytes.len() > Self::MAX_BYTES {
            return Err(RelPathError::TooLong(bytes.len()));
        }
        if bytes[0] == b'/' {
            return Err(RelPathError::Absolute);
        }
        if bytes.contains(&0) {
            return Err(RelPathError::Nul);
        }
        if bytes.split(|b| *b == b'/').any(|c| matches!(c, b"" | b"." | b"..")) {
            return Err(RelPathError::Component);
        }
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path relative to the workspace.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The components, first to last; never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The directory that holds it; `None` for a name at the top.
    pub fn parent(&self) -> Option<Self> {
        let cut = self.0.iter().rposition(|b| *b == b'/')?;
        Some(Self(self.0[..cut].into()))
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or(&self.0)
    }

    /// The first component.
    pub fn top(&self) -> &[u8] {
        self.0.split(|b| *b == b'/').next().unwrap_or(&self.0)
    }

    /// `name` inside this directory.
    ///
    /// # Errors
    ///
    /// As [`RelPath::new`].
    pub fn join(&self, name: &[u8]) -> Result<Self, RelPathError> {
        let mut bytes = self.0.to_vec();
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// Whether this path is `ancestor` or lies in it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.0.strip_prefix(&*ancestor.0).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// The directories above it, topmost first.
    pub fn above(&self) -> impl Iterator<Item = &[u8]> {
        self.slashes().map(|at| &self.0[..at])
    }

    fn slashes(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at)
    }

    /// The order in which a walk of a tree meets paths: a directory, all that is in it, then what
    /// is beside it. (By their bytes `a.b` is between `a` and `a/c`.)
    pub fn tree_order(&self, other: &Self) -> Ordering {
        tree_order(&self.0, &other.0)
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    ///
    /// # Errors
    ///
    /// As [`RelPath::new`], and [`RelPathError::Quoting`].
    pub fn parse(text: &str) -> Result<Self, RelPathError> {
        Self::new(unquote(text).ok_or(RelPathError::Quoting)?)
    }
}

impl AsRef<[u8]> for RelPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for RelPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// As [`RelPath::tree_order`].
pub(crate) fn tree_order(one: &[u8], other: &[u8]) -> Ordering {
    let same = common(one, other);
    match (one.get(same), other.get(same)) {
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (one, other) => one.cmp(&other),
    }
}

/// How many bytes both begin with.
fn common(one: &[u8], other: &[u8]) -> usize {
    const STEP: usize = 16;
    let steps = one.chunks_exact(STEP).zip(other.chunks_exact(STEP));
    let same = steps.take_while(|(one, other)| one == other).count() * STEP;
    same + one[same..].iter().zip(&other[same..]).take_while(|(one, other)| one == other).count()
}

/// What is known of the directories above a path, for paths that come in
/// [tree order](RelPath::tree_order): each directory is asked about once, however many paths lie in
/// it and however deep they are.
#[cfg(any(feature = "host", feature = "intake"))]
#[derive(Debug)]
pub(crate) struct Above<'a, T> {
    last: &'a [u8],
    /// Where the directory's path ends in `last`, topmost first.
    stack: Vec<(usize, T)>,
}

#[cfg(any(feature = "host", feature = "intake"))]
impl<'a, T> Above<'a, T> {
    pub(crate) fn new() -> Self {
        Self { last: &[], stack: Vec::new() }
    }

    /// Goes on to `path`, and asks `enter` about each directory above it that was not met yet,
    /// with what is known of the one above that. Gives what is known of the directory it is in.
    pub(crate) fn go(
        &mut self,
        path: &'a RelPath,
        mut enter: impl FnMut(&'a [u8], Option<&T>) -> T,
    ) -> Option<&T> {
        let bytes = path.as_bytes();
        let same = common(self.last, bytes);
        self.last = bytes;
        let is_above = |end: usize| end <= same && bytes.get(end) == Some(&b'/');
        while self.stack.last().is_some_and(|(end, _)| !is_above(*end)) {
            self.stack.pop();
        }
        let known = self.stack.last().map(|(end, _)| *end);
        for end in path.slashes().filter(|end| known.is_none_or(|known| *end > known)) {
            let next = enter(&bytes[..end], self.stack.last().map(|(_, known)| known));
            self.stack.push((end, next));
        }
        self.stack.last().map(|(_, known)| known)
    }

    /// Says what is to be known of the path gone to last, as a directory.
    pub(crate) fn say(&mut self, known: T) {
        self.stack.push((self.last.len(), known));
    }
}

/// The beginning of `bytes` as text that a person can read, however long they are and whatever is
/// in them.
#[cfg(any(feature = "host", feature = "intake"))]
pub(crate) fn shown(bytes: &[u8]) -> String {
    const LONG: usize = 200;
    match bytes.len() > LONG {
        true => format!("{}...", quote(&bytes[..LONG])),
        false => quote(bytes).into_owned(),
    }
}

/// `bytes` as text: themselves where they are UTF-8 without control characters and do not begin
/// with `"`; else in double quotes with git's octal escapes.
pub(crate) fn quote(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with('"') && !text.chars().any(char::is_control) => text.into(),
        _ => {
            let mut text = String::with_capacity(bytes.len() + 8);
            text.push('"');
            for byte in bytes {
                match byte {
                    b'\\' => text.push_str("\\\\"),
                    b'"' => text.push_str("\\\""),
                    0x20..=0x7e => text.push(char::from(*byte)),
                    other => text.push_str(&format!("\\{other:03o}")),
                }
            }
            text.push('"');
            text.into()
        }
    }
}

/// Reads what [`quote`] wrote; `None` for what it never writes.
pub(crate) fn unquote(text: &str) -> Option<Vec<u8>> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Some(text.as_bytes().to_vec());
    };
    let mut rest = quoted.strip_suffix('"')?.bytes();
    let mut bytes = Vec::with_capacity(quoted.len());
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next()? {
            plain @ (b'\\' | b'"') => bytes.push(plain),
            first @ b'0'..=b'3' => {
                let mut value = first - b'0';
                for _ in 0..2 {
                    let digit = rest.next().filter(|digit| (b'0'..=b'7').contains(digit))?;
                    value = value * 8 + (digit - b'0');
                }
                bytes.push(value);
            }
            _ => return None,
        }
    }
    Some(bytes)
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in proptest::collection::vec(any::<u8>(), 1..40)) {
            if let Ok(path) = RelPath::new(bytes) {
                prop_assert_eq!(RelPath::parse(&path.to_string()).unwrap(), path);
            }
        }

        #[test]
        fn tree_order_is_the_order_of_the_components(
            one in "[ab./-]{1,6}", other in "[ab./-]{1,6}",
        ) {
            if let (Ok(one), Ok(other)) = (RelPath::new(one), RelPath::new(other)) {
                let by_components = one.components().cmp(other.components());
                prop_assert_eq!(one.tree_order(&other), by_components);
            }
        }

        #[test]
        fn every_directory_above_is_asked_about_once(paths in proptest::collection::vec("[ab.](/[ab.-]){0,4}", 1..12)) {
            let mut paths: Vec<RelPath> =
                paths.into_iter().filter_map(|path| RelPath::new(path).ok()).collect();
            paths.sort_by(RelPath::tree_order);
            paths.dedup();
            let mut above = Above::new();
            let mut asked = Vec::new();
            for path in &paths {
                let holder = above.go(path, |directory, _| {
                    asked.push(directory);
                    directory
                });
                prop_assert_eq!(holder.copied(), path.above().last());
                above.say(path.as_bytes());
            }
            let mut expected: Vec<&[u8]> = paths.iter().flat_map(RelPath::above).collect();
            expected.retain(|directory| !paths.iter().any(|path| path.as_bytes() == *directory));
            expected.sort_unstable();
            expected.dedup();
            asked.sort_unstable();
            prop_assert_eq!(asked, expected);
        }

        #[test]
        fn no_path_leaves_its_root(bytes in "[./a]{1,12}") {
            if let Ok(path) = RelPath::new(bytes.into_bytes()) {
                prop_assert!(path.components().all(|c| c != b".." && c != b"." && !c.is_empty()));
            }
        }
    }

    #[test]
    fn refuses_what_is_no_plain_relative_path() {
        for (bytes, why) in [
            (&b""[..], RelPathError::Empty),
            (b"/a", RelPathError::Absolute),
            (b"a/../b", RelPathError::Component),
            (b"a//b", RelPathError::Component),
            (b"a/", RelPathError::Component),
            (b"a\0b", RelPathError::Nul),
        ] {
            assert_eq!(RelPath::new(bytes).unwrap_err(), why);
        }
    }

    #[test]
    fn within_counts_whole_components() {
        let dir = RelPath::new("a/b").unwrap();
        assert!(RelPath::new("a/b/c").unwrap().is_within(&dir));
        assert!(RelPath::new("a/b").unwrap().is_within(&dir));
        assert!(!RelPath::new("a/bc").unwrap().is_within(&dir));
    }
}
