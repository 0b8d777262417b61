//! What of a repository's objects travels to a container that has some of them.

use std::fs;
use std::path::PathBuf;

use super::{Ground, settle};
use crate::{Tree, git};

/// A container that holds a repository with one pack.
fn packed() -> Ground {
    let tree = Tree::repository();
    for file in 0..40 {
        tree.write(format!("f{file}"), format!("{file}\n").repeat(300));
    }
    tree.commit_all();
    tree.git(&["gc", "-q", "--prune=now"]);
    let mut ground = Ground::new(tree);
    settle();
    ground.send();
    ground
}

/// The only file of the host's objects with this ending.
fn pack_file(ground: &Ground, ending: &str) -> PathBuf {
    let directory = fs::read_dir(ground.tree.path().join(".git/objects/pack")).unwrap();
    let mut found = directory.map(|entry| entry.unwrap().path());
    found.find(|path| path.to_string_lossy().ends_with(ending)).unwrap()
}

#[test]
fn objects_that_a_container_has_are_not_sent_again_by_a_byte() {
    let mut ground = packed();
    let (again, entries) = ground.send();
    assert_eq!((again.git_files, again.git_bytes, entries), (0, 0, 0));

    // A commit costs its own objects, however large the history is.
    let pack = fs::metadata(pack_file(&ground, ".pack")).unwrap().len();
    ground.tree.write("f0", "new");
    ground.tree.commit_all();
    let (commit, _) = ground.send();
    let index = fs::metadata(ground.tree.path().join(".git/index")).unwrap().len();
    assert_eq!((commit.files, commit.git_files), (1, 5), "{commit:?}");
    // Blob, tree, commit and branch; and the index, which is written anew each time.
    assert!(commit.git_bytes < index + 2500 && pack > 0, "{commit:?} {index} {pack}");

    // Git moves a time to keep an object from being pruned; it is the same object.
    let object = fs::File::options().append(true).open(pack_file(&ground, ".pack"));
    let later = fs::FileTimes::new().set_modified(std::time::SystemTime::now());
    match object {
        Ok(object) => object.set_times(later).unwrap(),
        Err(_) => drop(git(ground.tree.path(), &["repack", "-q"])),
    }
    let (touched, _) = ground.send();
    assert_eq!((touched.git_files, touched.git_bytes), (0, 0), "{touched:?}");
}

/// Git writes these anew under the same name, with other contents.
#[test]
fn what_git_rewrites_under_the_same_name_travels_again_or_never() {
    let mut ground = packed();
    // An index of the same pack in another format.
    let pack = pack_file(&ground, ".pack").to_str().unwrap().to_owned();
    let index = pack_file(&ground, ".idx");
    let before = fs::read(&index).unwrap();
    fs::remove_file(&index).unwrap();
    ground.tree.git(&["index-pack", "--index-version=1", "-o", index.to_str().unwrap(), &pack]);
    assert_ne!(fs::read(&index).unwrap(), before);
    let (delta, _) = ground.send();
    assert_eq!(delta.git_files, 1, "{delta:?}");
    let inside = ground.container.path();
    let own = inside.join(index.strip_prefix(ground.tree.path()).unwrap());
    assert_eq!(fs::read(own).unwrap(), fs::read(&index).unwrap());
    git(inside, &["fsck", "--strict"]);

    // And one of the same size, which is another file.
    let mut other = before;
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::remove_file(&index).unwrap();
    fs::write(&index, &other).unwrap();
    ground.send();
    fs::write(index.with_extension("new"), {
        other[last] ^= 1;
        &other
    })
    .unwrap();
    fs::rename(index.with_extension("new"), &index).unwrap();
    let (delta, _) = ground.send();
    assert_eq!(delta.git_files, 1, "{delta:?}");

    // What only makes git faster, and must fit the packs that are there, is made anew inside if wanted.
    ground.tree.git(&["multi-pack-index", "write"]);
    ground.tree.git(&["commit-graph", "write", "--reachable"]);
    let objects = ground.tree.path().join(".git/objects");
    let names = ["pack/multi-pack-index", "info/commit-graph"];
    assert!(names.iter().all(|name| objects.join(name).exists()));
    let (delta, _) = ground.send();
    assert_eq!((delta.git_files, delta.git_bytes), (0, 0), "{delta:?}");
    let inside = ground.container.path().join(".git/objects");
    assert!(names.iter().all(|name| !inside.join(name).exists()));
}
