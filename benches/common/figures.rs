//! Percentiles, tables, and the frame of a benchmark.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value that `percent` of `values` do not exceed.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Prints a line; a reader that has gone is no error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a table.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(header).add_rows(rows);
    say(&table.to_string());
}

/// One target; whether it lets the benchmark pass. A time is the machine's as much as ours, so one
/// that is over its target is told and fails nothing.
pub(crate) fn gate(what: &str, value: f64, limit: f64, unit: &str) -> bool {
    let (met, is_time) = (value <= limit, unit.trim() == "ms");
    let word = match (met, is_time) {
        (true, _) => "pass",
        (false, true) => "over",
        (false, false) => "FAIL",
    };
    say(&format!("{word}  {what}: {value:.3}{unit}, at most {limit:.3}{unit}"));
    met || is_time
}

/// The most memory that a process (its id, or `self`) ever had resident, in MB of a million bytes.
pub(crate) fn high_water(process: &str) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    let kib = kib.ok_or_else(|| io::Error::other("no VmHWM in /proc"))?;
    Ok(kib * 1024.0 / 1e6)
}

/// Processor time that this program has used, of user and system together.
pub(crate) fn cpu_time() -> io::Result<Duration> {
    // In ticks; the kernel has told a hundred a second to programs for as long as it exists.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<u32> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(TICK * ticks.iter().sum::<u32>())
}

/// What a benchmark comes to: whether its targets are met, or why it cannot be run.
pub(crate) type Outcome = Result<bool, Box<dyn std::error::Error + Send + Sync>>;

/// Runs a benchmark; gives its exit code.
pub(crate) fn run(measure: impl Future<Output = Outcome>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    exit(runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(measure)))
}

/// The exit code of a benchmark; says why one cannot be run.
pub(crate) fn exit(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("the benchmark cannot be run: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures until the user ends it, so that everything can be cleared away all the same.
pub(crate) async fn unless_ended(measure: impl Future<Output = Outcome>) -> Outcome {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        outcome = measure => outcome,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("told to end".into()),
    }
}
