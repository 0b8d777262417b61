//! The arguments about the thread of a run.

use serde_json::{Map, Value};

use super::{invalid, shown, take, take_not_blank};
use crate::failure::Failure;

/// Which thread a run goes on with, and what becomes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadCall {
    /// The run whose thread goes on; `None`: a new one.
    pub continues: Option<String>,
    /// Whether the thread is kept, so that it can be continued.
    pub keep: bool,
}

impl ThreadCall {
    /// Takes `continue_run` and `keep_thread`.
    pub(super) fn take(arguments: &mut Map<String, Value>) -> Result<Self, Failure> {
        let continues = take_not_blank(arguments, "continue_run")?;
        let keep = match take(arguments, "keep_thread") {
            None => false,
            Some(Value::Bool(keep)) => keep,
            Some(other) => {
                let sentence =
                    format!("keep_thread must be true or false, but was {}", shown(&other));
                return Err(invalid(sentence));
            }
        };
        Ok(Self { continues, keep })
    }
}
