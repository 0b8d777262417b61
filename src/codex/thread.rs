//! A thread that outlives its container: what Codex writes of it, and what is kept of that.
//!
//! ```text
//!  rollout-…-ID.jsonl in CODEX_HOME ── hostile bytes ──> Copy ──> thread.jsonl of a run's folder
//!                                       line by line      │
//!                                                         └── id, tokens so far
//! ```
//!
//! Codex goes on with a thread if it finds this one file below `sessions`, whatever day its path
//! names. What is in it came out of a container: it is never believed, only bounded, freed of
//! secrets, and put into a container again. Of its contents the host reads two things: that it is of
//! the thread, and the tokens that it has used, which are all that Codex begins to count from.

use std::fmt;
use std::io::{self, Write};

use serde::Deserialize;
use uuid::Uuid;

use super::outcome::Usage;

/// Bytes of a thread at most.
pub const MAX_THREAD: u64 = 64 << 20;

/// Bytes of one line of it at most: the output of a command is in it as the model saw it, and a
/// picture whole.
const MAX_LINE: usize = 16 << 20;

/// Where Codex looks for threads; what is below is a date.
pub const SESSIONS: &str = "/home/codex/.codex/sessions";

/// Names a thread. Only ever in the form that Codex writes, so that it can stand in a path and in
/// an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadId(String);

impl ThreadId {
    /// Reads an id as Codex told it; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Uuid::try_parse(text).ok()?.to_string();
        (id == text).then_some(Self(id))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file in which Codex finds the thread again, and its directory.
    pub fn rollout(&self) -> (String, String) {
        let directory = format!("{SESSIONS}/2000/01/01");
        let file = format!("{directory}/rollout-2000-01-01T00-00-00-{}.jsonl", self.0);
        (directory, file)
    }
}

/// Copies what Codex wrote of a thread. Lines that are none of it go: the last one may be cut, since
/// Codex was killed.
pub struct Copy<W> {
    out: W,
    thread: ThreadId,
    redact: Box<dyn Fn(&str) -> String + Send>,
    line: Vec<u8>,
    /// Taken, and written.
    seen: u64,
    bytes: u64,
    is_begun: bool,
    usage: Usage,
}

impl<W> fmt::Debug for Copy<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copy").field("thread", &self.thread).finish_non_exhaustive()
    }
}

/// A line, as far as it is read.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    payload: serde_json::Value,
}

impl<W: Write> Copy<W> {
    /// Of `thread` to `out`, line by line through `redact`.
    pub fn new(thread: ThreadId, out: W, redact: impl Fn(&str) -> String + Send + 'static) -> Self {
        Self {
            out,
            thread,
            redact: Box::new(redact),
            line: Vec::new(),
            seen: 0,
            bytes: 0,
            is_begun: false,
            usage: Usage::default(),
        }
    }

    /// Takes more of it, in any pieces.
    ///
    /// # Errors
    ///
    /// A clause that says what is wrong with it: too long, of another thread, or not to be written.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.seen += bytes.len() as u64;
        if self.seen > MAX_THREAD {
            return Err(format!("it is over {} MiB", MAX_THREAD >> 20));
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.extend(&rest[..end])?;
            let line = std::mem::take(&mut self.line);
            self.take(&line)?;
            self.line = line;
            self.line.clear();
            rest = &rest[end + 1..];
        }
        self.extend(rest)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.line.len() + bytes.len() > MAX_LINE {
            return Err(format!("a line of it is over {} MiB", MAX_LINE >> 20));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let Ok(line) = std::str::from_utf8(line) else { return Ok(()) };
        let line = (self.redact)(line);
        let Ok(read) = serde_json::from_str::<Line>(&line) else { return Ok(()) };
        if !self.is_begun {
            // The first line says whose it is.
            if read.kind != "session_meta" || read.payload["id"] != self.thread.as_str() {
                return Err("what Codex wrote is of another thread".to_owned());
            }
            self.is_begun = true;
        }
        if read.kind == "event_msg" && read.payload["type"] == "token_count" {
            self.usage = total(&read.payload["info"]["total_token_usage"]).unwrap_or(self.usage);
        }
        self.bytes += line.len() as u64 + 1;
        let written = self.out.write_all(line.as_bytes()).and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|error| unwritten(&error))
    }

    /// Its length in bytes and the tokens that it has used.
    ///
    /// # Errors
    ///
    /// A clause: there was nothing, or it cannot be written.
    pub fn finish(mut self) -> Result<(u64, Usage), String> {
        if !self.is_begun {
            return Err("Codex had written nothing of it".to_owned());
        }
        self.out.flush().map_err(|error| unwritten(&error))?;
        Ok((self.bytes, self.usage))
    }
}

/// The clause for a folder of a run that cannot be written.
pub fn unwritten(error: &io::Error) -> String {
    format!("the run's folder cannot be written ({error})")
}

fn total(value: &serde_json::Value) -> Option<Usage> {
    let total = value.as_object()?;
    let tokens = |name: &str| total.get(name).and_then(serde_json::Value::as_u64);
    Some(Usage {
        input_tokens: tokens("input_tokens")?,
        cached_input_tokens: tokens("cached_input_tokens").unwrap_or_default(),
        output_tokens: tokens("output_tokens")?,
        reasoning_output_tokens: tokens("reasoning_output_tokens").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ID: &str = "01a206e9-25ab-7c10-af1d-54aa4c6b91f5";

    fn rollout() -> String {
        let lines = [
            json!({"type": "session_meta", "payload": {"id": ID}}),
            json!({"type": "event_msg", "payload": {"type": "token_count", "info": {
                "total_token_usage": {"input_tokens": 100, "output_tokens": 7}}}}),
            json!({"type": "response_item", "payload": {"text": "a sk-abcdefgh12345678 b"}}),
            json!({"type": "event_msg", "payload": {"type": "token_count", "info": null}}),
        ];
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn copied(bytes: &[u8], piece: usize) -> Result<(String, u64, Usage), String> {
        let mut out = Vec::new();
        let mut copy = Copy::new(ThreadId::parse(ID).unwrap(), &mut out, crate::model::redact);
        for piece in bytes.chunks(piece) {
            copy.feed(piece)?;
        }
        let (bytes, usage) = copy.finish()?;
        Ok((String::from_utf8(out).unwrap(), bytes, usage))
    }

    #[test]
    fn a_copy_has_every_whole_line_and_no_secret() {
        let mut bytes = rollout().into_bytes();
        bytes.extend_from_slice(b"\xff\xfe\nnonsense\n{\"type\":\"x\"}\n{\"type\":\"event_m");
        for piece in [1, 7, 10_000] {
            let (text, length, usage) = copied(&bytes, piece).unwrap();
            assert_eq!(text, rollout().replace("sk-abcdefgh12345678", "[redacted]"));
            assert_eq!(length, text.len() as u64);
            assert_eq!((usage.input_tokens, usage.output_tokens), (100, 7));
        }
    }

    #[test]
    fn what_is_of_no_use_is_refused() {
        let other = rollout().replace(ID, "01a206e9-25ab-7c10-af1d-54aa4c6b91f6");
        assert!(copied(other.as_bytes(), 100).unwrap_err().contains("another thread"));
        assert!(copied(b"", 100).unwrap_err().contains("nothing"));
        assert!(copied(b"{}\n[]\n", 100).unwrap_err().contains("nothing"));
        let long = vec![b'x'; MAX_LINE + 1];
        assert!(copied(&long, 1 << 20).unwrap_err().contains("a line"));
        let line = format!("{}\n", json!({"type": "x", "payload": "y".repeat(MAX_LINE - 100)}));
        let large = rollout() + &line.repeat(5);
        assert!(copied(large.as_bytes(), 1 << 20).unwrap_err().contains("64 MiB"));
    }

    #[test]
    fn an_id_is_one_that_can_stand_in_a_path() {
        assert!(ThreadId::parse(ID).is_some());
        for wrong in ["", "../x", "01A206E9-25AB-7C10-AF1D-54AA4C6B91F5", "--last", "{01a206e9}"] {
            assert_eq!(ThreadId::parse(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_otherwise(bytes in any::<Vec<u8>>(), piece in 1_usize..50) {
            let _ = copied(&bytes, piece);
            let after = [rollout().into_bytes(), bytes].concat();
            let (text, length, _) = copied(&after, piece).unwrap();
            prop_assert!(text.len() as u64 == length && length >= rollout().len() as u64 - 9);
        }
    }
}
