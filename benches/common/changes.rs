//! Change sets without a container: a workspace is sent, a copy of it is changed, and what the
//! keeper would send back is taken in.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::change::ChangeSet;
use mcp_codex_orchestrator::workspace::classify::{Policy, classify};
use mcp_codex_orchestrator::workspace::receive::{ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::send::{SendRules, send};
use mcp_codex_orchestrator::workspace::{Snapshot, Workspace};

use super::Failed;

/// A run whose change set waits in its folder.
#[derive(Debug)]
pub(crate) struct Run {
    /// Its id.
    pub(crate) id: String,
    /// Its folder, with `changes.tar`.
    pub(crate) folder: PathBuf,
    /// What Codex changed.
    pub(crate) set: ChangeSet,
}

/// Makes the run `id` in `runs`: all of `app` that is not as it is in the workspace.
pub(crate) fn run(workspace: &Workspace, app: &Path, runs: &Path, id: &str) -> Result<Run, Failed> {
    let rules = SendRules {
        exclude: Vec::new(),
        ignored: Ignored::Files,
        max_bytes: 1 << 40,
        max_files: 1_000_000,
        history: mcp_codex_orchestrator::workspace::git::HistoryRules::default(),
    };
    let sent = send(workspace, &rules, io::sink())?;
    let folder = runs.join(id);
    fs::create_dir_all(&folder)?;
    let stream = runs.join(format!("{id}.tar"));
    collect(app, &sent, BufWriter::new(File::create(&stream)?))?;
    let received = receive(
        BufReader::with_capacity(1 << 16, File::open(&stream)?),
        &sent,
        &ReceiveLimits::new(300_000, 2 << 30),
        &folder.join("changes.tar"),
    )?;
    fs::remove_file(stream)?;
    let set = classify(received, &sent, &Policy::new(&[])?);
    fs::write(folder.join("changes.json"), serde_json::to_vec(&set)?)?;
    Ok(Run { id: id.to_owned(), folder, set })
}

/// What the keeper would send.
fn collect(app: &Path, sent: &Snapshot, out: impl Write) -> Result<(), Failed> {
    let mut tar = tar::Builder::new(out);
    let mut seen = BTreeSet::new();
    let mut waiting = vec![app.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let inside = RelPath::new(path.strip_prefix(app)?.as_os_str().as_bytes())?;
            let name = Path::new("tree").join(inside.as_path());
            seen.insert(inside);
            let stat = fs::symlink_metadata(&path)?;
            let mut header = tar::Header::new_gnu();
            header.set_mode(stat.mode() & 0o7777);
            if stat.is_dir() {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                tar.append_data(&mut header, name, io::empty())?;
                waiting.push(path);
            } else {
                header.set_size(stat.len());
                tar.append_data(&mut header, name, File::open(path)?)?;
            }
        }
    }
    let gone: Vec<&[u8]> =
        sent.nodes.keys().filter(|path| !seen.contains(*path)).map(RelPath::as_bytes).collect();
    let gone = gone.join(&b"\0"[..]);
    let mut header = tar::Header::new_gnu();
    header.set_size(gone.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "meta/deleted", &gone[..])?;
    tar.into_inner()?.flush()?;
    Ok(())
}
