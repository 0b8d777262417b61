//! `demo`: a whole run with a scripted model.

use super::{Context, Outcome, Stopped};

/// Flags of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn execute(_arguments: Arguments, _context: &Context) -> Result<Outcome, Stopped> {
    Err(Stopped::failed("this build has no demo"))
}
