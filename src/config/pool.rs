//! `[pool]`: how many containers wait, and for how long a container is used.

use std::time::Duration;

use serde::Deserialize;

/// The section `[pool]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Idle containers kept ready at all times.
    pub min_idle: usize,
    /// Containers at most: starting, idle, leased and dying ones together.
    pub max_size: usize,
    /// How long a call waits for a container.
    #[serde(deserialize_with = "super::duration")]
    pub acquire_timeout: Duration,
    /// Calls that may wait at once.
    pub max_queue: usize,
    /// How long more idle containers than `min_idle` are kept that nobody uses.
    #[serde(deserialize_with = "super::duration")]
    pub idle_ttl: Duration,
    /// Leases after which a container is destroyed.
    pub max_uses: u32,
    /// Age at which a container is destroyed.
    #[serde(deserialize_with = "super::duration")]
    pub max_age: Duration,
    /// Containers started at the same time.
    pub refill_concurrency: usize,
    /// What happens to a container after a clean run.
    pub recycle: Recycle,
    /// Whether more containers than `min_idle` are kept ready when many calls come.
    pub adaptive: bool,
}

/// What happens to a container after a clean run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recycle {
    /// It is reset, proved clean, and waits for the same workspace again.
    Reset,
    /// It is destroyed: a fresh container for every run.
    Destroy,
}
