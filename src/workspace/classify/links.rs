//! Where links lead.

use std::collections::HashMap;

use super::names::is_git_name;
use crate::path::RelPath;
use crate::workspace::change::Change;
use crate::workspace::{NodeKind, Snapshot};

/// How many links Linux follows; a way through more leads nowhere, and so nowhere outside.
const MAX_HOPS: u32 = 40;
/// How many names one link may lead through.
const MAX_STEPS: u32 = 1024;

/// All links of the tree as it would be after the run, by their paths in one case: where the host
/// knows no case, a link is reached by any spelling.
pub(super) struct Links<'a>(HashMap<Vec<u8>, Target<'a>>);

enum Target<'a> {
    One(&'a [u8]),
    /// Of links that differ in their case alone; which of them is meant, the host decides.
    Several,
}

/// A path or name in the one case under which links are known here.
fn folded(path: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(path) {
        Ok(path) if !path.is_ascii() => path.to_lowercase().into_bytes(),
        _ => path.to_ascii_lowercase(),
    }
}

impl<'a> Links<'a> {
    pub(super) fn new(changes: &'a [Change], snapshot: &'a Snapshot) -> Self {
        let sent = snapshot.nodes.iter().filter_map(|(path, node)| {
            let target = node.target.as_deref().filter(|_| node.kind == NodeKind::Link)?;
            Some((path.as_bytes(), target))
        });
        // A link that was removed stays here: it is there until the change is applied, and what
        // leads through it is not what it was.
        let mut exact: HashMap<&[u8], &[u8]> = sent.collect();
        for change in changes {
            if let Some(target) = change.new.as_ref().and_then(|new| new.target.as_ref()) {
                exact.insert(change.path.as_bytes(), &target.0[..]);
            }
        }
        let mut links = HashMap::with_capacity(exact.len());
        for (path, target) in exact {
            let known = links.entry(folded(path)).or_insert(Target::One(target));
            if !matches!(known, Target::One(known) if *known == target) {
                *known = Target::Several;
            }
        }
        Self(links)
    }

    /// Why a link must not be made. First by its text alone, so what cannot be judged so is held;
    /// then by the links that it leads through.
    pub(super) fn reason(&self, path: &RelPath, target: &[u8]) -> Option<&'static str> {
        text_reason(path, target).or_else(|| self.way_reason(path, target))
    }

    fn way_reason(&self, path: &RelPath, target: &[u8]) -> Option<&'static str> {
        let mut at: Vec<u8> = path.parent().map_or(Vec::new(), |parent| folded(parent.as_bytes()));
        let mut todo: Vec<&[u8]> = target.rsplit(|byte| *byte == b'/').collect();
        let (mut hops, mut steps) = (0, 0);
        while let Some(name) = todo.pop() {
            steps += 1;
            if hops > MAX_HOPS {
                return None;
            }
            if steps > MAX_STEPS {
                return Some("a link through too many directories");
            }
            match name {
                b"" | b"." => continue,
                b".." if at.is_empty() => {
                    return Some("a link that leads out of the workspace through another one");
                }
                b".." => {
                    at.truncate(at.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            if is_git_name(name) {
                return Some("a link into git's own files through another one");
            }
            let above = at.len();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(&folded(name));
            if let Some(next) = self.0.get(&at[..]) {
                let Target::One(next) = next else {
                    return Some("a link through one of several that differ only in case");
                };
                if next.first() == Some(&b'/') {
                    return Some("a link that leads out of the workspace through another one");
                }
                hops += 1;
                at.truncate(above);
                todo.extend(next.rsplit(|byte| *byte == b'/'));
            }
        }
        None
    }
}

fn text_reason(path: &RelPath, target: &[u8]) -> Option<&'static str> {
    if target.first() == Some(&b'/') {
        return Some("a link to an absolute path");
    }
    let mut depth = path.components().count() - 1;
    let mut named = false;
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named => return Some("a link through another path and up again"),
            b".." if depth == 0 => return Some("a link that leads out of the workspace"),
            b".." => depth -= 1,
            name if is_git_name(name) => return Some("a link into git's own files"),
            _ => named = true,
        }
    }
    None
}
