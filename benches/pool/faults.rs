//! What faults cost: containers that are killed, starts that fail, an end in the middle of calls, an
//! engine that goes away and comes back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use mcp_codex_orchestrator::container::{ArmedContainer, Starter};
use mcp_codex_orchestrator::engine::ContainerId;
use mcp_codex_orchestrator::failure::ErrorKind;
use mcp_codex_orchestrator::pool::AcquireError;
use mcp_codex_orchestrator::pool::source::{Pooled, Source, StartError};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::docker::Failed;
use super::figures::ms;
use super::ground::{self, Ground, fixed, give_back, no_op, until, workspace};
use super::sheet::Sheet;

/// A container is removed behind the pool's back while it is idle or leased; the next call comes at
/// once.
pub(crate) async fn stale(ground: &Ground, sheet: &mut Sheet, rounds: usize) -> Result<(), Failed> {
    let pool = ground.pool(fixed(2));
    let (mut next, mut again, mut bad) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        until(&pool, |status| status.idle == 2).await?;
        // The youngest that served this workspace is what the next call would get.
        let mut lease = pool.acquire(workspace(1)).await?;
        let id = lease.container().id().clone();
        give_back(lease).await?;
        until(&pool, |status| status.idle == 2).await?;
        ground.engine.remove(&id).await?;
        let began = Instant::now();
        let mut lease = pool.acquire(workspace(1)).await?;
        match no_op(&mut lease).await {
            Ok(()) => next.push(ms(began.elapsed())),
            Err(_) => bad += 1,
        }
        drop(lease);
        until(&pool, |status| status.idle == 2).await?;
        again.push(ms(began.elapsed()));
    }
    sheet.row("stale idle: next call, checkout and no-op", &next);
    sheet.row("stale idle: removed from outside to as many idle again", &again);
    sheet.limit("stale idle: calls that got the dead container", f64::from(bad), 0.0, "");

    let mut told = Vec::new();
    for _ in 0..rounds {
        let mut lease = pool.acquire(workspace(1)).await?;
        let (id, lost) = (lease.container().id().clone(), lease.container().lost());
        let began = Instant::now();
        ground.engine.remove(&id).await?;
        lost.await;
        told.push(ms(began.elapsed()));
        drop(lease);
        until(&pool, |status| status.idle == 2).await?;
    }
    sheet.row("leased container removed from outside: noticed", &told);
    pool.drain().await;
    Ok(())
}

/// Every third start fails, and the first removal of each fifth.
#[derive(Debug)]
struct Failing {
    inner: Starter,
    starts: AtomicU32,
    removals: AtomicU32,
}

impl Source for Failing {
    type Container = ArmedContainer;

    fn start(&self) -> BoxFuture<'_, Result<ArmedContainer, StartError>> {
        let fails = self.starts.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        Box::pin(async move {
            let started = self.inner.start().await?;
            if fails {
                let id = started.id().clone();
                drop(started);
                let _ = self.inner.remove(&id).await;
                let sentence = String::from("a start was made to fail");
                return Err(StartError { kind: ErrorKind::ContainerLost, sentence });
            }
            Ok(started)
        })
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), String>> {
        let fails = self.removals.fetch_add(1, Ordering::Relaxed) % 5 == 4;
        Box::pin(async move {
            if fails {
                return Err(String::from("a removal was made to fail"));
            }
            self.inner.remove(id).await
        })
    }
}

/// A burst of calls on a pool whose starts and removals fail now and then.
pub(crate) async fn failing(ground: &Ground, sheet: &mut Sheet) -> Result<(), Failed> {
    const CALLS: usize = 20;
    let inner = ground.starter(&ground.engine);
    let source = Failing { inner, starts: AtomicU32::new(0), removals: AtomicU32::new(0) };
    let pool = ground.pool_of(source, fixed(4));
    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let began = Instant::now();
                let mut lease = pool.acquire(workspace(number)).await?;
                no_op(&mut lease).await?;
                // Not given back: each needs a container of its own.
                drop(lease);
                Ok::<_, Failed>(ms(began.elapsed()))
            })
        })
        .collect();
    let (mut took, mut refused) = (Vec::new(), 0);
    for call in calls {
        match call.await? {
            Ok(ms) => took.push(ms),
            Err(_) => refused += 1,
        }
    }
    sheet.row("every third start fails, 20 calls on 4 slots: no-op ended", &took);
    sheet.limit("failing starts: calls without a container", f64::from(refused), 0.0, "");
    pool.drain().await;
    sheet.limit("failing starts: containers left", ground.left().await? as f64, 0.0, "");
    Ok(())
}

/// A drain in the middle of calls.
pub(crate) async fn shutdown(
    ground: &Ground,
    sheet: &mut Sheet,
    rounds: usize,
) -> Result<(), Failed> {
    let (mut took, mut left) = (Vec::new(), 0);
    for round in 0..rounds {
        let pool = ground.pool(fixed(4));
        let callers: Vec<_> = (0..8)
            .map(|number| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    loop {
                        match pool.acquire(workspace(number)).await {
                            Ok(mut lease) => {
                                no_op(&mut lease).await?;
                                give_back(lease).await?;
                            }
                            Err(AcquireError::Closed) => return Ok::<_, Failed>(()),
                            Err(other) => return Err(other.into()),
                        }
                    }
                })
            })
            .collect();
        // Another moment each time: while the first starts are under way, and later.
        tokio::time::sleep(Duration::from_millis(50 + 370 * round as u64)).await;
        let began = Instant::now();
        pool.drain().await;
        took.push(ms(began.elapsed()));
        left = left.max(ground.left().await?);
        for caller in callers {
            caller.await??;
        }
    }
    sheet.row("shutdown in the middle of 8 callers: all gone", &took);
    sheet.limit("shutdown: containers left", left as f64, 0.0, "");
    Ok(())
}

/// A way to the engine that can be cut.
struct Way {
    engine: PathBuf,
    here: PathBuf,
    open: Option<AbortOnDropHandle<()>>,
}

impl Way {
    fn open(&mut self) -> Result<(), Failed> {
        let listener = UnixListener::bind(&self.here)?;
        let engine = self.engine.clone();
        self.open = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let engine = engine.clone();
                connections.spawn(async move {
                    let mut far = UnixStream::connect(engine).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
                while connections.try_join_next().is_some() {}
            }
        })));
        Ok(())
    }

    /// Every connection ends, and nobody answers any more.
    fn cut(&mut self) -> Result<(), Failed> {
        self.open = None;
        Ok(std::fs::remove_file(&self.here)?)
    }
}

/// The engine goes away and comes back.
pub(crate) async fn outage(
    ground: &Ground,
    sheet: &mut Sheet,
    rounds: usize,
) -> Result<(), Failed> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let engine = host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock");
    let here = ground.home.path().join("engine.sock");
    let mut way = Way { engine: Path::new(engine).to_owned(), here, open: None };
    way.open()?;
    let host = format!("unix://{}", way.here.display());
    let engine = ground::engine(|name| (name == "DOCKER_HOST").then(|| host.clone()))?;
    let pool = ground.pool_of(ground.starter(&Arc::clone(&engine)), fixed(2));
    let (mut noticed, mut told, mut called) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        until(&pool, |status| status.idle == 2).await?;
        way.cut()?;
        noticed.push(ms(until(&pool, |status| status.idle == 0).await?));
        let began = Instant::now();
        let answer = pool.acquire(workspace(1)).await;
        let real = matches!(&answer, Err(AcquireError::Start(error))
            if error.kind == ErrorKind::EngineUnavailable);
        if !real {
            return Err("a call without an engine was not told the reason".into());
        }
        told.push(ms(began.elapsed()));
        way.open()?;
        let began = Instant::now();
        let mut lease = pool.acquire(workspace(1)).await?;
        no_op(&mut lease).await?;
        called.push(ms(began.elapsed()));
        drop(lease);
    }
    sheet.row("engine away: idle containers given up", &noticed);
    sheet.row("engine away: a call is told", &told);
    sheet.row("engine back: the next call's no-op ended", &called);
    pool.drain().await;
    Ok(())
}
