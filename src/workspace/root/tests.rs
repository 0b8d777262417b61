//! One test for each way in which arguments do not lead to a workspace.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::config::workspace::Ignored;

/// A home with a project, a state directory and so on.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        for directory in
            ["home/project/src/deep", "home/other", "home/.codex/log", "home/state/runs", "else"]
        {
            fs::create_dir_all(home.0.path().join(directory)).unwrap();
        }
        fs::write(home.path("home/project/file"), "").unwrap();
        home
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(path)
    }

    fn text(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    fn roots_of(
        &self,
        config: &WorkspaceConfig,
        variables: &[(&str, String)],
        flag: Option<PathBuf>,
    ) -> Roots {
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        let (runs, state) = (self.path("home/state/runs"), self.path("home/state"));
        Roots::from(
            config,
            lookup,
            flag,
            &runs,
            &state,
            &self.path("home/.codex"),
            &self.path("home"),
        )
    }

    /// The project is the default, and all else as given.
    fn roots(&self, allowed: &[&str]) -> Roots {
        let mut config = config();
        config.allowed = allowed.iter().map(|path| self.path(path)).collect();
        self.roots_of(&config, &[], Some(self.path("home/project")))
    }

    fn refused(&self, roots: &Roots, repo: &str) -> (ErrorKind, String) {
        let error = roots.resolve(Some(&self.text(repo)), None).unwrap_err();
        (error.kind(), error.to_string())
    }
}

fn config() -> WorkspaceConfig {
    WorkspaceConfig {
        path: PathBuf::new(),
        allowed: Vec::new(),
        exclude: Vec::new(),
        ignored: Ignored::Files,
        keep_ignored: true,
        host_paths: true,
        max_bytes: 0,
        max_files: 0,
        lock_timeout: std::time::Duration::ZERO,
        protect: Vec::new(),
        on_conflict: crate::workspace::apply::OnConflict::HoldAll,
    }
}

#[test]
fn the_default_is_the_first_that_is_named() {
    let home = Home::new();
    let mut config = config();
    config.path = "/from/config".into();
    let all = [
        ("CODEX_WORKSPACE", "/from/variable".to_owned()),
        ("CLAUDE_PROJECT_DIR", "/from/claude".to_owned()),
        ("WORKSPACE_FOLDER_PATHS", "/first,/second".to_owned()),
    ];
    let flag = Some("/from/flag".into());
    let default = |roots: Roots| roots.default_path().to_owned();
    assert_eq!(default(home.roots_of(&config, &all, flag)), Path::new("/from/flag"));
    assert_eq!(default(home.roots_of(&config, &all, None)), Path::new("/from/variable"));
    assert_eq!(default(home.roots_of(&config, &all[1..], None)), Path::new("/from/config"));
    config.path = PathBuf::new();
    assert_eq!(default(home.roots_of(&config, &all[1..], None)), Path::new("/from/claude"));
    assert_eq!(default(home.roots_of(&config, &all[2..], None)), Path::new("/first"));
    let built_in = default(home.roots_of(&config, &[], None));
    assert_eq!(built_in, std::env::current_dir().unwrap().join("workspace"));
    config.path = "~/project".into();
    assert_eq!(default(home.roots_of(&config, &[], None)), home.path("home/project"));
}

#[test]
fn the_default_and_what_lies_in_it_may_be_used() {
    let home = Home::new();
    let roots = home.roots(&[]);
    let workspace = roots.resolve(None, None).unwrap();
    assert_eq!(workspace.path, home.path("home/project"));
    assert_eq!(workspace.working_dir, None);
    let inside = roots.resolve(Some(&home.text("home/project/src")), None).unwrap();
    assert_ne!(inside.key, workspace.key);
    // Another path to the same directory is the same workspace.
    symlink(home.path("home/project"), home.path("home/alias")).unwrap();
    let alias = roots.resolve(Some(&home.text("home/alias")), None).unwrap();
    assert_eq!((alias.key, alias.path), (workspace.key, workspace.path));
}

#[test]
fn other_directories_need_to_be_allowed() {
    let home = Home::new();
    let (kind, text) = home.refused(&home.roots(&[]), "home/other");
    assert_eq!(kind, ErrorKind::WorkspaceRefused);
    assert!(text.contains("workspace.allowed"), "{text}");
    home.roots(&["home/other"]).resolve(Some(&home.text("home/other")), None).unwrap();
    // An empty setting allows nothing.
    let mut config = config();
    config.allowed = vec![PathBuf::new()];
    let empty = home.roots_of(&config, &[], Some(PathBuf::new()));
    assert_eq!(home.refused(&empty, "home/other").0, ErrorKind::WorkspaceRefused);
    // A name that only begins like an allowed one.
    fs::create_dir(home.path("home/project-2")).unwrap();
    assert_eq!(home.refused(&home.roots(&[]), "home/project-2").0, ErrorKind::WorkspaceRefused);
}

#[test]
fn a_link_to_outside_is_outside() {
    let home = Home::new();
    symlink(home.path("else"), home.path("home/project/out")).unwrap();
    let (kind, text) = home.refused(&home.roots(&[]), "home/project/out");
    assert_eq!(kind, ErrorKind::WorkspaceRefused);
    assert!(text.contains(&home.text("else")), "{text}");
}

#[test]
fn what_is_missing_or_a_file_is_told() {
    let home = Home::new();
    let roots = home.roots(&[]);
    let (kind, text) = home.refused(&roots, "home/project/none");
    assert_eq!(kind, ErrorKind::WorkspaceMissing);
    assert!(text.contains("does not exist"), "{text}");
    let (kind, text) = home.refused(&roots, "home/project/file");
    assert_eq!(kind, ErrorKind::WorkspaceMissing);
    assert!(text.contains("is not a directory"), "{text}");
    for blank in ["", "  ", "a\0b"] {
        let error = roots.resolve(Some(blank), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let nowhere = home.roots_of(&config(), &[("CODEX_WORKSPACE", home.text("none"))], None);
    let error = nowhere.resolve(None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WorkspaceMissing);
    assert!(error.to_string().contains("from CODEX_WORKSPACE"), "{error}");
}

#[test]
fn some_places_are_refused_whatever_is_allowed() {
    let home = Home::new();
    let mut config = config();
    config.allowed = vec!["/".into()];
    let roots = home.roots_of(&config, &[], None);
    for (repo, word) in [
        (home.text("home"), "it is the home directory"),
        (home.text(""), "it contains the home directory"),
        (home.text("home/.codex"), "it is CODEX_HOME"),
        (home.text("home/.codex/log"), "it lies in CODEX_HOME"),
        (home.text("home/state"), "it is the orchestrator's state directory"),
        (home.text("home/state/runs"), "it lies in the orchestrator's state directory"),
        ("/".to_owned(), "it is the root of the file system"),
        ("/../".to_owned(), "it is the root of the file system"),
    ] {
        let error = roots.resolve(Some(&repo), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WorkspaceRefused, "{repo}");
        assert!(error.to_string().contains(word), "{repo}: {error}");
    }
    symlink(home.path("home"), home.path("else/link")).unwrap();
    assert_eq!(home.refused(&roots, "else/link").0, ErrorKind::WorkspaceRefused);
    roots.resolve(Some(&home.text("else")), None).unwrap();
}

#[test]
fn a_repositorys_own_directory_is_refused() {
    let home = Home::new();
    let mut config = config();
    config.allowed = vec!["/".into()];
    let roots = home.roots_of(&config, &[], None);
    for directory in [
        "home/project/.git/hooks",
        "home/project/.git/modules/x",
        "home/odd/.GIT",
        "home/bare.git/hooks",
        "home/bare.git/objects",
        "home/bare.git/refs",
        "home/bare.git/tree/src",
        "home/objects",
    ] {
        std::fs::create_dir_all(home.path(directory)).unwrap();
    }
    std::fs::write(home.path("home/bare.git/HEAD"), "ref: refs/heads/main\n").unwrap();
    std::fs::write(home.path("home/bare.git/tree/.git"), "gitdir: ../worktrees/tree\n").unwrap();
    for (repo, word) in [
        ("home/project/.git", "it is git's own directory"),
        ("home/project/.git/hooks", "it lies in git's own directory"),
        ("home/project/.git/modules/x", "it lies in git's own directory"),
        ("home/odd/.GIT", "it is git's own directory"),
        ("home/bare.git", "it is git's own directory"),
        ("home/bare.git/hooks", "it lies in git's own directory"),
    ] {
        let (kind, text) = home.refused(&roots, repo);
        assert_eq!(kind, ErrorKind::WorkspaceRefused, "{repo}");
        assert!(text.contains(word), "{repo}: {text}");
    }
    for repo in ["home/project", "home/bare.git/tree", "home/bare.git/tree/src", "home/objects"] {
        roots.resolve(Some(&home.text(repo)), None).unwrap();
    }
}

#[test]
fn a_runs_directory_inside_is_left_out() {
    let home = Home::new();
    let project = home.path("home/project");
    let roots = |runs: &Path| {
        let (state, codex) = (home.path("home/state"), home.path("home/.codex"));
        let flag = Some(project.clone());
        Roots::from(&config(), |_| None, flag, runs, &state, &codex, &home.path("home"))
    };
    // It need not exist yet.
    let workspace = roots(&project.join("var/runs")).resolve(None, None).unwrap();
    assert_eq!(workspace.exclude, [RelPath::new("var/runs").unwrap()]);
    let error = roots(&project).resolve(None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WorkspaceRefused);
}

#[test]
fn a_working_dir_is_a_directory_inside() {
    let home = Home::new();
    symlink("src", home.path("home/project/link-in")).unwrap();
    let roots = home.roots(&[]);
    let found = |given: &str| {
        let workspace = roots.resolve(None, Some(given)).unwrap();
        workspace.working_dir.map(|path| path.to_string())
    };
    let src = || Some("src".to_owned());
    for (given, expected) in [
        ("src", src()),
        ("./src/", src()),
        ("/app/src", src()),
        ("src/deep", Some("src/deep".to_owned())),
        ("link-in", src()),
        (".", None),
        ("", None),
        ("/app", None),
        ("/app/", None),
    ] {
        assert_eq!(found(given), expected, "{given}");
    }
    assert_eq!(found(&home.text("home/project/src")), src());
}

#[test]
fn a_working_dir_that_is_none_is_told() {
    let home = Home::new();
    symlink(home.path("else"), home.path("home/project/out")).unwrap();
    symlink("nowhere", home.path("home/project/dangling")).unwrap();
    let roots = home.roots(&[]);
    for (given, word) in [
        ("/etc", "is outside the workspace"),
        ("/application", "is outside the workspace"),
        ("..", "has a \"..\" component"),
        ("src/../src", "has a \"..\" component"),
        ("/app/../etc", "has a \"..\" component"),
        ("none", "does not exist"),
        ("dangling", "does not exist"),
        ("file", "is not a directory"),
        ("file/x", "is not a directory"),
        ("out", "leads out of the workspace by a link"),
        ("a\0b", "is no path"),
        ("  ", "is no path"),
    ] {
        let error = roots.resolve(None, Some(given)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{given}");
        assert!(error.to_string().contains(word), "{given}: {error}");
    }
}

/// Set in the process that runs a test again without root's right to read everything.
const AGAIN: &str = "WORKSPACE_ROOT_WITHOUT_PRIVILEGE";

#[test]
fn an_unreadable_workspace_is_refused() {
    if std::env::var_os(AGAIN).is_none() && rustix::process::geteuid().is_root() {
        let again = Command::new("setpriv")
            .args(["--bounding-set", "-dac_override,-dac_read_search", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "workspace::root::tests::an_unreadable_workspace_is_refused"])
            .env(AGAIN, "1")
            .status();
        match again {
            Ok(status) => assert!(status.success()),
            Err(error) => eprintln!("skipped: root reads everything, and no setpriv ({error})"),
        }
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let project = home.path("home/project");
    for mode in [0o000, 0o300, 0o600] {
        fs::set_permissions(&project, fs::Permissions::from_mode(mode)).unwrap();
        let error = home.roots(&[]).resolve(None, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WorkspaceRefused, "{mode:o}");
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
    fs::set_permissions(&project, fs::Permissions::from_mode(0o700)).unwrap();
}
