//! `config`: the settings.

use super::{Context, Outcome, Stopped, out};
use crate::config::DEFAULT_TOML;

/// What to do with the settings.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Print the settings in force, and where those that are no defaults come from.
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check the settings.
    Check,
    /// Print every key with its default and what it means.
    Default,
}

pub(super) fn execute(command: &Command, context: &Context) -> Result<Outcome, Stopped> {
    match command {
        Command::Show { json: true } => out::json(context.loaded.table()),
        Command::Show { json: false } => out::text(&context.loaded.to_toml()),
        // Wrong settings never come as far as this.
        Command::Check => match &context.loaded.file {
            Some(file) => out::text(&format!("{} is right.", file.display())),
            None => out::text("There is no settings file; the defaults are in force."),
        },
        Command::Default => print_default(),
    }
}

pub(super) fn print_default() -> Result<Outcome, Stopped> {
    out::text(DEFAULT_TOML)
}
