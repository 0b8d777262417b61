//! Trees that are put, and what is put on them.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// A directory that can be removed whatever was put into it.
struct Place(tempfile::TempDir);

impl Place {
    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let root = places::open(self.path().as_os_str().as_bytes()).unwrap();
        for name in places::names(root.as_fd()).unwrap() {
            remove::all(root.as_fd(), &name).unwrap();
        }
    }
}

fn put(make: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> (Place, Result<Manifest, Refusal>) {
    let place = Place(tempfile::tempdir().unwrap());
    let mut builder = tar::Builder::new(Vec::new());
    make(&mut builder);
    let bytes = builder.into_inner().unwrap();
    let root = std::fs::File::open(place.path()).unwrap();
    let done = write(root.as_fd(), &mut &bytes[..], true, Manifest::default(), None);
    (place, done.map(|written| written.manifest))
}

/// What a delta made of [`first`], and the tree it made.
type Delta = (Place, Result<Written, Refusal>);

/// A directory that is closed to its owner, one with a file and a link, and a file.
fn first(tar: &mut tar::Builder<Vec<u8>>) {
    add(tar, EntryType::Directory, 0o500, "closed", "");
    add(tar, EntryType::Directory, 0, "closed/more", "");
    add(tar, EntryType::Regular, 0o644, "closed/more/f", "f");
    add(tar, EntryType::Regular, 0o644, "d/a", "a");
    add(tar, EntryType::Regular, 0o644, "d/sub/b", "b");
    add(tar, EntryType::Symlink, 0o777, "d/l", "a");
    add(tar, EntryType::Regular, 0o644, "d-x", "x");
    add(tar, EntryType::Regular, 0o644, "f", "f");
}

fn add(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, mode: u32, path: &str, text: &str) {
    let size = if kind == EntryType::Regular { text.len() as u64 } else { 0 };
    let mut header = header(kind, mode, size);
    match kind {
        EntryType::Symlink => tar.append_link(&mut header, path, text).unwrap(),
        _ => tar.append_data(&mut header, path, &text.as_bytes()[..size as usize]).unwrap(),
    }
}

fn delta(make: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Delta {
    let (place, base) = put(first);
    let mut builder = tar::Builder::new(Vec::new());
    make(&mut builder);
    let bytes = builder.into_inner().unwrap();
    let root = std::fs::File::open(place.path()).unwrap();
    let done = write(root.as_fd(), &mut &bytes[..], false, base.unwrap(), None);
    (place, done)
}

/// Paths of a manifest.
fn paths(manifest: &Manifest) -> Vec<String> {
    (0..manifest.len())
        .map(|index| String::from_utf8_lossy(manifest.path(index)).into_owned())
        .collect()
}

fn mode_of(place: &Place, path: &str) -> u32 {
    let stat = std::fs::symlink_metadata(place.path().join(path)).unwrap();
    stat.permissions().mode() & 0o7777
}

const FIRST: [&str; 10] =
    ["closed", "closed/more", "closed/more/f", "d", "d-x", "d/a", "d/l", "d/sub", "d/sub/b", "f"];

#[test]
fn nothing_that_differs_changes_nothing() {
    let (_place, done) = delta(|_| {});
    let written = done.unwrap();
    assert_eq!(paths(&written.manifest), FIRST);
    assert_eq!(written.report, PutReport::default());
}

#[test]
fn what_comes_replaces_what_was_put() {
    let mut before = 0;
    let (place, done) = delta(|tar| {
        add(tar, EntryType::Regular, 0o755, "f", "new");
        add(tar, EntryType::Symlink, 0o777, "d/a", "now/a/link");
        add(tar, EntryType::Regular, 0o600, "d/l", "now a file");
        add(tar, EntryType::Regular, 0o644, "closed/more/f", "deep");
        add(tar, EntryType::Regular, 0o644, "n/e/w", "new");
    });
    let written = done.unwrap();
    let read = |path: &str| std::fs::read_to_string(place.path().join(path)).unwrap();
    assert_eq!((read("f"), mode_of(&place, "f")), ("new".to_owned(), 0o755));
    assert_eq!(read("d/l"), "now a file");
    assert_eq!(std::fs::read_link(place.path().join("d/a")).unwrap().to_str(), Some("now/a/link"));
    let modes = (mode_of(&place, "closed"), mode_of(&place, "closed/more"));
    assert_eq!(modes, (0o500, 0));
    let mut expected: Vec<&str> = FIRST.into_iter().chain(["n", "n/e", "n/e/w"]).collect();
    expected.sort_unstable();
    assert_eq!(paths(&written.manifest), expected);
    // The six that came and two directories on the way.
    assert_eq!((written.report.entries, written.report.bytes), (7, 3 + 10 + 4 + 3));
    for path in ["f", "d/l", "d/a", "n/e/w"] {
        let stat = std::fs::symlink_metadata(place.path().join(path)).unwrap();
        let index = written.manifest.find(path.as_bytes()).unwrap();
        assert_eq!(written.manifest.get(index).unwrap().inode, stat.ino());
        assert_ne!(stat.ino(), before);
        before = stat.ino();
    }
}

#[test]
fn a_file_is_written_anew_in_its_place_and_nothing_of_what_it_was_is_left() {
    let (place, base) = put(|tar| add(tar, EntryType::Regular, 0o755, "f", "long before"));
    let inode = || std::fs::metadata(place.path().join("f")).unwrap().ino();
    let before = inode();
    let root = std::fs::File::open(place.path()).unwrap();
    let mut manifest = base.unwrap();
    for (mode, text) in [(0o644, "short"), (0o644, ""), (0o755, "longer than before")] {
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder, EntryType::Regular, mode, "f", text);
        let bytes = builder.into_inner().unwrap();
        manifest = write(root.as_fd(), &mut &bytes[..], false, manifest, None).unwrap().manifest;
        assert_eq!(std::fs::read_to_string(place.path().join("f")).unwrap(), text);
        assert_eq!((mode_of(&place, "f"), inode()), (mode, before));
        let entry = manifest.get(manifest.find(b"f").unwrap()).unwrap();
        assert_eq!((entry.inode, entry.size), (before, text.len() as u64));
        assert_eq!(u32::from(entry.mode), mode);
    }
}

#[test]
fn a_file_with_another_name_is_not_written_in_its_place() {
    let (place, base) = put(first);
    let other = place.path().join("other");
    std::fs::hard_link(place.path().join("f"), &other).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, EntryType::Regular, 0o644, "f", "new");
    let bytes = builder.into_inner().unwrap();
    let root = std::fs::File::open(place.path()).unwrap();
    write(root.as_fd(), &mut &bytes[..], false, base.unwrap(), None).unwrap();
    assert_eq!(std::fs::read_to_string(other).unwrap(), "f");
    assert_eq!(std::fs::read_to_string(place.path().join("f")).unwrap(), "new");
}

#[test]
fn what_is_removed_goes_with_all_in_it_and_may_become_another_kind() {
    let (place, done) = delta(|tar| {
        for path in ["d", "closed", "f", "never/was"] {
            add(tar, EntryType::new(REMOVED), 0, path, "");
        }
        add(tar, EntryType::Regular, 0o644, "d", "now a file");
        add(tar, EntryType::Directory, 0o755, "f", "");
        add(tar, EntryType::Regular, 0o644, "f/in", "in");
        add(tar, EntryType::Directory, 0o755, "closed", "");
    });
    let written = done.unwrap();
    assert_eq!(paths(&written.manifest), ["closed", "d", "d-x", "f", "f/in"]);
    assert_eq!(std::fs::read_to_string(place.path().join("d")).unwrap(), "now a file");
    assert_eq!(std::fs::read_to_string(place.path().join("f/in")).unwrap(), "in");
    assert_eq!(mode_of(&place, "closed"), 0o755);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 4);
    assert_eq!(written.removed.len(), 4);
}

#[test]
fn an_unknown_node_in_what_is_removed_goes_too() {
    let (place, base) = put(first);
    std::fs::create_dir_all(place.path().join("d/target/deep")).unwrap();
    std::fs::write(place.path().join("d/target/deep/o"), "").unwrap();
    let closed = PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(place.path().join("d/target/deep"), closed).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder, EntryType::new(REMOVED), 0, "d", "");
    let bytes = builder.into_inner().unwrap();
    let root = std::fs::File::open(place.path()).unwrap();
    write(root.as_fd(), &mut &bytes[..], false, base.unwrap(), None).unwrap();
    assert!(!place.path().join("d").exists());
}

#[test]
fn a_directory_that_comes_again_only_gets_its_mode() {
    let (place, done) = delta(|tar| {
        add(tar, EntryType::Directory, 0o700, "d", "");
        add(tar, EntryType::Directory, 0o755, "closed", "");
        add(tar, EntryType::Directory, 0o500, "d/sub", "");
        add(tar, EntryType::Regular, 0o644, "d/sub/new", "new");
    });
    let written = done.unwrap();
    for (path, mode) in [("d", 0o700), ("closed", 0o755), ("d/sub", 0o500), ("closed/more", 0)] {
        assert_eq!(mode_of(&place, path), mode, "{path}");
        let index = written.manifest.find(path.as_bytes()).unwrap();
        assert_eq!(u32::from(written.manifest.get(index).unwrap().mode), mode, "{path}");
    }
    assert_eq!(std::fs::read_to_string(place.path().join("d/a")).unwrap(), "a");
}

type Make<'a> = &'a dyn Fn(&mut tar::Builder<Vec<u8>>);

#[test]
fn another_kind_without_a_removal_and_a_removal_after_it_came_are_refused() {
    let refused: [(&str, Make<'_>); 5] = [
        ("write d", &|tar| add(tar, EntryType::Regular, 0o644, "d", "x")),
        ("make the link d", &|tar| add(tar, EntryType::Symlink, 0o777, "d", "x")),
        ("f is no directory", &|tar| add(tar, EntryType::Directory, 0o755, "f", "")),
        ("open the directory of f/x", &|tar| add(tar, EntryType::Regular, 0o644, "f/x", "x")),
        ("came before", &|tar| {
            add(tar, EntryType::Regular, 0o644, "d/a", "x");
            add(tar, EntryType::new(REMOVED), 0, "d", "");
        }),
    ];
    for (sentence, make) in refused {
        let (_place, done) = delta(make);
        let error = done.unwrap_err();
        assert!(error.0.contains(sentence), "{error}");
    }
}

#[test]
fn a_file_that_is_withdrawn_after_it_replaced_one_is_gone() {
    let (place, done) = delta(|tar| {
        add(tar, EntryType::Regular, 0o644, "f", "new");
        add(tar, EntryType::new(WITHDRAWN), 0, "f", "");
    });
    assert!(done.unwrap().manifest.find(b"f").is_none());
    assert!(!place.path().join("f").exists());
    // One that did not come in this put cannot be taken back by it.
    let (_place, done) = delta(|tar| add(tar, EntryType::new(WITHDRAWN), 0, "f", ""));
    assert!(done.unwrap_err().0.contains("withdrawn"));
}

/// 200,000 files, and 10,000 of them again twice: with a search of what came before for each file
/// that comes again, this takes minutes.
#[test]
fn many_files_take_time_in_proportion() {
    let mut nodes = Changes::of(Manifest::default());
    let path = |number: usize| format!("d{}/f{number}", number % 97).into_bytes();
    for number in 0..200_000 {
        nodes.put(&path(number), directory(0o755));
    }
    let base = nodes.into_manifest(Above::default());
    let mut nodes = Changes::of(base);
    for number in (0..100_000).chain(0..100_000) {
        assert!(nodes.get(&path(number)).is_some());
        nodes.take_back(&path(number));
        nodes.put(&path(number), directory(0o755));
    }
    for number in 100_000..200_000 {
        assert!(nodes.remove(&path(number)));
    }
    assert_eq!(nodes.into_manifest(Above::default()).len(), 100_000);
}

fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_000_000);
    header
}

#[test]
fn files_directories_links_and_long_names_arrive() {
    let long = format!("d/{}/f", "long".repeat(60));
    let (place, done) = put(|tar| {
        tar.append_data(&mut header(EntryType::Directory, 0o500, 0), "closed", io::empty())
            .unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0o755, 3), "closed/run", &b"abc"[..])
            .unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0o644, 1), &long, &b"x"[..]).unwrap();
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "link", "/nowhere").unwrap();
    });
    let manifest = done.unwrap();
    let mode = |path: &str| {
        std::fs::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("closed"), 0o500);
    assert_eq!(std::fs::read(place.path().join("closed/run")).unwrap(), b"abc");
    assert_eq!(std::fs::read(place.path().join(&long)).unwrap(), b"x");
    assert_eq!(std::fs::read_link(place.path().join("link")).unwrap().to_str(), Some("/nowhere"));
    assert!(manifest.find(b"d").is_some(), "directories that were made on the way count");
    assert_eq!(manifest.len(), 6);
}

#[test]
fn a_path_through_a_link_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let (_place, done) = put(|tar| {
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "link", outside.path()).unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0o644, 1), "link/f", &b"x"[..]).unwrap();
    });
    done.unwrap_err();
    assert!(!outside.path().join("f").exists());
}

#[test]
fn a_file_that_comes_again_replaces_the_earlier_one_and_nothing_else_may_come_twice() {
    let (place, done) = put(|tar| {
        for bytes in [&b"old and long"[..], b"new"] {
            let size = bytes.len() as u64;
            tar.append_data(&mut header(EntryType::Regular, 0o644, size), "f", bytes).unwrap();
        }
    });
    let manifest = done.unwrap();
    assert_eq!(std::fs::read(place.path().join("f")).unwrap(), b"new");
    assert_eq!(manifest.len(), 1);
    let (_place, done) = put(|tar| {
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "f", "t").unwrap();
        tar.append_data(&mut header(EntryType::Regular, 0o644, 1), "f", &b"x"[..]).unwrap();
    });
    assert!(done.unwrap_err().0.contains("write f"));
}

#[test]
fn a_file_that_is_withdrawn_is_gone_and_only_a_file_of_this_put_can_be() {
    let withdrawn = EntryType::new(WITHDRAWN);
    let (place, done) = put(|tar| {
        for name in ["d/big", "d/other"] {
            tar.append_data(&mut header(EntryType::Regular, 0o644, 3), name, &b"abc"[..]).unwrap();
        }
        tar.append_data(&mut header(withdrawn, 0o644, 0), "d/big", io::empty()).unwrap();
    });
    let manifest = done.unwrap();
    assert!(!place.path().join("d/big").exists());
    assert!(place.path().join("d/other").exists());
    assert!(manifest.find(b"d/big").is_none());
    assert_eq!(manifest.len(), 2);
    let (_place, done) = put(|tar| {
        tar.append_data(&mut header(EntryType::Directory, 0o755, 0), "d", io::empty()).unwrap();
        tar.append_data(&mut header(withdrawn, 0o644, 0), "d", io::empty()).unwrap();
    });
    assert!(done.unwrap_err().0.contains("withdrawn"));
}

#[test]
fn a_tree_that_is_not_empty_is_refused() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("old"), "").unwrap();
    let root = std::fs::File::open(place.path()).unwrap();
    let error = write(root.as_fd(), &mut io::empty(), false, Manifest::default(), Some(c"other"))
        .unwrap_err();
    assert!(error.0.contains("not empty"), "{error}");
}
