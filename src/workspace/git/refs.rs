//! The references of a repository, as git lists them and as they are written anew.

use std::collections::BTreeSet;

use super::GitBase;
use super::made::SmallFile;

/// How `for-each-ref` is asked: name of the object, the reference it points to, its own name.
pub(super) const REF_FORMAT: &str = "--format=%(objectname) %(symref) %(refname)";

/// References that belong to one worktree and its unfinished work.
const PER_WORKTREE: [&[u8]; 3] = [b"refs/bisect/", b"refs/rewritten/", b"refs/worktree/"];

/// Whether the bytes are `ref: refs/heads/…` or the name of an object.
pub(super) fn is_head(head: &[u8], digits: usize) -> bool {
    let line = head.strip_suffix(b"\n").unwrap_or(head);
    match line.strip_prefix(b"ref:") {
        Some(name) => {
            let name = name.trim_ascii();
            name.starts_with(b"refs/heads/") && is_ref(name)
        }
        None => is_hex(line, digits),
    }
}

pub(super) fn is_hex(text: &[u8], digits: usize) -> bool {
    text.len() == digits && text.iter().all(u8::is_ascii_hexdigit)
}

/// Whether it can be the name of a reference: below `refs/`, and a plain path.
fn is_ref(name: &[u8]) -> bool {
    name.starts_with(b"refs/")
        && !name.iter().any(|byte| byte.is_ascii_control() || *byte == b' ')
        && crate::path::RelPath::new(name).is_ok()
}

/// The references of a repository, but for those of one worktree.
pub(super) struct Refs<'a>(Vec<Ref<'a>>);

struct Ref<'a> {
    name: &'a [u8],
    /// What it leads to in the end.
    object: &'a [u8],
    /// The reference it names; empty for an ordinary one.
    symref: &'a [u8],
}

impl<'a> Refs<'a> {
    /// Reads what [`REF_FORMAT`] asked for.
    pub(super) fn parse(listing: &'a [u8], digits: usize) -> Result<Self, String> {
        let odd = || String::from("its references are not ordinary ones");
        let mut found = Vec::new();
        for line in listing.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let mut parts = line.split(|byte| *byte == b' ');
            let (Some(object), Some(symref), Some(name), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(odd());
            };
            if !is_hex(object, digits) || !is_ref(name) || !(symref.is_empty() || is_ref(symref)) {
                return Err(odd());
            }
            if !PER_WORKTREE.iter().any(|own| name.starts_with(own)) {
                found.push(Ref { name, object, symref });
            }
        }
        Ok(Self(found))
    }

    /// What is known to the host of what is sent, with the bytes of HEAD.
    pub(super) fn base(&self, head: &[u8], hash_len: usize) -> GitBase {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let head = head.trim_ascii();
        let (branch, commit) = match head.strip_prefix(b"ref:").map(<[u8]>::trim_ascii) {
            Some(branch) => {
                let found = self.0.iter().find(|found| found.name == branch);
                (text(branch), found.and_then(|found| text(found.object)))
            }
            None => (None, text(head)),
        };
        let refs = self.0.iter().filter_map(|found| Some((text(found.name)?, text(found.object)?)));
        GitBase { branch, commit, refs: refs.collect(), hash_len, cut: false }
    }

    /// Those that lead to one of these commits.
    pub(super) fn of(mut self, commits: &BTreeSet<String>) -> Self {
        let is_of =
            |object| std::str::from_utf8(object).is_ok_and(|object| commits.contains(object));
        self.0.retain(|found| is_of(found.object));
        self
    }

    /// Leaves no others in what is known to have been sent.
    pub(super) fn keep_in(&self, base: &mut GitBase) {
        let names: BTreeSet<&[u8]> = self.0.iter().map(|found| found.name).collect();
        base.refs.retain(|name, _| names.contains(name.as_bytes()));
    }

    /// `packed-refs`, and a file for each reference to a reference.
    pub(super) fn written(&self) -> Vec<SmallFile> {
        let mut packed = b"# pack-refs with: sorted \n".to_vec();
        let mut files = Vec::new();
        for Ref { name, object, symref } in &self.0 {
            if symref.is_empty() {
                packed.extend_from_slice(&[object, &b" "[..], name, b"\n"].concat());
            } else {
                files.push((name.to_vec(), [b"ref: ", *symref, b"\n"].concat()));
            }
        }
        files.push((b"packed-refs".to_vec(), packed));
        files
    }
}
