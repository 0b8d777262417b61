//! Values that are of the right type but make no sense, alone or together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Config;
use super::codex::wrong_config;
use super::model::wrong_entries;
use super::network::NetworkConfig;
use crate::engine::Network;
use crate::network::rules::Rules;

/// What is wrong: the keys that are involved, each with the rest of a sentence that begins with it.
/// The sentence about a key that the user set is the one to show.
pub(super) struct Wrong(pub(super) Vec<(&'static str, String)>);

const SECOND: Duration = Duration::from_secs(1);
const TENTH: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The first thing that is wrong, if anything is.
pub(super) fn first_wrong(config: &Config) -> Option<Wrong> {
    let Config { pool, container, workspace, run, codex, model, network, runs, server, repo: _ } =
        config;
    let checks = [
        within("pool.max_size", &pool.max_size, 1..=256),
        ordered(("pool.min_idle", &pool.min_idle), ("pool.max_size", &pool.max_size)),
        within("pool.acquire_timeout", &Shown(pool.acquire_timeout), span(SECOND, WEEK)),
        within("pool.max_queue", &pool.max_queue, 0..=10_000),
        within("pool.idle_ttl", &Shown(pool.idle_ttl), span(MINUTE, WEEK)),
        within("pool.max_uses", &pool.max_uses, 1..=u32::MAX),
        within("pool.max_age", &Shown(pool.max_age), span(MINUTE, CENTURY)),
        within("pool.refill_concurrency", &pool.refill_concurrency, 1..=16),
        not_blank("container.image", &container.image),
        at_least("container.memory", container.memory, 256 * MIB),
        (!container.cpus.is_finite() || !(0.0..=4096.0).contains(&container.cpus)).then(|| {
            wrong("container.cpus", format!("must be from 0 to 4096, but is {}", container.cpus))
        }),
        within("container.pids", &container.pids, 64..=100_000),
        within("container.start_timeout", &Shown(container.start_timeout), span(SECOND, HOUR)),
        within("container.heartbeat", &Shown(container.heartbeat), span(TENTH, 7 * SECOND)),
        at_least("workspace.max_bytes", workspace.max_bytes, MIB),
        at_least("workspace.disk_budget", workspace.disk_budget, MIB),
        within("workspace.max_files", &workspace.max_files, 1..=u64::MAX),
        within("workspace.lock_timeout", &Shown(workspace.lock_timeout), span(TENTH, HOUR)),
        whole_seconds("run.min_timeout", run.min_timeout),
        whole_seconds("run.max_timeout", run.max_timeout),
        within("run.max_timeout", &Shown(run.max_timeout), span(SECOND, WEEK)),
        ordered(
            ("run.min_timeout", &Shown(run.min_timeout)),
            ("run.max_timeout", &Shown(run.max_timeout)),
        ),
        ordered(("run.timeout", &Shown(run.timeout)), ("run.max_timeout", &Shown(run.max_timeout))),
        ordered(("run.min_timeout", &Shown(run.min_timeout)), ("run.timeout", &Shown(run.timeout))),
        within("run.end_timeout", &Shown(run.end_timeout), span(TENTH, MINUTE)),
        within("run.transfer_timeout", &Shown(run.transfer_timeout), span(SECOND, WEEK)),
        size_within("run.output_limit", run.output_limit, KIB..=MIB),
        wrong_config(&codex.config).map(|problem| wrong("codex.config", problem)),
        within("codex.approval_timeout", &Shown(codex.approval_timeout), span(SECOND, WEEK)),
        base_url(&model.base_url),
        wrong_entries(&model.headers, true).map(|problem| wrong("model.headers", problem)),
        wrong_entries(&model.query, false).map(|problem| wrong("model.query", problem)),
        size_within("model.request_limit", model.request_limit, 64 * KIB..=512 * MIB),
        within("model.max_concurrent", &model.max_concurrent, 1..=1000),
        within("model.max_per_minute", &model.max_per_minute, 1..=100_000),
        within("model.response_timeout", &Shown(model.response_timeout), span(SECOND, HOUR)),
        within("model.idle_timeout", &Shown(model.idle_timeout), span(SECOND, HOUR)),
        network_mode(&network.mode),
        Rules::parse(&network.allow_hosts)
            .err()
            .map(|error| wrong("network.allow_hosts", error.to_string())),
        allow_hosts_without_effect(network),
        within("runs.keep", &runs.keep, 1..=usize::MAX),
        within("runs.keep_for", &Shown(runs.keep_for), span(HOUR, CENTURY)),
        at_least("runs.max_bytes", runs.max_bytes, MIB),
        size_within("runs.log_limit", runs.log_limit, 4 * KIB..=GIB),
        tracing_subscriber::EnvFilter::try_new(&server.log).err().map(|_| {
            let problem = format!("must be a filter such as \"info\", but is {:?}", server.log);
            wrong("server.log", problem)
        }),
        within("server.shutdown_grace", &Shown(server.shutdown_grace), span(TENTH, MINUTE)),
    ];
    checks.into_iter().flatten().next()
}

/// A duration as the file writes it.
#[derive(PartialEq, PartialOrd)]
struct Shown(Duration);

impl Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

fn span(least: Duration, most: Duration) -> RangeInclusive<Shown> {
    Shown(least)..=Shown(most)
}

fn wrong(key: &'static str, problem: String) -> Wrong {
    Wrong(vec![(key, problem)])
}

fn within<T: PartialOrd + Display>(
    key: &'static str,
    value: &T,
    range: RangeInclusive<T>,
) -> Option<Wrong> {
    (!range.contains(value)).then(|| {
        wrong(key, format!("must be from {} to {}, but is {value}", range.start(), range.end()))
    })
}

fn size_within(key: &'static str, value: u64, range: RangeInclusive<u64>) -> Option<Wrong> {
    let size = |bytes| bytesize::ByteSize::b(bytes).display().iec();
    (!range.contains(&value)).then(|| {
        wrong(
            key,
            format!(
                "must be from {} to {}, but is {}",
                size(*range.start()),
                size(*range.end()),
                size(value)
            ),
        )
    })
}

fn at_least(key: &'static str, value: u64, least: u64) -> Option<Wrong> {
    let size = |bytes| bytesize::ByteSize::b(bytes).display().iec();
    (value < least)
        .then(|| wrong(key, format!("must be at least {}, but is {}", size(least), size(value))))
}

/// The first must not be over the second.
fn ordered<T: PartialOrd + Display>(
    (low_key, low): (&'static str, &T),
    (high_key, high): (&'static str, &T),
) -> Option<Wrong> {
    (low > high).then(|| {
        Wrong(vec![
            (low_key, format!("is {low}, over {high_key}, which is {high}")),
            (high_key, format!("is {high}, under {low_key}, which is {low}")),
        ])
    })
}

fn whole_seconds(key: &'static str, value: Duration) -> Option<Wrong> {
    (value < SECOND || value.subsec_nanos() != 0)
        .then(|| wrong(key, format!("must be whole seconds from 1s, but is {}", Shown(value))))
}

fn not_blank(key: &'static str, value: &str) -> Option<Wrong> {
    value.trim().is_empty().then(|| wrong(key, "must not be empty".to_owned()))
}

/// A name of an engine's network has a form; others, such as `container:ID`, mean something else.
fn network_mode(mode: &Network) -> Option<Wrong> {
    let Network::Named(name) = mode else { return None };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(good);
    (!is_name).then(|| {
        let problem = format!(
            "must be \"none\", \"bridge\", \"host\" or the name of one of the engine's networks, \
             but is {name:?}"
        );
        wrong("network.mode", problem)
    })
}

/// Hosts that are named where all can be reached would look like a limit.
fn allow_hosts_without_effect(network: &NetworkConfig) -> Option<Wrong> {
    let confined = network.mode == Network::None || network.allow_hosts.is_empty();
    (!confined).then(|| {
        let both = "network.mode = \"none\"";
        Wrong(vec![
            ("network.allow_hosts", format!("limits nothing without {both}; remove one of them")),
            ("network.mode", format!("makes network.allow_hosts limit nothing; set {both}")),
        ])
    })
}

fn base_url(value: &str) -> Option<Wrong> {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let host = rest.unwrap_or_default().split('/').next().unwrap_or_default();
    // Of none of these is the value shown: it may hold a secret.
    let problem = if value.contains('@') {
        "must not hold a credential; set OPENAI_API_KEY instead"
    } else if value.contains(['?', '#']) {
        "must have no query and no fragment; parameters go into model.query"
    } else if host.is_empty() {
        "must begin with https:// or http:// and a host"
    } else {
        return None;
    };
    Some(wrong("model.base_url", problem.to_owned()))
}
