//! The one place that writes to stdout: the data of a command.
//!
//! A reader that has gone (`| head`) is no error.

use std::io::{self, Write};

use serde::Serialize;

use super::{Outcome, Stopped};

/// Prints `text` and a newline, if it has none.
pub(super) fn text(text: &str) -> Result<Outcome, Stopped> {
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}{newline}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Stopped::failed(format!("stdout cannot be written: {error}")))
        }
        _ => Ok(Outcome::Success),
    }
}

/// Prints `value` as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<Outcome, Stopped> {
    match serde_json::to_string_pretty(value) {
        Ok(json) => text(&json),
        Err(error) => {
            Err(Stopped::failed(format!("the answer cannot be written as JSON: {error}")))
        }
    }
}

/// Prints rows as a table without lines, so that it can be cut with the usual tools.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> Result<Outcome, Stopped> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header).add_rows(rows);
    text(&table.trim_fmt())
}

/// Tells the person who waits something that is no data, on stderr.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
