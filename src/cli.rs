//! The commands, one file each.
//!
//! A command gives data to `out` and an [`Outcome`] to `main`, which alone knows exit codes. With
//! `serve` stdout belongs to the protocol, so nothing is printed there.

mod ask;
mod auth;
mod client_config;
mod config;
mod copies;
mod demo;
mod doctor;
mod engine;
mod image;
mod out;
mod parts;
mod ps;
mod reap;
mod run;
mod runs;
mod serve;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, Loaded, Lookup, Overrides, Paths};
use crate::failure::{ErrorKind, Failure};

/// Runs OpenAI's Codex CLI in isolated containers that are already waiting, for any MCP client.
#[derive(Debug, Parser)]
#[command(name = "mcp-codex-orchestrator", version, max_term_width = 100)]
pub struct Cli {
    /// File with settings, instead of the one in the XDG configuration directory.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve MCP on stdin and stdout. This is what a client starts.
    Serve(serve::Arguments),
    /// Run Codex once, and print the result.
    Run(run::Arguments),
    /// Check that everything is there: engine, image, credential, workspace.
    Doctor(doctor::Arguments),
    /// The image that containers are started from.
    #[command(subcommand)]
    Image(image::Command),
    /// List the containers of all orchestrators.
    Ps(ps::Arguments),
    /// Remove the containers of orchestrators that live no more.
    Reap(reap::Arguments),
    /// What containers hold of workspaces.
    #[command(subcommand)]
    Copies(copies::Command),
    /// The records of runs.
    #[command(subcommand)]
    Runs(runs::Command),
    /// The credential for the model provider.
    #[command(subcommand)]
    Auth(auth::Command),
    /// The settings.
    #[command(subcommand)]
    Config(config::Command),
    /// Print what a client needs in its configuration.
    ClientConfig(client_config::Arguments),
    /// Show a whole run with a scripted model: no key needed.
    Demo(demo::Arguments),
}

/// How a command ended, for `main` to make an exit code of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Success,
    /// It tried and failed.
    Failed,
    /// It was asked for something that makes no sense.
    Usage,
    /// Something that it needs is not there: engine, image, credential, settings.
    NotReady,
    /// The run's timeout ran out.
    TimedOut,
    /// The user ended it.
    Interrupted,
}

impl Outcome {
    /// The outcome of a failure of `kind`.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidArgument
            | ErrorKind::WorkspaceMissing
            | ErrorKind::WorkspaceRefused => Self::Usage,
            ErrorKind::EngineUnavailable
            | ErrorKind::ImageMissing
            | ErrorKind::ImageOutdated
            | ErrorKind::AuthMissing => Self::NotReady,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::Cancelled => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

/// Why a command could not do what was asked; one sentence for stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// How it ended.
    pub outcome: Outcome,
    /// What happened and what to do.
    pub sentence: String,
}

impl Stopped {
    fn failed(sentence: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, sentence: sentence.into() }
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self { outcome: Outcome::of(failure.kind), sentence: failure.sentence }
    }
}

impl From<ConfigError> for Stopped {
    fn from(error: ConfigError) -> Self {
        let sentence = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self { outcome: Outcome::NotReady, sentence }
    }
}

/// What every command is given.
#[derive(Clone)]
pub struct Context {
    /// The settings.
    pub loaded: Loaded,
    /// Where things are.
    pub paths: Paths,
    /// The environment.
    pub lookup: Lookup,
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--workspace`, if the command has it.
    pub workspace: Option<PathBuf>,
}

impl Context {
    /// What flags say about settings.
    fn overrides(&self) -> Overrides {
        Overrides { config: self.config.clone(), workspace: self.workspace.clone() }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Cli {
    /// The command; a missing one is `serve`.
    pub fn command(self) -> Command {
        self.command.unwrap_or_else(|| Command::Serve(serve::Arguments::default()))
    }

    /// What the flags say about settings.
    pub fn overrides(&self) -> Overrides {
        let workspace = match &self.command {
            Some(Command::Serve(arguments)) => arguments.workspace.clone(),
            // Typed by the user, so it is allowed; what a model asks for in a call is not.
            Some(Command::Run(arguments)) => arguments.repo.as_ref().map(PathBuf::from),
            _ => None,
        };
        Overrides { config: self.config.clone(), workspace }
    }

    /// Whether the command works without settings, so that wrong ones do not stop it.
    pub fn needs_no_settings(&self) -> bool {
        matches!(
            self.command,
            Some(
                Command::ClientConfig(_)
                    | Command::Image(_)
                    | Command::Config(config::Command::Default)
            )
        )
    }

    /// Whether the command is a server, which logs more than one that a person looks at.
    pub fn is_server(&self) -> bool {
        matches!(self.command, None | Some(Command::Serve(_)))
    }
}

impl Command {
    /// Does a command that needs no settings.
    ///
    /// # Errors
    ///
    /// One sentence for stderr.
    pub async fn execute_without_settings(
        self,
        config: Option<PathBuf>,
    ) -> Result<Outcome, Stopped> {
        match self {
            Self::ClientConfig(arguments) => client_config::execute(&arguments, config.as_deref()),
            Self::Image(command) => image::execute(command).await,
            Self::Config(_) => config::print_default(),
            _ => Err(Stopped::failed("this command needs settings")),
        }
    }

    /// Does it.
    ///
    /// # Errors
    ///
    /// One sentence for stderr.
    pub async fn execute(self, context: Context) -> Result<Outcome, Stopped> {
        match self {
            Self::Serve(_) => serve::execute(&context).await,
            Self::Run(arguments) => run::execute(arguments, &context).await,
            Self::Doctor(arguments) => doctor::execute(&arguments, &context).await,
            Self::Ps(arguments) => ps::execute(&arguments, &context).await,
            Self::Reap(arguments) => reap::execute(&arguments, &context).await,
            Self::Copies(command) => copies::execute(command, &context).await,
            Self::Runs(command) => runs::execute(command, &context).await,
            Self::Auth(command) => auth::execute(&command, &context).await,
            Self::Config(command) => config::execute(&command, &context),
            Self::Demo(arguments) => demo::execute(arguments, &context).await,
            Self::ClientConfig(_) | Self::Image(_) => self.execute_without_settings(None).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn no_command_is_serve() {
        let cli = Cli::try_parse_from(["x"]).unwrap();
        assert!(cli.is_server());
        let cli = Cli::try_parse_from(["x", "--config", "f", "serve", "--workspace", "w"]).unwrap();
        assert_eq!(cli.overrides().workspace, Some("w".into()));
        assert_eq!(cli.overrides().config, Some("f".into()));
    }
}
