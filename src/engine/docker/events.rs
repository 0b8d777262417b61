//! What the engine tells of containers as it happens.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures::StreamExt;

use crate::engine::{ContainerId, Event, Events, Happened};

/// What happened so many seconds ago is told again, since the connection is there only when the
/// first answer comes.
const AGAIN: i64 = 30;

/// The engine's words for what we want to know. Podman tells of a removal as `remove`, and its own
/// word for `die` is `died`.
const ACTIONS: [(&str, Happened); 8] = [
    ("die", Happened::Ended),
    ("died", Happened::Ended),
    ("kill", Happened::Ended),
    ("stop", Happened::Ended),
    ("oom", Happened::OutOfMemory),
    ("pause", Happened::Paused),
    ("destroy", Happened::Removed),
    ("remove", Happened::Removed),
];

/// The events of the containers that carry the label key with this value.
pub(super) fn stream(docker: &Docker, label: &str, value: &str) -> Events {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let filters = HashMap::from([
        ("type".to_owned(), words(&["container"])),
        ("label".to_owned(), vec![format!("{label}={value}")]),
        ("event".to_owned(), words(&ACTIONS.map(|(action, _)| action))),
    ]);
    let since = jiff::Timestamp::now().as_second() - AGAIN;
    let options =
        EventsOptions { since: Some(since.to_string()), until: None, filters: Some(filters) };
    // An error ends the connection, which is all that there is to say of it.
    let told = docker.events(Some(options)).take_while(|told| std::future::ready(told.is_ok()));
    Box::pin(told.filter_map(|told| std::future::ready(told.ok().and_then(event))))
}

fn event(message: EventMessage) -> Option<Event> {
    let action = message.action?;
    // Some have more behind a colon.
    let action = action.split(':').next()?;
    let (_, what) = ACTIONS.into_iter().find(|(name, _)| *name == action)?;
    Some(Event { id: ContainerId(message.actor?.id?), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(action: &str) -> Option<Happened> {
        let message = serde_json::json!({
            "status": action, "id": "abc", "from": "localhost/codex-runner:latest",
            "Type": "container", "Action": action, "scope": "local", "time": 1,
            "Actor": {"ID": "abc", "Attributes": {"name": "codex-1"}},
        });
        let message: EventMessage = serde_json::from_value(message).unwrap();
        let told = event(message)?;
        assert_eq!(told.id.0, "abc");
        Some(told.what)
    }

    #[test]
    fn docker_and_podman_are_understood() {
        for word in ["die", "died", "kill", "stop"] {
            assert_eq!(told(word), Some(Happened::Ended), "{word}");
        }
        for word in ["destroy", "remove"] {
            assert_eq!(told(word), Some(Happened::Removed), "{word}");
        }
        assert_eq!(told("oom"), Some(Happened::OutOfMemory));
        assert_eq!(told("pause"), Some(Happened::Paused));
        // An exec that ends says nothing of its container, nor does what is not asked for.
        for word in ["exec_die", "exec_died", "exec_create: /bin/sh", "start", "unpause", ""] {
            assert_eq!(told(word), None, "{word}");
        }
    }
}
