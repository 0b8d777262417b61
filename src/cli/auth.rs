//! `auth`: the credential for the model provider, without showing it.

mod login;

use super::{Context, Outcome, Stopped, out};
use crate::failure::Failure;
use crate::model::credentials::{self, Credential, CredentialError, Files};

/// What to do with the credential.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Log in to ChatGPT with a code that is entered in a browser, on any machine: Codex's own
    /// device login, in a container, whose result goes to auth.json in CODEX_HOME.
    Login(login::Arguments),
    /// Say which credential would be used, of which account, until when. Asks no one.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn execute(command: &Command, context: &Context) -> Result<Outcome, Stopped> {
    let json = match command {
        Command::Login(arguments) => return login::execute(arguments, context).await,
        Command::Status { json } => json,
    };
    let status = find(context).map_err(Failure::from)?.status();
    if *json {
        return out::json(&status);
    }
    out::text(&format!("{}.", status.line()))?;
    for warning in &status.warnings {
        out::note(&format!("warning: {warning}"));
    }
    Ok(Outcome::Success)
}

/// The credential that a run would use.
pub(super) fn find(context: &Context) -> Result<Credential, CredentialError> {
    let paths = &context.paths;
    let docker_env = paths.checkout.as_ref().map(|root| root.join("docker/.env"));
    let files = Files { docker_env: docker_env.as_deref(), codex_home: &paths.codex_home };
    credentials::find(&context.loaded.config.model, |name| (context.lookup)(name), files)
}
