//! What the keeper does, done for real.

use std::ffi::CString;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fd::AsFd;
use rustix::time::{ClockId, clock_gettime};

use super::guard::InContainer;
use super::kept::{self, Aside};
use super::manifest::{Manifest, Time};
use super::{
    Doing, Inside, Refusal, attempts, cgroup, children, collect, end, fingerprint, links, places,
    posture, private, process, put, reset, sys, user,
};
use crate::keeper::wire::{
    ArmRequest, Armed, CollectReport, CollectRequest, PutReport, PutRequest, ResetReport,
    ResetRequest, SpawnRequest, WORKSPACE,
};

/// File systems whose inode numbers and ctimes can be relied on, by `statfs`: every write and every
/// first store through a mapping moves the ctime. tmpfs and overlays are not among them.
const RELIABLE: [i64; 3] = [0xEF53, 0x5846_5342, 0x9123_683E]; // ext4, xfs, btrfs

/// A tick of the coarse clock takes at most 10 ms; past this it has been set back.
const SETTLE: Duration = Duration::from_millis(100);

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
    /// Build state for the next tree; only while there is none.
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
    /// What was put, whether its inodes and ctimes count, and the clock before the first program.
    Put { manifest: std::sync::Arc<Manifest>, reliable: bool, clock: Option<Time> },
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

    fn restore(&self, keep_ignored: bool) -> Result<ResetReport, Refusal> {
        self.require_rest()?;
        let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
        let (template, tree, aside) = {
            let mut state = self.state.lock();
            let tree = std::mem::replace(&mut state.tree, Tree::Broken);
            (state.template.clone(), tree, state.aside.take())
        };
        let aside = match tree {
            Tree::Put { manifest, .. } if keep_ignored => kept::set_aside(root.as_fd(), &manifest),
            // Nothing was put since it was set aside.
            Tree::Empty if keep_ignored => aside,
            _ => None,
        };
        let aside = aside.filter(|aside| aside.is_proved(root.as_fd()));
        let name = aside.as_ref().map(Aside::name);
        reset::restore(&template, name)?;
        self.raise_floors()?;
        sys::trim_memory();
        require_no_dead()?;
        let fingerprint = fingerprint::take(self.others()?, name)?;
        let kept = aside.as_ref().map(Aside::report).unwrap_or_default();
        let mut state = self.state.lock();
        state.tree = Tree::Empty;
        state.aside = aside;
        Ok(ResetReport { fingerprint, kept, ..ResetReport::default() })
    }

    /// Notes what a job that begins now must leave free.
    fn raise_floors(&self) -> Result<(), Refusal> {
        let floors = places::floors(&places::list()?);
        self.state.lock().floors = floors;
        Ok(())
    }

    /// Removes what is kept if no tree was put: whatever runs now is no run on the workspace it is
    /// of.
    fn drop_kept(&self) -> Result<(), Refusal> {
        let aside = {
            let mut state = self.state.lock();
            if matches!(state.tree, Tree::Empty) { state.aside.take() } else { None }
        };
        let Some(aside) = aside else { return Ok(()) };
        let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
        aside.remove(root.as_fd()).doing("remove kept build state")
    }
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
        let fingerprint = self.restore(false)?.fingerprint;
        Ok(Armed { posture: posture::read(tried)?, fingerprint, ports: Vec::new() })
    }

    fn put(&self, request: &PutRequest, tar: &mut (dyn Read + Send)) -> Result<PutReport, Refusal> {
        self.require_rest()?;
        if request.base.is_some() {
            return Err(Refusal::new("the workspace holds another tree; reset first"));
        }
        let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
        let kind = rustix::fs::fstatfs(&root).doing("look at the workspace")?.f_type;
        let reliable = RELIABLE.contains(&kind);
        if !matches!(self.state.lock().tree, Tree::Empty) {
            return Err(Refusal::new("the workspace holds a tree already; reset first"));
        }
        let aside = {
            let mut state = self.state.lock();
            state.tree = Tree::Broken;
            state.aside.take()
        };
        self.raise_floors()?;
        let name = aside.as_ref().map(Aside::name);
        let (manifest, report) = user::as_user(|| put::write(root.as_fd(), tar, !reliable, name))?;
        if let Some(aside) = aside {
            aside.bring_back(root.as_fd(), &manifest).doing("bring back kept build state")?;
        }
        let manifest = std::sync::Arc::new(manifest);
        self.state.lock().tree = Tree::Put { manifest, reliable, clock: None };
        let places = self.state.lock().link_places.clone();
        links::make(&places, &request.links)?;
        sys::trim_memory();
        Ok(report)
    }

    fn settle(&self) -> Result<(), Refusal> {
        self.drop_kept()?;
        let newest = match &self.state.lock().tree {
            Tree::Put { manifest, clock: None, .. } => manifest.newest_unhashed(),
            Tree::Broken => {
                return Err(Refusal::new("the workspace was not put whole; reset first"));
            }
            _ => return Ok(()),
        };
        let started = Instant::now();
        while coarse_clock() <= newest && started.elapsed() < SETTLE {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Tree::Put { clock, .. } = &mut self.state.lock().tree {
            *clock = Some(coarse_clock());
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
        self.settle()?;
        let root = places::open(WORKSPACE.as_bytes()).doing("open the workspace")?;
        let (manifest, certified_before) = match &self.state.lock().tree {
            Tree::Put { manifest, reliable, clock } => {
                (std::sync::Arc::clone(manifest), clock.filter(|_| *reliable))
            }
            _ => (std::sync::Arc::default(), None),
        };
        collect::read(root.as_fd(), &manifest, certified_before, request, tar)
    }

    fn others(&self) -> Result<u32, Refusal> {
        Ok(u32::try_from(process::others()?.len()).unwrap_or(u32::MAX))
    }

    fn kill_round(&self) -> Result<u32, Refusal> {
        end::round(&self.proof)
    }

    fn reset(&self, request: &ResetRequest) -> Result<ResetReport, Refusal> {
        self.restore(request.keep_ignored)
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

fn coarse_clock() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}
