//! The argument `env_vars`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::{invalid, kind_of, quoted};
use crate::failure::Failure;

/// Variables for the commands that Codex runs. The values are often secrets, so `Debug` has names
/// only, and there is no `Serialize`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EnvVars(BTreeMap<String, String>);

impl EnvVars {
    /// Adds one variable.
    ///
    /// # Errors
    ///
    /// A sentence if the name is empty or has `=` or NUL, or the value has NUL.
    pub fn insert(&mut self, name: String, value: String) -> Result<(), Failure> {
        if name.is_empty() {
            return Err(invalid("env_vars has an empty name; give every variable a name"));
        }
        if name.contains(['=', '\0']) {
            return Err(invalid(format!(
                "env_vars has the name {}, but a name may not contain \"=\" or NUL",
                quoted(&name_of(&name))
            )));
        }
        if value.contains('\0') {
            return Err(invalid(format!(
                "the value of env_vars.{name} contains NUL, which no environment can hold; remove it"
            )));
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Names with values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names alone, which may be written down.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A wrong name as it may be shown: what follows "=" is most likely a value.
pub(crate) fn name_of(wrong: &str) -> String {
    match wrong.find(['=', '\0']) {
        Some(at) => format!("{}…", &wrong[..=at]),
        None => wrong.to_owned(),
    }
}

impl fmt::Debug for EnvVars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

pub(super) fn parse_env_vars(value: Value) -> Result<EnvVars, Failure> {
    let Value::Object(map) = value else {
        return Err(invalid(format!(
            "env_vars must be an object of strings, but was {}",
            kind_of(&value)
        )));
    };
    let mut variables = EnvVars::default();
    for (name, value) in map {
        match value {
            Value::String(value) => variables.insert(name, value)?,
            // The value itself is not shown: it may be a secret.
            other => {
                return Err(invalid(format!(
                    "the value of env_vars.{name} must be a string, but was {}",
                    kind_of(&other)
                )));
            }
        }
    }
    Ok(variables)
}
