//! The program in the container: `init <start_timeout_seconds>` is its pid 1, `serve` the keeper,
//! `try` what the keeper starts as uid 1000 to see what that is denied.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["init", seconds] => mcp_codex_orchestrator::keeper::inside::init::main(seconds),
        ["try"] => mcp_codex_orchestrator::keeper::inside::attempts::main(),
        ["serve"] => mcp_codex_orchestrator::keeper::inside::serve::main(),
        _ => Err(mcp_codex_orchestrator::keeper::inside::Refusal::new(
            "usage: codex-keeper init START_TIMEOUT_SECONDS | codex-keeper serve",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            use std::io::Write;
            // Nobody reads it if this fails.
            let _ = writeln!(std::io::stderr(), "codex-keeper: {refusal}");
            ExitCode::from(3)
        }
    }
}
