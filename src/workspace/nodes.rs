//! The nodes of a tree, in memory that several snapshots share.

use std::collections::BTreeMap;
use std::ops::Index;
use std::slice::Iter;
use std::sync::Arc;

use super::Node;
use crate::path::RelPath;

/// A path and what it was. One that did not change is the same allocation in every snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: RelPath,
    pub(super) node: Node,
}

/// The nodes of a tree by path, in the order of the paths' bytes.
///
/// A snapshot that was made on another one shares what did not change: it costs eight bytes for each
/// node that it shares, and nothing at all if it shares them all. A node of its own costs about 220
/// bytes. A clone costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(Arc<Vec<Arc<Named>>>);

impl Nodes {
    /// Takes nodes that are in order.
    #[cfg(feature = "host")]
    pub(super) fn from_sorted(mut nodes: Vec<Arc<Named>>) -> Self {
        debug_assert!(nodes.is_sorted_by(|one, other| one.path < other.path));
        // Collected in the place of what was larger.
        nodes.shrink_to_fit();
        Self(Arc::new(nodes))
    }

    /// All of them, in order.
    #[cfg(feature = "host")]
    pub(super) fn all(&self) -> &[Arc<Named>] {
        &self.0
    }

    /// What `path` was.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        let path = path.as_ref();
        let at = self.0.binary_search_by(|named| named.path.as_bytes().cmp(path)).ok()?;
        self.0.get(at).map(|named| &named.node)
    }

    /// Whether `path` is among them.
    pub fn contains_key(&self, path: impl AsRef<[u8]>) -> bool {
        self.get(path).is_some()
    }

    /// The paths, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &RelPath> {
        self.0.iter().map(|named| &named.path)
    }

    /// The nodes, in the order of their paths.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.0.iter().map(|named| &named.node)
    }

    /// Paths and nodes, in order.
    pub fn iter(&self) -> Nodewise<'_> {
        self.into_iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them are the very same allocations as in `other`.
    pub fn shared_with(&self, other: &Self) -> usize {
        let same = |named: &&Arc<Named>| {
            let found = other.0.binary_search_by(|had| had.path.cmp(&named.path)).ok();
            found.and_then(|at| other.0.get(at)).is_some_and(|had| Arc::ptr_eq(had, named))
        };
        self.0.iter().filter(same).count()
    }
}

impl FromIterator<(RelPath, Node)> for Nodes {
    /// Of a path that comes again, the later node counts.
    fn from_iter<I: IntoIterator<Item = (RelPath, Node)>>(nodes: I) -> Self {
        let sorted: BTreeMap<RelPath, Node> = nodes.into_iter().collect();
        Self::from(sorted)
    }
}

impl From<BTreeMap<RelPath, Node>> for Nodes {
    fn from(nodes: BTreeMap<RelPath, Node>) -> Self {
        let named = nodes.into_iter().map(|(path, node)| Arc::new(Named { path, node }));
        Self(Arc::new(named.collect()))
    }
}

impl<'a> IntoIterator for &'a Nodes {
    type Item = (&'a RelPath, &'a Node);
    type IntoIter = Nodewise<'a>;

    fn into_iter(self) -> Nodewise<'a> {
        Nodewise(self.0.iter())
    }
}

/// Paths and nodes, in order.
#[derive(Clone, Debug)]
pub struct Nodewise<'a>(Iter<'a, Arc<Named>>);

impl<'a> Iterator for Nodewise<'a> {
    type Item = (&'a RelPath, &'a Node);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|named| (&named.path, &named.node))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Nodewise<'_> {}

impl<P: AsRef<[u8]>> Index<P> for Nodes {
    type Output = Node;

    /// What a path was; panics if it is not among them, as a map does.
    fn index(&self, path: P) -> &Node {
        let path = path.as_ref();
        let at = self.0.binary_search_by(|named| named.path.as_bytes().cmp(path));
        &self.0[at.unwrap_or(self.0.len())].node
    }
}
