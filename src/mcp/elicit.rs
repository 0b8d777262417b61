//! Questions of a run as elicitations, in both eras of the protocol.
//!
//! ```text
//!  until 2025-11-25   tools/call ──────────────────────────────────────────────> result
//!                         └─ elicitation/create ──> the client ──> answer ─┘ (again and again)
//!                            notifications/cancelled withdraws it
//!
//!  from 2026-07-28    tools/call ──> input_required + requestState
//!                     tools/call with requestState, inputResponses ──> input_required ... ──> result
//!                     the run waits in [`Waiting`] between two calls
//! ```
//!
//! The form has one field, `decision`. Whatever comes back that is neither a clear yes nor a clear
//! stop is no leave.

mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rmcp::model::{
    ElicitRequest, ElicitRequestParams, ElicitationSchema, ProtocolVersion, ServerRequest,
};
use rmcp::service::{PeerRequestOptions, RequestContext};
use rmcp::{Peer, RoleServer};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(super) use self::waiting::{Attended, Attending, Waiting, inputs};
use crate::job::ask::{Asker, Question, Reply};

/// Whether the client speaks the era in which a server sends no requests.
pub(super) fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// Why the client cannot be asked.
pub(super) fn refusal(context: &RequestContext<RoleServer>) -> Option<String> {
    let elicitation = context.client_capabilities().and_then(|client| client.elicitation);
    match elicitation {
        None => Some("this MCP client does not support elicitation".to_owned()),
        // Neither is named by those of the time when there were only forms.
        Some(modes) if modes.form.is_none() && modes.url.is_some() => {
            Some("this MCP client supports elicitation by URL only, not by form".to_owned())
        }
        Some(_) => None,
    }
}

/// The form of a question.
fn schema() -> ElicitationSchema {
    // A fixed value; a test reads it.
    serde_json::from_value(form()).unwrap_or_else(|_| ElicitationSchema::new(BTreeMap::new()))
}

fn form() -> Value {
    json!({
        "type": "object",
        "properties": {
            "decision": {
                "type": "string",
                "title": "Decision",
                "description": "accept: Codex does it, this one time. decline: Codex goes on \
                                without it. stop: the run ends; its changes are held.",
                "enum": ["accept", "decline", "stop"],
            }
        },
        "required": ["decision"],
    })
}

fn request(question: &Question) -> ElicitRequest {
    ElicitRequest::new(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question.message.clone(),
        requested_schema: schema(),
    })
}

/// What an answer means.
fn decide(answer: &Value) -> Reply {
    let nonsense = |what: &str| Reply::Nonsense(what.to_owned());
    match answer["action"].as_str() {
        Some("accept") => match answer["content"]["decision"].as_str() {
            Some("accept") => Reply::Accept,
            Some("decline") => Reply::Decline,
            Some("stop") => Reply::Stop,
            Some(other) => Reply::Nonsense(format!("decision is {other:?}")),
            None => nonsense("there is no decision that is a text"),
        },
        // Cancel says that the form was closed without a choice.
        Some("decline" | "cancel") => Reply::Decline,
        Some(other) => Reply::Nonsense(format!("action is {other:?}")),
        None => nonsense("there is no action that is a text"),
    }
}

/// Asks by requests of ours.
pub(super) struct Requests {
    peer: Peer<RoleServer>,
    refusal: Option<String>,
}

impl Requests {
    pub(super) fn new(context: &RequestContext<RoleServer>) -> Arc<Self> {
        Arc::new(Self { peer: context.peer.clone(), refusal: refusal(context) })
    }
}

impl Asker for Requests {
    fn refusal(&self) -> Option<String> {
        self.refusal.clone()
    }

    fn ask(&self, question: Question) -> BoxFuture<'_, Reply> {
        let peer = self.peer.clone();
        Box::pin(async move {
            let withdrawn = CancellationToken::new();
            let _guard = withdrawn.clone().drop_guard();
            // A task of its own, since a request may be on its way when the question is withdrawn.
            let asking = tokio::spawn(put(peer, question, withdrawn));
            asking.await.unwrap_or_else(|error| Reply::Nonsense(error.to_string()))
        })
    }
}

async fn put(peer: Peer<RoleServer>, question: Question, withdrawn: CancellationToken) -> Reply {
    let request = ServerRequest::ElicitRequest(request(&question));
    let options = PeerRequestOptions::no_options();
    let mut handle = match peer.send_cancellable_request(request, options).await {
        Ok(handle) => handle,
        Err(error) => return Reply::Nonsense(format!("the question could not be sent: {error}")),
    };
    let answer = tokio::select! {
        answer = &mut handle.rx => answer,
        () = withdrawn.cancelled() => {
            let reason = "the question is withdrawn: it was not answered in time, or the run ended";
            if let Err(error) = handle.cancel(Some(reason.to_owned())).await {
                tracing::debug!(%error, "a question could not be withdrawn");
            }
            return Reply::Decline;
        }
    };
    match answer {
        Ok(Ok(answer)) => decide(&serde_json::to_value(&answer).unwrap_or_default()),
        Ok(Err(error)) => Reply::Nonsense(format!("the client answered with an error: {error}")),
        Err(_) => Reply::Nonsense("the client is gone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_one_that_every_client_knows() {
        let schema = serde_json::to_value(schema()).unwrap();
        assert_eq!(schema["properties"]["decision"]["enum"], json!(["accept", "decline", "stop"]));
        assert_eq!(schema["required"], json!(["decision"]));
        assert_eq!(schema["properties"]["decision"]["type"], "string");
    }

    #[test]
    fn only_a_clear_yes_is_leave() {
        let with = |content: Value| json!({"action": "accept", "content": content});
        assert_eq!(decide(&with(json!({"decision": "accept"}))), Reply::Accept);
        assert_eq!(decide(&with(json!({"decision": "stop"}))), Reply::Stop);
        assert_eq!(decide(&with(json!({"decision": "decline"}))), Reply::Decline);
        assert_eq!(decide(&json!({"action": "decline"})), Reply::Decline);
        assert_eq!(decide(&json!({"action": "cancel"})), Reply::Decline);
        for nonsense in [
            json!(null),
            json!([]),
            json!({}),
            json!("accept"),
            json!({"action": "accept"}),
            json!({"action": true, "content": {"decision": "accept"}}),
            json!({"action": "Accept", "content": {"decision": "accept"}}),
            json!({"content": {"decision": "accept"}}),
            with(json!(null)),
            with(json!({"decision": true})),
            with(json!({"decision": ["accept"]})),
            with(json!({"decision": "acceptForSession"})),
            with(json!({"Decision": "accept"})),
            with(json!("accept")),
        ] {
            assert!(matches!(decide(&nonsense), Reply::Nonsense(_)), "{nonsense}");
        }
    }
}
