//! What stays after changes of every kind, on a file system whose ctimes count.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tar::{EntryType, Header};

use super::super::clock::Mark;
use super::super::{manifest::Manifest, put};
use super::*;

mod marks;
mod rounds;

type Tar = tar::Builder<Vec<u8>>;

fn add(tar: &mut Tar, kind: EntryType, mode: u32, path: &str, text: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_000_000);
    header.set_size(0);
    if kind == EntryType::Symlink {
        return tar.append_link(&mut header, path, text).unwrap();
    }
    let text = if kind == EntryType::Regular { text.as_bytes() } else { b"" };
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, path, text).unwrap();
}

/// A workspace, and what was put into it.
struct Workspace {
    place: tempfile::TempDir,
    manifest: Manifest,
    aside: Option<Aside>,
}

impl Drop for Workspace {
    fn drop(&mut self) {
        for name in places::names(self.root().as_fd()).unwrap() {
            remove::all(self.root().as_fd(), &name).unwrap();
        }
    }
}

/// Whether a reset keeps the tree, and build state.
const BOTH: (bool, bool) = (true, true);

impl Workspace {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { place, manifest: Manifest::default(), aside: None }
    }

    /// With files in three directories, a link, and a repository.
    fn usual() -> Self {
        let mut workspace = Self::new();
        workspace.put(true, |tar| {
            add(tar, EntryType::Regular, 0o644, ".gitignore", "target/\n");
            for path in ["d/a", "d/b", "d/sub/c", "e/a", "f", ".git/HEAD", ".git/objects/aa/bb"] {
                add(tar, EntryType::Regular, 0o644, path, "text");
            }
            add(tar, EntryType::Symlink, 0o777, "l", "d/a");
        });
        workspace
    }

    fn root(&self) -> std::fs::File {
        std::fs::File::open(self.place.path()).unwrap()
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.place.path().join(path)
    }

    fn put(&mut self, hashed: bool, make: impl FnOnce(&mut Tar)) {
        let mut tar = Tar::new(Vec::new());
        make(&mut tar);
        let tar = tar.into_inner().unwrap();
        let (base, aside) = (std::mem::take(&mut self.manifest), self.aside.take());
        let name = aside.as_ref().map(Aside::name);
        let root = self.root();
        let written = put::write(root.as_fd(), &mut &tar[..], hashed, base, name).unwrap();
        self.manifest = written.manifest;
    }

    /// Forgets the hashes, as of a large tree.
    fn unhashed(mut self) -> Self {
        for index in 0..self.manifest.len() {
            self.manifest.get_mut(index).unwrap().hash = None;
        }
        self
    }

    /// Notes what is at `path` now as its inode and ctime, as if a change had not moved them.
    fn unmoved(&mut self, path: &str) {
        let stat = std::fs::symlink_metadata(self.path(path)).unwrap();
        let index = self.manifest.find(path.as_bytes()).unwrap();
        let entry = self.manifest.get_mut(index).unwrap();
        entry.inode = stat.ino();
        entry.ctime = (stat.ctime(), u32::try_from(stat.ctime_nsec()).unwrap());
    }

    /// The clock before the first program, once it has passed what was put.
    fn certified(&self) -> Option<Time> {
        Mark::after(self.manifest.newest()).certifies(&Mark::now())
    }

    fn sweep(
        &mut self,
        (tree, ignored): (bool, bool),
        certified: Option<Time>,
    ) -> Option<Vec<String>> {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let wish = Wish { tree, ignored, certified_before: certified, owner };
        let root = self.root();
        let manifest = std::mem::take(&mut self.manifest);
        let swept = sweep(root.as_fd(), manifest, self.aside.take(), wish).unwrap();
        self.aside = swept.aside;
        let left = swept.tree?;
        let name = self.aside.as_ref().map(Aside::name);
        assert!(holds(root.as_fd(), &left.manifest, name, owner).unwrap(), "{left:?}");
        self.manifest = left.manifest;
        assert_eq!(left.bytes, self.manifest.bytes());
        Some(left.dropped.iter().map(ToString::to_string).collect())
    }

    /// All that is there, but the keeper's own, in order.
    fn there(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut stack = vec![String::new()];
        while let Some(directory) = stack.pop() {
            for entry in std::fs::read_dir(self.path(&directory)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                if name.starts_with(".codex-keeper-aside-") {
                    continue;
                }
                let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                if entry.file_type().unwrap().is_dir() {
                    stack.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }

    fn kept(&self) -> Vec<String> {
        let report = self.aside.as_ref().map(Aside::report).unwrap_or_default();
        report.into_iter().map(|kept| kept.path).collect()
    }
}

/// What is dropped of the usual tree after `change`; and whether the clock certifies.
fn dropped_after(change: impl Fn(&Path), certifies: bool) -> Vec<String> {
    let mut workspace = Workspace::usual();
    let certified = workspace.certified().filter(|_| certifies);
    change(workspace.place.path());
    workspace.sweep(BOTH, certified).unwrap()
}

/// Writes other contents of the same length and gives the file its times back.
fn forge(file: &Path) {
    let before = std::fs::metadata(file).unwrap();
    let length = usize::try_from(before.len()).unwrap();
    std::fs::write(file, &"evil".repeat(length).as_bytes()[..length]).unwrap();
    let opened = std::fs::File::options().write(true).open(file).unwrap();
    let times = std::fs::FileTimes::new()
        .set_accessed(before.accessed().unwrap())
        .set_modified(before.modified().unwrap());
    opened.set_times(times).unwrap();
}

#[test]
fn what_was_not_touched_stays_and_what_is_new_goes() {
    for certifies in [true, false] {
        let mut workspace = Workspace::usual();
        let certified = workspace.certified().filter(|_| certifies);
        let before = workspace.there();
        std::fs::create_dir_all(workspace.path("new/deep")).unwrap();
        std::fs::create_dir(workspace.path("d/sub/new")).unwrap();
        for path in ["new/deep/x", "d/new", "new.txt", ".codex-keeper-gone-1"] {
            std::fs::write(workspace.path(path), "new").unwrap();
        }
        symlink("/", workspace.path("d/link")).unwrap();
        rustix::fs::mkfifoat(workspace.root(), "d/fifo", Mode::RWXU).unwrap();
        assert_eq!(workspace.sweep(BOTH, certified), Some(Vec::new()), "{certifies}");
        assert_eq!(workspace.there(), before);
        assert!(workspace.aside.is_none());
    }
}

type Change<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str]);

#[test]
fn what_was_touched_in_any_way_is_dropped() {
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let changes: [Change<'_>; 15] = [
        ("written", &|top| std::fs::write(top.join("f"), "longer text").unwrap(), &["f"]),
        ("forged", &|top| forge(&top.join("f")), &["f"]),
        ("touched", &|top| std::fs::write(top.join("f"), "text").unwrap(), &["f"]),
        (
            "renamed over",
            &|top| {
                std::fs::write(top.join("new"), "text").unwrap();
                std::fs::rename(top.join("new"), top.join("f")).unwrap();
            },
            &["f"],
        ),
        (
            "moved onto each other",
            &|top| {
                std::fs::rename(top.join("d/a"), top.join("x")).unwrap();
                std::fs::rename(top.join("f"), top.join("d/a")).unwrap();
                std::fs::rename(top.join("x"), top.join("f")).unwrap();
            },
            &[],
        ),
        (
            "with a second name",
            &|top| {
                std::fs::hard_link(top.join("f"), top.join("target")).unwrap();
            },
            &["f"],
        ),
        (
            "with a second name in what was put",
            &|top| {
                std::fs::remove_file(top.join("f")).unwrap();
                std::fs::hard_link(top.join("d/a"), top.join("f")).unwrap();
            },
            &["d/a", "f"],
        ),
        ("setuid", &|top| mode(&top.join("f"), 0o4755), &["f"]),
        ("readable by none", &|top| mode(&top.join("f"), 0o000), &["f"]),
        ("removed", &|top| std::fs::remove_file(top.join("d/sub/c")).unwrap(), &["d/sub/c"]),
        (
            "now a directory",
            &|top| {
                std::fs::remove_file(top.join("f")).unwrap();
                std::fs::create_dir(top.join("f")).unwrap();
            },
            &["f"],
        ),
        (
            "now a link",
            &|top| {
                std::fs::remove_file(top.join("f")).unwrap();
                symlink("d/a", top.join("f")).unwrap();
            },
            &["f"],
        ),
        (
            "a directory that is a link now",
            &|top| {
                std::fs::rename(top.join("d"), top.join("moved")).unwrap();
                symlink("moved", top.join("d")).unwrap();
            },
            &["d", "d/a", "d/b", "d/sub", "d/sub/c"],
        ),
        (
            "a directory with another mode",
            &|top| mode(&top.join("d"), 0o777),
            &["d", "d/a", "d/b", "d/sub", "d/sub/c"],
        ),
        (
            "another link",
            &|top| {
                std::fs::remove_file(top.join("l")).unwrap();
                symlink("d/b", top.join("l")).unwrap();
            },
            &["l"],
        ),
    ];
    for (what, change, expected) in changes {
        for certifies in [true, false] {
            assert_eq!(dropped_after(change, certifies), expected, "{what} {certifies}");
        }
    }
}

#[test]
fn a_directory_with_an_attribute_is_dropped_with_all_in_it_and_a_file_with_one_too() {
    let mark = |path: &Path| {
        let opened = std::fs::File::open(path).unwrap();
        match rustix::fs::fsetxattr(opened, c"user.left", b"x", rustix::fs::XattrFlags::empty()) {
            Err(rustix::io::Errno::NOTSUP) => false,
            done => done.is_ok(),
        }
    };
    if !mark(Workspace::usual().place.path()) {
        assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none());
        return println!("skipped: this file system has no attributes");
    }
    let all = ["d/sub", "d/sub/c", "e", "e/a", "f"];
    let change = |top: &Path| assert!(["d/sub", "e", "f"].iter().all(|path| mark(&top.join(path))));
    for certifies in [true, false] {
        assert_eq!(dropped_after(change, certifies), all);
    }
}

/// The file system moves no ctime (memory, some networks), or the clock was set back: nothing is
/// certified, and contents decide although inode, ctime, size and times are those that were put.
#[test]
fn where_nothing_is_certified_contents_are_hashed() {
    let mut workspace = Workspace::usual();
    let certified = workspace.certified();
    forge(&workspace.path("f"));
    workspace.unmoved("f");
    assert_eq!(workspace.sweep(BOTH, None).unwrap(), ["f"]);
    // What it would be to rely on them there.
    let mut workspace = Workspace::usual();
    forge(&workspace.path("f"));
    workspace.unmoved("f");
    let trusting = workspace.certified();
    assert!(trusting > certified);
    assert_eq!(workspace.sweep(BOTH, trusting).unwrap(), [""; 0]);
}

/// A change within the tick of the clock in which the file was put leaves the same ctime.
#[test]
fn a_change_in_the_tick_of_the_put_is_seen() {
    for hashed in [true, false] {
        let workspace = Workspace::usual();
        let mut workspace = if hashed { workspace } else { workspace.unhashed() };
        forge(&workspace.path("f"));
        workspace.unmoved("f");
        let index = workspace.manifest.find(b"f").unwrap();
        // The clock was not past it when the first program ran, but past everything else.
        let tick = workspace.manifest.get(index).unwrap().ctime;
        for index in (0..workspace.manifest.len()).filter(|other| *other != index) {
            workspace.manifest.get_mut(index).unwrap().ctime.0 -= 10;
            let path = String::from_utf8(workspace.manifest.path(index).to_vec()).unwrap();
            assert!(hashed || !path.is_empty());
        }
        let dropped = workspace.sweep(BOTH, Some(tick)).unwrap();
        assert!(dropped.contains(&"f".to_owned()), "{hashed} {dropped:?}");
    }
}

#[test]
fn without_a_hash_only_what_is_certified_stays() {
    let mut workspace = Workspace::usual().unhashed();
    assert_eq!(workspace.sweep(BOTH, None).unwrap().len(), 9, "all files and links");
    let mut workspace = Workspace::usual().unhashed();
    let certified = workspace.certified();
    assert_eq!(workspace.sweep(BOTH, certified).unwrap(), [""; 0]);
}

#[test]
fn of_a_repository_only_what_was_put_stays() {
    let mut workspace = Workspace::usual();
    let certified = workspace.certified();
    for path in [".git/hooks", ".git/objects/cc", ".git/target", "e/.git", "target/x/.git"] {
        std::fs::create_dir_all(workspace.path(path)).unwrap();
        std::fs::write(workspace.path(path).join("x"), "new").unwrap();
    }
    std::fs::write(workspace.path(".git/.gitignore"), "*\n").unwrap();
    std::fs::write(workspace.path(".git/HEAD"), "evil").unwrap();
    assert_eq!(workspace.sweep(BOTH, certified).unwrap(), [".git/HEAD"]);
    let there = workspace.there();
    let git: Vec<&String> = there.iter().filter(|path| path.contains(".git/")).collect();
    assert_eq!(git, [".git/objects", ".git/objects/aa", ".git/objects/aa/bb"]);
    assert_eq!(workspace.kept(), ["target/"]);
}

#[test]
fn build_state_is_set_aside_wherever_it_is_and_only_if_it_is_wished_for() {
    let build = |top: &Path| {
        for path in ["target/d", "d/target", "new/target", "e/target"] {
            std::fs::create_dir_all(top.join(path)).unwrap();
            std::fs::write(top.join(path).join("o"), "built").unwrap();
        }
        std::fs::set_permissions(top.join("e"), PermissionsExt::from_mode(0o777)).unwrap();
    };
    let all = ["d/target/", "e/target/", "new/target/", "target/"];
    let mut workspace = Workspace::usual();
    let before = workspace.there();
    let certified = workspace.certified();
    build(workspace.place.path());
    assert_eq!(workspace.sweep(BOTH, certified).unwrap(), ["e", "e/a"]);
    assert_eq!(workspace.kept(), all);
    // Nothing ran since: it is still there.
    let certified = workspace.certified();
    assert_eq!(workspace.sweep(BOTH, certified).unwrap(), [""; 0]);
    assert_eq!(workspace.kept(), all);

    let mut workspace = Workspace::usual();
    let certified = workspace.certified();
    build(workspace.place.path());
    assert_eq!(workspace.sweep((true, false), certified).unwrap(), ["e", "e/a"]);
    assert!(workspace.aside.is_none());
    let left: Vec<String> = before.into_iter().filter(|path| !path.starts_with('e')).collect();
    assert_eq!(workspace.there(), left);

    // Without a tree, the walk touches nothing else.
    let mut workspace = Workspace::usual();
    build(workspace.place.path());
    assert_eq!(workspace.sweep((false, true), None), None);
    assert_eq!(workspace.kept(), all);
    assert!(workspace.there().contains(&"e/a".to_owned()));
}

#[test]
fn a_tree_that_lost_too_much_is_not_kept_and_its_build_state_is() {
    let mut workspace = Workspace::new();
    workspace.put(true, |tar| {
        add(tar, EntryType::Regular, 0o644, ".gitignore", "target/\n");
        for number in 0..=KeptTree::MAX_DROPPED {
            add(tar, EntryType::Regular, 0o644, &format!("d/{number}"), "x");
        }
    });
    let certified = workspace.certified();
    std::fs::remove_dir_all(workspace.path("d")).unwrap();
    std::fs::create_dir(workspace.path("target")).unwrap();
    assert_eq!(workspace.sweep(BOTH, certified), None);
    assert_eq!(workspace.kept(), ["target/"]);
}

#[test]
fn long_names_of_what_was_dropped_are_not_more_than_an_answer_holds() {
    let mut workspace = Workspace::new();
    let name = |number: usize| format!("{number:04}{}", "\u{1}".repeat(240));
    workspace.put(true, |tar| {
        (0..3000).for_each(|number| add(tar, EntryType::Regular, 0o644, &name(number), "x"));
    });
    let certified = workspace.certified();
    (0..3000).for_each(|number| std::fs::remove_file(workspace.path(&name(number))).unwrap());
    assert_eq!(workspace.sweep(BOTH, certified), None);
}

#[test]
fn the_second_look_sees_what_the_first_did_not() {
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let held = |change: &dyn Fn(&Path)| {
        let workspace = Workspace::usual();
        change(workspace.place.path());
        holds(workspace.root().as_fd(), &workspace.manifest, Some(c"aside"), owner).unwrap()
    };
    assert!(held(&|_| {}));
    assert!(held(&|top| std::fs::create_dir(top.join("aside")).unwrap()));
    let unseen: [&dyn Fn(&Path); 8] = [
        &|top| std::fs::write(top.join("d/new"), "").unwrap(),
        &|top| std::fs::create_dir(top.join("d/aside")).unwrap(),
        &|top| std::fs::remove_file(top.join("f")).unwrap(),
        &|top| forge(&top.join("f")),
        &|top| std::fs::hard_link(top.join("f"), top.join("aside")).unwrap(),
        &|top| std::fs::set_permissions(top.join("e"), PermissionsExt::from_mode(0o700)).unwrap(),
        &|top| {
            std::fs::rename(top.join("e"), top.join("aside")).unwrap();
            symlink("aside", top.join("e")).unwrap();
        },
        &|top| std::fs::remove_dir_all(top.join("e")).unwrap(),
    ];
    for (index, change) in unseen.iter().enumerate() {
        assert!(!held(change), "{index}");
    }
    let workspace = Workspace::usual();
    let other = (owner.0 + 1, owner.1);
    assert!(!holds(workspace.root().as_fd(), &workspace.manifest, None, other).unwrap());
}
