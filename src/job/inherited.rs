//! What a run takes over of the user's own Codex home, by the settings; told once.

use std::path::Path;

use parking_lot::Mutex;

use super::{Lookup, Settings};
use crate::codex::command::CodexCommand;
use crate::codex::home::{self, Host, Inherited};

/// What was left out when it was told last, so that it is told once.
pub(super) type Told = Mutex<Vec<String>>;

impl Settings {
    /// Fills in what `command` was given by no call and by no setting. Blocking, two small files.
    pub(super) fn inherit(
        &self,
        command: &mut CodexCommand,
        codex_home: &Path,
        lookup: &Lookup,
        told: &Told,
    ) {
        let home = lookup("HOME").map(Into::into);
        let everything = self.config.codex.inherit_config;
        let host = Host { home, workspaces: self.roots.paths(), everything };
        let inherited = home::read(codex_home, &host);
        tell(&inherited, codex_home, told);
        let Inherited { model, effort, agents, mut settings, .. } = inherited;
        over(&mut settings, &self.config.codex.config);
        let own = settings.remove("model_reasoning_effort");
        let own = own.and_then(|effort| effort.as_str().map(str::to_owned));
        command.effort = own.or(effort);
        command.model = command.model.take().or(model);
        command.agents = agents;
        command.settings = settings;
    }
}

fn tell(inherited: &Inherited, codex_home: &Path, told: &Told) {
    let mut told = told.lock();
    if *told != inherited.left_out {
        told.clone_from(&inherited.left_out);
        if !told.is_empty() {
            tracing::warn!("runs take over {}", inherited.line(codex_home));
        }
    }
}

/// Puts `upper` over `lower`, table by table.
fn over(lower: &mut toml::Table, upper: &toml::Table) {
    for (key, value) in upper {
        match (lower.get_mut(key), value) {
            (Some(toml::Value::Table(lower)), toml::Value::Table(upper)) => over(lower, upper),
            _ => {
                lower.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_goes_over_what_is_inherited() {
        let mut lower = "a = 1\n[t]\nb = 2\nc = 3\n".parse().unwrap();
        over(&mut lower, &"d = 4\n[t]\nb = 5\n".parse().unwrap());
        assert_eq!(lower, "a = 1\nd = 4\n[t]\nb = 5\nc = 3\n".parse().unwrap());
    }
}
