//! The contents of large files (git LFS) that commits mean.
//!
//! A commit has only a pointer; the contents are in the container's `.git/lfs/objects`. They come
//! as `lfs.tar` into the run's folder, and from there, each checked by its SHA-256, into the store
//! of the user's repository, where `git lfs push` looks for them. Where the container gave none,
//! the applied file of the workspace may be what the pointer means.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use super::super::super::Workspace;
use super::super::super::apply::Parts;
use super::super::super::archive::read::{TarError, TarReader};
use super::super::command::GitCommandError;
use super::super::lfs::{LfsStore, POINTER_BYTES, Pointer};
use super::Tips;
use super::bundle::{Home, LIMITS};
use crate::path::RelPath;

/// The shell script that writes, in a container, the contents that new commits mean as a tar, with
/// what [`PACK`](super::PACK) gets as its input. Empty where there is no store.
pub const CONTENTS: &str = r#"
cd "$(git rev-parse --absolute-git-dir)/lfs/objects" 2>/dev/null || exit 0
git rev-list --objects --no-object-names --missing=allow-any --stdin |
git cat-file --buffer --batch-check='%(objectname) %(objecttype) %(objectsize)' |
awk '$2 == "blob" && $3 <= 1024 { print $1 }' |
git cat-file --buffer --batch |
sed -n 's|^oid sha256:\([0-9a-f]\{2\}\)\([0-9a-f]\{2\}\)\([0-9a-f]\{60\}\)$|\1/\2/\1\2\3|p' |
sort -u |
while read -r file; do [ -f "$file" ] && printf '%s\n' "$file"; done |
exec tar -cf - --no-recursion -T -
"#;

/// Small files that are looked at in one go: 16 MiB at most.
const AT_ONCE: usize = 16 << 10;

/// Paths that are named at most.
const NAMED: usize = 10;

/// The file in a run's folder that has what came.
pub fn archive(folder: &Path) -> std::path::PathBuf {
    folder.join("lfs.tar")
}

/// Puts the contents that the commits of a run mean into the repository's store. The commits are
/// in the repository by now, and the changes applied. Gives what is to be said of contents that
/// could not be had; `None` if there is nothing to say.
pub(super) fn bring(
    home: &Home<'_>,
    workspace: &Workspace,
    tips: &Tips,
    parts: &Parts<'_>,
) -> Option<String> {
    let pointers = match pointers(home, tips) {
        Ok(pointers) if pointers.is_empty() => return None,
        Ok(pointers) => pointers,
        Err(error) => {
            return Some(format!("large files (git LFS) could not be looked for ({error})"));
        }
    };
    let archive = archive(parts.folder);
    let stored = LfsStore::open(workspace).map_err(|error| error.to_string()).and_then(|store| {
        store_all(&store, workspace, &pointers, &archive).map_err(|error| error.to_string())?;
        Ok(pointers.iter().filter(|(_, pointer)| !store.has(pointer)).collect())
    });
    let (lacking, why): (Vec<_>, _) = match stored {
        Ok(lacking) => (lacking, None),
        Err(why) => (pointers.iter().collect(), Some(why)),
    };
    if !lacking.is_empty() {
        let lacking: Vec<&RelPath> = lacking.into_iter().map(|(path, _)| path).collect();
        return Some(sentence(&lacking, why));
    }
    // Everything of it is in the store.
    match std::fs::remove_file(&archive) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "lfs.tar was left in a run's folder");
        }
        _ => {}
    }
    None
}

fn sentence(lacking: &[&RelPath], why: Option<String>) -> String {
    let named: Vec<_> = lacking.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match lacking.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!(
        "git lfs push would fail for {}{more}: the contents are not in the repository's LFS \
         store{why}",
        named.join(", ")
    )
}

/// First what the container gave, then the files of the workspace.
fn store_all(
    store: &LfsStore,
    workspace: &Workspace,
    pointers: &[(RelPath, Pointer)],
    archive: &Path,
) -> io::Result<()> {
    match File::open(archive) {
        Ok(file) => {
            // What is wrong with it costs only what comes after.
            if let Err(error) = store_from(store, pointers, file) {
                tracing::warn!(%error, "the contents of large files came damaged");
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    store.add_files(workspace, pointers.iter().map(|(path, pointer)| (path, *pointer))).map(drop)
}

/// What is asked for and in the archive; nothing else of it is looked at.
fn store_from(
    store: &LfsStore,
    pointers: &[(RelPath, Pointer)],
    archive: File,
) -> Result<(), TarError> {
    let wanted: HashMap<_, _> = pointers
        .iter()
        .map(|(_, pointer)| ((pointer.name().into_bytes(), pointer.size), pointer))
        .collect();
    let mut reader = TarReader::new(io::BufReader::new(archive));
    while let Some(entry) = reader.next()? {
        let name = entry.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let pointer = wanted.get(&(name.to_vec(), entry.size));
        if let Some(pointer) = pointer.filter(|_| matches!(entry.flag, b'0' | 0))
            && !store.add(pointer, &mut reader)?
        {
            tracing::warn!(oid = pointer.name(), "the contents of a large file are others");
        }
    }
    Ok(())
}

/// The pointers in what the new commits have and the repository's own references have not.
fn pointers(home: &Home<'_>, tips: &Tips) -> Result<Vec<(RelPath, Pointer)>, GitCommandError> {
    let git = home.git().limit(LIMITS);
    let small = format!("--filter=blob:limit={}", POINTER_BYTES + 1);
    let walk = ["rev-list", "--objects", "--missing=allow-any", &small, "--stdin", "--not"];
    let walk = [&walk[..], &["--exclude=refs/codex/*", "--all"]].concat();
    let listing = git.run_on(tips.wanted().as_bytes(), &walk)?;
    let named: Vec<(&[u8], &[u8])> = listing
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b' ')?;
            Some((&line[..at], &line[at + 1..]))
        })
        .filter(|(_, path)| !path.is_empty())
        .collect();
    let mut pointers = Vec::new();
    for some in named.chunks(AT_ONCE) {
        let names: Vec<u8> =
            some.iter().flat_map(|(name, _)| [name, &b"\n"[..]].concat()).collect();
        let format = "--batch-check=%(objecttype) %(objectsize)";
        let kinds = git.run_on(&names, &["cat-file", "--buffer", format])?;
        let is_small = |line: &[u8]| {
            let size = line.strip_prefix(b"blob ").and_then(|size| std::str::from_utf8(size).ok());
            size.and_then(|size| size.parse().ok()).is_some_and(|size: usize| size <= POINTER_BYTES)
        };
        let kinds = kinds.split(|byte| *byte == b'\n');
        let blobs: Vec<_> =
            some.iter().zip(kinds).filter(|(_, line)| is_small(line)).map(|(one, _)| one).collect();
        let names: Vec<u8> =
            blobs.iter().flat_map(|(name, _)| [name, &b"\n"[..]].concat()).collect();
        if blobs.is_empty() {
            continue;
        }
        let contents = git.run_on(&names, &["cat-file", "--buffer", "--batch"])?;
        let mut rest = &contents[..];
        for (_, path) in blobs {
            let Some(blob) = next_blob(&mut rest) else { break };
            if let (Some(pointer), Ok(path)) = (Pointer::parse(blob), RelPath::new(*path)) {
                pointers.push((path, pointer));
            }
        }
    }
    Ok(pointers)
}

/// Takes one answer of `cat-file --batch`: `<name> blob <size>`, the bytes, a line break.
fn next_blob<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let size = rest[..end].rsplit(|byte| *byte == b' ').next()?;
    let size: usize = std::str::from_utf8(size).ok()?.parse().ok()?;
    let blob = rest.get(end + 1..end + 1 + size)?;
    *rest = rest.get(end + 2 + size..)?;
    Some(blob)
}
