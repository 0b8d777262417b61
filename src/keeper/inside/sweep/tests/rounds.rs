//! Rounds of edits on both sides.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use tar::EntryType;

use super::{Workspace, add, forge};
use crate::keeper::wire::REMOVED;

/// What somebody does to a path.
#[derive(Clone, Debug)]
enum Edit {
    Write(String, u8),
    Forge(String),
    Remove(String),
    Move(String, String),
    Link(String, String),
    Name(String, String),
    Mode(String, u32),
}

fn edit() -> impl Strategy<Value = Edit> {
    let path = || {
        let part = prop_oneof![Just("a"), Just("b"), Just("a-"), Just("target")];
        proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
    };
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, text)| Edit::Write(path, text)),
        1 => path().prop_map(Edit::Forge),
        2 => path().prop_map(Edit::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Edit::Move(from, to)),
        1 => (path(), path()).prop_map(|(to, path)| Edit::Link(to, path)),
        1 => (path(), path()).prop_map(|(from, to)| Edit::Name(from, to)),
        1 => (path(), prop_oneof![Just(0o644u32), Just(0o755), Just(0o500)])
            .prop_map(|(path, mode)| Edit::Mode(path, mode)),
    ]
}

/// Does what can be done.
fn apply(top: &Path, edit: &Edit) {
    let at = |path: &String| top.join(path);
    let parents = |path: &Path| std::fs::create_dir_all(path.parent().unwrap());
    let _ = match edit {
        Edit::Write(path, text) => {
            parents(&at(path)).and_then(|()| std::fs::write(at(path), [*text]))
        }
        Edit::Forge(path) => {
            let plain = std::fs::symlink_metadata(at(path)).is_ok_and(|stat| stat.is_file());
            if plain && std::fs::File::options().write(true).open(at(path)).is_ok() {
                forge(&at(path));
            }
            Ok(())
        }
        Edit::Remove(path) => {
            std::fs::remove_file(at(path)).or_else(|_| std::fs::remove_dir_all(at(path)))
        }
        Edit::Move(from, to) => std::fs::rename(at(from), at(to)),
        Edit::Link(to, path) => symlink(to, at(path)),
        Edit::Name(from, to) => std::fs::hard_link(at(from), at(to)),
        Edit::Mode(path, mode) => {
            let plain = std::fs::symlink_metadata(at(path)).is_ok_and(|stat| !stat.is_symlink());
            if plain {
                let _ = std::fs::set_permissions(at(path), PermissionsExt::from_mode(*mode));
            }
            Ok(())
        }
    };
}

/// Kind, mode and contents of each path.
type Nodes = BTreeMap<String, (EntryType, u32, Vec<u8>)>;

fn nodes(workspace: &Workspace) -> Nodes {
    let node = |path: String| {
        let at = workspace.path(&path);
        let stat = std::fs::symlink_metadata(&at).unwrap();
        let mode = stat.mode() & 0o7777;
        let node = if stat.is_dir() {
            (EntryType::Directory, mode, Vec::new())
        } else if stat.is_symlink() {
            (
                EntryType::Symlink,
                0o777,
                std::fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec(),
            )
        } else {
            (EntryType::Regular, mode, std::fs::read(&at).unwrap())
        };
        (path, node)
    };
    workspace.there().into_iter().map(node).collect()
}

/// Puts what makes `held` into `wanted`.
fn send(workspace: &mut Workspace, held: &Nodes, wanted: &Nodes) {
    workspace.put(false, |tar| {
        for (path, (kind, ..)) in held {
            if wanted.get(path).is_none_or(|(wanted, ..)| {
                wanted != kind && [*wanted, *kind].contains(&EntryType::Directory)
            }) {
                add(tar, EntryType::new(REMOVED), 0, path, "");
            }
        }
        for (path, (kind, mode, text)) in wanted {
            let gone = |above: &str| {
                held.get(above).is_some_and(|(kind, ..)| *kind != EntryType::Directory)
            };
            let removed = path.match_indices('/').any(|(end, _)| gone(&path[..end]));
            if removed || held.get(path) != wanted.get(path) {
                add(tar, *kind, *mode, path, std::str::from_utf8(text).unwrap());
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Rounds of edits of the user's, a put of what differs, edits of a run, and a reset: what is in
    /// the workspace is always what was put last, byte by byte, less what the reset says.
    #[test]
    fn rounds_of_edits_on_both_sides_leave_what_was_put(
        rounds in proptest::collection::vec(
            (proptest::collection::vec(edit(), 0..12), proptest::collection::vec(edit(), 0..8), any::<bool>()),
            1..5,
        ),
    ) {
        let users = Workspace::new();
        let mut held = Nodes::new();
        let mut workspace = Workspace::new();
        for (edits, run, certifies) in rounds {
            edits.iter().for_each(|edit| apply(users.place.path(), edit));
            let wanted: Nodes = nodes(&users)
                .into_iter()
                .map(|(path, (kind, mode, text))| {
                    let text = if text.is_ascii() { text } else { b"?".to_vec() };
                    (path, (kind, mode & 0o777, text))
                })
                .collect();
            send(&mut workspace, &held, &wanted);
            prop_assert_eq!(&nodes(&workspace), &wanted);
            let certified = workspace.certified().filter(|_| certifies);
            run.iter().for_each(|edit| apply(workspace.place.path(), edit));
            let dropped = workspace.sweep((true, false), certified).unwrap();
            held = wanted.into_iter().filter(|(path, _)| !dropped.contains(path)).collect();
            prop_assert_eq!(&nodes(&workspace), &held);
        }
    }
}
