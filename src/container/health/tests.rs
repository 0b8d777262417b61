use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::container::ArmedContainer;
use crate::engine::Listed;
use crate::engine::fake::{FakeEngine, Manner, Verb};
use crate::keeper::loopback::harmless;
use crate::pool::Pool;
use crate::pool::choice::WorkspaceKey;
use crate::pool::source::{Pooled, Source, StartError};

fn id(number: usize) -> ContainerId {
    ContainerId(number.to_string())
}

fn event(number: usize, what: Happened) -> Event {
    Event { id: id(number), what }
}

/// Containers with keepers in this process, removed through an engine that counts what it is asked.
#[derive(Debug)]
struct Harmless {
    engine: FakeEngine,
    marks: Arc<Marks>,
    next: Mutex<usize>,
}

impl Source for Harmless {
    type Container = ArmedContainer;

    fn start(&self) -> BoxFuture<'_, Result<ArmedContainer, StartError>> {
        Box::pin(async {
            let number = {
                let mut next = self.next.lock();
                *next += 1;
                *next
            };
            let (keeper, incoming, served) = harmless().await;
            // It ends with its stream.
            drop(served);
            Ok(ArmedContainer::harmless(id(number), keeper, incoming, self.marks.add(&id(number))))
        })
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { self.engine.remove(id).await.map_err(|error| error.to_string()) })
    }
}

#[tokio::test]
async fn a_checkout_skips_what_the_engine_spoke_against_and_asks_nobody() {
    let (engine, marks) = (FakeEngine::silent(), Arc::new(Marks::default()));
    let source =
        Harmless { engine: engine.clone(), marks: Arc::clone(&marks), next: Mutex::default() };
    let mut config = crate::config::load(&Default::default(), |_| None).unwrap().config.pool;
    (config.min_idle, config.max_size) = (5, 5);
    let pool = Pool::start(source, config);
    pool.ready(5).await.unwrap();
    let calls = engine.calls();
    let all = [Happened::Ended, Happened::Paused, Happened::OutOfMemory, Happened::Removed];
    for (number, what) in (1..).zip(all) {
        marks.note(&event(number, what));
    }
    // Nothing else has run since, nor does it during the checkout: it is ready at its first poll.
    let workspace = WorkspaceKey { dev: 1, ino: 1 };
    let mut lease = pool.acquire(workspace).now_or_never().unwrap().unwrap();
    assert_eq!(lease.container().id(), &id(5));
    assert_eq!(lease.miss(), None);
    assert_eq!(engine.calls(), calls);
    // The others are destroyed without anybody who asks for one.
    while pool.status().destroyed.values().sum::<u64>() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(lease);
    pool.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_says_is_noted_also_after_its_connection_was_cut() {
    let engine = FakeEngine::silent();
    let marks = Arc::new(Marks::default());
    let watching = watch(Arc::new(engine.clone()), "me".to_owned(), Arc::clone(&marks));
    let connected = || async {
        while engine.watchers() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (one, two) = (marks.add(&id(1)), marks.add(&id(2)));
    connected().await;
    engine.tell(event(1, Happened::Paused));
    engine.tell(event(1, Happened::Ended));
    engine.tell(event(3, Happened::Ended));
    assert!(sentence(one.told().await).contains("paused"));
    assert_eq!(two.get(), None);
    // Gone for an hour: asked again and again, but not all the time.
    engine.set(Verb::Events, Manner::Gone);
    engine.cut_events();
    let calls = engine.calls();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!((60..200).contains(&(engine.calls() - calls)), "{}", engine.calls() - calls);
    // What happened meanwhile is seen afterwards, and nothing against those that are as they were.
    let (three, four) = (marks.add(&id(3)), marks.add(&id(4)));
    for (number, state) in [(2, "running"), (3, "paused")] {
        let labels = [(label::OWNER.to_owned(), "me".to_owned())].into();
        engine.insert(Listed { id: id(number), labels, state: state.to_owned() });
    }
    engine.set(Verb::Events, Manner::Ok);
    connected().await;
    assert!(sentence(three.told().await).contains("paused"));
    assert!(sentence(four.told().await).contains("removed"));
    assert_eq!(two.get(), None);
    engine.tell(event(2, Happened::OutOfMemory));
    assert!(sentence(two.told().await).contains("memory"));
    // A connection that held is followed by the next one soon, whatever was before it.
    tokio::time::sleep(GOOD).await;
    engine.cut_events();
    let cut = Instant::now();
    connected().await;
    assert!(cut.elapsed() < Duration::from_secs(35), "{:?}", cut.elapsed());
    tokio::time::sleep(GOOD).await;
    engine.cut_events();
    let cut = Instant::now();
    connected().await;
    assert!(cut.elapsed() < 2 * FIRST_BACKOFF, "{:?}", cut.elapsed());
    drop(watching);
    while engine.watchers() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_container_that_is_gone_is_forgotten() {
    let marks = Marks::default();
    drop(marks.add(&id(1)));
    let kept = marks.add(&id(2));
    assert_eq!(marks.0.lock().len(), 1);
    marks.note(&event(1, Happened::Ended));
    assert_eq!(kept.get(), None);
}
