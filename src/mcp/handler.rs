//! The handler that `rmcp` calls.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData,
    Implementation, InputResponses, JsonObject, ListToolsResult, PaginatedRequestParams,
    ServerCapabilities, ServerConfig, SubscriptionFilter, Tool,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{RoleServer, ServerHandler};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::elicit::{self, Attended, Attending, Requests, Waiting, inputs};
use super::list_changes::ListChanges;
use super::progress::Forwarder;
use super::tools;
use crate::config::{NetworkConfig, RunConfig};
use crate::failure::{ErrorKind, Failure};
use crate::job::Jobs;
use crate::job::ask::Asker;
use crate::job::call::{self, ApplyCall, DiffCall, RunCall, UndoCall};
use crate::job::progress;
use crate::job::result::RunResult;

/// The list of tools, and the settings that are in their texts and schemas.
type Kept = ((RunConfig, NetworkConfig), Arc<[Tool]>);

/// Answers the calls of one client.
#[derive(Clone)]
pub struct CodexTools {
    jobs: Arc<dyn Jobs>,
    tools: Arc<Mutex<Kept>>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    /// Whether a client of the older era is being told of changes already.
    telling: Arc<AtomicBool>,
    /// Runs whose question is with the client.
    waiting: Waiting,
}

impl fmt::Debug for CodexTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodexTools").finish_non_exhaustive()
    }
}

impl CodexTools {
    /// A handler whose calls are tasks of `tracker` and are cancelled by `shutdown`.
    pub fn new(jobs: Arc<dyn Jobs>, tracker: TaskTracker, shutdown: CancellationToken) -> Self {
        let settings = (jobs.limits(), jobs.network());
        let tools = tools::all(&settings.0, &settings.1).into();
        Self {
            jobs,
            tools: Arc::new(Mutex::new((settings, tools))),
            tracker,
            shutdown,
            telling: Arc::default(),
            waiting: Waiting::default(),
        }
    }

    /// The tools, with what the settings say now.
    fn tools(&self) -> Arc<[Tool]> {
        let settings = (self.jobs.limits(), self.jobs.network());
        let mut kept = self.tools.lock();
        if kept.0 != settings {
            let tools = tools::all(&settings.0, &settings.1).into();
            *kept = (settings, tools);
        }
        Arc::clone(&kept.1)
    }

    /// Resolves with `true` each time the list of tools has become another one, and with `false` at
    /// the end of the server.
    async fn list_changed(&self, changes: &mut ListChanges) -> bool {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => false,
            () = changes.next(|| self.tools()) => true,
        }
    }

    async fn codex_run(
        &self,
        arguments: JsonObject,
        state: Option<(String, InputResponses)>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let attending = match state {
            Some((state, responses)) => self
                .waiting
                .resume(&state, &arguments, responses)
                .map_err(|why| Failure::new(ErrorKind::InvalidArgument, why)),
            None => self.begin(arguments, &context),
        };
        let attending = match attending {
            Ok(attending) => attending,
            Err(failure) => return run_answer(RunResult::refused(&failure)).into(),
        };
        let stages = attending.stages.clone();
        let forwarder = context
            .meta
            .get_progress_token()
            .map(|token| Forwarder::start(context.peer.clone(), token, stages));
        let attended = self.waiting.attend(attending, context.ct.clone()).await;
        if let Some(forwarder) = forwarder {
            forwarder.stop().await;
        }
        match attended {
            Attended::Input(input) => input.into(),
            Attended::Ended(joined) => {
                run_answer((*joined).unwrap_or_else(|error| RunResult::refused(&defect(error))))
                    .into()
            }
        }
    }

    /// Starts a run.
    fn begin(
        &self,
        arguments: JsonObject,
        context: &RequestContext<RoleServer>,
    ) -> Result<Attending, Failure> {
        let call = RunCall::parse(arguments.clone(), &self.jobs.limits())?;
        let (sender, stages) = progress::channel();
        let (inputs, asked) = inputs(elicit::refusal(context));
        let asker: Arc<dyn Asker> =
            if elicit::is_modern(context) { inputs } else { Requests::new(context) };
        let token = self.shutdown.child_token();
        // The library may drop the call's future, but the run must then end by itself.
        let cancel = token.clone().drop_guard();
        let jobs = Arc::clone(&self.jobs);
        let body = self.tracker.spawn(async move { jobs.run(call, sender, asker, token).await });
        Ok(Attending { arguments, body, asked, stages, cancel, open: None })
    }

    async fn codex_run_diff(&self, arguments: JsonObject) -> CallToolResult {
        let jobs = Arc::clone(&self.jobs);
        let page = match DiffCall::parse(arguments) {
            Ok(call) => self.joined(async move { jobs.diff(call).await }).await,
            Err(failure) => Err(failure),
        };
        answer(page, |page| {
            let mut text = page.diff.clone();
            if page.pages > 1 {
                text.push_str(&format!("\nPage {} of {}", page.page, page.pages));
            }
            if text.is_empty() { "No file changed.".to_owned() } else { text }
        })
    }

    async fn codex_run_apply(&self, arguments: JsonObject) -> CallToolResult {
        let jobs = Arc::clone(&self.jobs);
        let report = match ApplyCall::parse(arguments) {
            Ok(call) => self.joined(async move { jobs.apply(call).await }).await,
            Err(failure) => Err(failure),
        };
        answer(report.map(|report| report.cut()), |report| report.text())
    }

    async fn codex_run_undo(&self, arguments: JsonObject) -> CallToolResult {
        let jobs = Arc::clone(&self.jobs);
        let report = match UndoCall::parse(arguments) {
            Ok(call) => self.joined(async move { jobs.undo(call).await }).await,
            Err(failure) => Err(failure),
        };
        answer(report.map(|report| report.cut()), |report| report.text())
    }

    async fn codex_pool_status(&self, arguments: JsonObject) -> CallToolResult {
        let jobs = Arc::clone(&self.jobs);
        let status = match call::refuse_unknown(tools::CODEX_POOL_STATUS, &arguments, &[]) {
            Ok(()) => self.joined(async move { Ok(jobs.pool_status()) }).await,
            Err(failure) => Err(failure),
        };
        answer(status, |status| status.text())
    }

    /// Runs `body` as a task, to its end even if the client goes away, and turns a panic into a
    /// failure.
    async fn joined<T: Send + 'static>(
        &self,
        body: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.tracker.spawn(body).await.unwrap_or_else(|error| Err(defect(error)))
    }
}

impl ServerHandler for CodexTools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build(),
        )
        .with_server_info(
            Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
                .with_title("Codex in containers"),
        )
        .with_instructions(tools::instructions(&self.jobs.network()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools().iter().find(|tool| tool.name == name).cloned()
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools().to_vec()))
    }

    /// The older era: every client is told, on the connection itself.
    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        if self.telling.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut changes = ListChanges::new(self.jobs.changes(), self.tools());
        let (handler, peer) = (self.clone(), context.peer);
        // A task of its own, since the library may wait for what this future waits for.
        tokio::spawn(async move {
            while handler.list_changed(&mut changes).await {
                if peer.notify_tool_list_changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// The newer era: who asks for it is told, on the stream of its request.
    fn accepted_subscription_filter(
        &self,
        _requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        // The library leaves what was asked for of it.
        Some(SubscriptionFilter::builder().tools_list_changed().build())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = ListChanges::new(self.jobs.changes(), self.tools());
        let wants = context.accepted().tools_list_changed == Some(true);
        loop {
            let changed = tokio::select! {
                () = context.cancelled() => false,
                changed = self.list_changed(&mut changes) => changed,
            };
            if !changed {
                return Ok(());
            }
            // The client that is gone is seen by the library.
            if wants && context.sink().notify_tool_list_changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let result = match &*request.name {
            tools::CODEX_RUN => {
                let responses = request.input_responses.unwrap_or_default();
                let state = request.request_state.map(|state| (state, responses));
                return Ok(self.codex_run(arguments, state, context).await);
            }
            tools::CODEX_RUN_DIFF => self.codex_run_diff(arguments).await,
            tools::CODEX_RUN_APPLY => self.codex_run_apply(arguments).await,
            tools::CODEX_RUN_UNDO => self.codex_run_undo(arguments).await,
            tools::CODEX_POOL_STATUS => self.codex_pool_status(arguments).await,
            other => {
                let tools = self.tools();
                let names: Vec<_> = tools.iter().map(|tool| &*tool.name).collect();
                return Err(ErrorData::invalid_params(
                    format!("no tool is called {other:?}; there are {}", names.join(", ")),
                    None,
                ));
            }
        };
        Ok(result.into())
    }
}

fn run_answer(result: RunResult) -> CallToolResult {
    let result = result.cut();
    let text = result.text();
    structured(serde_json::to_value(&result), text, !result.success)
}

fn answer<T: Serialize>(
    outcome: Result<T, Failure>,
    text: impl FnOnce(&T) -> String,
) -> CallToolResult {
    match outcome {
        Ok(value) => {
            let text = text(&value);
            let value = serde_json::to_value(&value).map(|mut value| {
                if let Value::Object(fields) = &mut value {
                    fields.insert("success".to_owned(), json!(true));
                }
                value
            });
            structured(value, text, false)
        }
        Err(failure) => structured(
            Ok(json!({
                "success": false,
                "error": failure.sentence,
                "error_kind": failure.kind,
                "retryable": failure.retryable(),
            })),
            failure.sentence,
            true,
        ),
    }
}

fn structured(
    value: Result<Value, serde_json::Error>,
    text: String,
    is_error: bool,
) -> CallToolResult {
    let content = vec![ContentBlock::text(text)];
    let mut result =
        if is_error { CallToolResult::error(content) } else { CallToolResult::success(content) };
    result.structured_content = value.ok();
    result
}

/// What the caller is told when a task of ours panicked.
fn defect(error: JoinError) -> Failure {
    let what = match error.try_into_panic() {
        Ok(panic) => panic_text(&*panic).to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::error!(panic = %what, "a call ended by a defect");
    Failure::new(
        ErrorKind::Internal,
        "a defect in mcp-codex-orchestrator ended the call; its log on stderr says where, please \
         report it",
    )
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a text")
}
