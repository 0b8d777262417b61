//! What file systems other than Linux's own take for the same name.

use std::borrow::Cow;

/// Whether some file system takes `name` for `.git`: by git's own rules for case, for the code
/// points that HFS+ ignores, and for what NTFS makes of trailing dots and blanks, streams, short
/// names and backslashes.
pub fn is_git_name(name: &[u8]) -> bool {
    let plain = without_ignorable(name);
    [name, &plain].into_iter().any(|name| name.split(|b| *b == b'\\').any(ntfs_git))
}

fn ntfs_git(name: &[u8]) -> bool {
    let starts = |with: &[u8]| {
        name.get(..with.len())
            .filter(|head| head.eq_ignore_ascii_case(with))
            .map(|_| &name[with.len()..])
    };
    let Some(rest) = starts(b".git").or_else(|| starts(b"git~1")) else {
        return false;
    };
    let end = rest.iter().find(|b| !matches!(b, b'.' | b' '));
    end.is_none_or(|b| *b == b':')
}

/// The name without the code points that HFS+ ignores.
fn without_ignorable(name: &[u8]) -> Vec<u8> {
    let mut rest = name;
    let mut plain = Vec::with_capacity(name.len());
    while let [first, tail @ ..] = rest {
        // In UTF-8: U+200C..U+200F, U+202A..U+202E, U+206A..U+206F, U+FEFF.
        let ignorable = matches!(
            rest,
            [0xe2, 0x80, 0x8c..=0x8f | 0xaa..=0xae, ..]
                | [0xe2, 0x81, 0xaa..=0xaf, ..]
                | [0xef, 0xbb, 0xbf, ..]
        );
        if ignorable {
            rest = &rest[3..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

/// The path as the most forgiving file system reads it: without the code points that HFS+ ignores,
/// the streams, trailing dots and blanks that NTFS drops, with its backslashes as slashes, and with
/// the two letters outside of ASCII that fold to one in it.
pub(super) fn plainest(path: &[u8]) -> Cow<'_, [u8]> {
    let odd = |byte: &u8| !byte.is_ascii() || matches!(byte, b'\\' | b':' | b'.' | b' ');
    if !path.iter().any(odd) {
        return Cow::Borrowed(path);
    }
    let mut plain = Vec::with_capacity(path.len());
    for name in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = folded(&without_ignorable(name));
        let name = name.split(|byte| *byte == b':').next().unwrap_or(&name);
        let end = name.iter().rposition(|byte| !matches!(byte, b'.' | b' '));
        let Some(end) = end else { continue };
        if !plain.is_empty() {
            plain.push(b'/');
        }
        plain.extend_from_slice(&name[..=end]);
    }
    Cow::Owned(plain)
}

/// With the long s and the Kelvin sign as the letters they fold to.
fn folded(name: &[u8]) -> Vec<u8> {
    let mut rest = name;
    let mut plain = Vec::with_capacity(name.len());
    while let [first, tail @ ..] = rest {
        (plain, rest) = match rest {
            [0xc5, 0xbf, tail @ ..] => (with(plain, b's'), tail),
            [0xe2, 0x84, 0xaa, tail @ ..] => (with(plain, b'k'), tail),
            _ => (with(plain, *first), tail),
        };
    }
    plain
}

fn with(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}
