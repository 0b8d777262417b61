//! How soon a pool has as many containers as it wants.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::config::{PoolConfig, Recycle};

use super::docker::Failed;
use super::figures::ms;
use super::ground::{Ground, fixed, give_back, until, workspace};
use super::sheet::Sheet;

/// From a checkout to as many idle ones as before.
pub(crate) async fn replenish(
    ground: &Ground,
    sheet: &mut Sheet,
    rounds: usize,
) -> Result<(), Failed> {
    let pool = ground.pool(PoolConfig { max_size: 4, recycle: Recycle::Destroy, ..fixed(2) });
    pool.ready(2).await?;
    let mut took = Vec::new();
    for _ in 0..rounds {
        let lease = pool.acquire(workspace(1)).await?;
        took.push(ms(until(&pool, |status| status.idle == 2).await?));
        give_back(lease).await?;
    }
    sheet.row("replenish lag: checkout to as many idle again", &took);
    pool.drain().await;
    Ok(())
}

/// After a burst, down to the floor; and the age at which a container goes.
pub(crate) async fn expiry(ground: &Ground, sheet: &mut Sheet) -> Result<(), Failed> {
    const TTL: Duration = Duration::from_secs(2);
    let config = PoolConfig { max_size: 4, idle_ttl: TTL, adaptive: true, min_idle: 1, ..fixed(1) };
    let pool = ground.pool(config);
    pool.ready(1).await?;
    let mut leases = Vec::new();
    for number in 0..4 {
        leases.push(pool.acquire(workspace(number)).await?);
    }
    let began = Instant::now();
    futures::future::try_join_all(leases.into_iter().map(give_back)).await?;
    until(&pool, |status| status.idle + status.resetting + status.starting == 1).await?;
    sheet.row("idle expiry: 4 unused (idle_ttl 2 s) to the floor of 1", &[ms(began.elapsed())]);
    pool.drain().await;

    const AGE: Duration = Duration::from_secs(2);
    let pool = ground.pool(PoolConfig { max_age: AGE, ..fixed(1) });
    pool.ready(1).await?;
    until(&pool, |status| status.destroyed.contains_key("too_old")).await?;
    let gone = Instant::now();
    until(&pool, |status| status.idle == 1).await?;
    sheet.row("age: container too old to another one idle", &[ms(gone.elapsed())]);
    pool.drain().await;
    Ok(())
}

/// New settings while the pool runs.
pub(crate) async fn resize(
    ground: &Ground,
    sheet: &mut Sheet,
    rounds: usize,
) -> Result<(), Failed> {
    let pool = ground.pool(fixed(1));
    pool.ready(1).await?;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        pool.change(fixed(4));
        up.push(ms(until(&pool, |status| status.idle == 4).await?));
        pool.change(fixed(1));
        let began = Instant::now();
        until(&pool, |status| status.idle == 1).await?;
        while ground.left().await? > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        down.push(ms(began.elapsed()));
    }
    sheet.row("resize 1 to 4: all idle", &up);
    sheet.row("resize 4 to 1: the others gone from the engine", &down);
    pool.drain().await;
    Ok(())
}
