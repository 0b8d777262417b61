//! Finding and removing containers that nobody owns any more.
//!
//! A container that runs ends by itself when its owner dies, because its stream closes. One that
//! was created and not started, that is paused, or that the engine left dead has no keeper to notice.
//! Every living orchestrator looks for those of dead ones, at its start and regularly.
//!
//! A container is removed at its second sighting only. The list of the engine and the answer about
//! an owner are of different moments, and an engine under load lists what it is removing already.
//!
//! Of one's own containers that do not run, those are orphans that were seen while or before nothing
//! was being started: an engine that failed in the middle of a start has them. While something is
//! being started, those that were first seen so long ago. That time is the sweeper's own and no date,
//! since the machine's clock may be set at any moment.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::owner::{self, Alive};
use crate::container::label;
use crate::engine::{ContainerId, Engine, EngineError, Leftover, Listed};

/// So long after its first sighting a container of one's own that does not run counts as forgotten,
/// whatever is being started. Longer than any start may take.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What one look at the engine's list gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Seen before as well: to be removed.
    pub remove: Vec<ContainerId>,
    /// All that were seen this time; what to compare the next list with.
    pub seen: HashSet<ContainerId>,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The label of the orchestrator that asks.
    pub me: &'a str,
    /// When it first saw each of its own containers that do not run; those of this look are not in
    /// it yet.
    pub still_since: &'a HashMap<ContainerId, Instant>,
    /// Whether it is starting one.
    pub starting: bool,
}

impl Asker<'_> {
    /// Whether no start that is under way can have made this container of its own.
    fn has_forgotten(&self, container: &Listed) -> bool {
        is_still(container, self.me)
            && self
                .still_since
                .get(&container.id)
                .is_some_and(|since| !self.starting || since.elapsed() > FORGOTTEN)
    }
}

/// Decides which containers are orphans. `alive` answers for owners other than the asker.
pub fn orphans(
    listed: &[Listed],
    asker: Asker<'_>,
    seen_before: &HashSet<ContainerId>,
    alive: impl Fn(&str) -> Alive,
) -> Sighting {
    let is_orphan = |container: &&Listed| match container.labels.get(label::OWNER) {
        None => false,
        Some(owner) if owner == asker.me => asker.has_forgotten(container),
        Some(owner) => alive(owner) == Alive::No,
    };
    let seen: HashSet<ContainerId> =
        listed.iter().filter(is_orphan).map(|container| container.id.clone()).collect();
    let mut remove: Vec<ContainerId> = seen.intersection(seen_before).cloned().collect();
    remove.sort_unstable();
    Sighting { remove, seen }
}

/// Whether it is the asker's own and does not run, as none does that its pool has.
fn is_still(container: &Listed, me: &str) -> bool {
    container.labels.get(label::OWNER).is_some_and(|owner| owner == me)
        && matches!(container.state.as_str(), "created" | "exited" | "dead")
}

/// Notes when each of its own that does not run was first seen, and forgets all others. Gives how
/// many are new.
fn note_still(since: &mut HashMap<ContainerId, Instant>, listed: &[Listed], me: &str) -> usize {
    let now = Instant::now();
    let before = std::mem::take(since);
    *since = listed
        .iter()
        .filter(|container| is_still(container, me))
        .map(|container| &container.id)
        .map(|id| (id.clone(), before.get(id).copied().unwrap_or(now)))
        .collect();
    since.keys().filter(|id| !before.contains_key(*id)).count()
}

/// Sweeps again and again, remembering what it saw.
#[derive(Debug)]
pub struct Sweeper {
    me: String,
    state_dir: PathBuf,
    seen: HashSet<ContainerId>,
    volumes_seen: HashSet<ContainerId>,
    still_since: HashMap<ContainerId, Instant>,
    volumes_since: HashMap<ContainerId, Instant>,
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Orphans that were removed.
    pub removed: Vec<ContainerId>,
    /// Orphans seen for the first time, and what may prove to be one; a sweep soon after removes them.
    pub waiting: usize,
    /// Orphans that the engine would not remove; tried again by the next sweep.
    pub failed: Vec<(ContainerId, EngineError)>,
}

impl Sweeper {
    /// `me` is the label of the [`Owner`](owner::Owner) whose lock file is in `state_dir`.
    pub fn new(me: impl Into<String>, state_dir: impl Into<PathBuf>) -> Sweeper {
        Sweeper {
            me: me.into(),
            state_dir: state_dir.into(),
            seen: HashSet::new(),
            volumes_seen: HashSet::new(),
            still_since: HashMap::new(),
            volumes_since: HashMap::new(),
        }
    }

    /// Looks once, and removes what was seen the time before too. Also removes the files of dead
    /// owners. `is_starting` tells, after the look, whether a container of one's own is being started.
    /// Cancel safe: what was not removed is removed by the next sweep but one.
    ///
    /// # Errors
    ///
    /// When the engine gives no list. A removal that fails is reported and no error.
    pub async fn sweep_once(
        &mut self,
        engine: &dyn Engine,
        is_starting: &(dyn Fn() -> bool + Sync),
    ) -> Result<Swept, EngineError> {
        let listed = engine.list(label::OWNER).await?;
        let owners = self.ask_for(&listed).await;
        let starting = is_starting();
        let asker = Asker { me: &self.me, still_since: &self.still_since, starting };
        let alive = |label: &str| owners.get(label).copied().unwrap_or(Alive::Unknown);
        let sighting = orphans(&listed, asker, &self.seen, alive);
        let new = note_still(&mut self.still_since, &listed, &self.me);
        self.seen = sighting.seen;
        let mut swept =
            Swept { waiting: new + self.seen.len() - sighting.remove.len(), ..Swept::default() };
        for id in sighting.remove {
            match engine.remove(&id).await {
                Ok(()) => {
                    self.seen.remove(&id);
                    tracing::info!(container = %id, "removed a container whose owner is dead");
                    swept.removed.push(id);
                }
                Err(error) => swept.failed.push((id, error)),
            }
        }
        match self.sweep_volumes(engine, starting).await {
            Ok(waiting) => swept.waiting += waiting,
            Err(error) => tracing::debug!(%error, "volumes were not looked for"),
        }
        Ok(swept)
    }

    /// The same for volumes that outlived their container, which only a failing engine leaves: they
    /// count as its dead container. Gives how many were seen for the first time.
    async fn sweep_volumes(
        &mut self,
        engine: &dyn Engine,
        starting: bool,
    ) -> Result<usize, EngineError> {
        let left = engine.leftovers(label::OWNER).await?.into_iter();
        let listed: Vec<Listed> = left
            .map(|Leftover { name, labels }| Listed {
                id: ContainerId(name),
                labels,
                state: "dead".to_owned(),
            })
            .collect();
        let owners = self.ask_for(&listed).await;
        let asker = Asker { me: &self.me, still_since: &self.volumes_since, starting };
        let alive = |label: &str| owners.get(label).copied().unwrap_or(Alive::Unknown);
        let sighting = orphans(&listed, asker, &self.volumes_seen, alive);
        let new = note_still(&mut self.volumes_since, &listed, &self.me);
        self.volumes_seen = sighting.seen;
        let waiting = new + self.volumes_seen.len() - sighting.remove.len();
        for volume in sighting.remove {
            match engine.remove_leftover(&volume.0).await {
                Ok(()) => {
                    self.volumes_seen.remove(&volume);
                    tracing::info!(volume = %volume.0, "removed a volume whose container is gone");
                }
                Err(error) => tracing::warn!(%error, "a volume could not be removed"),
            }
        }
        Ok(waiting)
    }

    /// Whether each owner in the list lives. The locks are tried after the list was made, so that
    /// an owner that is found dead cannot have started anything in it since.
    async fn ask_for(&self, listed: &[Listed]) -> HashMap<String, Alive> {
        let labels: HashSet<String> = listed
            .iter()
            .filter_map(|container| container.labels.get(label::OWNER))
            .filter(|owner| **owner != self.me)
            .cloned()
            .collect();
        let state_dir = self.state_dir.clone();
        let asked = tokio::task::spawn_blocking(move || {
            owner::tidy(&state_dir);
            labels
                .into_iter()
                .map(|label| {
                    let alive = owner::alive(&label, &state_dir);
                    (label, alive)
                })
                .collect()
        });
        // No answer means that nobody is known to be dead.
        asked.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::fake::{FakeEngine, Manner, Verb};

    const ME: &str = "me";

    #[derive(Clone, Debug)]
    struct Case {
        owner: Option<&'static str>,
        state: &'static str,
        seen: bool,
        /// How long ago it was seen to be still.
        still: Option<Duration>,
    }

    fn any_case() -> impl Strategy<Value = Case> {
        (
            prop_oneof![
                Just(None),
                Just(Some(ME)),
                Just(Some("living")),
                Just(Some("dead")),
                Just(Some("elsewhere"))
            ],
            proptest::sample::select(vec!["created", "running", "paused", "exited", "dead"]),
            any::<bool>(),
            proptest::sample::select(vec![
                None,
                Some(Duration::ZERO),
                Some(FORGOTTEN + Duration::from_secs(1)),
            ]),
        )
            .prop_map(|(owner, state, seen, still)| Case { owner, state, seen, still })
    }

    fn judge(owner: &str) -> Alive {
        match owner {
            "living" => Alive::Yes,
            "dead" => Alive::No,
            _ => Alive::Unknown,
        }
    }

    fn listed(id: &str, owner: Option<&str>, state: &str) -> Listed {
        started(id, owner, state, jiff::Timestamp::now())
    }

    fn started(id: &str, owner: Option<&str>, state: &str, started: jiff::Timestamp) -> Listed {
        let mut labels = std::collections::BTreeMap::new();
        labels.insert(label::STARTED.to_owned(), started.to_string());
        if let Some(owner) = owner {
            labels.insert(label::OWNER.to_owned(), owner.to_owned());
        }
        Listed { id: ContainerId(id.to_owned()), labels, state: state.to_owned() }
    }

    fn sighted(
        listed: &[Listed],
        since: impl Fn(&ContainerId) -> Option<Duration>,
    ) -> HashMap<ContainerId, Instant> {
        let now = Instant::now();
        let ids = listed.iter().map(|one| one.id.clone());
        ids.filter_map(|id| Some((id.clone(), now - since(&id)?))).collect()
    }

    proptest! {
        #[test]
        fn only_what_was_seen_twice_and_nobody_owns_is_removed(
            cases in proptest::collection::vec(any_case(), 0..30)
        ) {
            let all: Vec<Listed> = cases
                .iter()
                .enumerate()
                .map(|(index, case)| listed(&index.to_string(), case.owner, case.state))
                .collect();
            let of = |id: &ContainerId| &cases[id.0.parse::<usize>().unwrap()];
            let seen_before = all
                .iter()
                .map(|container| container.id.clone())
                .filter(|id| of(id).seen)
                .collect();
            let still_since = sighted(&all, |id| of(id).still);
            for starting in [false, true] {
                let asker = Asker { me: ME, still_since: &still_since, starting };
                let sighting = orphans(&all, asker, &seen_before, judge);
                for container in &all {
                    let case = of(&container.id);
                    let forgotten = case.owner == Some(ME)
                        && case.still.is_some_and(|still| !starting || still > FORGOTTEN)
                        && matches!(case.state, "created" | "exited" | "dead");
                    let orphan = case.owner == Some("dead") || forgotten;
                    prop_assert_eq!(sighting.seen.contains(&container.id), orphan);
                    prop_assert_eq!(sighting.remove.contains(&container.id), orphan && case.seen);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_sweep_removes_at_the_second_look_and_tries_again_what_failed() {
        let state = tempfile::tempdir().unwrap();
        let mine = owner::Owner::claim(state.path()).unwrap();
        let dead = owner::Owner::claim(state.path()).unwrap().label().to_owned();
        let living = owner::Owner::claim(state.path()).unwrap();
        let engine = FakeEngine::silent();
        for (id, owner) in [("a", dead.as_str()), ("b", living.label()), ("c", "of another kind")] {
            engine.insert(listed(id, Some(owner), "created"));
        }
        let mut sweeper = Sweeper::new(mine.label(), state.path());
        let swept = sweeper.sweep_once(&engine, &|| false).await.unwrap();
        assert_eq!((swept.removed.len(), swept.waiting), (0, 1));
        engine.set(Verb::Remove, Manner::Err);
        let swept = sweeper.sweep_once(&engine, &|| false).await.unwrap();
        assert_eq!((swept.removed.len(), swept.failed.len()), (0, 1));
        engine.set(Verb::Remove, Manner::Ok);
        let swept = sweeper.sweep_once(&engine, &|| false).await.unwrap();
        assert_eq!(swept.removed, [ContainerId("a".into())]);
        let swept = sweeper.sweep_once(&engine, &|| false).await.unwrap();
        assert_eq!((swept.removed.len(), swept.waiting), (0, 0));
        assert_eq!(engine.counts().alive, 2);
        engine.set(Verb::List, Manner::Err);
        assert!(sweeper.sweep_once(&engine, &|| false).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_a_day_makes_nothing_that_is_being_created_look_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let mine = owner::Owner::claim(state.path()).unwrap();
        let engine = FakeEngine::silent();
        let day = Duration::from_secs(86_400);
        let now = jiff::Timestamp::now();
        for (id, at) in [("before", now - day), ("after", now + day)] {
            engine.insert(started(id, Some(mine.label()), "created", at));
        }
        let mut sweeper = Sweeper::new(mine.label(), state.path());
        let swept = sweeper.sweep_once(&engine, &|| true).await.unwrap();
        assert_eq!((swept.removed.len(), swept.waiting), (0, 2));
        for _ in 0..3 {
            let swept = sweeper.sweep_once(&engine, &|| true).await.unwrap();
            assert_eq!((swept.removed.len(), swept.waiting), (0, 0));
        }
        tokio::time::advance(FORGOTTEN + Duration::from_secs(1)).await;
        let swept = sweeper.sweep_once(&engine, &|| true).await.unwrap();
        assert_eq!((swept.removed.len(), swept.waiting), (0, 2));
        let swept = sweeper.sweep_once(&engine, &|| true).await.unwrap();
        assert_eq!(swept.removed.len(), 2);
    }

    #[tokio::test]
    async fn what_an_engine_lost_in_the_middle_of_a_start_is_found_once_nothing_is_started() {
        let state = tempfile::tempdir().unwrap();
        let mine = owner::Owner::claim(state.path()).unwrap();
        let engine = FakeEngine::silent();
        engine.insert(listed("half", Some(mine.label()), "created"));
        engine.insert(listed("whole", Some(mine.label()), "running"));
        let mut sweeper = Sweeper::new(mine.label(), state.path());
        // Nothing is being started now, but when the list was made this may have been.
        let swept = sweeper.sweep_once(&engine, &|| false).await.unwrap();
        assert_eq!((swept.removed.len(), swept.waiting), (0, 1));
        let swept = sweeper.sweep_once(&engine, &|| true).await.unwrap();
        assert_eq!((swept.removed.len(), swept.waiting), (0, 0));
        let swept = sweeper.sweep_once(&engine, &|| false).await.unwrap();
        assert_eq!((swept.removed.len(), swept.waiting), (0, 1));
        let swept = sweeper.sweep_once(&engine, &|| false).await.unwrap();
        assert_eq!(swept.removed, [ContainerId("half".into())]);
        assert_eq!(engine.counts().alive, 1);
    }
}
