//! The change set: what differs from the snapshot after a run.
//!
//! It holds the base of every path and where in `changes.tar` the new bytes are, so that
//! `changes.json` and `changes.tar` alone are enough to apply it later, in another process.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Node, NodeKind};
use crate::path::{RelPath, quote, unquote};

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A file that was not there.
    Added,
    /// A file with other bytes, or a file in the place of something else.
    Modified,
    /// Gone.
    Deleted,
    /// A file with the same bytes whose executable bit changed.
    Mode,
    /// A symbolic link that is new or points elsewhere.
    Link,
    /// A directory that is new.
    Directory,
}

impl ChangeKind {
    /// As it stands in a result.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Mode => "mode",
            Self::Link => "link",
            Self::Directory => "directory",
        }
    }
}

/// Whether a change is in the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeState {
    /// The workspace has it.
    Applied,
    /// It is in the run folder only.
    Held,
}

/// Why policy, not a conflict, keeps a change from being applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// A person may decide to apply it after all.
    Person,
    /// It is never applied.
    Never,
    /// It is new and git ignores it: applied only if it is asked for by its path, and no part of
    /// what the change set counts as a whole.
    Ignored,
}

/// The blake3 hash of a file's bytes; hexadecimal in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// Where a link points, as bytes. In JSON a plain string where it is UTF-8 without control
/// characters and does not begin with `"`; otherwise quoted with octal escapes, as paths are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LinkTarget(pub Vec<u8>);

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.0))
    }
}

impl Serialize for LinkTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&quote(&self.0))
    }
}

impl<'de> Deserialize<'de> for LinkTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        unquote(&text).map(Self).ok_or_else(|| serde::de::Error::custom("link is quoted wrongly"))
    }
}

/// Which version of a file a stat found. Two readings with the same stamp had the same bytes, if
/// the stamp was taken when it could be trusted ([`BaseNode::stamp`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Time of the last change of its contents: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Time of the last change of the inode: seconds and nanoseconds.
    pub ctime: (i64, u32),
}

/// What the user's file was before something was applied over it, besides its bytes and what
/// [`BaseNode`] has of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreImage {
    /// Where in `before.tar` a file's bytes begin; 0 for what is no file.
    pub offset: u64,
    /// Permission bits, set-id and sticky bits included.
    #[serde(default)]
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of its contents: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, access lists among them: names as bytes and values, in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(String, String)>,
}

/// What a path was when it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseNode {
    /// What it was.
    pub kind: NodeKind,
    /// Permission bits on the host.
    pub mode: u32,
    /// Size in bytes; 0 for what is no file.
    pub size: u64,
    /// Hash of a file's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
    /// Where a link pointed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LinkTarget>,
    /// Which version of the file on the host this was; `None` where times cannot tell, because the
    /// file was changed too shortly before it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
}

impl BaseNode {
    /// Whether it is a file that may be executed.
    pub fn executable(&self) -> bool {
        self.kind == NodeKind::File && executable(self.mode)
    }
}

impl From<&Node> for BaseNode {
    fn from(node: &Node) -> Self {
        Self {
            kind: node.kind,
            mode: node.mode & 0o7777,
            size: if node.kind == NodeKind::File { node.size } else { 0 },
            hash: node.hash.map(ContentHash),
            target: node.target.clone().map(LinkTarget),
            stamp: None,
        }
    }
}

/// What a path is after the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// What it is.
    pub kind: NodeKind,
    /// Whether it is a file that may be executed.
    pub executable: bool,
    /// Size in bytes; 0 for what is no file.
    pub size: u64,
    /// Hash of a file's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
    /// Where in `changes.tar` a file's bytes begin.
    pub offset: u64,
    /// Where a link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LinkTarget>,
}

impl NewNode {
    /// Whether the path is what it was, as far as anything of it travels.
    pub fn same_as(&self, base: &BaseNode) -> bool {
        self.kind == base.kind
            && match self.kind {
                NodeKind::File => self.same_bytes(base) && self.executable == base.executable(),
                NodeKind::Directory => true,
                NodeKind::Link => self.target == base.target,
            }
    }

    /// Whether both are files with the same bytes. A hash that is not known is not the same.
    pub fn same_bytes(&self, base: &BaseNode) -> bool {
        self.kind == NodeKind::File
            && base.kind == NodeKind::File
            && self.size == base.size
            && self.hash.is_some()
            && self.hash == base.hash
    }
}

/// Whether the mode of a file lets its owner execute it; the one bit of a mode that travels.
pub fn executable(mode: u32) -> bool {
    mode & 0o100 != 0
}

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub path: RelPath,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Size of the new file, or of the deleted one.
    pub bytes: u64,
    /// Whether it is in the workspace.
    pub state: ChangeState,
    /// Why it is held, if there is more to say than that nobody applied it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Set where policy holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// What the path was when it was sent; `None` where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseNode>,
    /// What the path is after the run; `None` where nothing is, or nothing that can be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<NewNode>,
    /// What was there when it was applied, for undo; `None` unless it is applied over something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<PreImage>,
}

impl Change {
    /// Whether [`apply`](super::apply::apply) would write it.
    pub fn is_waiting(&self) -> bool {
        self.state == ChangeState::Held && self.hold.is_none()
    }

    /// Whether it is one of what the run changed as a whole. A new file that git ignores is not,
    /// until it is asked for by its path.
    pub fn counts(&self) -> bool {
        self.hold != Some(Hold::Ignored) || self.state == ChangeState::Applied
    }
}

/// What a run changed, ordered by path. Saved as `changes.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// One for each path.
    pub changes: Vec<Change>,
}

/// What became of a change set as a whole, as in `changes_state` of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangesState {
    /// Nothing changed.
    None,
    /// All of it is in the workspace.
    Applied,
    /// Some of it is.
    Partly,
    /// None of it is.
    Held,
}

impl ChangeSet {
    /// What became of it as a whole. What git ignores does not count until somebody asks for it.
    pub fn state(&self) -> ChangesState {
        let counted = || self.changes.iter().filter(|c| c.counts());
        let applied = counted().filter(|c| c.state == ChangeState::Applied).count();
        match (applied, counted().count()) {
            (_, 0) => ChangesState::None,
            (0, _) => ChangesState::Held,
            (applied, all) if applied == all => ChangesState::Applied,
            _ => ChangesState::Partly,
        }
    }

    /// The change of a path.
    pub fn at(&self, path: &RelPath) -> Option<&Change> {
        let at = self.changes.binary_search_by(|change| change.path.cmp(path)).ok()?;
        self.changes.get(at)
    }

    /// The same, to be changed.
    pub fn at_mut(&mut self, path: &RelPath) -> Option<&mut Change> {
        let at = self.changes.binary_search_by(|change| change.path.cmp(path)).ok()?;
        self.changes.get_mut(at)
    }

    /// Takes out the changes within the given paths, with what they cannot be without: the
    /// directories above them. [`merge`](Self::merge) brings them back.
    pub fn split_off(&mut self, paths: &[RelPath]) -> Self {
        let (chosen, rest) = std::mem::take(&mut self.changes).into_iter().partition(|change| {
            paths.iter().any(|path| change.path.is_within(path) || path.is_within(&change.path))
        });
        self.changes = rest;
        Self { changes: chosen }
    }

    /// Takes in the changes of another part of the same set.
    pub fn merge(&mut self, part: Self) {
        self.changes.extend(part.changes);
        self.changes.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Lets go of what is held for a person within the given paths, of what is held because git
    /// ignores it at just these paths (it stands in no diff, so naming a directory is no decision
    /// about it), and of the directories above them. What is never applied stays.
    pub fn allow(&mut self, paths: &[RelPath]) {
        for change in &mut self.changes {
            let above = |path: &RelPath| {
                change.kind == ChangeKind::Directory && path.is_within(&change.path)
            };
            let named = |path: &RelPath| match change.hold {
                Some(Hold::Person) => change.path.is_within(path) || above(path),
                Some(Hold::Ignored) => change.path == *path || above(path),
                Some(Hold::Never) | None => false,
            };
            if paths.iter().any(named) {
                change.hold = None;
                change.reason = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_change_set_is_read_back_without_loss(
            path in proptest::collection::vec(any::<u8>(), 1..20),
            target in proptest::collection::vec(any::<u8>(), 0..20),
            hash in any::<[u8; 32]>(),
            mode in 0u32..0o10000,
        ) {
            let Ok(path) = RelPath::new(path) else { return Ok(()) };
            let set = ChangeSet { changes: vec![Change {
                path, kind: ChangeKind::Link, bytes: 3, state: ChangeState::Held,
                reason: Some("because".into()), hold: Some(Hold::Person),
                base: Some(BaseNode { kind: NodeKind::File, mode, size: 3,
                    hash: Some(ContentHash(hash)), target: None, stamp: None }),
                new: Some(NewNode { kind: NodeKind::Link, executable: false, size: 0, hash: None,
                    offset: 512, target: Some(LinkTarget(target)) }),
                before: Some(PreImage::default()),
            }] };
            let text = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<ChangeSet>(&text).unwrap(), set);
        }
    }

    fn change(path: &str, hold: Option<Hold>) -> Change {
        Change {
            path: RelPath::new(path).unwrap(),
            kind: ChangeKind::Deleted,
            bytes: 0,
            state: ChangeState::Held,
            reason: hold.map(|_| "because".into()),
            hold,
            base: None,
            new: None,
            before: None,
        }
    }

    #[test]
    fn chosen_paths_come_with_the_directories_above_them() {
        let whole = ["a", "a/b", "a/c", "ab"].map(|path| change(path, None));
        let mut set = ChangeSet { changes: whole.to_vec() };
        let part = set.split_off(&[RelPath::new("a/b").unwrap()]);
        let paths = |set: &ChangeSet| -> Vec<String> {
            set.changes.iter().map(|c| c.path.to_string()).collect()
        };
        assert_eq!(paths(&part), ["a", "a/b"]);
        assert_eq!(paths(&set), ["a/c", "ab"]);
        set.merge(part);
        assert_eq!(set.changes, whole);
    }

    #[test]
    fn a_person_can_let_go_of_what_is_held_for_a_person_only() {
        let mut set = ChangeSet {
            changes: vec![
                change("a/x", Some(Hold::Person)),
                change("a/y", Some(Hold::Never)),
                change("b", Some(Hold::Person)),
            ],
        };
        set.allow(&[RelPath::new("a").unwrap()]);
        let waiting: Vec<bool> = set.changes.iter().map(Change::is_waiting).collect();
        assert_eq!(waiting, [true, false, false]);
    }

    #[test]
    fn the_state_of_the_whole_follows_from_its_parts() {
        let state = |states: &[ChangeState]| {
            let with = |state: &ChangeState| Change { state: *state, ..change("a", None) };
            ChangeSet { changes: states.iter().map(with).collect() }.state()
        };
        use ChangeState::{Applied, Held};
        assert_eq!(state(&[]), ChangesState::None);
        assert_eq!(state(&[Applied, Applied]), ChangesState::Applied);
        assert_eq!(state(&[Held]), ChangesState::Held);
        assert_eq!(state(&[Held, Applied]), ChangesState::Partly);
    }
    #[test]
    fn what_git_ignores_counts_only_once_it_is_asked_for() {
        let ignored = change(".env.local", Some(Hold::Ignored));
        let mut set = ChangeSet { changes: vec![ignored.clone()] };
        assert_eq!(set.state(), ChangesState::None);
        assert!(!set.changes[0].is_waiting());
        let applied = Change { state: ChangeState::Applied, ..change("a", None) };
        set.changes.push(applied);
        assert_eq!(set.state(), ChangesState::Applied);
        set.allow(&[RelPath::new("a").unwrap()]);
        assert_eq!(set.changes[0], ignored);
        set.allow(&[RelPath::new(".env.local").unwrap()]);
        assert!(set.changes[0].is_waiting());
        assert_eq!(set.state(), ChangesState::Partly);
    }
}
