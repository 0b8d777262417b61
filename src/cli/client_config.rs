//! `client-config`: what a client needs in its configuration, with the path of this program in it.
//!
//! Clients do not hand their environment on, so the variables that matter are named here.

use std::path::Path;

use serde_json::json;

use super::{Outcome, Stopped, out};

/// Flags of `client-config`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The client.
    #[arg(value_enum)]
    pub client: Client,
}

/// Clients whose configuration is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    /// Claude Code, `.mcp.json`
    ClaudeCode,
    /// Codex, `~/.codex/config.toml`
    Codex,
    /// VS Code, `.vscode/mcp.json`
    Vscode,
    /// Cursor, `.cursor/mcp.json`
    Cursor,
    /// Claude Desktop, `claude_desktop_config.json`
    ClaudeDesktop,
}

const NAME: &str = env!("CARGO_PKG_NAME");
const KEY: &str = "OPENAI_API_KEY";

/// More than the longest run may take, in the units that clients want.
const CALL_SECONDS: u64 = 3900;

pub(super) fn execute(arguments: &Arguments, config: Option<&Path>) -> Result<Outcome, Stopped> {
    let program = std::env::current_exe()
        .map_err(|error| Stopped::failed(format!("the program's own path is unknown: {error}")))?;
    let config = match config.map(std::path::absolute).transpose() {
        Ok(config) => config,
        Err(error) => return Err(Stopped::failed(format!("--config is no path: {error}"))),
    };
    let outcome = out::text(&snippet(arguments.client, &program, config.as_deref()));
    if matches!(arguments.client, Client::Codex | Client::ClaudeDesktop) {
        out::note(
            "This client does not say which folder is open: list your projects in \
             workspace.allowed of the settings and let calls name theirs as repo, or add \
             \"--workspace\" and a directory to args.",
        );
    }
    outcome
}

fn snippet(client: Client, program: &Path, config: Option<&Path>) -> String {
    let command = program.to_string_lossy();
    let mut args: Vec<String> = vec!["serve".to_owned()];
    if let Some(config) = config {
        args.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
    }
    let in_folder = |mut args: Vec<String>| {
        args.extend(["--workspace".to_owned(), "${workspaceFolder}".to_owned()]);
        args
    };
    let json = match client {
        Client::ClaudeCode => json!({"mcpServers": {NAME: {
            "type": "stdio", "command": command, "args": args,
            // Without the default, Claude Code drops a server whose variable is not set, and says nothing.
            "env": {KEY: format!("${{{KEY}:-}}")},
            "timeout": CALL_SECONDS * 1000,
        }}}),
        Client::ClaudeDesktop => json!({"mcpServers": {NAME: {
            "command": command, "args": args, "env": {KEY: "sk-..."},
        }}}),
        Client::Cursor => json!({"mcpServers": {NAME: {
            "command": command, "args": in_folder(args),
            "env": {KEY: format!("${{env:{KEY}}}")},
        }}}),
        Client::Vscode => json!({
            "inputs": [{
                "type": "promptString", "id": "openai-key", "description": "OpenAI API key",
                "password": true,
            }],
            "servers": {NAME: {
                "type": "stdio", "command": command, "args": in_folder(args),
                "env": {KEY: "${input:openai-key}"},
            }},
        }),
        Client::Codex => {
            let server = toml::toml! {
                env_vars = ["OPENAI_API_KEY", "DOCKER_HOST"]
                startup_timeout_sec = 20
            };
            let mut keys = toml::Table::new();
            keys.insert("command".to_owned(), command.into_owned().into());
            keys.insert("args".to_owned(), args.into());
            keys.extend(server);
            let seconds = i64::try_from(CALL_SECONDS).unwrap_or(i64::MAX);
            keys.insert("tool_timeout_sec".to_owned(), seconds.into());
            return format!("# ~/.codex/config.toml\n[mcp_servers.{NAME}]\n{keys}");
        }
    };
    serde_json::to_string_pretty(&json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_snippet_is_valid_and_starts_this_program() {
        let program = Path::new("/opt/a \"b\"/orchestrator");
        for client in Client::value_variants() {
            let text = snippet(*client, program, Some(Path::new("/c.toml")));
            let server = if *client == Client::Codex {
                let table: toml::Table = text.parse().unwrap();
                serde_json::to_value(&table["mcp_servers"][NAME]).unwrap()
            } else {
                let json: Value = serde_json::from_str(&text).unwrap();
                let servers = if *client == Client::Vscode { "servers" } else { "mcpServers" };
                json[servers][NAME].clone()
            };
            assert_eq!(server["command"], program.to_str().unwrap());
            assert_eq!(server["args"][0], "serve");
            assert_eq!(server["args"][2], "/c.toml");
        }
    }
}
