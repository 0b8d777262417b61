//! What a demo needs around the server: a temporary directory with a sample project, settings and
//! state of its own, and the script that the model follows.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::model::scripted::{Script, Step};

/// Files of a sample that is read whole for the listing; more are not of a demo's size.
const MAX_FILES: usize = 1000;

/// The call that the replaced server's documentation has as its example.
pub(super) const FIRST: &str = "Create a hello.py file that prints 'Hello, World!'";

/// A call whose changes are held first.
pub(super) const SECOND: &str = "Make hello.py greet the names on its command line";

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// Makes it, with a copy of `sample` as the project, or with a small project of its own.
    pub(super) fn make(sample: Option<&Path>) -> io::Result<Self> {
        let name = format!("codex-demo-{}", uuid::Uuid::new_v4().simple());
        // The real path: the server tells its workspace by it.
        let root = std::env::temp_dir().canonicalize()?.join(name);
        fs::DirBuilder::new().mode(0o700).create(&root)?;
        let stage = Self { root };
        match sample {
            Some(sample) => copy(sample, &stage.project())?,
            None => {
                fs::create_dir(stage.project())?;
                fs::write(stage.project().join("README.md"), "# A small project\n")?;
            }
        }
        Ok(stage)
    }

    /// The workspace.
    pub(super) fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    /// `XDG_STATE_HOME` of the server.
    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The server's log.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// The folder of a run.
    pub(super) fn run(&self, id: &str) -> PathBuf {
        self.root.join("runs").join(id)
    }

    /// Writes settings that name the scripted model; gives the file.
    pub(super) fn settings(&self, base_url: &str, image: &str) -> io::Result<PathBuf> {
        let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let path = |path: PathBuf| text(&path.to_string_lossy());
        let settings = format!(
            "[workspace]\npath = {}\n[runs]\ndir = {}\n[container]\nimage = {}\n\
             [model]\nbase_url = {}\nauth = \"none\"\n",
            path(self.project()),
            path(self.root.join("runs")),
            text(image),
            text(base_url),
        );
        let file = self.root.join("config.toml");
        fs::write(&file, settings)?;
        Ok(file)
    }

    /// The files of the project with their sizes.
    pub(super) fn files(&self) -> io::Result<BTreeMap<String, u64>> {
        let project = self.project();
        let mut found = BTreeMap::new();
        let mut left = vec![project.clone()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let kind = entry.metadata()?;
                if kind.is_dir() {
                    left.push(entry.path());
                } else if found.len() < MAX_FILES {
                    let path = entry.path();
                    let path = path.strip_prefix(&project).unwrap_or(&path);
                    found.insert(path.to_string_lossy().into_owned(), kind.len());
                }
            }
        }
        Ok(found)
    }

    /// What a file of the project holds.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.project().join(path))
    }

    /// Removes it all; that something could not be removed is told.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.root)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Copies directories and ordinary files.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// What the model does: the example of the replaced server, then a change of what that made.
pub(super) fn script() -> Script {
    let patch = "*** Begin Patch\n*** Update File: hello.py\n@@\n-print('Hello, World!')\n\
                 +import sys\n+\n+for name in sys.argv[1:] or ['World']:\n\
                 +    print(f'Hello, {name}!')\n*** End Patch\n";
    let steps = vec![
        Step::Reason("The names are in sys.argv; without one the greeting stays.".into()),
        Step::run("cat hello.py"),
        Step::Patch(patch.into()),
        Step::run("python3 hello.py Ada Grace"),
        Step::Say("hello.py now greets each name it is given, and the world without one.".into()),
    ];
    Script::builtin().with(SECOND, steps)
}
