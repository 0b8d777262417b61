//! The tokens that a provider tells at the end of an answer, read from the stream of events as it
//! passes. Nothing of the stream is kept: the state is a few words, whatever the events hold.
//!
//! Of each event the numbers under `response.usage` are read, at exactly that place in its JSON, so
//! that no text of the model and nothing that the container had echoed counts as one.

/// The keys that lead to the numbers.
const PATH: [&[u8]; 2] = [b"response", b"usage"];
/// The longest key that is told apart.
const KEY: usize = 16;

/// Reads a stream of events piece by piece.
#[derive(Debug, Default)]
pub(super) struct UsageReader {
    line: Line,
    json: Json,
    /// What was told last, or more than once the most.
    told: Option<u64>,
    /// Events that had data.
    events: u64,
}

/// Where in a line of the stream the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data:` have been seen.
    Name(usize),
    /// In the value after `data:`.
    Data,
    /// In a line of another name.
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Name(0)
    }
}

const DATA: &[u8] = b"data:";

/// As much of the state of a JSON reader as leads to one place.
#[derive(Debug, Default)]
struct Json {
    in_string: bool,
    escaped: bool,
    /// The beginning of the last string, and its length.
    text: [u8; KEY],
    len: usize,
    depth: usize,
    /// How many keys of [`PATH`] the open objects stand under.
    matched: usize,
    /// The key whose value comes next is the next one of [`PATH`].
    armed: bool,
    /// The number that comes next is of interest, and so far this.
    number: Option<(Field, u64)>,
    input: u64,
    output: u64,
    total: u64,
    any: bool,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Input,
    Output,
    Total,
}

impl UsageReader {
    /// Reads the next piece.
    pub(super) fn read(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            match (self.line, byte) {
                (Line::Name(0), b'\n') => {
                    self.end_event();
                    rest = after;
                }
                (Line::Name(0), b'\r') => rest = after,
                (_, b'\n') => {
                    self.line = Line::Name(0);
                    rest = after;
                }
                (Line::Name(at), _) => {
                    self.line = match DATA.get(at) {
                        Some(wanted) if *wanted == byte && at + 1 == DATA.len() => {
                            self.events += 1;
                            Line::Data
                        }
                        Some(wanted) if *wanted == byte => Line::Name(at + 1),
                        _ => Line::Other,
                    };
                    rest = after;
                }
                (Line::Data | Line::Other, _) => {
                    let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                    let (text, after) = rest.split_at(end);
                    if self.line == Line::Data {
                        self.json.read(text);
                    }
                    rest = after;
                }
            }
        }
    }

    /// The tokens that were told, if any were.
    pub(super) fn tokens(&self) -> Option<u64> {
        self.told.max(self.json.tokens())
    }

    /// Events so far, each of about one token or more.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    fn end_event(&mut self) {
        self.told = self.tokens();
        self.json = Json::default();
    }
}

impl Json {
    fn tokens(&self) -> Option<u64> {
        self.any.then(|| self.total.max(self.input.saturating_add(self.output)))
    }

    fn read(&mut self, mut text: &[u8]) {
        while let Some((&byte, after)) = text.split_first() {
            if self.in_string && !self.escaped {
                // Nearly all of an answer is the inside of strings.
                let end = text.iter().position(|b| matches!(b, b'"' | b'\\')).unwrap_or(text.len());
                let (inside, rest) = text.split_at(end);
                self.keep(inside);
                match rest.split_first() {
                    Some((b'"', rest)) => {
                        self.in_string = false;
                        text = rest;
                    }
                    Some((_, rest)) => {
                        self.escaped = true;
                        text = rest;
                    }
                    None => text = rest,
                }
                continue;
            }
            text = after;
            if self.escaped {
                self.escaped = false;
                // No key of interest has an escape; this makes it another one.
                self.keep(b"\\");
                continue;
            }
            self.structure(byte);
        }
    }

    fn keep(&mut self, inside: &[u8]) {
        for (to, from) in self.text.iter_mut().skip(self.len).zip(inside) {
            *to = *from;
        }
        self.len = self.len.saturating_add(inside.len());
    }

    fn key(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }

    fn structure(&mut self, byte: u8) {
        if let (Some((field, so_far)), b'0'..=b'9') = (&self.number, byte) {
            let digit = u64::from(byte - b'0');
            self.number = Some((*field, so_far.saturating_mul(10).saturating_add(digit)));
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.len = 0;
                self.number = None;
            }
            b':' => {
                let here = self.depth == self.matched + 1;
                self.armed = here && PATH.get(self.matched).is_some_and(|key| *key == self.key());
                self.number = match self.key() {
                    _ if !here || self.matched != PATH.len() => None,
                    b"input_tokens" => Some((Field::Input, 0)),
                    b"output_tokens" => Some((Field::Output, 0)),
                    b"total_tokens" => Some((Field::Total, 0)),
                    _ => None,
                };
            }
            b'{' => {
                self.matched += usize::from(self.armed);
                self.open();
            }
            b'[' => self.open(),
            b'}' | b']' => {
                self.take();
                self.depth = self.depth.saturating_sub(1);
                self.matched = self.matched.min(self.depth.saturating_sub(1));
            }
            b',' => self.take(),
            b' ' | b'\t' | b'\r' => {}
            // A number that is no whole one, or a word.
            _ => self.number = None,
        }
    }

    fn open(&mut self) {
        self.depth += 1;
        self.armed = false;
        self.number = None;
    }

    /// A value ends.
    fn take(&mut self) {
        self.armed = false;
        if let Some((field, value)) = self.number.take() {
            let to = match field {
                Field::Input => &mut self.input,
                Field::Output => &mut self.output,
                Field::Total => &mut self.total,
            };
            *to = (*to).max(value);
            self.any = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(stream: &[u8], piece: usize) -> Option<u64> {
        let mut reader = UsageReader::default();
        stream.chunks(piece).for_each(|piece| reader.read(piece));
        reader.tokens()
    }

    fn stream(response: &serde_json::Value) -> String {
        let event = json!({"type": "response.completed", "response": response});
        format!(
            ": note\nevent: response.created\ndata: {{\"response\":{{\"usage\":null}}}}\n\n\
             event: response.completed\r\ndata: {event}\r\n\r\n"
        )
    }

    #[test]
    fn usage_is_read_in_pieces_of_any_size() {
        let usage = json!({"input_tokens": 1200, "input_tokens_details": {"cached_tokens": 9},
            "output_tokens": 34, "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": 1234});
        let text =
            stream(&json!({"id": "r", "output": [{"text": "a \"b\" \\ {"}], "usage": usage}));
        for piece in [1, 2, 3, 7, 100, text.len()] {
            assert_eq!(read(text.as_bytes(), piece), Some(1234), "{piece}");
        }
        let parts = stream(&json!({"usage": {"input_tokens": 5, "output_tokens": 6}}));
        assert_eq!(read(parts.as_bytes(), 4), Some(11));
    }

    #[test]
    fn nothing_elsewhere_counts() {
        let fake = json!({"response": {"usage": {"total_tokens": 7}}, "total_tokens": 8});
        for response in [
            json!({"metadata": {"usage": {"total_tokens": 7}}}),
            json!({"tools": [fake.clone()], "text": fake.to_string()}),
            json!([{"usage": {"total_tokens": 7}}]),
            json!({"usage": [{"total_tokens": 7}]}),
            json!({"usage": {"details": {"total_tokens": 7}, "total_tokens": null}}),
            json!({"usage": "total_tokens"}),
            json!({"usage\"": {"total_tokens": 7}}),
        ] {
            assert_eq!(read(stream(&response).as_bytes(), 5), None, "{response}");
        }
        let outside = "event: {\"response\":{\"usage\":{\"total_tokens\":7}}}\n\n";
        assert_eq!(read(outside.as_bytes(), 3), None);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_whole_reader(
            text in ".{0,40}", key in ".{0,20}", total in 0_u64..1 << 50, piece in 1_usize..40,
        ) {
            let response = json!({
                "a": {key.as_str(): text}, "usage": {"total_tokens": total}, "z": [key, {"k": text}],
            });
            prop_assert_eq!(read(stream(&response).as_bytes(), piece), Some(total));
        }

        #[test]
        fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = UsageReader::default();
            reader.read(b"data: ");
            reader.read(&noise);
        }
    }
}
