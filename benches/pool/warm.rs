//! What a call costs: of a pool with nothing in it, of a warm one, and of many calls at once.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::container::Starter;
use mcp_codex_orchestrator::keeper::wire::PutRequest;
use mcp_codex_orchestrator::pool::Pool;
use tokio::io::AsyncWriteExt;

use super::docker::Failed;
use super::figures::{cpu_time, ms, percentile};
use super::ground::{Ground, fixed, give_back, no_op, program, until, workspace};
use super::sheet::Sheet;

/// A workspace whose every file a program changes.
const CHANGED: usize = 100;

/// Pause of each caller in the steady state.
const THINKS: Duration = Duration::from_millis(30);

/// Nothing is there: from the pool's start to the lease, and on to the end of a no-op program.
pub(crate) async fn cold(ground: &Ground, sheet: &mut Sheet, rounds: usize) -> Result<(), Failed> {
    let (mut leased, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        let pool = ground.pool(fixed(1));
        let mut lease = pool.acquire(workspace(1)).await?;
        leased.push(ms(began.elapsed()));
        no_op(&mut lease).await?;
        ended.push(ms(began.elapsed()));
        drop(lease);
        pool.drain().await;
    }
    sheet.row("cold start: pool started to container leased", &leased);
    sheet.row("cold start: and no-op ended", &ended);
    Ok(())
}

/// One container, one call after the other, and the resets between them.
pub(crate) async fn warm(ground: &Ground, sheet: &mut Sheet, rounds: usize) -> Result<(), Failed> {
    let pool = ground.pool(fixed(1));
    pool.ready(1).await?;
    let (mut checkout, mut whole) = (Vec::new(), Vec::new());
    let (mut after_no_op, mut after_changes) = (Vec::new(), Vec::new());
    for round in 0..rounds + 3 {
        let began = Instant::now();
        let mut lease = pool.acquire(workspace(1)).await?;
        let taken = began.elapsed();
        no_op(&mut lease).await?;
        give_back(lease).await?;
        let all = began.elapsed();
        let reset = until(&pool, |status| status.idle == 1).await?;
        let mut lease = pool.acquire(workspace(1)).await?;
        change(&mut lease).await?;
        lease.container().keeper().end().await?;
        lease.settle(mcp_codex_orchestrator::verdict::JobEnd::Completed);
        let other = until(&pool, |status| status.idle == 1).await?;
        // The first ones warm up.
        if round >= 3 {
            checkout.push(ms(taken));
            whole.push(ms(all));
            after_no_op.push(ms(reset));
            after_changes.push(ms(other));
        }
    }
    pool.drain().await;
    sheet.row("warm: checkout", &checkout);
    sheet.at_most("warm: checkout", &checkout, 50, 1.0);
    sheet.at_most("warm: checkout", &checkout, 99, 5.0);
    sheet.row("warm: checkout, no-op, return", &whole);
    sheet.at_most("warm: checkout, no-op, return", &whole, 50, 10.0);
    sheet.row("reset to idle after a no-op", &after_no_op);
    sheet.at_most("reset to idle after a no-op", &after_no_op, 50, 50.0);
    sheet.row("reset to idle after 100 changed files", &after_changes);
    sheet.at_most("reset to idle after 100 changed files", &after_changes, 50, 50.0);
    Ok(())
}

type Lease = mcp_codex_orchestrator::pool::lease::Lease<Starter>;

/// Sends [`CHANGED`] files and changes each.
async fn change(lease: &mut Lease) -> Result<(), Failed> {
    let mut tar = tar::Builder::new(Vec::new());
    for index in 0..CHANGED {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(6);
        tar.append_data(&mut header, format!("file-{index}"), &b"before"[..])?;
    }
    let mut put = lease.container().keeper().put(PutRequest::default()).await?;
    put.write_all(&tar.into_inner()?).await?;
    put.finish().await?;
    program(lease, &["/bin/sh", "-c", "for file in file-*; do echo after > $file; done"]).await
}

/// As many calls at once as containers are idle, several times.
pub(crate) async fn at_once(
    ground: &Ground,
    sheet: &mut Sheet,
    containers: usize,
    rounds: usize,
) -> Result<(), Failed> {
    let pool = ground.pool(fixed(containers));
    until(&pool, |status| status.idle >= containers as u64 || status.last_error.is_some()).await?;
    pool.ready(containers).await?;
    let (mut took, mut worst) = (Vec::new(), Vec::new());
    let mut before = cpu_time()?;
    // The first time no container has served yet, which is not how they are in use.
    for round in 0..=rounds {
        let calls: Vec<_> = (0..containers).map(|number| call(pool.clone(), number)).collect();
        let calls: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
        let mut these = Vec::new();
        for call in calls {
            these.push(call.await??);
        }
        until(&pool, |status| status.idle == containers as u64).await?;
        if round == 0 {
            before = cpu_time()?;
        } else {
            worst.push(percentile(&these, 95));
            took.extend(these);
        }
    }
    let cpu = ms(cpu_time()?.saturating_sub(before)) / took.len().max(1) as f64;
    let what = format!("{containers} calls at once on {containers} idle: checkout and no-op");
    sheet.row(&what, &took);
    sheet.row(&format!("{what}, p95 of each round"), &worst);
    sheet.note(&what, format!("{cpu:.3} ms of processor time of this program a call"));
    sheet.at_most(&what, &took, 95, 128.0);
    pool.drain().await;
    Ok(())
}

/// One call; gives how long it took until its program had ended.
async fn call(pool: Pool<Starter>, number: usize) -> Result<f64, Failed> {
    let began = Instant::now();
    let mut lease = pool.acquire(workspace(number)).await?;
    no_op(&mut lease).await?;
    let took = ms(began.elapsed());
    give_back(lease).await?;
    Ok(took)
}

/// Ten leases given back at once.
pub(crate) async fn ten_back(
    ground: &Ground,
    sheet: &mut Sheet,
    rounds: usize,
) -> Result<(), Failed> {
    const TEN: usize = 10;
    let pool = ground.pool(fixed(TEN));
    pool.ready(TEN).await?;
    let mut took = Vec::new();
    for _ in 0..rounds {
        let mut leases = Vec::new();
        for number in 0..TEN {
            let mut lease = pool.acquire(workspace(number)).await?;
            no_op(&mut lease).await?;
            leases.push(lease);
        }
        let began = Instant::now();
        futures::future::try_join_all(leases.into_iter().map(give_back)).await?;
        until(&pool, |status| status.idle == TEN as u64).await?;
        took.push(ms(began.elapsed()));
    }
    sheet.row("10 leases given back at once: all idle", &took);
    sheet.at_most("10 leases given back at once: all idle", &took, 50, 250.0);
    pool.drain().await;
    Ok(())
}

/// Four callers, each with a workspace of its own, for a while.
pub(crate) async fn steady(
    ground: &Ground,
    sheet: &mut Sheet,
    lasts: Duration,
) -> Result<(), Failed> {
    const CALLERS: usize = 4;
    let pool = ground.pool(fixed(CALLERS));
    pool.ready(CALLERS).await?;
    let began = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while began.elapsed() < lasts {
                    took.push(call(pool.clone(), number).await?);
                    tokio::time::sleep(THINKS).await;
                }
                Ok::<_, Failed>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await??);
    }
    let status = pool.status();
    let hits = status.hits as f64 / took.len().max(1) as f64 * 100.0;
    let destroyed: u64 = status.destroyed.values().sum();
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    sheet.row("steady state, 4 callers: checkout and no-op", &took);
    sheet.note("steady state", format!(
        "{rate:.0} calls a second, {hits:.0} % found one waiting, {destroyed} containers destroyed"
    ));
    pool.drain().await;
    Ok(())
}
