//! The contents of large files.

use sha2::{Digest, Sha256};

use super::*;

fn oid(contents: &str) -> String {
    Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pointer(contents: &str) -> String {
    let (oid, size) = (oid(contents), contents.len());
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n")
}

fn object(at: &Path, contents: &str) -> PathBuf {
    let oid = oid(contents);
    at.join(".git/lfs/objects").join(&oid[..2]).join(&oid[2..4]).join(&oid)
}

impl Pair {
    /// What git-lfs does in the container: a pointer in a commit, the contents in the store.
    fn commit_large_there(&self, name: &str, contents: &str) {
        self.commit_there(name, &pointer(contents));
        let object = object(&self.there, contents);
        fs::create_dir_all(object.parent().unwrap()).unwrap();
        fs::write(object, contents).unwrap();
    }

    /// The contents as the container gives them.
    fn contents(&self, tips: &Tips) -> Vec<u8> {
        let base = Base::of(self.sent.git_base.as_ref().unwrap()).unwrap();
        let revisions = tips.wanted() + &base.exclusions();
        output(Command::new("sh").args(["-c", CONTENTS]), &self.there, &revisions)
    }
}

fn stored(at: &Path, contents: &str) -> Option<String> {
    fs::read_to_string(object(at, contents)).ok()
}

#[test]
fn the_contents_that_new_commits_mean_come_and_no_others() {
    let pair = Pair::new(|home| {
        write(home, "old.bin", &pointer("old\n"));
        git(home, &["add", "-A"]);
        git(home, &["commit", "-qm", "old"]);
    });
    for contents in ["old\n", "no commit means it\n"] {
        let object = object(&pair.there, contents);
        fs::create_dir_all(object.parent().unwrap()).unwrap();
        fs::write(object, contents).unwrap();
    }
    pair.commit_large_there("a.bin", "between\n");
    pair.commit_large_there("a.bin", "last\n");
    pair.commit_large_there("dir/a name\nof two lines.bin", "odd\n");
    let tips = pair.take_out().unwrap();
    let contents = pair.contents(&tips);
    let mut archive = tar::Archive::new(&contents[..]);
    assert_eq!(archive.entries().unwrap().count(), 3);
    fs::write(contents_archive(&pair.folder), contents).unwrap();
    pair.apply();
    let told = pair.bring_home();
    assert_eq!((told.state, &told.lfs), (CommitsState::Moved, &None), "{told:?}");
    for contents in ["between\n", "last\n", "odd\n"] {
        assert_eq!(stored(&pair.home, contents).as_deref(), Some(contents));
    }
    assert_eq!(stored(&pair.home, "old\n"), None);
    assert!(!contents_archive(&pair.folder).exists());
}

#[test]
fn contents_that_are_none_are_not_stored_and_named() {
    let pair = Pair::new(|_| {});
    for (name, contents) in [("a.bin", "a\n"), ("b.bin", "b\n"), ("c.bin", "c\n")] {
        pair.commit_there(name, &pointer(contents));
    }
    pair.take_out().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut entry = |name: &str, kind, contents: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        header.set_mode(0o777);
        header.set_cksum();
        archive.append(&header, contents).unwrap();
    };
    let file = tar::EntryType::Regular;
    entry("../../../escaped", file, b"x");
    entry(&format!("aa/bb/{}", oid("not asked for\n")), file, b"not asked for\n");
    // The right length, and other bytes.
    entry(&format!("aa/bb/{}", oid("a\n")), file, b"A\n");
    entry(&format!("../../{}", oid("b\n")), file, b"b\n");
    entry(&oid("c\n"), tar::EntryType::Symlink, b"");
    fs::write(contents_archive(&pair.folder), archive.into_inner().unwrap()).unwrap();
    let before = files(pair.home.parent().unwrap());
    let told = pair.bring_home();
    let lfs = told.lfs.as_deref().unwrap();
    assert!(lfs.contains("a.bin, c.bin") || lfs.contains("c.bin, a.bin"), "{told:?}");
    assert!(!lfs.contains("b.bin") && told.text().contains(lfs), "{told:?}");
    assert_eq!(stored(&pair.home, "b\n").as_deref(), Some("b\n"));
    let objects = files(&pair.home.join(".git/lfs"));
    assert_eq!(objects.len(), 1, "{objects:?}");
    assert_eq!(files(pair.home.parent().unwrap()), before);
}

#[test]
fn without_what_the_container_gives_the_files_of_the_workspace_are_asked() {
    let pair = Pair::new(|_| {});
    let ten: Vec<String> = (0..12).map(|n| format!("{n}.bin")).collect();
    for name in &ten {
        pair.commit_there(name, &pointer(name));
    }
    pair.take_out().unwrap();
    pair.apply();
    write(&pair.home, "3.bin", "3.bin");
    fs::write(contents_archive(&pair.folder), b"no archive at all").unwrap();
    let told = pair.bring_home();
    assert_eq!(stored(&pair.home, "3.bin").as_deref(), Some("3.bin"));
    let lfs = told.lfs.unwrap();
    assert!(!lfs.contains("3.bin") && lfs.contains(" and 1 more: the contents"), "{lfs}");
}
