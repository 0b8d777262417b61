//! What the keeper does, done for real.
//!
//! ```text
//!            put                        spawn
//!  empty ───────────> tree n ─────────────────> tree n, and something ran
//!    ▲                  ▲ │ ▲                              │
//!    │    reset that    │ │ └─ put on n: tree n + 1 ─┐     │
//!    ├── keeps nothing ─┼─┴──────────────────────────┤     │
//!    │                  └──── reset that keeps it ───┴─────┤
//!    └──────────── another reset, or too little is left ───┘
//! ```
//!
//! Only a tree on which nothing ran since it was put, or since a reset left of it what is certain, is
//! put on. A put that fails leaves a broken tree, which only a reset ends, and of which nothing stays.
//! Beside a tree that a reset left lies what was built, until the next put or program.

use std::ffi::CString;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd};

use super::clock::Mark;
use super::fingerprint::But;
use super::guard::InContainer;
use super::kept::Aside;
use super::manifest::Manifest;
use super::sweep::{self, Left, Swept, Wish};
use super::{
    Doing, Inside, Refusal, attempts, cgroup, children, collect, end, fingerprint, links, places,
    posture, private, process, put, reset, sys, user,
};
use crate::keeper::wire::{
    ArmRequest, Armed, CollectReport, CollectRequest, KeptTree, PutReport, PutRequest, ResetReport,
    ResetRequest, SpawnRequest, USER, WORKSPACE,
};

/// File systems whose inode numbers and ctimes can be relied on, by `statfs`: every write and every
/// first store through a mapping moves the ctime. tmpfs and overlays are not among them.
const RELIABLE: [i64; 3] = [0xEF53, 0x5846_5342, 0x9123_683E]; // ext4, xfs, btrfs

/// How long the dead may wait to be reaped by their parents.
const REAPED: Duration = Duration::from_secs(2);

/// The container this process is in.
#[derive(Debug)]
pub struct Container {
    proof: InContainer,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    template: String,
    link_places: Vec<String>,
    /// Of the writable places, for the job that runs.
    floors: Vec<places::Floor>,
    tree: Tree,
    /// Trees so far, each change of one counted.
    trees: u64,
    /// Build state for the next tree, until something is put or a program runs.
    aside: Option<Aside>,
}

/// What is in the workspace.
#[derive(Debug, Default)]
enum Tree {
    /// Nothing: armed or reset.
    #[default]
    Empty,
    /// A tree that was not put whole.
    Broken,
    /// What was put, or is left of it after a reset: its number, whether its inodes and ctimes count,
    /// and the clocks before the first program, if one has run since.
    Put { manifest: Arc<Manifest>, number: u64, reliable: bool, mark: Option<Mark> },
}

impl State {
    /// Takes what is in the workspace, for a put on `base`. It counts as broken until all is put.
    fn begin(&mut self, base: Option<u64>) -> Result<(Arc<Manifest>, Option<Aside>), Refusal> {
        let tree = match (&mut self.tree, base) {
            (Tree::Empty, None) => Arc::default(),
            (Tree::Put { manifest, number, mark: None, .. }, Some(base)) if *number == base => {
                std::mem::take(manifest)
            }
            (_, None) => {
                return Err(Refusal::new("the workspace holds a tree already; reset first"));
            }
            (_, Some(_)) => {
                return Err(Refusal::new("the workspace holds another tree; reset first"));
            }
        };
        self.tree = Tree::Broken;
        Ok((tree, self.aside.take()))
    }

    fn next_tree(&mut self) -> u64 {
        self.trees += 1;
        self.trees
    }
}

impl Container {
    /// Takes the proof that this is a container of ours.
    #[must_use]
    pub fn new(proof: InContainer) -> Self {
        Self { proof, state: Mutex::default() }
    }

    fn require_rest(&self) -> Result<(), Refusal> {
        match self.others()? {
            0 => Ok(()),
            left => Err(Refusal(format!("{left} processes are running; end them first"))),
        }
    }

    fn restore(&self, request: ResetRequest) -> Result<ResetReport, Refusal> {
        self.require_rest()?;
        let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
        let (template, tree, aside) = {
            let mut state = self.state.lock();
            let tree = std::mem::replace(&mut state.tree, Tree::Broken);
            (state.template.clone(), tree, state.aside.take())
        };
        let (swept, reliable) = sweep(root.as_fd(), tree, aside, request);
        let aside = swept.aside.filter(|aside| aside.is_proved(root.as_fd()));
        let name = aside.as_ref().map(Aside::name);
        let without_tree = name.map_or(But::Nothing, But::Name);
        let mut left = swept.tree;
        let but = if left.is_some() { But::Contents } else { without_tree };
        reset::restore(&template, but)?;
        // The second look. What it does not find as it must be does not stay.
        let proved = |left: &Left| sweep::holds(root.as_fd(), &left.manifest, name, (USER, USER));
        if left.as_ref().is_some_and(|left| !proved(left).unwrap_or(false)) {
            left = None;
            reset::restore(&template, without_tree)?;
        }
        self.raise_floors()?;
        let but = if left.is_some() { But::Contents } else { without_tree };
        require_no_dead()?;
        let fingerprint = fingerprint::take(self.others()?, but)?;
        let kept = aside.as_ref().map(Aside::report).unwrap_or_default();
        let mut state = self.state.lock();
        let mut tree = None;
        state.tree = match left {
            None => Tree::Empty,
            Some(Left { manifest, dropped, bytes }) => {
                let number = state.next_tree();
                tree = Some(KeptTree { tree: number, dropped, bytes });
                Tree::Put { manifest: Arc::new(manifest), number, reliable, mark: None }
            }
        };
        state.aside = aside;
        drop(state);
        sys::trim_memory();
        Ok(ResetReport { fingerprint, kept, tree, ports: Vec::new() })
    }

    /// Notes what a job that begins now must leave free.
    fn raise_floors(&self) -> Result<(), Refusal> {
        let floors = places::floors(&places::list()?);
        self.state.lock().floors = floors;
        Ok(())
    }

    /// Puts the workspace in the order in which a program or a collection must find it, and gives the
    /// moment from which changes are told from what was put.
    ///
    /// Build state goes back into its place if a tree is there that nothing was put on. It is removed
    /// if there is no tree: whatever runs then is no run on the workspace it is of.
    fn prepare(&self) -> Result<Option<Mark>, Refusal> {
        let (aside, manifest, newest) = {
            let mut state = self.state.lock();
            let (manifest, newest) = match &state.tree {
                Tree::Empty => (None, None),
                Tree::Broken => {
                    return Err(Refusal::new("the workspace was not put whole; reset first"));
                }
                Tree::Put { mark: Some(mark), .. } => return Ok(Some(*mark)),
                Tree::Put { manifest, .. } => {
                    (Some(Arc::clone(manifest)), Some(manifest.newest_unhashed()))
                }
            };
            (state.aside.take(), manifest, newest)
        };
        if let Some(aside) = aside {
            let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
            let done = match &manifest {
                Some(manifest) => aside.bring_back(root.as_fd(), manifest, &[]),
                None => aside.remove(root.as_fd()),
            };
            done.doing("bring kept build state to its place, or remove it")?;
        }
        Ok(newest.map(Mark::after))
    }
}

/// What stays of a workspace after what was in it, and whether inodes and ctimes count in it.
fn sweep(
    root: BorrowedFd<'_>,
    tree: Tree,
    aside: Option<Aside>,
    request: ResetRequest,
) -> (Swept, bool) {
    let aside = aside.filter(|_| request.keep_ignored);
    let (manifest, reliable, mark) = match tree {
        // Nothing was put since it was set aside, so there is nothing to look for.
        Tree::Empty => return (Swept { tree: None, aside }, false),
        Tree::Put { .. } if aside.is_some() && !request.keep_tree => {
            return (Swept { tree: None, aside }, false);
        }
        Tree::Put { manifest, reliable, mark, .. } if request.keep_tree || request.keep_ignored => {
            (manifest, reliable, mark)
        }
        Tree::Put { .. } | Tree::Broken => return (Swept::default(), false),
    };
    // If nothing ran, nothing changed since now.
    let mark = mark.unwrap_or_else(|| Mark::after(manifest.newest_unhashed()));
    let wish = Wish {
        tree: request.keep_tree,
        ignored: request.keep_ignored,
        certified_before: mark.certifies(&Mark::now()).filter(|_| reliable),
        owner: (USER, USER),
    };
    let manifest = Arc::try_unwrap(manifest).unwrap_or_else(|manifest| (*manifest).clone());
    // Whatever cannot be looked at: nothing stays.
    (sweep::sweep(root, manifest, aside, wish).unwrap_or_default(), reliable)
}

impl Inside for Container {
    fn arm(&self, request: &ArmRequest) -> Result<Armed, Refusal> {
        {
            let mut state = self.state.lock();
            state.template.clone_from(&request.codex_home_template);
            state.link_places.clone_from(&request.link_places);
        }
        posture::require_capabilities()?;
        // Before the places are emptied, so that whatever was tried leaves nothing.
        let tried = attempts::run()?;
        let fingerprint = self.restore(ResetRequest::default())?.fingerprint;
        Ok(Armed { posture: posture::read(tried)?, fingerprint, ports: Vec::new() })
    }

    fn put(&self, request: &PutRequest, tar: &mut (dyn Read + Send)) -> Result<PutReport, Refusal> {
        self.require_rest()?;
        let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
        let kind = rustix::fs::fstatfs(&root).doing("look at the workspace")?.f_type;
        let reliable = RELIABLE.contains(&kind);
        let (base, aside) = self.state.lock().begin(request.base)?;
        self.raise_floors()?;
        let name = aside.as_ref().map(Aside::name);
        // Alone: whoever else held it has ended with what it did.
        let base = Arc::try_unwrap(base).unwrap_or_else(|base| (*base).clone());
        let written = user::as_user(|| put::write(root.as_fd(), tar, !reliable, base, name))?;
        if let Some(aside) = aside {
            aside
                .bring_back(root.as_fd(), &written.manifest, &written.removed)
                .doing("bring back kept build state")?;
        }
        let manifest = Arc::new(written.manifest);
        let mut state = self.state.lock();
        let number = state.next_tree();
        state.tree = Tree::Put { manifest, number, reliable, mark: None };
        let places = state.link_places.clone();
        drop(state);
        links::make(&places, &request.links)?;
        sys::trim_memory();
        Ok(PutReport { tree: number, ..written.report })
    }

    fn settle(&self) -> Result<(), Refusal> {
        let now = self.prepare()?;
        if let Tree::Put { mark, .. } = &mut self.state.lock().tree {
            *mark = now;
        }
        Ok(())
    }

    fn command(&self, request: &SpawnRequest) -> Result<tokio::process::Command, Refusal> {
        let Some((program, arguments)) = request.argv.split_first() else {
            return Err(Refusal::new("there is no program to start"));
        };
        if !request.cwd.starts_with('/') {
            return Err(Refusal::new("the working directory is not absolute"));
        }
        if let Some((name, _)) =
            request.env.iter().find(|(name, _)| name.is_empty() || name.contains(['=', '\0']))
        {
            return Err(Refusal(format!("{name:?} is no name of an environment variable")));
        }
        let cwd = CString::new(request.cwd.as_str()).doing("use the working directory")?;
        private::write_all(&request.files)?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(request.env.iter().map(|(name, value)| (name, value)));
        sys::become_user(&mut command, cwd);
        Ok(command.into())
    }

    fn collect(
        &self,
        request: &CollectRequest,
        tar: &mut dyn Write,
    ) -> Result<CollectReport, Refusal> {
        self.require_rest()?;
        let mark = self.prepare()?;
        let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
        let (manifest, reliable) = match &self.state.lock().tree {
            Tree::Put { manifest, reliable, .. } => (Arc::clone(manifest), *reliable),
            _ => (Arc::default(), false),
        };
        let certified_before =
            mark.filter(|_| reliable).and_then(|mark| mark.certifies(&Mark::now()));
        collect::read(root.as_fd(), &manifest, certified_before, request, tar)
    }

    fn others(&self) -> Result<u32, Refusal> {
        Ok(u32::try_from(process::others()?.len()).unwrap_or(u32::MAX))
    }

    fn kill_round(&self) -> Result<u32, Refusal> {
        end::round(&self.proof)
    }

    fn reset(&self, request: &ResetRequest) -> Result<ResetReport, Refusal> {
        self.restore(*request)
    }

    fn full(&self) -> Option<String> {
        places::full(&self.state.lock().floors)
    }

    fn oom_kills(&self) -> u64 {
        cgroup::oom_kills().unwrap_or(0)
    }
}

/// Waits until the dead are reaped: each takes a place under the process limit from the next job.
fn require_no_dead() -> Result<(), Refusal> {
    let started = Instant::now();
    loop {
        children::reap_strays();
        match process::zombies() {
            0 => return Ok(()),
            dead if started.elapsed() > REAPED => {
                return Err(Refusal(format!("{dead} dead processes are not reaped")));
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
