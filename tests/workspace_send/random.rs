//! Random trees.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::workspace::NodeKind;
use proptest::prelude::*;

use crate::{Seen, Tree, listing, rules};

/// A random tree: what is at each path.
#[derive(Clone, Debug)]
enum Leaf {
    File(Vec<u8>, bool),
    Directory,
    Link(Vec<u8>),
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..2000);
    let target = proptest::collection::vec(1..=255_u8, 1..150);
    prop_oneof![
        3 => (bytes, any::<bool>()).prop_map(|(bytes, executable)| Leaf::File(bytes, executable)),
        1 => Just(Leaf::Directory),
        1 => target.prop_map(Leaf::Link),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = proptest::collection::vec(
        any::<u8>().prop_filter("no separator", |byte| !matches!(byte, 0 | b'/' | b'.')),
        1..60,
    );
    prop_oneof![2 => "[ab]".prop_map(String::into_bytes), 1 => odd]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn every_tree_arrives_as_it_is(
        leaves in proptest::collection::vec((proptest::collection::vec(name(), 1..4), leaf()), 0..25)
    ) {
        let tree = Tree::new();
        for (path, leaf) in leaves {
            let path: PathBuf = path.iter().map(|name| OsStr::from_bytes(name)).collect();
            let path = tree.path().join(path);
            // A component that is a file already: this leaf does not grow there.
            if fs::create_dir_all(path.parent().unwrap()).is_err() || fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            match leaf {
                Leaf::File(bytes, executable) => {
                    fs::write(&path, bytes).unwrap();
                    let mode = if executable { 0o755 } else { 0o644 };
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
                Leaf::Directory => fs::create_dir(&path).unwrap(),
                Leaf::Link(target) => symlink(OsStr::from_bytes(&target), &path).unwrap(),
            }
        }
        let sent = tree.send();
        let expected = listing(tree.path());
        prop_assert_eq!(&expected, &listing(sent.path()));
        prop_assert_eq!(sent.snapshot.nodes.len(), expected.len());
        for (path, node) in &sent.snapshot.nodes {
            match &expected[path.as_bytes()] {
                Seen::Directory => prop_assert_eq!(node.kind, NodeKind::Directory),
                Seen::Link(target) => {
                    prop_assert_eq!(node.target.as_deref(), Some(target.as_os_str().as_bytes()));
                }
                Seen::File { bytes, .. } => {
                    prop_assert_eq!(node.hash, Some(*blake3::hash(bytes).as_bytes()));
                    prop_assert_eq!(node.size, bytes.len() as u64);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn with_ignored_none_what_travels_is_what_git_lists(
        before in proptest::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,2}\\.x", 0..8),
        after in proptest::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,2}\\.x", 0..12),
        patterns in proptest::collection::vec("!?/?[ab*?]{1,3}(/|\\.x)?", 0..5),
        inner in proptest::collection::vec("!?/?[ab*?]{1,3}(/|\\.x)?", 0..3),
    ) {
        let tree = Tree::repository();
        for path in &before {
            tree.write(path, path);
        }
        tree.git(&["add", "-A"]);
        for path in &after {
            tree.write(path, path);
        }
        tree.write(".gitignore", patterns.join("\n"));
        tree.write("a/.gitignore", inner.join("\n"));
        let sent = tree.send_with(&crate::SendRules { ignored: Ignored::None, ..rules() }).unwrap();
        let listed = tree.git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let mut listed: Vec<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
        listed.sort_unstable();
        prop_assert_eq!(sent.files(), listed);
    }
}
