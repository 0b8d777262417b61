//! What a request body may say. The provider is the one way out of a container, so a body may not
//! ask it to reach anywhere else, to keep anything, or to use what it kept.
//!
//! The body is walked once without building a tree of it, so checking costs no more memory than the
//! body. An object with the same key twice is refused: the provider might read the other one.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Tool kinds that run on the client, so in the container. `tool_search` only with
/// `execution = "client"`.
pub const CLIENT_TOOLS: &[&str] =
    &["function", "custom", "namespace", "local_shell", "shell", "apply_patch", "tool_search"];

/// Kinds that run at the provider too unless an `execution` or `environment` says otherwise.
const CLIENT_ONLY_IF_SAID: &[&str] = &["tool_search", "shell"];

/// The keys a body may have at the top. Anything else might be a feature that reaches out.
const TOP_KEYS: &[&str] = &[
    "access_programs",
    "background",
    "client_metadata",
    "context_management",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];

/// Fields through which a provider fetches something: only `data:` URLs pass.
const URL_KEYS: &[&str] =
    &["image_url", "file_url", "audio_url", "video_url", "server_url", "connector_url"];

/// Fields that name something stored at the provider.
const STORED_KEYS: &[&str] = &["file_id", "container_id", "vector_store_ids", "file_ids"];

/// Checks the `body` of a request for a response. `hosted_tools` names tool kinds that may run at
/// the provider.
///
/// # Errors
///
/// A sentence that says what was refused.
pub fn check(body: &[u8], hosted_tools: &[String]) -> Result<(), String> {
    let mut state = State { hosted_tools, stored: Stored::Unsaid, streamed: false };
    let mut reader = serde_json::Deserializer::from_slice(body);
    Walk { place: Place::Top, state: &mut state }
        .deserialize(&mut reader)
        .and_then(|kind| if kind == Kind::Object { Ok(()) } else { Err(refuse("no JSON object")) })
        .and_then(|()| reader.end())
        .map_err(|error| {
            let text = error.to_string();
            // Refusals of ours carry no position; serde_json appends one.
            let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
            match text.strip_prefix(MARK) {
                Some(ours) => ours.to_owned(),
                None => format!("the body is not JSON: {text}"),
            }
        })?;
    match state.stored {
        // Only a stream of events tells tokens while it passes.
        Stored::No if !state.streamed => Err("the body must say \"stream\": true".into()),
        Stored::No => Ok(()),
        Stored::Unsaid => Err("the body must say \"store\": false".into()),
    }
}

/// Tells refusals of ours from syntax errors.
const MARK: &str = "\u{1}";

fn refuse<E: serde::de::Error>(text: impl fmt::Display) -> E {
    E::custom(format!("{MARK}{text}"))
}

struct State<'a> {
    hosted_tools: &'a [String],
    stored: Stored,
    streamed: bool,
}

#[derive(PartialEq, Eq)]
enum Stored {
    Unsaid,
    No,
}

impl State<'_> {
    fn check_tool(&self, tool: &Seen) -> Result<(), String> {
        let Some(kind) = tool.kind.as_deref() else {
            return Err("a tool has no \"type\"".into());
        };
        if self.hosted_tools.iter().any(|hosted| hosted == kind) {
            return Ok(());
        }
        let on_client = CLIENT_TOOLS.contains(&kind)
            && (!CLIENT_ONLY_IF_SAID.contains(&kind) || tool.on_client);
        if on_client {
            return Ok(());
        }
        Err(format!(
            "the tool kind {kind:?} runs at the provider; name it in model.hosted_tools to allow it"
        ))
    }
}

/// Where in the body a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The body.
    Top,
    /// An array of tool definitions, or what else stands under the key `tools`.
    Tools,
    /// One tool definition.
    Tool,
    /// The schema or format in a tool definition or in `text`: names there are the tool's own.
    Schema,
    /// `tool_choice`.
    Choice,
    /// What a tool runs in.
    Environment,
    /// `input`: text or items.
    Input,
    /// One item of `input`.
    Item,
    /// A field that must be absent, null or false.
    Forbidden(&'static str),
    /// `store`.
    Store,
    /// `stream`.
    Stream,
    /// A field through which the provider fetches.
    Url,
    /// A string that the caller wants to see: `type` and the like.
    Name,
    /// Anything else.
    Other,
}

/// What a value was, as far as the object around it must know.
#[derive(PartialEq, Eq)]
enum Kind {
    Object,
    Name(String),
    ClientEnvironment,
    Plain,
}

/// What was seen of an object.
#[derive(Default)]
struct Seen {
    kind: Option<String>,
    on_client: bool,
    role: bool,
}

struct Walk<'a, 's> {
    place: Place,
    state: &'a mut State<'s>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Walk<'_, '_> {
    fn scalar<E: serde::de::Error>(self, allowed: bool) -> Result<Kind, E> {
        match self.place {
            Place::Forbidden(what) if !allowed => Err(refuse(format_args!("{what} is refused"))),
            Place::Store if !allowed => Err(refuse("\"store\" must be false")),
            Place::Tools if !allowed => Err(refuse("a tool is no object")),
            _ => Ok(Kind::Plain),
        }
    }

    /// The place of the value under `key` in an object that stands here.
    fn under(&self, key: &str) -> Place {
        match self.place {
            Place::Schema => return Place::Schema,
            Place::Tool if matches!(key, "parameters" | "format" | "output_schema") => {
                return Place::Schema;
            }
            Place::Tool if key == "environment" => return Place::Environment,
            Place::Tool | Place::Choice if matches!(key, "type" | "execution") => {
                return Place::Name;
            }
            Place::Url if key == "url" => return Place::Url,
            Place::Top => match key {
                "store" => return Place::Store,
                "stream" => return Place::Stream,
                "background" => return Place::Forbidden("background mode"),
                "previous_response_id" => return Place::Forbidden("a stored response"),
                "conversation" => return Place::Forbidden("a stored conversation"),
                "prompt" => return Place::Forbidden("a stored prompt"),
                "text" => return Place::Schema,
                "tool_choice" => return Place::Choice,
                "input" => return Place::Input,
                _ => {}
            },
            _ => {}
        }
        if key == "tools" {
            Place::Tools
        } else if URL_KEYS.contains(&key) {
            Place::Url
        } else if STORED_KEYS.contains(&key) {
            Place::Forbidden("a stored file")
        } else if key == "type" {
            Place::Name
        } else {
            Place::Other
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Kind, E> {
        if self.place == Place::Store && !value {
            self.state.stored = Stored::No;
        }
        self.state.streamed |= self.place == Place::Stream && value;
        let forbidding = matches!(self.place, Place::Forbidden(_) | Place::Store);
        self.scalar(forbidding && !value)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Kind, E> {
        self.scalar(false)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Kind, E> {
        self.scalar(false)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Kind, E> {
        self.scalar(false)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Kind, E> {
        let allowed = self.place != Place::Store;
        self.scalar(allowed)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Kind, E> {
        match self.place {
            Place::Name => Ok(Kind::Name(text.chars().take(64).collect())),
            Place::Url if !text.get(..5).is_some_and(|s| s.eq_ignore_ascii_case("data:")) => {
                Err(refuse("a URL that the provider would fetch is refused; only data: URLs pass"))
            }
            _ => self.scalar(false),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let place = match self.place {
            Place::Tools => Place::Tool,
            Place::Input => Place::Item,
            Place::Item => Place::Other,
            Place::Top => return Err(refuse("the body is no JSON object")),
            Place::Forbidden(what) => return Err(refuse(format_args!("{what} is refused"))),
            Place::Store => return Err(refuse("\"store\" must be false")),
            Place::Name | Place::Choice | Place::Environment | Place::Stream => Place::Other,
            same => same,
        };
        while let Some(kind) = seq.next_element_seed(Walk { place, state: &mut *self.state })? {
            if place == Place::Tool && kind != Kind::Object {
                return Err(refuse("a tool is no object"));
            }
        }
        Ok(Kind::Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        match self.place {
            Place::Forbidden(what) => return Err(refuse(format_args!("{what} is refused"))),
            Place::Store => return Err(refuse("\"store\" must be false")),
            Place::Tools => return Err(refuse("\"tools\" is no list")),
            _ => {}
        }
        let mut keys: HashSet<String> = HashSet::new();
        let mut seen = Seen::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if keys.contains(&*key) {
                return Err(refuse(format_args!("the key {:?} stands twice", short(&key))));
            }
            if self.place == Place::Top && !TOP_KEYS.contains(&&*key) {
                return Err(refuse(format_args!("the key {:?} is not known", short(&key))));
            }
            let place = self.under(&key);
            let kind = map.next_value_seed(Walk { place, state: &mut *self.state })?;
            match (&*key, kind) {
                ("type", Kind::Name(name)) => seen.kind = Some(name),
                ("execution", Kind::Name(name)) => seen.on_client |= name == "client",
                ("environment", Kind::ClientEnvironment) => seen.on_client = true,
                ("role", _) => seen.role = true,
                _ => {}
            }
            keys.insert(key.into_owned());
        }
        match self.place {
            Place::Tool => self.state.check_tool(&seen).map_err(refuse)?,
            Place::Choice if seen.kind.as_deref() != Some("allowed_tools") => {
                // A choice has no `execution`; whether the tool itself may be there is checked
                // where it is defined.
                seen.on_client = true;
                self.state.check_tool(&seen).map_err(refuse)?;
            }
            Place::Environment if seen.kind.as_deref() == Some("local") => {
                return Ok(Kind::ClientEnvironment);
            }
            Place::Item if seen.kind.is_none() && !seen.role => {
                // What is no message and says no type is read as a reference, too.
                return Err(refuse("a stored item is refused"));
            }
            Place::Item | Place::Other if seen.kind.as_deref() == Some("item_reference") => {
                return Err(refuse("a stored item is refused"));
            }
            _ => {}
        }
        Ok(Kind::Object)
    }
}

fn short(key: &str) -> String {
    key.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let mut body = json!({
            "model": "m", "stream": true, "store": false,
            "tools": [{"type": "function", "name": "f", "parameters": {
                "type": "object", "properties": {"tools": {"type": "array"}, "file_id": {"type": "string"}}}}],
            "input": [
                {"type": "additional_tools", "tools": [
                    {"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "exec"}]},
                    {"type": "tool_search", "execution": "client"}]},
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "see https://example.com"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA"}]}],
        });
        change(&mut body);
        check(body.to_string().as_bytes(), &["web_search".into()])
    }

    #[test]
    fn what_codex_sends_passes() {
        checked(|_| {}).unwrap();
        checked(|b| b["tools"] = json!([])).unwrap();
        checked(|b| b["previous_response_id"] = Value::Null).unwrap();
        checked(|b| b["tools"] = json!([{"type": "web_search"}])).unwrap();
        checked(|b| b["tool_choice"] = json!({"type": "function", "name": "f"})).unwrap();
        checked(|b| b["input"] = json!("text")).unwrap();
        checked(|b| b["input"] = json!([{"role": "user", "content": "text"}])).unwrap();
    }

    #[test]
    fn what_reaches_out_or_keeps_is_refused() {
        type Change = fn(&mut Value);
        let cases: &[(Change, &str)] = &[
            (|b| b["tools"][0] = json!({"type": "image_generation"}), "\"image_generation\""),
            (|b| b["tools"][0] = json!({"type": "mcp", "server_url": "data:,"}), "\"mcp\""),
            (|b| b["tools"][0] = json!({"name": "x"}), "no \"type\""),
            (|b| b["tools"] = json!({"type": "mcp"}), "no list"),
            (|b| b["tools"] = json!(["mcp"]), "no object"),
            (
                |b| b["input"][0]["tools"][0]["tools"][0] = json!({"type": "code_interpreter"}),
                "\"code_interpreter\"",
            ),
            (|b| b["input"][0]["tools"][1] = json!({"type": "tool_search"}), "\"tool_search\""),
            (|b| b["input"][1]["tools"] = json!([{"type": "mcp"}]), "\"mcp\""),
            (|b| b["tool_choice"] = json!({"type": "file_search"}), "\"file_search\""),
            (
                |b| b["input"][1]["content"][1]["image_url"] = json!("https://example.com/?d=1"),
                "URL",
            ),
            (|b| b["input"][1]["content"][1]["image_url"] = json!({"url": " HTTP://a"}), "URL"),
            (|b| b["input"][1]["content"][1]["file_url"] = json!("//example.com"), "URL"),
            (|b| b["input"][1]["content"][1]["file_id"] = json!("file-1"), "stored file"),
            (|b| b["input"][1] = json!({"type": "item_reference", "id": "i"}), "stored item"),
            (|b| b["input"][1] = json!({"id": "i"}), "stored item"),
            (|b| b["input"][1] = json!({"type": null, "id": "i"}), "stored item"),
            (|b| b["store"] = json!(true), "\"store\""),
            (|b| b["store"] = Value::Null, "\"store\""),
            (|b| drop(b.as_object_mut().unwrap().remove("store")), "\"store\""),
            (|b| b["stream"] = json!(false), "\"stream\""),
            (|b| b["stream"] = json!("true"), "\"stream\""),
            (|b| b["stream"] = json!([true]), "\"stream\""),
            (|b| b["background"] = json!(true), "background"),
            (|b| b["previous_response_id"] = json!("r"), "stored response"),
            (|b| b["conversation"] = json!({"id": "c"}), "stored conversation"),
            (|b| b["prompt"] = json!({"id": "p"}), "stored prompt"),
            (|b| b["plugins"] = json!([]), "\"plugins\" is not known"),
        ];
        for (change, want) in cases {
            let refused = checked(*change).unwrap_err();
            assert!(refused.contains(want), "{refused} should contain {want}");
        }
    }

    #[test]
    fn no_body_has_two_readings() {
        for (body, want) in [
            (&br#"{"store":false,"store":true}"#[..], "twice"),
            (br#"{"store":false,"st\u006fre":true}"#, "twice"),
            (br#"{"store":false} {"store":true}"#, "not JSON"),
            (br#"["store"]"#, "no JSON object"),
            (br#""store""#, "no JSON object"),
            (b"", "not JSON"),
            (b"{\"store\":false,\"user\":\"\xff\"}", "not JSON"),
        ] {
            let refused = check(body, &[]).unwrap_err();
            assert!(refused.contains(want), "{refused} should contain {want}");
        }
        let deep = format!("{{\"store\":false,\"input\":{}", "[".repeat(10_000));
        assert!(check(deep.as_bytes(), &[]).is_err());
    }
}
