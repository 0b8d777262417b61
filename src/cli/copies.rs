//! `copies`: what containers hold of workspaces.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Context, Outcome, Stopped, out};
use crate::job::drops::Request;
use crate::pool::copies::Forgotten;
use crate::pool::owner;
use crate::workspace::WorkspaceKey;

/// How long running servers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks for answers.
const LOOK: Duration = Duration::from_millis(20);

/// What to do with copies.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Drop what the containers of all running servers hold: the copy and what was built in it.
    Drop(DropArguments),
}

/// Flags of `copies drop`.
#[derive(Clone, Debug, clap::Args)]
pub struct DropArguments {
    /// The workspace.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub repo: Option<PathBuf>,
    /// Of every workspace.
    #[arg(long)]
    pub all: bool,
}

pub(super) async fn execute(command: Command, context: &Context) -> Result<Outcome, Stopped> {
    let Command::Drop(DropArguments { repo, .. }) = command;
    let state = context.paths.state.clone();
    let what = match &repo {
        Some(repo) => format!("of {}", repo.display()),
        None => "of any workspace".to_owned(),
    };
    let asked = tokio::task::spawn_blocking(move || ask(&state, repo.as_deref()));
    let asked = asked.await.map_err(|panic| Stopped::failed(panic.to_string()))??;
    out::text(&match asked {
        None => "No server is running, so no container holds anything.".to_owned(),
        Some(forgotten) => sentence(forgotten, &what),
    })
}

/// Asks all that run; `None` if none does.
fn ask(
    state: &std::path::Path,
    repo: Option<&std::path::Path>,
) -> Result<Option<Forgotten>, Stopped> {
    let key = match repo {
        None => None,
        Some(repo) => {
            let found = std::fs::metadata(repo).map_err(|error| Stopped {
                outcome: Outcome::Usage,
                sentence: format!(
                    "{} cannot be read ({error}); --all drops also what is held of a workspace that \
                     is gone",
                    repo.display()
                ),
            })?;
            Some(WorkspaceKey { dev: found.dev(), ino: found.ino() })
        }
    };
    let servers = owner::living(state);
    if servers.is_empty() {
        return Ok(None);
    }
    let request = Request::make(state, key).map_err(|error| {
        Stopped::failed(format!("{} cannot be written: {error}", state.display()))
    })?;
    let began = Instant::now();
    loop {
        let answers = request.answers();
        let living = owner::living(state);
        let silent =
            servers.iter().find(|label| !answers.contains_key(*label) && living.contains(label));
        let Some(silent) = silent else {
            let sum = answers.into_values().fold(Forgotten::default(), |sum, one| Forgotten {
                dropped: sum.dropped + one.dropped,
                in_use: sum.in_use + one.in_use,
            });
            return Ok(Some(sum));
        };
        if began.elapsed() > PATIENCE {
            let pid = silent.split('-').nth(2).unwrap_or("unknown");
            return Err(Stopped::failed(format!(
                "the server with the process number {pid} did not answer within {} s, so what it \
                 holds may still be used; end it, or try again",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(LOOK);
    }
}

fn sentence(Forgotten { dropped, in_use }: Forgotten, what: &str) -> String {
    let containers = |count: u64| match count {
        1 => "1 container".to_owned(),
        more => format!("{more} containers"),
    };
    match (dropped, in_use) {
        (0, 0) => format!("No container holds anything {what}."),
        (_, 0) => format!("Dropped what {} held {what}.", containers(dropped)),
        (0, _) => {
            format!("Drops what {} in use hold {what} when their work ends.", containers(in_use))
        }
        _ => format!(
            "Dropped what {} held {what}, and drops what {} in use hold when their work ends.",
            containers(dropped),
            containers(in_use)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_in_one_sentence_what_it_did() {
        let say = |dropped, in_use| sentence(Forgotten { dropped, in_use }, "of /w");
        assert_eq!(say(0, 0), "No container holds anything of /w.");
        assert_eq!(say(1, 0), "Dropped what 1 container held of /w.");
        assert_eq!(say(0, 2), "Drops what 2 containers in use hold of /w when their work ends.");
        assert_eq!(
            say(3, 1),
            "Dropped what 3 containers held of /w, and drops what 1 container in use hold when their \
             work ends."
        );
    }

    #[test]
    fn without_a_server_nothing_is_asked_and_a_path_that_is_gone_is_refused() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(ask(state.path(), None), Ok(None));
        assert!(!state.path().join("drops").exists());
        let gone = ask(state.path(), Some(&state.path().join("gone"))).unwrap_err();
        assert_eq!(gone.outcome, Outcome::Usage);
    }
}
