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
        (None, _) => Decision::Conflict("exists on the host, where nothing was sent from"),
        (Some(_), HostNow::Absent) => Decision::Conflict("deleted on the host since it was sent"),
        (Some(base), HostNow::Node(now)) if base.kind == now.kind => match base.kind {
            NodeKind::File if base.size == now.size && base.hash == now.hash => {
                Decision::Conflict("its mode was changed on the host since it was sent")
            }
            _ => Decision::Conflict("changed on the host since it was sent"),
        },
        (Some(_), _) => Decision::Conflict("replaced on the host since it was sent"),
    }
}

/// Whether the host still has what was sent, as far as anything of it travels.
pub fn same(base: &BaseNode, now: &BaseNode) -> bool {
    base.kind == now.kind
        && match base.kind {
            NodeKind::File => {
                base.size == now.size
                    && base.hash.is_some()
                    && base.hash == now.hash
                    && base.executable() == now.executable()
            }
            NodeKind::Directory => true,
            NodeKind::Link => base.target == now.target,
        }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workspace::change::{ContentHash, LinkTarget};

    fn base() -> impl Strategy<Value = BaseNode> {
        (0u8..3, 0u8..2, any::<bool>()).prop_map(|(kind, content, exec)| {
            let (kind, mode) = match kind {
                0 => (NodeKind::File, if exec { 0o755 } else { 0o644 }),
                1 => (NodeKind::Directory, 0o755),
                _ => (NodeKind::Link, 0o777),
            };
            BaseNode {
                kind,
                mode,
                size: 1,
                hash: (kind == NodeKind::File).then_some(ContentHash([content; 32])),
                target: (kind == NodeKind::Link).then(|| LinkTarget(vec![content])),
                stamp: None,
            }
        })
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

    fn now() -> impl Strategy<Value = HostNow> {
        prop_oneof![Just(HostNow::Absent), Just(HostNow::Special), base().prop_map(HostNow::Node)]
    }

    proptest! {
        #[test]
        fn a_host_that_did_not_move_gets_the_change(
            base in proptest::option::of(base()), new in proptest::option::of(base()),
        ) {
            let now = base.clone().map_or(HostNow::Absent, HostNow::Node);
            let new = new.as_ref().map(as_new);
            let decision = decide(base.as_ref(), new.as_ref(), &now);
            prop_assert!(!matches!(decision, Decision::Conflict(_)));
        }

        #[test]
        fn only_what_was_sent_is_ever_replaced(
            base in proptest::option::of(base()), new in proptest::option::of(base()), now in now(),
        ) {
            let new = new.as_ref().map(as_new);
            let is_base = match (&base, &now) {
                (None, HostNow::Absent) => true,
                (Some(base), HostNow::Node(now)) => same(base, now),
                _ => false,
            };
            let is_new = match (&new, &now) {
                (None, HostNow::Absent) => true,
                (Some(new), HostNow::Node(now)) => new.same_as(now),
                _ => false,
            };
            match decide(base.as_ref(), new.as_ref(), &now) {
                Decision::Apply => prop_assert!(is_base),
                Decision::Nothing => prop_assert!(is_new),
                Decision::Conflict(_) => {}
            }
        }
    }
}
