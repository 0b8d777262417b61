//! Workspaces in containers ahead of the calls.
//!
//! ```text
//!  a job sent a workspace ──┐
//!  a job changed it ────────┤                     idle container, filled:
//!  files changed (watch) ───┼─> policy ─> fill ─> the next call sends what differs,
//!  the pool changed ────────┘      │              which is nothing as a rule
//!                                  └─ nothing to do: waits for the next of these
//! ```
//!
//! One task decides and sends, one container at a time. It knows the workspaces that were used last
//! in the life of this server, and at first the default one. What it knows of the files may be
//! wrong or late without harm: the call compares again. On a quiet machine nothing happens at all. A
//! workspace that others write is sent when they are done, of which the kernel tells.

mod fill;
mod policy;
mod watch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::container::{ArmedContainer, Starter};
use crate::pool::prepare::{Preparation, View};
use crate::pool::source::Pooled;
use crate::pool::{Pool, QUIET};
use crate::workspace::held::Manifests;
use crate::workspace::{Snapshot, Workspace, WorkspaceKey, lock};

use self::fill::{Fill, Filled};
use self::policy::{Copy, Next, Scene, Tree, next};
use self::watch::{Signs, Watch};
use super::Settings;

/// Workspaces that are kept in mind.
const MOST_TREES: usize = 8;

/// A tree with more files, or more bytes, is in two containers at most, and is not sent before a run
/// has asked for it.
const LARGE: (u64, u64) = (50_000, 512 << 20);

/// So long a workspace must have been left alone before it is sent again.
const SETTLING: Duration = Duration::from_millis(500);

/// Between two rounds of sending a workspace that changes: at least so long, and so many times what
/// the last one took.
const PAUSE: Duration = Duration::from_secs(3);
const PAUSE_TIMES: u32 = 20;

/// The wait after a workspace was found in use, once it is free again, or after a container was lost.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the task what happens. Ends it when dropped.
#[derive(Debug)]
pub(super) struct Warm {
    say: mpsc::UnboundedSender<Said>,
    _task: AbortOnDropHandle<()>,
}

/// What the task works with.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Arc<Mutex<Arc<Settings>>>,
    pub(super) pool: Pool<Starter>,
    pub(super) state_dir: PathBuf,
    pub(super) manifests: Manifests,
    pub(super) ending: CancellationToken,
}

#[derive(Debug)]
enum Said {
    Used {
        key: WorkspaceKey,
        path: PathBuf,
        large: bool,
    },
    Changed(WorkspaceKey),
    /// Nobody writes this workspace any more.
    Free(WorkspaceKey),
}

impl Warm {
    /// Begins with the default workspace. Must be called in a tokio runtime.
    pub(super) fn start(context: Context) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        let filler = Filler {
            context,
            say: say.downgrade(),
            said,
            wake: Arc::new(Notify::new()),
            trees: Vec::new(),
            fresh: HashMap::new(),
            not_before: None,
        };
        let run = AbortOnDropHandle::new(tokio::spawn(filler.run()));
        let watched = async {
            if run.await.is_err_and(|error| error.is_panic()) {
                tracing::error!("idle containers are not filled any more: a defect ended it");
            }
        };
        Self { say, _task: AbortOnDropHandle::new(tokio::spawn(watched)) }
    }

    /// A job has sent this workspace.
    pub(super) fn used(&self, workspace: &Workspace, snapshot: &Snapshot) {
        let (key, path) = (workspace.key, workspace.path.clone());
        // Nobody listens any more: the server ends.
        let _ = self.say.send(Said::Used { key, path, large: is_large(snapshot) });
    }

    /// A job changes this workspace, or has.
    pub(super) fn changed(&self, key: WorkspaceKey) {
        let _ = self.say.send(Said::Changed(key));
    }
}

fn is_large(snapshot: &Snapshot) -> bool {
    snapshot.files > LARGE.0 || snapshot.bytes > LARGE.1
}

/// A workspace that was used.
#[derive(Debug)]
struct Known {
    key: WorkspaceKey,
    path: PathBuf,
    large: bool,
    /// Whether no job has asked for it yet.
    unasked: bool,
    /// Whether it could not be sent; until a job could.
    left_alone: bool,
    /// At which version it was found in use by others. Until they are done, or something changes in it,
    /// it is left to them.
    in_use: Option<u64>,
    /// Whether somebody tells when they are done.
    awaited: bool,
    signs: Arc<Signs>,
    watch: Option<Watch>,
    /// Whether it cannot be watched; until its next job.
    unwatchable: bool,
    /// The last round of sending it.
    round: Option<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    /// What was sent.
    version: u64,
    ended: Instant,
    took: Duration,
}

impl Known {
    fn new(key: WorkspaceKey, path: PathBuf, wake: &Arc<Notify>) -> Self {
        Self {
            key,
            path,
            large: false,
            unasked: false,
            left_alone: false,
            in_use: None,
            awaited: false,
            signs: Arc::new(Signs::new(Arc::clone(wake))),
            watch: None,
            unwatchable: false,
            round: None,
        }
    }

    /// Whether it is not sent for now.
    fn is_left(&self) -> bool {
        self.left_alone || self.in_use.is_some_and(|version| version == self.signs.look().0)
    }

    /// In what time it has been at rest for long enough.
    fn rests_in(&self) -> Duration {
        let (version, last) = self.signs.look();
        let mut from = last + SETTLING;
        if let Some(round) = self.round.filter(|round| round.version != version) {
            from = from.max(round.ended + PAUSE.max(round.took * PAUSE_TIMES));
        }
        from.saturating_duration_since(Instant::now())
    }

    /// Watches what `snapshot` has, or nothing if that cannot be.
    async fn follow(&mut self, snapshot: Arc<Snapshot>) {
        if self.unwatchable {
            return;
        }
        let (path, signs) = (self.path.clone(), Arc::clone(&self.signs));
        let watch = self.watch.take();
        let followed = tokio::task::spawn_blocking(move || {
            let mut watch = match watch {
                Some(watch) => watch,
                None => Watch::new(&path, signs).map_err(|error| error.to_string())?,
            };
            watch.follow(&snapshot).map(|()| watch)
        });
        match followed.await.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(watch) => self.watch = Some(watch),
            Err(reason) => {
                tracing::debug!(workspace = %self.path.display(), %reason, "a workspace is not watched");
                self.unwatchable = true;
            }
        }
    }
}

struct Filler {
    context: Context,
    /// To ourselves, for who waits until a workspace is free.
    say: mpsc::WeakUnboundedSender<Said>,
    said: mpsc::UnboundedReceiver<Said>,
    /// Files of a workspace changed.
    wake: Arc<Notify>,
    /// The one used last first.
    trees: Vec<Known>,
    /// What the containers hold that were filled here: after so many jobs, this version. A job makes
    /// it void.
    fresh: HashMap<String, (u32, u64)>,
    not_before: Option<Instant>,
}

impl Filler {
    async fn run(mut self) {
        let mut pool = self.context.pool.watch();
        let ending = self.context.ending.clone();
        self.begin_with_default().await;
        loop {
            while let Ok(said) = self.said.try_recv() {
                self.note(said);
            }
            let settings = Arc::clone(&self.context.settings.lock());
            let rest = match self.choose(&settings) {
                (Some(preparation), _) => {
                    self.send(preparation, settings).await;
                    continue;
                }
                (None, rest) => rest,
            };
            let rested = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = ending.cancelled() => return,
                said = self.said.recv() => match said {
                    Some(said) => self.note(said),
                    None => return,
                },
                _ = pool.changed() => {}
                () = self.wake.notified() => {}
                () = rested => {}
            }
        }
    }

    /// The default workspace is in the first container before anybody has asked for it.
    async fn begin_with_default(&mut self) {
        let settings = Arc::clone(&self.context.settings.lock());
        if !settings.config.workspace.warm {
            return;
        }
        let found = super::blocking(move || settings.roots.resolve(None, None)).await;
        match found {
            Ok(workspace) => {
                let known = Known::new(workspace.key, workspace.path, &self.wake);
                self.trees.push(Known { unasked: true, ..known });
            }
            Err(failure) => tracing::debug!(%failure, "no default workspace"),
        }
    }

    fn note(&mut self, said: Said) {
        match said {
            Said::Used { key, path, large } => {
                let at = self.trees.iter().position(|tree| tree.key == key);
                let known = match at {
                    Some(at) => self.trees.remove(at),
                    None => Known::new(key, path.clone(), &self.wake),
                };
                let (left_alone, unwatchable) = (false, false);
                let (unasked, in_use) = (false, None);
                let known = Known { path, large, unasked, in_use, ..known };
                self.trees.insert(0, Known { left_alone, unwatchable, ..known });
                self.trees.truncate(MOST_TREES);
            }
            Said::Changed(key) => {
                if let Some(tree) = self.trees.iter().find(|tree| tree.key == key) {
                    tree.signs.changed();
                }
            }
            Said::Free(key) => {
                if let Some(tree) = self.trees.iter_mut().find(|tree| tree.key == key) {
                    (tree.in_use, tree.awaited) = (None, false);
                }
            }
        }
    }

    /// What is to be done now; else how long nothing is.
    fn choose(&mut self, settings: &Settings) -> (Option<Preparation<Starter>>, Option<Duration>) {
        if !settings.config.workspace.warm {
            self.trees.iter_mut().for_each(|tree| tree.watch = None);
            return (None, None);
        }
        let mut rest = None;
        let mut there = Vec::new();
        let pool = self.context.pool.clone();
        let preparation = pool.prepare(|view| {
            there.extend(view.idle.iter().filter_map(|idle| idle.workspace));
            there.extend(&view.engaged);
            match self.next(view) {
                Next::Send(place, key) => Some((place, key)),
                Next::Rest(time) => {
                    rest = time;
                    None
                }
            }
        });
        // Nothing is watched for containers that are gone.
        for tree in self.trees.iter_mut().filter(|tree| !there.contains(&tree.key)) {
            tree.watch = None;
        }
        (preparation, rest)
    }

    fn next(&mut self, view: &View<'_, ArmedContainer>) -> Next {
        let trees = self.trees.iter().map(|tree| Tree {
            key: tree.key,
            large: tree.large,
            left_alone: tree.is_left(),
            rests_in: tree.rests_in(),
        });
        let trees: Vec<_> = trees.collect();
        let mut fresh = HashMap::new();
        let idle = view.idle.iter().map(|idle| {
            let id = &idle.container.id().0;
            let version = self.fresh.get(id).filter(|(uses, _)| *uses == idle.uses);
            if let Some(held) = version {
                fresh.insert(id.clone(), *held);
            }
            let tree = self.trees.iter().find(|tree| Some(tree.key) == idle.workspace);
            Copy {
                workspace: idle.workspace,
                fresh: idle.container.held().is_some()
                    && tree.is_some_and(|tree| {
                        version.map(|held| held.1) == Some(tree.signs.look().0)
                    }),
                cleanable: idle.cleanable,
            }
        });
        let idle: Vec<_> = idle.collect();
        // What is not idle now is void when it comes back.
        self.fresh = fresh;
        let began = view.quiet.map_or(Duration::ZERO, |quiet| QUIET.saturating_sub(quiet));
        let pause = self.not_before.map_or(Duration::ZERO, |not_before| {
            not_before.saturating_duration_since(Instant::now())
        });
        next(&Scene {
            trees: &trees,
            idle: &idle,
            engaged: &view.engaged,
            preparing: view.preparing,
            waiting: view.waiting,
            target: view.target,
            hush: began.max(pause),
        })
    }

    async fn send(&mut self, mut preparation: Preparation<Starter>, settings: Arc<Settings>) {
        let key = preparation.workspace();
        let Some(tree) = self.trees.iter_mut().find(|tree| tree.key == key) else { return };
        let (id, uses) = (preparation.container().id().clone(), preparation.uses());
        let (files, bytes) = if tree.unasked { LARGE } else { (u64::MAX, u64::MAX) };
        // What is brought up to date has its room; what grows over it is seen to afterwards.
        let has_room = preparation.container().held().is_some();
        let room = if has_room { u64::MAX } else { self.context.pool.look(|view| view.room) };
        let bounds = Some((files, bytes.min(room)));
        let fill = Fill {
            settings,
            path: tree.path.clone(),
            bounds,
            state_dir: self.context.state_dir.clone(),
            manifests: self.context.manifests.clone(),
        };
        let (version, began) = (tree.signs.begin(), Instant::now());
        let workspace = Path::display(&fill.path).to_string();
        match fill.run(preparation).await {
            Filled::Done(sent) => {
                let (files, bytes, full) = (sent.files, sent.bytes, sent.full);
                let (id, took) = (id.0, began.elapsed());
                tree.large = is_large(&sent.snapshot);
                tree.round = Some(Round { version, ended: Instant::now(), took });
                tree.follow(sent.snapshot).await;
                tracing::debug!(container = %id, workspace, files, bytes, full, "a container was filled");
                self.fresh.insert(id, (uses, version));
            }
            Filled::GivenUp => tracing::debug!(container = %id, workspace, "filling was given up"),
            Filled::Busy => {
                tracing::debug!(workspace, "the workspace is in use");
                self.not_before = Some(Instant::now() + AGAIN);
                tree.in_use = Some(version);
                if !tree.awaited {
                    let (state_dir, say) = (self.context.state_dir.clone(), self.say.clone());
                    tree.awaited = tell_when_free(key, state_dir, say);
                }
            }
            Filled::Lost(failure) => {
                tracing::debug!(container = %id, %failure, "a container was lost while it was filled");
                self.not_before = Some(Instant::now() + AGAIN);
            }
            Filled::Unfit(failure) => {
                tracing::debug!(workspace, %failure, "a workspace is not sent ahead of the calls");
                tree.left_alone = true;
                tree.watch = None;
            }
        }
    }
}

/// Says when nobody writes the workspace any more. Its own thread waits, since nothing ends the wait
/// before that, and at the end of the server nothing has to. Whether it does: where it cannot, the
/// next change or job tells.
fn tell_when_free(
    key: WorkspaceKey,
    state_dir: PathBuf,
    say: mpsc::WeakUnboundedSender<Said>,
) -> bool {
    let wait = move || match lock::wait_until_free(&state_dir, key) {
        Ok(()) => drop(say.upgrade().map(|say| say.send(Said::Free(key)))),
        Err(error) => tracing::debug!(%error, "a workspace's lock cannot be waited for"),
    };
    std::thread::Builder::new().name("workspace-lock".to_owned()).spawn(wait).is_ok()
}
