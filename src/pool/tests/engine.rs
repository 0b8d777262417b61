//! Faults of the engine and of its containers, each crossed with a caller that gives up at every
//! await: the real starter and keeper over an engine without containers, time paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::NetworkConfig;
use crate::container::{Profile, Starter, good_posture, label};
use crate::engine::fake::{FakeEngine, Manner, Verb};
use crate::engine::{Event, Happened, Network};
use crate::keeper::loopback;
use crate::keeper::wire::{self, Posture};
use crate::pool::Pool;
use crate::pool::owner::Owner;
use crate::pool::source::Pooled;
use crate::verdict::JobEnd;

use super::fake::{config, key, polled};

/// Longer than any deadline of a start, a reset or a removal.
const LONG: Duration = Duration::from_secs(300);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// A verb, from the beginning until it is mended.
    Engine(Verb, Manner),
    /// The container does not confine as asked.
    Posture,
    /// The stream is open and nothing goes through it.
    MuteFromBirth,
    Idle(What),
    Leased(What),
    Resetting(What),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The keeper ends, and the container with it.
    Dies,
    /// As it is when it is paused and no event comes.
    Mute,
    /// The engine tells of it and the stream stays open.
    Told(Happened),
    /// The engine goes, with all its containers, and does not answer.
    EngineEnds,
}

const FAULTS: &[Fault] = &[
    Fault::Nothing,
    Fault::Engine(Verb::Image, Manner::Err),
    Fault::Engine(Verb::Start, Manner::Err),
    Fault::Engine(Verb::Start, Manner::Gone),
    Fault::Engine(Verb::Start, Manner::Slow(Duration::from_secs(7))),
    Fault::Engine(Verb::Start, Manner::Never),
    Fault::Engine(Verb::Open, Manner::Err),
    Fault::Engine(Verb::Open, Manner::Never),
    Fault::Engine(Verb::Remove, Manner::Err),
    Fault::Engine(Verb::Remove, Manner::Slow(Duration::from_secs(7))),
    Fault::Engine(Verb::Events, Manner::Gone),
    Fault::Posture,
    Fault::MuteFromBirth,
    Fault::Idle(What::Dies),
    Fault::Idle(What::Mute),
    Fault::Idle(What::Told(Happened::Paused)),
    Fault::Idle(What::EngineEnds),
    Fault::Leased(What::Dies),
    Fault::Leased(What::Mute),
    Fault::Leased(What::Told(Happened::Ended)),
    Fault::Leased(What::EngineEnds),
    Fault::Resetting(What::Dies),
    Fault::Resetting(What::Mute),
    Fault::Resetting(What::Told(Happened::OutOfMemory)),
    Fault::Resetting(What::EngineEnds),
];

/// An engine in whose containers a harmless keeper serves.
struct Ground {
    engine: FakeEngine,
    /// Whether what keepers and host say gets through.
    mute: watch::Sender<bool>,
    confined: Arc<AtomicBool>,
    pool: Pool<Starter>,
}

impl Ground {
    fn new(owner: &Arc<Owner>, fault: Fault) -> Self {
        let mute = watch::Sender::new(fault == Fault::MuteFromBirth);
        let confined = Arc::new(AtomicBool::new(fault != Fault::Posture));
        let engine = FakeEngine::new({
            let (mute, confined) = (mute.clone(), Arc::clone(&confined));
            move |_, stream| {
                let good = confined.load(Ordering::SeqCst);
                let posture = if good { good_posture() } else { Posture::default() };
                through(stream, posture, mute.subscribe())
            }
        });
        engine.set_image_labels(BTreeMap::from([
            (label::PROTOCOL.to_owned(), wire::PROTOCOL.to_string()),
            (label::CODEX.to_owned(), "1".to_owned()),
        ]));
        if let Fault::Engine(verb, manner) = fault {
            engine.set(verb, manner);
        }
        // Keepers of one machine cannot all have the usual ports.
        let network = NetworkConfig { mode: Network::Host, allow_hosts: Vec::new() };
        let profile = Profile { network, ..Profile::harmless() };
        let starter = Starter::new(Arc::new(engine.clone()), profile, Arc::clone(owner));
        let pool = Pool::start(starter, config(1, 2));
        Self { engine, mute, confined, pool }
    }

    fn strike(&self, what: What) {
        match what {
            What::Dies => self.kill_all(),
            What::Mute => drop(self.mute.send_replace(true)),
            What::Told(what) => {
                for id in self.engine.containers() {
                    self.engine.tell(Event { id, what });
                }
            }
            What::EngineEnds => {
                for verb in VERBS {
                    self.engine.set(verb, Manner::Gone);
                }
                self.engine.cut_events();
                self.kill_all();
            }
        }
    }

    fn kill_all(&self) {
        for id in self.engine.containers() {
            self.engine.kill(&id);
        }
    }

    fn mend(&self) {
        for verb in VERBS {
            self.engine.set(verb, Manner::Ok);
        }
        self.confined.store(true, Ordering::SeqCst);
        self.mute.send_replace(false);
    }

    /// One job, with the fault where it belongs. What it gives is the job's own affair.
    async fn job(&self, fault: Fault) {
        if let Fault::Idle(what) = fault {
            let _ = self.pool.ready(1).await;
            self.strike(what);
        }
        let Ok(mut lease) = self.pool.acquire(key(1)).await else { return };
        let keeper = lease.container().keeper();
        if let Fault::Leased(what) = fault {
            self.strike(what);
        }
        // As a run is: bounded by a deadline of its own, and ended by the loss of its container.
        let lost = lease.container().lost();
        let works = async {
            keeper.round_trip().await?;
            keeper.end().await
        };
        let end = tokio::select! {
            worked = timeout(Duration::from_secs(10), works) => match worked {
                Ok(Ok(_)) => JobEnd::Completed,
                Ok(Err(_)) => JobEnd::Lost,
                Err(_) => JobEnd::TimedOut,
            },
            _ = lost => JobEnd::Lost,
        };
        drop(keeper);
        lease.settle(end);
        if let Fault::Resetting(what) = fault {
            self.strike(what);
        }
    }
}

const VERBS: [Verb; 7] =
    [Verb::Facts, Verb::Image, Verb::Start, Verb::Open, Verb::List, Verb::Remove, Verb::Events];

/// A keeper behind a stream that can be muted, as that of a paused container is.
async fn through(stream: DuplexStream, posture: Posture, mute: watch::Receiver<bool>) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let (mut from_host, mut to_host) = tokio::io::split(stream);
    let (mut from_keeper, mut to_keeper) = tokio::io::split(near);
    tokio::select! {
        () = loopback::keep(posture, far) => {}
        () = pass(&mut from_host, &mut to_keeper, mute.clone()) => {}
        () = pass(&mut from_keeper, &mut to_host, mute) => {}
    }
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut mute: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(came @ 1..) = from.read(&mut bytes).await {
        if mute.wait_for(|mute| !mute).await.is_err() || to.write_all(&bytes[..came]).await.is_err()
        {
            return;
        }
    }
}

/// One job under `fault`, given up after `polls`; then the fault is mended and everything must be as
/// if nothing had been. Tells whether the job had come to its end.
async fn crossed(owner: &Arc<Owner>, fault: Fault, polls: usize) -> bool {
    let ground = Ground::new(owner, fault);
    let answered = timeout(LONG, polled(polls, ground.job(fault))).await;
    let ended = answered.unwrap_or_else(|_| panic!("{fault:?}: a caller waits for ever"));
    ground.mend();
    // Every slot can be had at once, so none is lost; a caller whom the fault still reached asks
    // again, as a client does.
    let mut leases = Vec::new();
    for workspace in [2, 3] {
        let again = async {
            loop {
                match ground.pool.acquire(key(workspace)).await {
                    Ok(lease) => return lease,
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
        };
        let lease = timeout(LONG, again).await;
        leases.push(lease.unwrap_or_else(|_| {
            panic!("{fault:?}, {polls} polls: a slot is lost: {:?}", ground.pool.status())
        }));
    }
    assert!(ground.engine.counts().alive <= 2, "{fault:?}, {polls} polls");
    drop(leases);
    let drained = timeout(LONG, ground.pool.drain()).await;
    assert!(drained.is_ok(), "{fault:?}, {polls} polls: {:?}", ground.pool.status());
    let counts = ground.engine.counts();
    assert_eq!(counts.alive, 0, "{fault:?}, {polls} polls: {counts:?}");
    ended.is_some()
}

#[tokio::test(start_paused = true)]
async fn no_fault_and_no_moment_of_giving_up_leaves_anything_or_costs_a_slot() {
    let state = tempfile::tempdir().unwrap();
    let owner = Arc::new(Owner::claim(state.path()).unwrap());
    for &fault in FAULTS {
        let mut polls = 0;
        while !crossed(&owner, fault, polls).await {
            polls += 1;
            assert!(polls < 500, "{fault:?}: the job has no end");
        }
        assert!(polls > 1, "{fault:?}: nothing was awaited");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_container_that_falls_silent_goes_when_its_time_is_over() {
    let state = tempfile::tempdir().unwrap();
    let owner = Arc::new(Owner::claim(state.path()).unwrap());
    let ground = Ground::new(&owner, Fault::Nothing);
    ground.pool.ready(1).await.unwrap();
    // Whatever it has said until now is heard.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(ground.pool.status().destroyed.values().sum::<u64>(), 0);
    ground.strike(What::Mute);
    let began = tokio::time::Instant::now();
    while ground.pool.status().destroyed.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(18), "{:?}", ground.pool.status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    ground.mend();
    ground.pool.drain().await;
}
