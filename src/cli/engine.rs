//! The engine, for the commands that look at it.

use std::time::Duration;

use super::Context;
use crate::engine::docker::{DockerEngine, Endpoint};
use crate::engine::{EngineError, EngineFacts};
use crate::failure::{ErrorKind, Failure};

/// How long a command waits for one answer of the engine.
const ANSWER: Duration = Duration::from_secs(10);

/// The engine that the environment names. Asks it nothing.
pub(super) fn connect(context: &Context) -> Result<DockerEngine, EngineError> {
    let endpoint = Endpoint::from_environment(|name| (context.lookup)(name))?;
    let engine = DockerEngine::connect(&endpoint, ANSWER)?;
    Ok(engine.with_files_in(context.paths.state.clone()))
}

/// An engine in one line.
pub(super) fn describe(facts: &EngineFacts) -> String {
    format!("{} {} (API {}) at {}", facts.name, facts.version, facts.api_version, facts.endpoint)
}

/// An engine's error as a failure.
pub(super) fn failure(error: &EngineError) -> Failure {
    let kind = match error {
        EngineError::ImageMissing { .. } => ErrorKind::ImageMissing,
        _ => ErrorKind::EngineUnavailable,
    };
    Failure::new(kind, error.to_string())
}
