//! From the default, a file, the environment and the flags to settings.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::{Config, ConfigError, DEFAULT_TOML, paths, range, repo};
use crate::job::call::nearest;

/// The sections of single workspaces.
const REPO: &str = "repo";

/// The table whose keys are Codex's.
const PASSED_ON: &str = "codex.config";

/// Bytes from which on a wrong value of `[model]` may be a secret.
const SECRET_LEN: usize = 12;

/// What flags say.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--workspace`
    pub workspace: Option<PathBuf>,
}

/// Settings, and where they come from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    table: Table,
    places: BTreeMap<String, String>,
}

impl Loaded {
    /// All settings as TOML; those that are no defaults say where they come from.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let plain = self.table.iter().filter(|(section, _)| *section != REPO);
        let plain = plain.map(|(section, keys)| (section.clone(), keys));
        let repos = self.table.get(REPO).and_then(Value::as_table).into_iter().flatten();
        let repos = repos.map(|(path, keys)| (format!("{REPO}.{path:?}"), keys));
        for (section, keys) in plain.chain(repos) {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("[{section}]\n"));
            for (key, value) in keys.as_table().into_iter().flatten() {
                text.push_str(&format!("{key} = {value}"));
                if let Some(place) = self.places.get(&format!("{section}.{key}")) {
                    text.push_str(&format!("  # {place}"));
                }
                text.push('\n');
            }
        }
        text
    }

    /// All settings as a tree.
    pub fn table(&self) -> &Table {
        &self.table
    }
}

/// The environment variables that are settings, with their keys.
const VARIABLES: [(&str, &str, &str); 4] = [
    ("CODEX_IMAGE", "container", "image"),
    ("CODEX_WORKSPACE", "workspace", "path"),
    ("CODEX_TIMEOUT", "run", "timeout"),
    ("RUST_LOG", "server", "log"),
];

/// Reads the settings; `lookup` gives environment variables.
///
/// # Errors
///
/// The file cannot be read, or something in it, in the environment or in the flags is wrong.
pub fn load(
    overrides: &Overrides,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Loaded, ConfigError> {
    let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let mut layers = Layers::new()?;
    let file = read_file(overrides, &lookup)?;
    if let Some((path, text)) = &file {
        layers.add_file(path, text)?;
    }
    for (variable, section, key) in VARIABLES {
        if let Some(text) = lookup(variable) {
            let text = if variable == "CODEX_TIMEOUT" { seconds_or_duration(text) } else { text };
            layers.set(section, key, Value::String(text), variable.to_owned())?;
        }
    }
    if let Some(workspace) = &overrides.workspace {
        let value = Value::String(workspace.to_string_lossy().into_owned());
        layers.set("workspace", "path", value, "--workspace".to_owned())?;
    }
    let mut loaded = layers.finish(file.map(|(path, _)| path))?;
    if let Some(home) = paths::home(&lookup) {
        expand_home(&mut loaded.config, &home);
    }
    Ok(loaded)
}

/// The settings as they grow, layer over layer.
struct Layers {
    defaults: Table,
    table: Table,
    places: BTreeMap<String, String>,
}

impl Layers {
    fn new() -> Result<Self, ConfigError> {
        let defaults: Table = DEFAULT_TOML
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::Defaults(error.to_string()))?;
        Ok(Self { table: defaults.clone(), defaults, places: BTreeMap::new() })
    }

    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: one_line(error.message()),
        };
        let values: Table = text.parse().map_err(syntax)?;
        let spans = DeTable::parse(text).map_err(syntax)?;
        for (section, keys) in spans.get_ref() {
            let line = line_of(text, section.span().start);
            let name: &str = section.get_ref();
            if name == REPO {
                self.add_repos(path, text, keys, values.get(REPO))?;
                continue;
            }
            let Some(Value::Table(known)) = self.defaults.get(name).cloned() else {
                return Err(self.unknown(path, line, name, None));
            };
            let DeValue::Table(keys) = keys.get_ref() else {
                return Err(ConfigError::Value {
                    place: format!("{}:{line}", path.display()),
                    key: name.to_owned(),
                    problem: format!("must be a section, written [{name}]"),
                });
            };
            for key in keys.keys() {
                let line = line_of(text, key.span().start);
                let key: &str = key.get_ref();
                if !known.contains_key(key) {
                    return Err(self.unknown(path, line, key, Some((name, &known))));
                }
                let value = values.get(name).and_then(|keys| keys.get(key)).cloned();
                if let Some(value) = value {
                    self.set(name, key, value, format!("{}:{line}", path.display()))?;
                }
            }
        }
        Ok(())
    }

    /// The sections `[repo."/path"]`, whose names are the user's.
    fn add_repos(
        &mut self,
        file: &Path,
        text: &str,
        spans: &Spanned<DeValue<'_>>,
        values: Option<&Value>,
    ) -> Result<(), ConfigError> {
        let place = |offset: usize| format!("{}:{}", file.display(), line_of(text, offset));
        let refuse = |offset, key: String, problem: &str| {
            let problem = problem.to_owned();
            Err(ConfigError::Value { place: place(offset), key, problem })
        };
        const FORM: &str = "must be a section, written [repo.\"/path/of/a/workspace\"]";
        let (DeValue::Table(repos), Some(Value::Table(values))) = (spans.get_ref(), values) else {
            return refuse(spans.span().start, REPO.to_owned(), FORM);
        };
        for (path, keys) in repos {
            let (start, path) = (path.span().start, path.get_ref().as_ref());
            let name = format!("{REPO}.{path:?}");
            let (DeValue::Table(keys), Some(Value::Table(values))) =
                (keys.get_ref(), values.get(path))
            else {
                return refuse(start, name, FORM);
            };
            if !path.starts_with('/') && !path.starts_with("~/") {
                return refuse(start, name, "must be an absolute path");
            }
            for (key, _) in keys {
                let (start, key) = (key.span().start, key.get_ref().as_ref());
                let Some((_, example)) = repo::KEYS.iter().find(|(known, _)| *known == key) else {
                    let known = repo::KEYS.iter().map(|(known, _)| *known);
                    return Err(ConfigError::UnknownKey {
                        path: file.to_owned(),
                        line: line_of(text, start),
                        key: format!("{name}.{key}"),
                        advice: match nearest(key, known.clone()) {
                            Some(near) => format!("did you mean \"{near}\"?"),
                            None => format!(
                                "a section for one workspace has {}",
                                known.collect::<Vec<_>>().join(", ")
                            ),
                        },
                    });
                };
                let problem = values.get(key).and_then(|value| wrong_type(example, value));
                if let Some(problem) = problem {
                    return refuse(start, format!("{name}.{key}"), &problem);
                }
                self.places.insert(format!("{name}.{key}"), place(start));
            }
        }
        self.table.insert(REPO.to_owned(), Value::Table(values.clone()));
        Ok(())
    }

    fn unknown(
        &self,
        path: &Path,
        line: usize,
        name: &str,
        section: Option<(&str, &Table)>,
    ) -> ConfigError {
        let (key, near) = match section {
            None => (
                name.to_owned(),
                nearest(name, self.defaults.keys().map(String::as_str).chain([REPO]))
                    .map(str::to_owned),
            ),
            Some((section, known)) => {
                // Often the key is right and stands in the wrong section.
                let elsewhere = self
                    .defaults
                    .iter()
                    .find(|(_, keys)| keys.get(name).is_some())
                    .map(|(other, _)| format!("{other}.{name}"));
                let near = nearest(name, known.keys().map(String::as_str))
                    .map(|near| format!("{section}.{near}"));
                (format!("{section}.{name}"), near.or(elsewhere))
            }
        };
        let advice = near.map_or_else(
            || "`mcp-codex-orchestrator config default` prints all keys".to_owned(),
            |near| format!("did you mean \"{near}\"?"),
        );
        ConfigError::UnknownKey { path: path.to_owned(), line, key, advice }
    }

    /// Sets one key that exists, if its value alone is right.
    fn set(
        &mut self,
        section: &str,
        key: &str,
        value: Value,
        place: String,
    ) -> Result<(), ConfigError> {
        let name = format!("{section}.{key}");
        let refuse = |problem: String| {
            // A secret in the wrong key is not shown; what is short is a slip worth showing.
            let problem = match &value {
                Value::String(text) if section == "model" && text.len() >= SECRET_LEN => {
                    problem.replace(text.as_str(), "…")
                }
                _ => problem,
            };
            ConfigError::Value { place: place.clone(), key: name.clone(), problem }
        };
        let default = self.defaults.get(section).and_then(|keys| keys.get(key));
        // What Codex takes there is its own affair.
        let default = default.filter(|_| name != PASSED_ON || !value.is_table());
        if let Some(problem) = default.and_then(|default| wrong_type(default, &value)) {
            return Err(refuse(problem));
        }
        // All other keys have their defaults, so an error can only be about this one.
        let mut alone = self.defaults.clone();
        insert(&mut alone, section, key, value.clone());
        if let Err(error) = alone.try_into::<Config>() {
            return Err(refuse(reworded(error.message())));
        }
        insert(&mut self.table, section, key, value);
        self.places.insert(name, place);
        Ok(())
    }

    fn finish(self, file: Option<PathBuf>) -> Result<Loaded, ConfigError> {
        let config: Config = self
            .table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Defaults(error.to_string()))?;
        if let Some(wrong) = range::first_wrong(&config) {
            // The key that the user set is the one to name, not the default that it clashes with.
            let set = wrong.0.iter().find(|(key, _)| self.places.contains_key(*key));
            if let Some((key, problem)) = set.or(wrong.0.first()) {
                let place = self.places.get(*key).map_or("default", String::as_str);
                return Err(ConfigError::Value {
                    place: place.to_owned(),
                    key: (*key).to_owned(),
                    problem: problem.clone(),
                });
            }
        }
        Ok(Loaded { config, file, table: self.table, places: self.places })
    }
}

fn insert(table: &mut Table, section: &str, key: &str, value: Value) {
    if let Some(Value::Table(keys)) = table.get_mut(section) {
        keys.insert(key.to_owned(), value);
    }
}

/// The file that settings are read from, whether it exists or not: the one that is named, else the
/// one in the user's directory of configuration. `None` without a home directory.
pub fn file(overrides: &Overrides, lookup: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    named(overrides, &lookup).or_else(|| paths::config_file(&lookup))
}

/// The file that a flag or the environment names, which must exist.
fn named(overrides: &Overrides, lookup: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let variable = || lookup("CODEX_ORCHESTRATOR_CONFIG").filter(|name| !name.is_empty());
    overrides.config.clone().or_else(|| variable().map(PathBuf::from))
}

fn read_file(
    overrides: &Overrides,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let must_exist = named(overrides, lookup).is_some();
    let Some(path) = file(overrides, lookup) else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if !must_exist && error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

fn seconds_or_duration(text: String) -> String {
    if text.chars().all(|c| c.is_ascii_digit()) { text + "s" } else { text }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong if `value` has another type than `default`.
fn wrong_type(default: &Value, value: &Value) -> Option<String> {
    let wanted = match (default, value) {
        (Value::String(_), Value::String(_))
        | (Value::Integer(_), Value::Integer(_))
        | (Value::Float(_), Value::Float(_) | Value::Integer(_))
        | (Value::Boolean(_), Value::Boolean(_)) => return None,
        (Value::Array(_), Value::Array(items)) if items.iter().all(Value::is_str) => return None,
        (Value::Table(_), Value::Table(entries)) if entries.values().all(Value::is_str) => {
            return None;
        }
        // What stands there may be a secret.
        (Value::Table(_), _) => {
            return Some("must be a table of strings such as { \"name\" = \"value\" }".to_owned());
        }
        (Value::String(text), _) if text.parse::<f64>().is_err() && is_duration(text) => {
            "a duration such as \"5m\""
        }
        (Value::String(text), _) if text.ends_with("iB") => "a size such as \"2GiB\"",
        (Value::String(_), _) => "a string",
        (Value::Integer(_), _) => "a whole number",
        (Value::Float(_), _) => "a number",
        (Value::Boolean(_), _) => "true or false",
        (Value::Array(_), _) => "a list of strings",
        (Value::Datetime(_), _) => return None,
    };
    let shown = match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        other => other.to_string(),
    };
    Some(format!("must be {wanted}, but is {shown}"))
}

fn is_duration(text: &str) -> bool {
    humantime::parse_duration(text).is_ok()
}

/// Serde's words as the rest of a sentence that begins with the key.
fn reworded(message: &str) -> String {
    let message = one_line(message);
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        return format!("has the unknown value {}", rest.replace('`', "\""));
    }
    if let Some(rest) = message.strip_prefix("invalid value: integer ") {
        let value = rest.split(',').next().unwrap_or(rest).replace('`', "");
        return format!("is {value}, which is out of range");
    }
    message
}

fn expand_home(config: &mut Config, home: &Path) {
    let repos = std::mem::take(&mut config.repo).into_iter();
    config.repo = repos
        .map(|(path, repo)| match path.strip_prefix("~") {
            Ok(rest) => (home.join(rest), repo),
            Err(_) => (path, repo),
        })
        .collect();
    let allowed = config.workspace.allowed.iter_mut();
    for path in allowed.chain([&mut config.workspace.path, &mut config.runs.dir]) {
        if let Ok(rest) = path.strip_prefix("~") {
            *path = home.join(rest);
        }
    }
}

#[cfg(test)]
mod tests;
