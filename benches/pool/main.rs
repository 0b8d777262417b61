//! The pool in figures: what a call costs, cold and warm; how soon what was used, lost or wanted is
//! replaced; what faults cost; and that one run after another leaves nothing. The targets of the pool
//! decide the exit code, the other rows are for orientation.
//!
//! `BENCH_ROUNDS` sets the rounds of each row (50), `BENCH_CONTAINERS` the containers of the many calls
//! at once (100, or as many as a quarter of the free memory holds), `BENCH_RUNS` the runs one after
//! another (200), `BENCH_SECONDS` how long the steady state lasts (10). `BENCH_ONLY` names the one part
//! to measure, as it is said while it is measured ("runs"). Everything in the engine is removed at the
//! end, also after a failure or Ctrl-C.

#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../../src/cli/demo/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/docker.rs"]
mod docker;
mod faults;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/figures.rs"]
mod figures;
mod ground;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/place.rs"]
mod place;
mod runs;
mod sheet;
mod sizes;
mod warm;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use docker::{Docker, Failed};
use figures::say;
use ground::Ground;
use sheet::Sheet;

/// What one idle container takes with the engine's programs for it, generously.
const ONE_CONTAINER: usize = 32 << 20;

fn main() -> ExitCode {
    figures::run(whole())
}

/// Measures and, whatever comes of it, clears away.
async fn whole() -> Result<bool, Failed> {
    let ground = Ground::prepare()?;
    let outcome = figures::unless_ended(measure(&ground)).await;
    ground.clear(&runs::owners(&ground)).await?;
    if outcome.is_err() {
        // There is none unless it was interrupted.
        let _ = Docker::find()?.remove_image(runs::STAND_IN).await;
    }
    outcome
}

async fn measure(ground: &Ground) -> Result<bool, Failed> {
    let rounds = setting("BENCH_ROUNDS", 50)?;
    let containers = setting("BENCH_CONTAINERS", (available()? / 4 / ONE_CONTAINER).min(100))?;
    let seconds = setting("BENCH_SECONDS", 10)?;
    let runs = setting("BENCH_RUNS", 200)?;
    say(&format!(
        "{rounds} rounds a row, {containers} containers at once, {seconds} s of steady state, {runs} \
         runs one after another."
    ));
    let few = rounds.div_ceil(5);
    let mut sheet = Sheet::default();
    let only = std::env::var("BENCH_ONLY").ok();
    let part = |name: &str| {
        let wanted = only.as_ref().is_none_or(|only| name.starts_with(only.as_str()));
        if wanted {
            say(&format!("{name} ..."));
        }
        wanted
    };
    if part("cold start") {
        warm::cold(ground, &mut sheet, few).await?;
    }
    if part("warm calls") {
        warm::warm(ground, &mut sheet, rounds).await?;
        warm::steady(ground, &mut sheet, Duration::from_secs(seconds as u64)).await?;
        warm::ten_back(ground, &mut sheet, few).await?;
    }
    if part("many calls at once") {
        warm::at_once(ground, &mut sheet, containers, few).await?;
    }
    if part("sizes") {
        sizes::replenish(ground, &mut sheet, few).await?;
        sizes::expiry(ground, &mut sheet).await?;
        sizes::resize(ground, &mut sheet, few).await?;
    }
    if part("faults") {
        faults::stale(ground, &mut sheet, few).await?;
        faults::failing(ground, &mut sheet).await?;
        faults::shutdown(ground, &mut sheet, few.min(5)).await?;
        faults::outage(ground, &mut sheet, few.min(3)).await?;
    }
    if part("runs") {
        runs::growth(ground, &mut sheet, runs).await?;
    }
    Ok(sheet.judge())
}

fn setting(name: &str, usual: usize) -> Result<usize, Failed> {
    Ok(match std::env::var(name) {
        Ok(value) => value.parse().map_err(|_| format!("{name} is no number: {value:?}"))?,
        Err(_) => usual,
    })
}

/// Memory that programs may still take, in bytes.
fn available() -> Result<usize, Failed> {
    let facts = fs::read_to_string("/proc/meminfo")?;
    let line = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok());
    Ok(kib.ok_or("no MemAvailable in /proc/meminfo")? * 1024)
}
