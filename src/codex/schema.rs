//! The form that a caller wants the answer in: a JSON schema.
//!
//! ```text
//!  output_schema ─> checked ─┬─> no schema: refused, nothing has begun
//!                            └─> given to Codex ─> its last message ─┬─> output_json
//!                                                                    └─> codex_failed, the text kept
//! ```
//!
//! A provider may allow less than the standard does, and refuses the rest by itself. What Codex
//! answers comes out of a container, so it is held against the schema here, too.

use std::fmt;
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;

/// Bytes of a schema at most, written without white space.
pub const MAX_SCHEMA: usize = 256 * 1024;

/// Characters of what was wrong that are told.
const MAX_TOLD: usize = 300;

/// A schema that can be held against answers.
#[derive(Clone)]
pub struct AnswerSchema {
    schema: Value,
    validator: Arc<Validator>,
}

impl AnswerSchema {
    /// Reads one. Nothing is fetched: what a `$ref` names must be in it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the rest of a sentence.
    pub fn read(schema: Value) -> Result<Self, String> {
        if !schema.is_object() {
            return Err("must be a JSON schema, an object".to_owned());
        }
        let bytes = schema.to_string().len();
        if bytes > MAX_SCHEMA {
            return Err(format!(
                "is {bytes} bytes long, over the limit of 256 KiB; make it smaller"
            ));
        }
        match jsonschema::validator_for(&schema) {
            Ok(validator) => Ok(Self { schema, validator: Arc::new(validator) }),
            Err(error) => Err(format!("is no valid JSON schema: {}", told(&error.to_string()))),
        }
    }

    /// As it was given.
    pub fn value(&self) -> &Value {
        &self.schema
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// Why it is none of this form, as the rest of a sentence.
    pub fn answer(&self, text: &str) -> Result<Value, String> {
        let answer = serde_json::from_str(text).map_err(|error| format!("is no JSON ({error})"))?;
        match self.validator.validate(&answer) {
            Ok(()) => Ok(answer),
            Err(error) => {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
                let what = told(&error.to_string());
                Err(format!("does not have the form of output_schema{place}: {what}"))
            }
        }
    }
}

/// One line, cut.
fn told(text: &str) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_TOLD) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl fmt::Debug for AnswerSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnswerSchema").field(&self.schema).finish()
    }
}

impl PartialEq for AnswerSchema {
    fn eq(&self, other: &Self) -> bool {
        self.schema == other.schema
    }
}

impl Eq for AnswerSchema {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> AnswerSchema {
        AnswerSchema::read(json!({
            "type": "object", "required": ["sum"], "additionalProperties": false,
            "properties": {"sum": {"$ref": "#/$defs/count"}},
            "$defs": {"count": {"type": "integer", "minimum": 0}},
        }))
        .unwrap()
    }

    #[test]
    fn an_answer_of_the_form_is_read_and_any_other_says_what_is_wrong() {
        assert_eq!(schema().answer(" {\"sum\": 3}\n"), Ok(json!({"sum": 3})));
        for (text, says) in [
            ("The sum is 3.", "is no JSON"),
            ("", "is no JSON"),
            ("{\"sum\": 3} and more", "is no JSON"),
            ("{\"sum\": -1}", "at /sum"),
            ("{\"sum\": 1, \"more\": 2}", "more"),
            ("[]", "does not have the form"),
        ] {
            let wrong = schema().answer(text).unwrap_err();
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
        let long = schema().answer(&json!({"sum": "x".repeat(5000)}).to_string()).unwrap_err();
        assert!(long.chars().count() < MAX_TOLD + 100, "{long}");
    }

    #[test]
    fn what_is_no_schema_is_refused_and_nothing_is_fetched_for_one() {
        for (wrong, says) in [
            (json!("string"), "an object"),
            (json!(true), "an object"),
            (json!([{"type": "object"}]), "an object"),
            (json!({"type": "no such type"}), "no valid JSON schema"),
            (json!({"properties": 3}), "no valid JSON schema"),
            (json!({"pattern": "("}), "no valid JSON schema"),
            (json!({"$ref": "#/$defs/missing"}), "no valid JSON schema"),
            (json!({"$ref": "http://127.0.0.1:1/schema.json"}), "no valid JSON schema"),
            (json!({"$ref": "file:///etc/hostname"}), "no valid JSON schema"),
            (json!({"$schema": "http://127.0.0.1:1/meta.json"}), "no valid JSON schema"),
            (json!({"description": "x".repeat(MAX_SCHEMA)}), "over the limit of 256 KiB"),
        ] {
            let error = AnswerSchema::read(wrong.clone()).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
        assert!(AnswerSchema::read(json!({})).is_ok());
    }

    #[test]
    fn a_schema_that_names_itself_ends() {
        for schema in [json!({"$ref": "#"}), json!({"allOf": [{"$ref": "#"}]})] {
            let _ = AnswerSchema::read(schema).map(|schema| schema.answer("{}"));
        }
        let deep = AnswerSchema::read(json!({"items": {"$ref": "#"}})).unwrap();
        assert!(deep.answer(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_ok());
        assert!(deep.answer(&format!("{}{}", "[".repeat(9999), "]".repeat(9999))).is_err());
    }

    #[test]
    fn a_pattern_that_takes_for_ever_ends() {
        let schema = AnswerSchema::read(json!({"pattern": "^(a|a)*(?=b)$"})).unwrap();
        let began = std::time::Instant::now();
        assert!(schema.answer(&json!("a".repeat(10_000)).to_string()).is_err());
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}
