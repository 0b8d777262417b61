//! `doctor`: whether everything is there that a run needs, one line each.

mod container;

use std::sync::Arc;

use serde::Serialize;

use super::{Context, Outcome, Stopped, auth, engine, out, parts};
use crate::codex::app_server::TESTED;
use crate::codex::home::{self, Host, Inherited};
use crate::container::check_image;
use crate::engine::Engine;
use crate::model::{Gateway, Limits};
use crate::network;
use crate::workspace::root::Roots;

/// The model that Codex 0.169.0 uses if none is named.
const MODEL: &str = "gpt-6.1-sol";

/// Flags of `doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Ask the model provider for one word, too, with the credential that runs use and by the same
    /// way. Costs what a request of some fifty tokens costs.
    #[arg(long)]
    pub live: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    good: bool,
    /// What was found, or what is wrong and what to do.
    found: String,
    /// Of a container that was armed.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    armed: Option<container::Armed>,
}

impl Check {
    fn new(name: &'static str, outcome: Result<String, String>) -> Self {
        let good = outcome.is_ok();
        Self { name, good, found: outcome.unwrap_or_else(|problem| problem), armed: None }
    }
}

pub(super) async fn execute(arguments: &Arguments, context: &Context) -> Result<Outcome, Stopped> {
    let mut checks = vec![settings(context)];
    checks.extend(engine_and_image(context).await);
    if checks.iter().all(|check| check.good) {
        checks.push(armed(context).await);
    }
    let network = &context.loaded.config.network;
    checks.push(Check::new("network", Ok(network::describe(network))));
    checks.push(credential(context));
    let inherited = inherited(context);
    checks.push(Check::new("codex home", Ok(inherited.line(&context.paths.codex_home))));
    checks.push(workspace(context));
    if arguments.live {
        checks.push(live(context, inherited.model.as_deref()).await);
    }
    if arguments.json {
        out::json(&checks)?;
    } else {
        for Check { name, good, found, .. } in &checks {
            let mark = if *good { "ok  " } else { "FAIL" };
            out::text(&format!("{mark}  {name:<10}  {found}"))?;
        }
    }
    let good = checks.iter().all(|check| check.good);
    Ok(if good { Outcome::Success } else { Outcome::NotReady })
}

fn settings(context: &Context) -> Check {
    let file = context.loaded.file.as_ref();
    let found = file.map_or_else(|| "defaults".to_owned(), |file| file.display().to_string());
    Check::new("settings", Ok(found))
}

async fn engine_and_image(context: &Context) -> [Check; 2] {
    let name = &context.loaded.config.container.image;
    let unknown = || Check::new("image", Err(format!("{name} cannot be looked for")));
    let engine = match engine::connect(context) {
        Ok(engine) => engine,
        Err(error) => return [Check::new("engine", Err(error.to_string())), unknown()],
    };
    let facts = match engine.facts().await {
        Ok(facts) => facts,
        Err(error) => return [Check::new("engine", Err(error.to_string())), unknown()],
    };
    let image = match engine.image(name).await {
        Ok(image) => check_image(&image)
            .map(|versions| format!("{name} with Codex {}", tested(&versions.codex)))
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    [Check::new("engine", Ok(engine::describe(&facts))), Check::new("image", image)]
}

/// The version, and what to know of it.
fn tested(version: &str) -> String {
    if TESTED.contains(&version) {
        return version.to_owned();
    }
    let tested = TESTED.join(", ");
    format!(
        "{version}, which was not tried (but {tested}): runs use codex exec whatever codex.start \
         says; `mcp-codex-orchestrator image build` makes an image with a Codex that was tried"
    )
}

/// A container that is armed and removed again.
async fn armed(context: &Context) -> Check {
    let armed = match engine::connect(context) {
        Ok(engine) => container::arm(Arc::new(engine), context).await,
        Err(error) => Err(error.to_string()),
    };
    let check =
        Check::new("container", armed.as_ref().map(container::Armed::line).map_err(Clone::clone));
    Check { armed: armed.ok(), ..check }
}

fn credential(context: &Context) -> Check {
    let found = auth::find(context).map(|credential| {
        let status = credential.status();
        let warnings = status.warnings.iter().map(|warning| format!("; {warning}"));
        status.line() + &warnings.collect::<String>()
    });
    Check::new("credential", found.map_err(|error| error.to_string()))
}

/// What runs take over of the user's own Codex home. What is left out is no reason to fail.
fn inherited(context: &Context) -> Inherited {
    let config = &context.loaded.config;
    let host = Host {
        home: Some(context.paths.home.clone()),
        workspaces: parts::roots(context, config).paths(),
        everything: config.codex.inherit_config,
    };
    home::read(&context.paths.codex_home, &host)
}

/// What the provider says to one smallest request.
async fn live(context: &Context, inherited: Option<&str>) -> Check {
    let config = &context.loaded.config;
    let model = match config.codex.model.as_str() {
        "" => inherited.unwrap_or(MODEL),
        model => model,
    };
    let asked = async {
        let credential = auth::find(context).map_err(|error| error.to_string())?;
        let gateway = Gateway::new(&config.model, credential, |name| (context.lookup)(name))
            .map_err(|error| error.to_string())?;
        gateway.probe(model, Limits::new(&config.model, 0)).await
    };
    Check::new("live", asked.await)
}

fn workspace(context: &Context) -> Check {
    let paths = &context.paths;
    let roots = Roots::from(
        &context.loaded.config.workspace,
        |name| (context.lookup)(name),
        context.workspace.clone(),
        &paths.runs,
        &paths.state,
        &paths.codex_home,
        &paths.home,
    );
    let found = roots.resolve(None, None);
    Check::new(
        "workspace",
        found
            .map(|workspace| workspace.path.display().to_string())
            .map_err(|error| error.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::tested;

    #[test]
    fn a_codex_that_was_not_tried_is_named_with_those_that_were() {
        assert_eq!(tested("0.169.0"), "0.169.0");
        let warned = tested("0.170.0");
        assert!(warned.contains("0.170.0") && warned.contains("(but 0.169.0)"), "{warned}");
    }
}
