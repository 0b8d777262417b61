//! Sends the made `.git`: of what a container has, only what is not the same.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};

use super::{CHUNK, SendError, Sending};
use crate::workspace::beneath;
use crate::workspace::git::{GitFile, GitFiles, Made, ObjectFile};
use crate::workspace::select::is_gone;

/// How often the objects are listed again because git packed some of them away.
const OBJECT_ROUNDS: u32 = 4;

/// What became of a made `.git`.
#[derive(Debug, Default)]
pub(super) struct GitDelta {
    pub(super) files: GitFiles,
    /// Files of it and their bytes.
    pub(super) whole: (u64, u64),
    /// Those of them that travelled.
    pub(super) travelled: (u64, u64),
}

impl GitDelta {
    fn count(&mut self, bytes: u64, travelled: bool) {
        let add = |(files, all): &mut (u64, u64)| (*files, *all) = (*files + 1, *all + bytes);
        add(&mut self.whole);
        if travelled {
            add(&mut self.travelled);
        }
    }
}

/// What a container is to have, by path.
type Plan = BTreeMap<Box<[u8]>, GitFile>;

impl<W: Write> Sending<'_, W> {
    /// Gives a container the `.git` that is `made` and has `objects`; `None` for none at all.
    pub(super) fn git(
        &mut self,
        made: Option<&Made>,
        objects: Vec<ObjectFile>,
    ) -> Result<GitDelta, SendError> {
        let mut plan = made.map(written).unwrap_or_default();
        for object in &objects {
            plan.insert(folder(object).into(), GitFile::Directory);
            plan.insert(place(object).into(), identity(object));
        }
        for path in self.known.git_gone(|path| plan.get(path).copied()) {
            self.entries.removed(path).map_err(SendError::Write)?;
        }
        let Some(made) = made else { return Ok(GitDelta::default()) };
        let mut sent = GitDelta::default();
        let time = made.index.as_ref().map_or(0, |index| index.mtime);
        for (path, _) in plan.iter().filter(|(_, file)| file.is_directory()) {
            if self.known.git_file(path) != Some(&GitFile::Directory) {
                self.entries.directory(path, time).map_err(SendError::Write)?;
            }
        }
        for (path, contents) in made.small_files() {
            let path = below(path);
            let travels = self.known.git_file(&path) != plan.get(&*path);
            if travels {
                self.entries.file(&path, contents, false, time).map_err(SendError::Write)?;
            }
            sent.count(contents.len() as u64, travels);
        }
        if let Some(index) = &made.index {
            let travels = self.known.git_file(INDEX) != plan.get(INDEX);
            if travels {
                self.unchanging(INDEX, index.reader(), index.size, index.mtime)?;
            }
            sent.count(index.size, travels);
        }
        self.objects(made, objects, &mut plan, &mut sent)?;
        sent.files = GitFiles::new(plan, self.known.git_files());
        Ok(sent)
    }

    /// Sends the objects, and notes in `plan` what became of them.
    fn objects(
        &mut self,
        made: &Made,
        objects: Vec<ObjectFile>,
        plan: &mut Plan,
        sent: &mut GitDelta,
    ) -> Result<(), SendError> {
        let time = made.index.as_ref().map_or(0, |index| index.mtime);
        let mut done: HashSet<Vec<u8>> = HashSet::new();
        let (there, mut waiting): (Vec<_>, Vec<_>) = objects
            .into_iter()
            .partition(|object| self.known.git_file(&place(object)) == Some(&identity(object)));
        for object in there {
            sent.count(object.size, false);
            done.insert(object.path);
        }
        for _ in 0..OBJECT_ROUNDS {
            let mut gone = false;
            for object in waiting {
                let (place, folder) = (place(&object), folder(&object));
                if plan.insert(folder.as_slice().into(), GitFile::Directory).is_none() {
                    self.entries.directory(&folder, time).map_err(SendError::Write)?;
                }
                if self.object(made, &object)? {
                    sent.count(object.size, true);
                    plan.insert(place.into(), identity(&object));
                    done.insert(object.path);
                    continue;
                }
                gone = true;
                if plan.remove(&*place).is_some() && self.known.git_file(&place).is_some() {
                    self.entries.removed(&place).map_err(SendError::Write)?;
                }
            }
            if !gone {
                return Ok(());
            }
            // Git packed some of them: they are in a pack that was not there before.
            waiting = made.object_files().map_err(SendError::Repacking)?;
            waiting.retain(|object| !done.contains(&object.path));
        }
        Err(SendError::Repacking("objects went away again and again".into()))
    }

    /// Sends one file of the objects; `false` if it is gone.
    fn object(&mut self, made: &Made, object: &ObjectFile) -> Result<bool, SendError> {
        let path = place(object);
        let file = match made.open(object) {
            Ok(file) => file,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(SendError::unreadable(&path, error)),
        };
        self.unchanging(&path, file, object.size, object.mtime)?;
        Ok(true)
    }

    /// Sends a file of `.git` that git replaces and never writes again.
    fn unchanging(
        &mut self,
        path: &[u8],
        mut file: impl Read,
        size: u64,
        mtime: i64,
    ) -> Result<(), SendError> {
        self.entries.begin_file(path, size, false, mtime).map_err(SendError::Write)?;
        self.buffer.resize(CHUNK, 0);
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match file.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(SendError::Repacking("a file was cut short".into())),
                Ok(count) => {
                    self.entries.data(&self.buffer[..count]).map_err(SendError::Write)?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SendError::unreadable(path, error)),
            }
        }
        self.entries.end_file(size, 0).map_err(SendError::Write)
    }
}

const INDEX: &[u8] = b".git/index";

/// Everything of a made `.git` but the objects.
fn written(made: &Made) -> Plan {
    let directories = made.directories().into_iter();
    let directories = directories.map(|path| (below(&path).into(), GitFile::Directory));
    // Times of what was made say nothing.
    let small = made.small_files().iter().map(|(path, contents)| {
        let hash = *blake3::hash(contents).as_bytes();
        (below(path).into(), GitFile::Written { hash, mtime: 0 })
    });
    let mut plan: Plan = directories.chain(small).collect();
    if let Some(index) = &made.index {
        plan.insert(INDEX.into(), GitFile::Written { hash: index.hash, mtime: index.mtime });
    }
    plan
}

/// A path of `.git`, in the workspace.
fn below(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { b".git".to_vec() } else { [b".git/", path].concat() }
}

fn place(object: &ObjectFile) -> Vec<u8> {
    [b".git/objects/", &*object.path].concat()
}

/// The directory that holds it.
fn folder(object: &ObjectFile) -> Vec<u8> {
    let (folder, _) = beneath::split(&object.path);
    [b".git/objects/", folder].concat()
}

fn identity(object: &ObjectFile) -> GitFile {
    let ObjectFile { size, dev, ino, .. } = *object;
    GitFile::Object { size, dev, ino }
}
