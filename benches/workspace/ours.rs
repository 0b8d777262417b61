//! The way the server goes: a container of the pool, the keeper's put, the changes of a program in it,
//! the keeper's collect, and the reset.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::container::Starter;
use mcp_codex_orchestrator::engine::ByteStream;
use mcp_codex_orchestrator::keeper::client::ProgramEvent;
use mcp_codex_orchestrator::keeper::wire::{CollectRequest, PutRequest, SpawnRequest};
use mcp_codex_orchestrator::pool::Pool;
use mcp_codex_orchestrator::pool::lease::Lease;
use mcp_codex_orchestrator::pool::source::Pooled;
use mcp_codex_orchestrator::verdict::JobEnd;
use mcp_codex_orchestrator::workspace::Snapshot;
use mcp_codex_orchestrator::workspace::git::HistoryRules;
use mcp_codex_orchestrator::workspace::held::Held;
use mcp_codex_orchestrator::workspace::receive::{ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::send::{Base, SendRules, send, send_on};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::SyncIoBridge;

use super::docker::Failed;
use super::ground::{Ground, fixed, until};
use super::tree::Tree;

/// Writes one more line into each file whose path comes in.
pub(crate) const CHANGE: &str = "while read -r file; do echo changed >> \"/app/$file\"; done";

/// More than any tree here has.
const LIMITS: (u64, u64) = (300_000, 3 << 30);

/// A pool of one container, and a place for what comes back.
pub(crate) struct Ours<'a> {
    ground: &'a Ground,
    pool: Pool<Starter>,
    archive: PathBuf,
}

impl<'a> Ours<'a> {
    pub(crate) async fn start(ground: &'a Ground) -> Result<Self, Failed> {
        let pool = ground.pool(fixed(1));
        pool.ready(1).await?;
        Ok(Self { ground, pool, archive: ground.home.path().join("changes.tar") })
    }

    /// Removes the container now.
    pub(crate) async fn end(&self) {
        self.pool.drain().await;
    }

    /// The container, once it is idle.
    pub(crate) async fn lease(&self, tree: &Tree) -> Result<Lease<Starter>, Failed> {
        until(&self.pool, |status| status.idle == 1).await?;
        Ok(self.pool.acquire(tree.workspace.key).await?)
    }

    /// Ends what runs, and lets the container be reset; gives how long until it was idle again.
    pub(crate) async fn give_back(&self, mut lease: Lease<Starter>) -> Result<Duration, Failed> {
        lease.container().keeper().end().await?;
        lease.settle(JobEnd::Completed);
        until(&self.pool, |status| status.idle == 1).await
    }

    /// Sends the tree: what differs from what the container holds, or all of it. Gives also how many
    /// files travelled.
    pub(crate) async fn send(
        &self,
        lease: &mut Lease<Starter>,
        tree: &Tree,
    ) -> Result<(Duration, Arc<Snapshot>, u64), Failed> {
        let container = lease.container();
        let began = Instant::now();
        let held = container.held().cloned();
        container.set_held(None);
        let base = held.as_ref().map(|held| held.tree);
        let request = PutRequest { base, ..PutRequest::default() };
        let put = container.keeper().put(request).await?;
        let workspace = tree.workspace.clone();
        let (delta, put) = tokio::task::spawn_blocking(move || {
            let mut bridge = SyncIoBridge::new(put);
            let base = Base { held: held.as_ref(), ..Base::default() };
            let delta = send_on(&workspace, &rules(), base, &mut bridge)?;
            Ok::<_, Failed>((delta, bridge.into_inner()))
        })
        .await??;
        let report = put.finish().await?;
        let took = began.elapsed();
        let (snapshot, key) = (Arc::new(delta.snapshot), tree.workspace.key);
        lease.container().set_held(Some(Held::new(key, report.tree, Arc::clone(&snapshot))));
        Ok((took, snapshot, delta.files))
    }

    /// What the host alone does of it: the same stream, into nothing.
    pub(crate) async fn host_alone(&self, tree: &Tree) -> Result<Duration, Failed> {
        let workspace = tree.workspace.clone();
        let began = Instant::now();
        tokio::task::spawn_blocking(move || send(&workspace, &rules(), std::io::sink())).await??;
        Ok(began.elapsed())
    }

    /// Writes one more line into `paths` in the container, and waits until nothing runs there.
    pub(crate) async fn change(
        &self,
        lease: &mut Lease<Starter>,
        paths: &[&str],
    ) -> Result<(), Failed> {
        let keeper = lease.container().keeper();
        let request = SpawnRequest {
            argv: ["/bin/sh", "-c", CHANGE].map(str::to_owned).to_vec(),
            env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            cwd: "/app".to_owned(),
            files: Vec::new(),
            stdin: paths.iter().flat_map(|path| [path, "\n"]).collect(),
            nonce: "nonce".to_owned(),
        };
        let mut program = keeper.spawn(request).await?;
        loop {
            if let ProgramEvent::Exited(report) = program.next().await? {
                if report.code != Some(0) {
                    return Err(format!("{CHANGE}: {report:?}").into());
                }
                break;
            }
        }
        keeper.end().await?;
        Ok(())
    }

    /// Takes in what was changed; `count` files must come.
    pub(crate) async fn collect(
        &self,
        lease: &mut Lease<Starter>,
        snapshot: &Arc<Snapshot>,
        count: usize,
    ) -> Result<Duration, Failed> {
        let (entries, bytes) = LIMITS;
        let limits = ReceiveLimits::new(entries, bytes);
        let request =
            CollectRequest { max_bytes: bytes, max_entries: entries, ignored: limits.ignored };
        let (archive, snapshot) = (self.archive.clone(), Arc::clone(snapshot));
        let began = Instant::now();
        let collect = lease.container().keeper().collect(request).await?;
        let (received, collect) = tokio::task::spawn_blocking(move || {
            let mut bridge = SyncIoBridge::new(collect);
            let received = receive(&mut bridge, &snapshot, &limits, &archive)?;
            Ok::<_, Failed>((received, bridge.into_inner()))
        })
        .await??;
        let report = collect.finish().await?;
        let took = began.elapsed();
        std::fs::remove_file(&self.archive)?;
        let came = received.entries.len();
        if came != count || report.entries != count as u64 || !received.deleted.is_empty() {
            return Err(format!("{came} changes came, and not {count}: {report:?}").into());
        }
        Ok(took)
    }

    /// So many bytes into a program that throws them away, through a stream of the engine's own.
    pub(crate) async fn raw_in(
        &self,
        lease: &mut Lease<Starter>,
        bytes: u64,
    ) -> Result<Duration, Failed> {
        let read = "dd of=/dev/null bs=256k iflag=count_bytes,fullblock count=";
        let mut stream = self.raw(lease, &format!("echo; {read}{bytes} 2>/dev/null; echo")).await?;
        let block = vec![7; 256 << 10];
        let began = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left)?.min(block.len());
            stream.write_all(&block[..now]).await?;
            left -= now as u64;
        }
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        Ok(began.elapsed())
    }

    /// So many bytes out of one that makes them.
    pub(crate) async fn raw_out(
        &self,
        lease: &mut Lease<Starter>,
        bytes: u64,
    ) -> Result<Duration, Failed> {
        let write = "dd if=/dev/zero bs=256k iflag=count_bytes count=";
        let mut stream =
            self.raw(lease, &format!("echo; read -r _; {write}{bytes} 2>/dev/null")).await?;
        let mut block = vec![0; 256 << 10];
        let began = Instant::now();
        stream.write_all(b"\n").await?;
        stream.flush().await?;
        let mut left = bytes;
        while left > 0 {
            let came = stream.read(&mut block).await?;
            if came == 0 {
                return Err("the raw stream ended early".into());
            }
            left = left.saturating_sub(came as u64);
        }
        Ok(began.elapsed())
    }

    /// A stream of a shell that runs: it has said so with an empty line.
    async fn raw(&self, lease: &mut Lease<Starter>, text: &str) -> Result<ByteStream, Failed> {
        let argv = ["sh", "-c", text].map(str::to_owned);
        let mut stream = self.ground.engine.open(lease.container().id(), &argv).await?;
        stream.read_exact(&mut [0]).await?;
        Ok(stream)
    }
}

/// Everything goes.
pub(crate) fn rules() -> SendRules {
    let (max_files, max_bytes) = LIMITS;
    SendRules {
        exclude: Vec::new(),
        ignored: Ignored::Files,
        max_bytes,
        max_files,
        history: HistoryRules::default(),
    }
}
