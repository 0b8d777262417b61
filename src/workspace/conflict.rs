//! The three-way comparison: what was sent, what came back, what the host has now.

use super::NodeKind;
use super::change::{BaseNode, NewNode};

/// What is at a path on the host now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostNow {
    /// Nothing.
    Absent,
    /// A file, directory or link.
    Node(BaseNode),
    /// Something else, such as a FIFO.
    Special,
}

/// What to do with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The host has what was sent: write the change.
    Apply,
    /// Only its executable bit was changed on the host, and its bytes only by the run: write the
    /// bytes and leave the bit.
    ApplyBytes,
    /// The host has what came back already.
    Nothing,
    /// Both sides changed it; the sentence says how.
    Conflict(&'static str),
}

/// Decides for one path. `base` is what was sent and `new` what came back; `None` is nothing.
pub fn decide(base: Option<&BaseNode>, new: Option<&NewNode>, now: &HostNow) -> Decision {
    let is_new = match (new, now) {
        (None, HostNow::Absent) => true,
        (Some(new), HostNow::Node(now)) => new.same_as(now),
        _ => false,
    };
    if is_new {
        return Decision::Nothing;
    }
    match (base, now) {
        (None, HostNow::Absent) => Decision::Apply,
        (Some(base), HostNow::Node(now)) if same(base, now) => Decision::Apply,
        (None, HostNow::Node(now)) if now.kind == NodeKind::Directory => {
            Decision::Conflict("there is a directory on the host, where nothing was sent from")
        }
        (None, _) => Decision::Conflict("exists on the host, where nothing was sent from"),
        (Some(_), HostNow::Absent) => Decision::Conflict("deleted on the host since it was sent"),
        (Some(base), HostNow::Node(now)) if base.kind == now.kind => match base.kind {
            NodeKind::File if same_bytes(base, now) => match new {
                // One bit on both sides: whoever changed it, it is now what the host has.
                Some(new) if new.kind == NodeKind::File && !new.same_bytes(base) => {
                    Decision::ApplyBytes
                }
                _ => Decision::Conflict("its mode was changed on the host since it was sent"),
            },
            _ => Decision::Conflict("changed on the host since it was sent"),
        },
        (Some(_), HostNow::Node(now)) if now.kind == NodeKind::Directory => {
            Decision::Conflict("there is a directory on the host now, which came since it was sent")
        }
        (Some(_), _) => Decision::Conflict("replaced on the host since it was sent"),
    }
}

/// Whether the host still has what was sent, as far as anything of it travels.
pub fn same(base: &BaseNode, now: &BaseNode) -> bool {
    base.kind == now.kind
        && match base.kind {
            NodeKind::File => same_bytes(base, now) && base.executable() == now.executable(),
            NodeKind::Directory => true,
            NodeKind::Link => base.target == now.target,
        }
}

/// Whether two files have the same bytes. A hash that is not known is not the same.
fn same_bytes(base: &BaseNode, now: &BaseNode) -> bool {
    base.size == now.size && base.hash.is_some() && base.hash == now.hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::change::{ContentHash, LinkTarget};

    /// Two files, each executable or not, a directory, two links.
    fn nodes() -> Vec<BaseNode> {
        let node = |kind, content: u8, mode| BaseNode {
            kind,
            mode,
            size: 1,
            hash: (kind == NodeKind::File).then_some(ContentHash([content; 32])),
            target: (kind == NodeKind::Link).then(|| LinkTarget(vec![content])),
            stamp: None,
        };
        let mut nodes = vec![node(NodeKind::Directory, 0, 0o755)];
        for content in 0..2 {
            nodes.push(node(NodeKind::File, content, 0o644));
            nodes.push(node(NodeKind::File, content, 0o755));
            nodes.push(node(NodeKind::Link, content, 0o777));
        }
        nodes
    }

    fn as_new(node: &BaseNode) -> NewNode {
        NewNode {
            kind: node.kind,
            executable: node.executable(),
            size: node.size,
            hash: node.hash,
            offset: 0,
            target: node.target.clone(),
        }
    }

    fn all_or_none() -> Vec<Option<BaseNode>> {
        nodes().into_iter().map(Some).chain([None]).collect()
    }

    /// Every combination of what was sent, what came back and what the host has.
    #[test]
    fn the_whole_table() {
        let mut seen = [0; 4];
        for base in all_or_none() {
            for new in all_or_none() {
                for now in all_or_none().into_iter().map(Some).chain([None]) {
                    let now = match now {
                        Some(now) => now.map_or(HostNow::Absent, HostNow::Node),
                        None => HostNow::Special,
                    };
                    let new = new.as_ref().map(as_new);
                    let decision = decide(base.as_ref(), new.as_ref(), &now);
                    let stayed = match (&base, &now) {
                        (None, HostNow::Absent) => true,
                        (Some(base), HostNow::Node(now)) => same(base, now),
                        _ => false,
                    };
                    let equal = match (&new, &now) {
                        (None, HostNow::Absent) => true,
                        (Some(new), HostNow::Node(now)) => new.same_as(now),
                        _ => false,
                    };
                    // Only the bit was changed here, and only bytes there.
                    let both_fit = match (&base, &new, &now) {
                        (Some(base), Some(new), HostNow::Node(now)) => {
                            base.kind == NodeKind::File
                                && new.kind == NodeKind::File
                                && now.kind == NodeKind::File
                                && base.hash == now.hash
                                && base.executable() != now.executable()
                                && new.hash != base.hash
                        }
                        _ => false,
                    };
                    let (at, right) = match decision {
                        Decision::Nothing => (0, equal),
                        Decision::Apply => (1, stayed && !equal),
                        Decision::ApplyBytes => (2, both_fit && !stayed && !equal),
                        Decision::Conflict(_) => (3, !stayed && !equal && !both_fit),
                    };
                    seen[at] += 1;
                    assert!(right, "{base:?} {new:?} {now:?} {decision:?}");
                }
            }
        }
        assert_eq!(seen.iter().sum::<i32>(), 8 * 8 * 9);
        assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    }

    #[test]
    fn a_file_whose_hash_is_not_known_is_never_taken_for_the_same() {
        let unknown = BaseNode { hash: None, ..nodes().remove(1) };
        let decision = decide(Some(&unknown), None, &HostNow::Node(unknown.clone()));
        assert!(matches!(decision, Decision::Conflict(_)));
    }
}
