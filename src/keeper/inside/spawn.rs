//! Runs a program and streams what it says.
//!
//! ```text
//!  started ── output of both pipes ──> exited ── pipes at their end ──────────────> reported
//!                                         └── a left-behind process holds one open,
//!                                             DRAIN of waiting ──────────────────────^
//! ```
//!
//! Back-pressure is bounded and nothing of the program's output is dropped: while the host does
//! not read, the window of this one stream fills (256 KiB), then the program's pipe, then the
//! program waits. Heartbeats and other streams have windows of their own. What a left-behind
//! process writes after the program's end is passed on for [`DRAIN`] and dropped afterwards.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::children::Own;
use super::serve::end_all;
use super::{Doing, Inside, Refusal};
use crate::keeper::frame::{FrameReader, FrameWriter, Kind, MAX_DATA};
use crate::keeper::mux::Stream;
use crate::keeper::wire::ExitReport;

/// How long output is awaited after the program's end while a pipe is still open.
const DRAIN: Duration = Duration::from_millis(200);

/// Bytes at most that are passed on after the program's end.
const DRAIN_BYTES: u64 = 4 << 20;

/// Between two looks at how full the writable places are.
const SAMPLE: Duration = Duration::from_secs(1);

/// Bytes of stdin at most that wait for a program that does not read them.
const STDIN_BYTES: usize = 16 << 20;

/// Starts a command with its stdio in pipes.
pub(super) fn start(mut command: Command) -> Result<(Child, Option<Own>), Refusal> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let child = command.spawn().doing(format_args!("start {program}"))?;
    let own = child.id().map(Own::new);
    Ok((child, own))
}

/// Runs it to its end and reports.
pub(super) async fn run<I: Inside>(
    inside: &I,
    (mut child, own): (Child, Option<Own>),
    nonce: String,
    mut frames: FrameReader<ReadHalf<Stream>>,
    writer: &mut FrameWriter<WriteHalf<Stream>>,
) -> Option<ExitReport> {
    let kills_before = inside.oom_kills();
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (tell_exit, exited) = watch::channel(false);
    let (feed, stdin_chunks) = mpsc::unbounded_channel();

    let signal = |signal: Signal| {
        if let (Some(pid), false) = (pid, *tell_exit.borrow()) {
            // It may have ended a moment ago; its exit is told either way.
            let _ = kill_process_group(pid, signal);
        }
    };
    let wait = async {
        let status = child.wait().await;
        drop(own);
        tell_exit.send_replace(true);
        status
    };
    let output = stream_output(stdout, stderr, exited.clone(), writer);
    let input = async {
        let mut feed = Some(feed);
        let mut waiting = 0_usize;
        while let Ok(Some(frame)) = frames.next().await {
            match frame.kind {
                Kind::Data if waiting + frame.payload.len() <= STDIN_BYTES => {
                    waiting += frame.payload.len();
                    if let Some(feed) = &feed {
                        // Fails once the program has closed its stdin, which is its right.
                        let _ = feed.send(frame.payload);
                    }
                }
                Kind::End => feed = None,
                Kind::Signal => {
                    let number = frame.payload.as_slice().try_into().map(i32::from_be_bytes);
                    if let Some(named) = number.ok().and_then(Signal::from_named_raw) {
                        signal(named);
                    }
                }
                _ => break,
            }
        }
        // The host gave the program up, or says what it should not.
        signal(Signal::KILL);
        std::future::pending::<()>().await;
    };
    let disk_full = Mutex::new(None);
    let sample = async {
        let mut ticks = tokio::time::interval(SAMPLE);
        loop {
            ticks.tick().await;
            if let Some(place) = inside.full() {
                // Noted first, since the program's end is reported as soon as it is seen.
                *disk_full.lock() = Some(place);
                // What could not be ended shows in `end`.
                let _ = end_all(inside).await;
                return;
            }
        }
    };

    let (status, dropped_bytes) = {
        let finished = async { tokio::join!(wait, output) };
        let feeding = feed_stdin(stdin, stdin_chunks);
        tokio::pin!(finished, input, sample, feeding);
        let (mut fed, mut sampled) = (false, false);
        loop {
            tokio::select! {
                done = &mut finished => break done,
                () = &mut input => {}
                () = &mut feeding, if !fed => fed = true,
                () = &mut sample, if !sampled => sampled = true,
            }
        }
    };
    let (code, ended_by) = outcome(&status.ok()?);
    Some(ExitReport {
        nonce,
        code,
        signal: ended_by,
        out_of_memory: inside.oom_kills() > kills_before,
        disk_full: disk_full.into_inner(),
        dropped_bytes: dropped_bytes?,
    })
}

fn outcome(status: &ExitStatus) -> (Option<i32>, Option<i32>) {
    use std::os::unix::process::ExitStatusExt;
    (status.code(), status.signal())
}

async fn feed_stdin(stdin: Option<ChildStdin>, mut chunks: mpsc::UnboundedReceiver<Vec<u8>>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(chunk) = chunks.recv().await {
        if stdin.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// Passes on what both pipes say until both are at their end, or until [`DRAIN`] after the exit.
/// Gives the bytes that were dropped; `None` if the host stopped listening.
async fn stream_output(
    mut stdout: Option<impl AsyncRead + Unpin>,
    mut stderr: Option<impl AsyncRead + Unpin>,
    mut exited: watch::Receiver<bool>,
    writer: &mut FrameWriter<WriteHalf<Stream>>,
) -> Option<u64> {
    let mut out = vec![0; MAX_DATA];
    let mut err = vec![0; MAX_DATA];
    let mut after_exit = 0_u64;
    let mut left: Option<Duration> = None;
    while stdout.is_some() || stderr.is_some() {
        // Only waiting for the pipes counts, not waiting for the host.
        let waiting = Instant::now();
        let has_exited = *exited.borrow();
        let remaining = if has_exited { Some(*left.get_or_insert(DRAIN)) } else { None };
        let (kind, came) = tokio::select! {
            biased;
            came = read(&mut stdout, &mut out), if stdout.is_some() => (Kind::Data, came),
            came = read(&mut stderr, &mut err), if stderr.is_some() => (Kind::Stderr, came),
            _ = exited.changed(), if !has_exited => continue,
            () = tokio::time::sleep(remaining.unwrap_or(DRAIN)), if has_exited => break,
        };
        if let Some(left) = &mut left {
            *left = left.saturating_sub(waiting.elapsed());
            after_exit += came as u64;
        }
        if came == 0 {
            match kind {
                Kind::Data => stdout = None,
                _ => stderr = None,
            }
            continue;
        }
        let bytes = if kind == Kind::Data { &out[..came] } else { &err[..came] };
        writer.send(kind, bytes).await.ok()?;
        if after_exit > DRAIN_BYTES {
            break;
        }
    }
    Some(0)
}

/// Reads from a pipe; 0 is its end, and an error is no better.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, buf: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buf).await.unwrap_or(0),
        None => 0,
    }
}
