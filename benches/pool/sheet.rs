//! The table, the notes and the gates, which are printed at the end.

use super::figures::{gate, percentile, say, table};

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
    gates: Vec<(String, f64, f64, &'static str)>,
}

impl Sheet {
    /// A row of the table; milliseconds.
    pub(crate) fn row(&mut self, what: &str, values: &[f64]) {
        let at = |percent| format!("{:.3}", percentile(values, percent));
        self.rows.push(vec![
            what.into(),
            values.len().to_string(),
            at(50),
            at(95),
            at(99),
            at(100),
        ]);
    }

    /// A target, in milliseconds.
    pub(crate) fn at_most(&mut self, what: &str, values: &[f64], percent: usize, limit: f64) {
        let what = format!("{what} p{percent}");
        self.gates.push((what, percentile(values, percent), limit, " ms"));
    }

    /// A target of another kind.
    pub(crate) fn limit(&mut self, what: &str, value: f64, limit: f64, unit: &'static str) {
        self.gates.push((what.to_owned(), value, limit, unit));
    }

    /// A sentence below the table.
    pub(crate) fn note(&mut self, what: &str, text: String) {
        self.notes.push(format!("{what}: {text}"));
    }

    /// Prints all of it; whether every target was met.
    pub(crate) fn judge(&self) -> bool {
        say("\nMilliseconds");
        table(&["what", "times", "p50", "p95", "p99", "most"], &self.rows);
        say("");
        self.notes.iter().for_each(|note| say(note));
        say("");
        let gates = self.gates.iter();
        let passed: Vec<_> =
            gates.map(|(what, value, limit, unit)| gate(what, *value, *limit, unit)).collect();
        passed.iter().all(|passed| *passed)
    }
}
