use super::*;

#[test]
fn tells_what_git_said() {
    let directory = tempfile::tempdir().unwrap();
    let directory = File::open(directory.path()).unwrap();
    let version = git(directory.as_fd(), &["version"]).unwrap();
    assert!(version.starts_with(b"git version"));
    let error = git(directory.as_fd(), &["no-such-command"]).unwrap_err();
    assert!(matches!(error, GitCommandError::Failed { code: Some(1), .. }), "{error}");
}

#[test]
fn no_hook_monitor_or_alias_of_the_repository_runs() {
    let tree = tempfile::tempdir().unwrap();
    let mark = tree.path().join("ran");
    let directory = File::open(tree.path()).unwrap();
    git(directory.as_fd(), &["init", "-q"]).unwrap();
    let config = format!(
        "[core]\n\tfsmonitor = touch {0}\n\tpager = touch {0}\n[pager]\n\tconfig = true\n",
        mark.display()
    );
    std::fs::write(tree.path().join(".git/config"), config).unwrap();
    git(directory.as_fd(), &["config", "-z", "--list"]).unwrap();
    git(directory.as_fd(), &["ls-files", "-z"]).unwrap();
    git(directory.as_fd(), &["for-each-ref"]).unwrap();
    assert!(!mark.exists());
}

#[test]
fn nothing_is_fetched_and_no_program_of_a_remote_runs() {
    let tree = tempfile::tempdir().unwrap();
    let mark = tree.path().join("ran");
    let directory = File::open(tree.path()).unwrap();
    git(directory.as_fd(), &["init", "-q"]).unwrap();
    let touch = format!("touch {}", mark.display());
    let file = format!("file://{}", tree.path().display());
    for url in [&*file, tree.path().to_str().unwrap(), "ext::sh -c true", "ssh://nowhere/x"] {
        let config = format!(
            "[remote \"o\"]\n\turl = {url}\n\tuploadpack = {touch};true\n\
             [core]\n\tsshCommand = {touch}\n[protocol]\n\tallow = always\n"
        );
        std::fs::write(tree.path().join(".git/config"), config).unwrap();
        let error = git(directory.as_fd(), &["fetch", "-q", "o"]).unwrap_err();
        assert!(!mark.exists(), "{url}: {error}");
        assert!(error.to_string().contains("not allowed"), "{error}");
    }
}

#[test]
fn it_writes_no_more_than_is_taken() {
    let tree = tempfile::tempdir().unwrap();
    let directory = File::open(tree.path()).unwrap();
    let flood = Git::new(directory.as_fd()).most(5).run(&["version"]);
    assert!(matches!(flood, Err(GitCommandError::Flood { .. })), "{flood:?}");
}
