//! What a run needs, looked at and put together before anything is started.

use std::sync::Arc;

use crate::codex::command::CodexCommand;
use crate::failure::Failure;
use crate::job::call::{Mode, RunCall};
use crate::job::following::Start;
use crate::job::thread::{self, Kept};
use crate::job::{Orchestrator, Settings, blocking};
use crate::model::gateway::Gateway;
use crate::record::{Record, Request};
use crate::workspace::Workspace;

/// What a run needs, checked before anything is started.
pub(super) struct Prepared {
    pub(super) workspace: Workspace,
    pub(super) gateway: Gateway,
    pub(super) record: Record,
    /// What Codex is started with.
    pub(super) start: Start,
    /// The thread that goes on.
    pub(super) continues: Option<Kept>,
    /// The model that Codex is given.
    pub(super) model: Option<String>,
    /// See [`Job`](super::Job).
    pub(super) keeps: bool,
}

/// Checks everything that can be checked without a container, and opens the record.
pub(super) async fn prepare(
    orchestrator: &Orchestrator,
    settings: &Arc<Settings>,
    call: &RunCall,
) -> Result<Prepared, Failure> {
    let gateway = orchestrator.gateway()?;
    let roots = settings.roots.clone();
    let runs = orchestrator.places.runs.clone();
    let state = orchestrator.places.state.clone();
    let default_model = settings.config.codex.model.clone();
    let way = settings.config.codex.start;
    let owner = orchestrator.owner.clone();
    let (codex_home, lookup) =
        (orchestrator.places.codex_home.clone(), orchestrator.lookup.clone());
    let told = Arc::clone(&orchestrator.inherited);
    let (call, settings) = (call.clone(), Arc::clone(settings));
    blocking(move || {
        let workspace = roots.resolve(call.repo.as_deref(), call.working_dir.as_deref())?;
        let keeps = settings.keeps_built(&workspace);
        let continues = call.thread.continues.as_deref();
        let continues =
            continues.map(|run| thread::open(&runs, &state, &workspace.path, run)).transpose()?;
        // A thread stays with its model: another one would have to be told all of it anew.
        let model = call.model.clone().or_else(|| continues.as_ref()?.model.clone());
        let model = model.or(Some(default_model).filter(|model| !model.is_empty()));
        let variables = call.env_vars.iter();
        let mut command = CodexCommand {
            prompt: call.prompt.clone(),
            model,
            working_dir: workspace.working_dir.clone(),
            env_vars: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            output_schema: call.output_schema.as_ref().map(|schema| schema.value().clone()),
            asks: call.mode == Mode::Ask,
            keep_thread: call.thread.keep,
            resumes: continues.as_ref().map(|kept| kept.id.clone()),
            ..CodexCommand::default()
        };
        settings.inherit(&mut command, &codex_home, &lookup, &told);
        let model = command.model.clone();
        let start = Start::new(way, command, &uuid::Uuid::new_v4().to_string())?;
        let record = Record::create(&runs, &Request::new(&call, &workspace.path, &owner))?;
        Ok::<_, Failure>(Prepared { workspace, gateway, record, start, continues, model, keeps })
    })
    .await
}
