//! What Docker tells of containers as it happens.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures::StreamExt;

use crate::engine::{ContainerId, Event, Events, Happened};

/// What happened so many seconds ago is told again, since the connection is there only when the
/// first answer comes.
const AGAIN: i64 = 30;

/// Docker's words for what we want to know.
const ACTIONS: [(&str, Happened); 6] = [
    ("die", Happened::Ended),
    ("kill", Happened::Ended),
    ("stop", Happened::Ended),
    ("oom", Happened::OutOfMemory),
    ("pause", Happened::Paused),
    ("destroy", Happened::Removed),
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
