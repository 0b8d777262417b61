//! An engine without containers, for tests of what happens when an engine fails, is slow, or never
//! answers. Every verb can be told how to behave.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{
    ByteStream, ContainerId, ContainerSpec, Engine, EngineError, EngineFacts, Event, Events,
    ImageFacts, Listed,
};

/// Bytes that each direction of a stream holds before a write waits.
const PIPE: usize = 256 * 1024;

/// What an engine is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Engine::facts`]
    Facts,
    /// [`Engine::image`]
    Image,
    /// [`Engine::start`]
    Start,
    /// [`Engine::open`]
    Open,
    /// [`Engine::list`]
    List,
    /// [`Engine::remove`]
    Remove,
    /// [`Engine::events`]
    Events,
}

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    #[default]
    Ok,
    /// With [`EngineError::Failed`].
    Err,
    /// With [`EngineError::Unavailable`].
    Gone,
    /// With [`EngineError::ImageMissing`].
    NoImage,
    /// As it should, after a while.
    Slow(Duration),
    /// Not at all.
    Never,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Containers that were started.
    pub created: usize,
    /// Containers that were removed on request.
    pub removed: usize,
    /// Containers that are there now.
    pub alive: usize,
    /// Streams that were opened.
    pub opened: usize,
}

type Program = dyn Fn(ContainerId, DuplexStream) -> BoxFuture<'static, ()> + Send + Sync;

/// An engine without containers. Clones are the same engine.
#[derive(Clone)]
pub struct FakeEngine {
    shared: Arc<Shared>,
}

struct Shared {
    /// What runs at the far end of a stream.
    program: Box<Program>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    manners: HashMap<Verb, Manner>,
    image: BTreeMap<String, String>,
    containers: BTreeMap<ContainerId, Container>,
    counts: Counts,
    calls: usize,
    watchers: Vec<mpsc::UnboundedSender<Event>>,
}

struct Container {
    listed: Listed,
    programs: Vec<AbortHandle>,
}

impl FakeEngine {
    /// An engine in whose containers `program` is what a stream is opened to: it gets the far end
    /// of the stream, and when it ends so does its container, as init ends with the keeper. A
    /// removal ends it and so closes the stream.
    pub fn new<F>(program: impl Fn(ContainerId, DuplexStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let program =
            Box::new(move |id, stream| -> BoxFuture<'static, ()> { Box::pin(program(id, stream)) });
        FakeEngine { shared: Arc::new(Shared { program, inner: Mutex::default() }) }
    }

    /// An engine whose programs read nothing and say nothing, but stay.
    pub fn silent() -> Self {
        FakeEngine::new(|_, stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
    }

    /// How `verb` behaves from now on. Calls that are under way are not changed.
    pub fn set(&self, verb: Verb, manner: Manner) {
        self.shared.inner.lock().manners.insert(verb, manner);
    }

    /// The labels that [`Engine::image`] tells of every image.
    pub fn set_image_labels(&self, labels: BTreeMap<String, String>) {
        self.shared.inner.lock().image = labels;
    }

    /// Puts a container there that someone else started.
    pub fn insert(&self, listed: Listed) {
        let container = Container { listed: listed.clone(), programs: Vec::new() };
        self.shared.inner.lock().containers.insert(listed.id, container);
    }

    /// Makes a container vanish, as when it is killed from outside: its streams close.
    pub fn kill(&self, id: &ContainerId) {
        self.shared.end(id);
    }

    /// Tells everyone who listens for events.
    pub fn tell(&self, event: Event) {
        let mut inner = self.shared.inner.lock();
        inner.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    /// Ends the connections of those who listen for events.
    pub fn cut_events(&self) {
        self.shared.inner.lock().watchers.clear();
    }

    /// How many listen for events.
    pub fn watchers(&self) -> usize {
        self.shared.inner.lock().watchers.iter().filter(|watcher| !watcher.is_closed()).count()
    }

    /// How often the engine was asked anything.
    pub fn calls(&self) -> usize {
        self.shared.inner.lock().calls
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let inner = self.shared.inner.lock();
        Counts { alive: inner.containers.len(), ..inner.counts }
    }

    /// The containers that are there now.
    pub fn containers(&self) -> Vec<ContainerId> {
        self.shared.inner.lock().containers.keys().cloned().collect()
    }

    /// Behaves as told before the work of a verb.
    async fn behave(&self, verb: Verb) -> Result<(), EngineError> {
        let manner = {
            let mut inner = self.shared.inner.lock();
            inner.calls += 1;
            inner.manners.get(&verb).copied().unwrap_or_default()
        };
        match manner {
            Manner::Ok => Ok(()),
            Manner::Err => Err(EngineError::Failed {
                verb: "do as asked",
                container: None,
                reason: format!("{verb:?} was told to fail"),
            }),
            Manner::Gone => Err(EngineError::Unavailable {
                endpoint: "fake".into(),
                reason: "told so".into(),
                advice: "start it".into(),
            }),
            Manner::NoImage => Err(EngineError::ImageMissing { image: "fake".into() }),
            Manner::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Manner::Never => std::future::pending().await,
        }
    }
}

impl Shared {
    /// Ends a container and what runs in it. Tells whether it was there.
    fn end(&self, id: &ContainerId) -> bool {
        let container = self.inner.lock().containers.remove(id);
        let was_there = container.is_some();
        for program in container.into_iter().flat_map(|container| container.programs) {
            program.abort();
        }
        was_there
    }
}

impl fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeEngine").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Engine for FakeEngine {
    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, EngineError>> {
        Box::pin(async {
            self.behave(Verb::Facts).await?;
            Ok(EngineFacts { name: "fake".into(), ..EngineFacts::default() })
        })
    }

    fn image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageFacts, EngineError>> {
        Box::pin(async move {
            self.behave(Verb::Image).await?;
            let labels = self.shared.inner.lock().image.clone();
            Ok(ImageFacts { id: format!("fake:{name}"), labels })
        })
    }

    fn start<'a>(
        &'a self,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId, EngineError>> {
        Box::pin(async move {
            self.behave(Verb::Start).await?;
            let mut inner = self.shared.inner.lock();
            inner.counts.created += 1;
            let id = ContainerId(format!("{:064x}", inner.counts.created));
            let listed =
                Listed { id: id.clone(), labels: spec.labels.clone(), state: "running".to_owned() };
            inner.containers.insert(id.clone(), Container { listed, programs: Vec::new() });
            Ok(id)
        })
    }

    fn open<'a>(
        &'a self,
        id: &'a ContainerId,
        _argv: &'a [String],
    ) -> BoxFuture<'a, Result<ByteStream, EngineError>> {
        Box::pin(async move {
            self.behave(Verb::Open).await?;
            let (near, far) = tokio::io::duplex(PIPE);
            let mut inner = self.shared.inner.lock();
            let Some(container) = inner.containers.get_mut(id) else {
                return Err(EngineError::Failed {
                    verb: "open a stream",
                    container: Some(id.clone()),
                    reason: "there is no such container".into(),
                });
            };
            let program = (self.shared.program)(id.clone(), far);
            let (shared, ended) = (Arc::clone(&self.shared), id.clone());
            let task = tokio::spawn(async move {
                program.await;
                shared.end(&ended);
            });
            container.programs.push(task.abort_handle());
            inner.counts.opened += 1;
            Ok(Box::new(near) as ByteStream)
        })
    }

    fn list<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, EngineError>> {
        Box::pin(async move {
            self.behave(Verb::List).await?;
            let inner = self.shared.inner.lock();
            let with_label = |listed: &&Listed| listed.labels.contains_key(label);
            Ok(inner
                .containers
                .values()
                .map(|container| &container.listed)
                .filter(with_label)
                .cloned()
                .collect())
        })
    }

    fn events<'a>(
        &'a self,
        _label: &'a str,
        _value: &'a str,
    ) -> BoxFuture<'a, Result<Events, EngineError>> {
        Box::pin(async move {
            self.behave(Verb::Events).await?;
            let (watcher, mut told) = mpsc::unbounded_channel();
            self.shared.inner.lock().watchers.push(watcher);
            Ok(Box::pin(futures::stream::poll_fn(move |context| told.poll_recv(context))) as Events)
        })
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move {
            self.behave(Verb::Remove).await?;
            if self.shared.end(id) {
                self.shared.inner.lock().counts.removed += 1;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::container;

    fn spec() -> ContainerSpec {
        let config = crate::config::load(&Default::default(), |_| None).unwrap().config.container;
        container::spec(
            &config,
            &crate::engine::Network::None,
            &Default::default(),
            "me",
            jiff::Timestamp::UNIX_EPOCH,
        )
    }

    #[tokio::test]
    async fn a_removal_closes_the_stream_and_the_end_of_the_program_ends_its_container() {
        let engine = FakeEngine::new(|_, mut stream| async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.unwrap();
            }
        });
        let id = engine.start(&spec()).await.unwrap();
        let mut stream = engine.open(&id, &[]).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        engine.remove(&id).await.unwrap();
        assert!(stream.read_u8().await.is_err());
        engine.remove(&id).await.unwrap();
        let expected = Counts { created: 1, removed: 1, alive: 0, opened: 1 };
        assert_eq!(engine.counts(), expected);

        let id = engine.start(&spec()).await.unwrap();
        drop(engine.open(&id, &[]).await.unwrap());
        while engine.counts().alive > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_verb_behaves_as_told() {
        let engine = FakeEngine::silent();
        engine.set(Verb::Start, Manner::Err);
        assert!(matches!(engine.start(&spec()).await, Err(EngineError::Failed { .. })));
        engine.set(Verb::Facts, Manner::Gone);
        assert!(matches!(engine.facts().await, Err(EngineError::Unavailable { .. })));
        engine.set(Verb::Image, Manner::Slow(Duration::from_secs(5)));
        let begun = tokio::time::Instant::now();
        engine.image("i").await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        engine.set(Verb::List, Manner::Never);
        let never = tokio::time::timeout(Duration::from_secs(60), engine.list("l")).await;
        assert!(never.is_err());
    }
}
