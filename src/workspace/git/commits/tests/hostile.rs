//! Bundles that no honest container makes. The user's repository is as before, to the last object.

use super::*;

/// What the repository has, objects, references and index.
fn state(pair: &Pair) -> (Vec<PathBuf>, String, Vec<u8>) {
    let mut objects = Vec::new();
    let mut left = vec![pair.home.join(".git/objects")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false => objects.push(entry.path()),
            }
        }
    }
    objects.sort();
    let refs = pair.here(&["for-each-ref"]);
    (objects, refs, fs::read(pair.home.join(".git/index")).unwrap())
}

/// Brings home, which must be refused with this reason.
fn refused(pair: &Pair, reason: &str) {
    let before = state(pair);
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Left, "{told:?}");
    assert!(told.reason.as_deref().unwrap().contains(reason), "{told:?}");
    assert_eq!(state(pair), before);
    assert!(
        told.text().starts_with("Commits that were made in the container did not come, because")
    );
}

/// A commit in the container of a tree that is made of these lines of `ls-tree`.
fn commit_tree(pair: &Pair, lines: &str) {
    let tree = output(Command::new("git").args(["mktree", "--missing"]), &pair.there, lines);
    let tree = String::from_utf8(tree).unwrap();
    let commit = pair.there(&["commit-tree", "-p", "HEAD", "-m", "planted", tree.trim()]);
    pair.there(&["update-ref", "HEAD", &commit]);
}

fn blob(pair: &Pair, text: &str) -> String {
    let blob =
        output(Command::new("git").args(["hash-object", "-w", "--stdin"]), &pair.there, text);
    String::from_utf8(blob).unwrap().trim().to_owned()
}

#[test]
fn trees_that_would_write_into_git_or_out_of_the_tree() {
    for name in [".git", ".GIT", "..", ".", "git~1", ".g\u{200c}it"] {
        let pair = Pair::new(|_| {});
        let blob = blob(&pair, "x");
        // `mktree` itself takes none of them.
        let (mode, id) = (b"100644 ".to_vec(), hex(&blob));
        let raw = [&mode[..], name.as_bytes(), b"\0", &id].concat();
        fs::write(pair.folder.join("tree"), raw).unwrap();
        let path = pair.folder.join("tree");
        let tree =
            pair.there(&["hash-object", "-w", "-t", "tree", "--literally", path.to_str().unwrap()]);
        let commit = pair.there(&["commit-tree", "-p", "HEAD", "-m", "planted", &tree]);
        pair.there(&["update-ref", "HEAD", &commit]);
        pair.take_out().unwrap();
        refused(&pair, "git refused the objects");
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn submodules_that_would_run_something() {
    for text in [
        "[submodule \"../../x\"]\n\tpath = x\n\turl = ./x\n",
        "[submodule \"x\"]\n\tpath = -u./payload\n\turl = ./x\n",
        "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n",
        "[submodule \"x\"]\n\tpath = x\n\turl = ./x\n\tupdate = !touch /tmp/ran\n",
    ] {
        let pair = Pair::new(|_| {});
        let blob = blob(&pair, text);
        commit_tree(&pair, &format!("100644 blob {blob}\t.gitmodules\n"));
        pair.take_out().unwrap();
        refused(&pair, "git refused the objects");
    }
    let pair = Pair::new(|_| {});
    let blob = blob(&pair, ".git/config");
    commit_tree(&pair, &format!("120000 blob {blob}\t.gitmodules\n"));
    pair.take_out().unwrap();
    refused(&pair, "git refused the objects");
}

#[test]
fn objects_that_are_missing() {
    let pair = Pair::new(|_| {});
    let nowhere = "1234567890123456789012345678901234567890";
    commit_tree(&pair, &format!("100644 blob {nowhere}\tx\n"));
    pair.take_out().unwrap();
    refused(&pair, "objects that belong to the commits are missing");

    let pair = Pair::new(|_| {});
    pair.commit_there("x", "x\n");
    let mut tips = pair.take_out().unwrap();
    tips.head = ObjectId::parse(nowhere.as_bytes(), 40);
    tips.write(&pair.folder).unwrap();
    refused(&pair, "HEAD of the container does not lead to a commit");
}

#[test]
fn a_reference_to_what_is_no_commit() {
    for (name, kind) in [("refs/heads/x", "HEAD^{tree}"), ("refs/tags/x", "HEAD:a.txt")] {
        let pair = Pair::new(|_| {});
        pair.commit_there("x", "x\n");
        let mut tips = pair.take_out().unwrap();
        let object = pair.there(&["rev-parse", kind]);
        tips.refs.insert(name.to_owned(), ObjectId::parse(object.as_bytes(), 40).unwrap());
        tips.write(&pair.folder).unwrap();
        refused(&pair, "does not lead to a commit");
    }
}

#[test]
fn bytes_that_are_no_pack() {
    for change in 0..6 {
        let pair = Pair::new(|_| {});
        pair.commit_there("x", "x\n");
        let tips = pair.take_out().unwrap();
        let path = pair.folder.join("commits.bundle");
        let mut bytes = fs::read(&path).unwrap();
        let at = usize::try_from(tips.pack_at).unwrap();
        match change {
            0 => bytes.truncate(at + 5),
            1 => bytes.truncate(bytes.len() - 25),
            2 => bytes[at + 8..at + 12].fill(0xff),
            3 => bytes[at..].fill(0xff),
            4 => bytes[at + 20] ^= 1,
            _ => bytes.extend_from_slice(&[0; 40]),
        }
        fs::write(&path, bytes).unwrap();
        // The last one is read to its end by git and no further, or refused.
        if change < 5 {
            refused(&pair, "");
        } else {
            pair.bring_home();
        }
    }
}

#[test]
fn an_object_that_grows_a_thousandfold_when_it_is_read_costs_little() {
    let pair = Pair::new(|_| {});
    // Two of them, so that one may be stored as the difference to the other.
    for size in [200 << 20, (200 << 20) + 1] {
        let file = fs::File::create(pair.there.join("zeros")).unwrap();
        file.set_len(size).unwrap();
        pair.there(&["-c", "core.bigFileThreshold=1g", "add", "zeros"]);
        pair.there(&["commit", "-qm", "zeros"]);
    }
    let began = std::time::Instant::now();
    pair.take_out().unwrap();
    assert!(fs::metadata(pair.folder.join("commits.bundle")).unwrap().len() < 1 << 20);
    fs::copy(pair.there.join("zeros"), pair.home.join("zeros")).unwrap();
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(60));
}

#[test]
fn a_repository_that_is_another_one_by_now() {
    let pair = Pair::new(|_| {});
    pair.commit_there("x", "x\n");
    pair.take_out().unwrap();
    fs::remove_dir_all(pair.home.join(".git")).unwrap();
    let told = bring_home(&pair.workspace, &pair.parts()).unwrap();
    assert!(told.reason.unwrap().contains("the repository cannot be read"));

    git(&pair.home, &["init", "-q", "--object-format=sha256"]);
    let told = bring_home(&pair.workspace, &pair.parts()).unwrap();
    assert!(told.reason.unwrap().contains("another object format"));

    fs::remove_dir_all(pair.home.join(".git")).unwrap();
    git(&pair.home, &["init", "-q", "-b", "main"]);
    let told = bring_home(&pair.workspace, &pair.parts()).unwrap();
    assert_eq!(told.state, CommitsState::Left, "{told:?}");
}
