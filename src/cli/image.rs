//! `image build`: builds the image, from a checkout of this project.

use std::path::PathBuf;

use super::{Outcome, Stopped};
use crate::config::paths::checkout;

/// What to do with the image.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Build the image that containers are started from. Needs a checkout of this project.
    Build {
        /// Arguments for docker/build.sh; `--help` among them lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

pub(super) async fn execute(command: Command) -> Result<Outcome, Stopped> {
    let Command::Build { arguments } = command;
    let script = find_script().ok_or_else(|| Stopped {
        outcome: Outcome::NotReady,
        sentence: "the image is built from a checkout of mcp-codex-orchestrator, and neither the \
                   current directory nor the program lies in one; change into a checkout and call \
                   this again"
            .to_owned(),
    })?;
    let status = tokio::process::Command::new(&script)
        .args(arguments)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| {
            Stopped::failed(format!("{} cannot be started: {error}", script.display()))
        })?;
    if status.success() {
        Ok(Outcome::Success)
    } else {
        Err(Stopped::failed(format!("{} failed; its output says why", script.display())))
    }
}

fn find_script() -> Option<PathBuf> {
    let places = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    places
        .into_iter()
        .flatten()
        .filter_map(|place| checkout(&place))
        .map(|checkout| checkout.join("docker/build.sh"))
        .find(|script| script.is_file())
}
