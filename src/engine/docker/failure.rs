//! bollard's errors in our words.

use bollard::errors::Error;

use super::endpoint::Endpoint;
use crate::engine::{ContainerId, EngineError};

/// The status of an answer that is an error.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether a 404 to a creation is about the image; others are about a network or runtime.
pub(super) fn is_missing_image(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { message, .. }
        if message.to_lowercase().contains("no such image"))
}

/// Whether a removal that failed has nothing left to do.
pub(super) fn is_gone(error: &Error) -> bool {
    status(error) == Some(404)
}

/// Whether the engine is removing the container already, as it does by itself with one that ended.
pub(super) fn is_going(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 409, message }
        if message.contains("already in progress"))
}

/// Whether a removal met a container that has ended and that Podman is just taking down by itself.
pub(super) fn is_between_states(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { message, .. }
        if message.contains("container state improper"))
}

/// An engine that cannot be reached is unavailable; anything else failed at `verb`.
pub(super) fn failed(
    verb: &'static str,
    container: Option<&ContainerId>,
    error: Error,
    endpoint: &Endpoint,
) -> EngineError {
    if let Some(cause) = unreachable_cause(&error) {
        let advice = endpoint.advice(&cause);
        let (endpoint, reason) = (endpoint.to_string(), cause.to_string());
        return EngineError::Unavailable { endpoint, reason, advice };
    }
    let reason = match error {
        Error::DockerResponseServerError { message, status_code } if message.is_empty() => {
            format!("status {status_code}")
        }
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        other => with_causes(&other),
    };
    EngineError::Failed { verb, container: container.cloned(), reason }
}

/// Why no connection could be made, if that is what the error says.
fn unreachable_cause(error: &Error) -> Option<std::io::Error> {
    match error {
        Error::HyperLegacyError { err } if err.is_connect() => {
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(err);
            while let Some(error) = source {
                if let Some(error) = error.downcast_ref::<std::io::Error>() {
                    return Some(match error.raw_os_error() {
                        Some(code) => std::io::Error::from_raw_os_error(code),
                        None => std::io::Error::new(error.kind(), error.to_string()),
                    });
                }
                source = error.source();
            }
            Some(std::io::Error::other(with_causes(err)))
        }
        Error::SocketNotFoundError(path) => {
            Some(std::io::Error::new(std::io::ErrorKind::NotFound, format!("no socket {path}")))
        }
        _ => None,
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.into() }
    }

    #[test]
    fn a_container_that_is_going_is_not_gone() {
        assert!(is_gone(&response(404, "No such container: x")));
        let going = response(409, "removal of container x is already in progress");
        assert!(is_going(&going) && !is_gone(&going));
        let stuck = response(409, "driver \"overlay2\" failed to remove root filesystem");
        assert!(!is_going(&stuck) && !is_gone(&stuck));
        assert!(!is_gone(&response(500, "")));
        assert!(is_between_states(&response(500, "container state improper: stopped")));
        assert!(!is_between_states(&response(500, "device or resource busy")));
    }

    #[test]
    fn only_a_missing_image_is_a_missing_image() {
        assert!(is_missing_image(&response(404, "No such image: a:b")));
        assert!(!is_missing_image(&response(404, "network n not found")));
    }

    #[test]
    fn the_engines_own_words_are_kept() {
        let endpoint = Endpoint::at(super::super::Address::Tcp("h:1".into()));
        let error =
            failed("start a container", None, response(500, "runtime crashed\n"), &endpoint);
        assert_eq!(error.to_string(), "the engine could not start a container: runtime crashed");
    }
}
