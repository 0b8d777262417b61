//! The user's own Codex, the real one on this machine, beside the gateway on one login.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::codex_binary::codex_binary;
use crate::scripted::{Race, Served, Servers, now, refresh_token};
use crate::{auth_json, names};

/// One run of Codex with the ChatGPT login in `home`.
async fn codex(binary: &Path, servers: &Servers, home: &Path) -> Output {
    let here = format!("http://{}", servers.address);
    let provider = format!(
        "model_providers.p={{name=\"p\",base_url=\"{here}/backend-api/codex\",\
         wire_api=\"responses\",requires_openai_auth=true,request_max_retries=0,\
         stream_max_retries=0}}"
    );
    Command::new(binary)
        .args(["exec", "--json", "--ephemeral", "--skip-git-repo-check", "-s", "read-only"])
        .args(["-c", "model_provider=\"p\"", "-c", &provider])
        .args(["-c", &format!("chatgpt_base_url=\"{here}/backend-api\"")])
        .args(["-c", "features.plugins=false", "-c", "features.apps=false"])
        .args(["-c", "analytics.enabled=false", "-c", "check_for_update_on_startup=false"])
        .arg("Say hi.")
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("CODEX_HOME", home)
        .env("CODEX_REFRESH_TOKEN_URL_OVERRIDE", format!("{}?codex", servers.endpoint()))
        .current_dir(home)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// Both have the refresh token in the hand and ask with it before either is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn codex_and_the_gateway_that_refresh_at_the_same_moment_both_keep_the_login() {
    let Some(binary) = codex_binary() else { return };
    for codex_first in [true, false] {
        let servers = Servers::start().await;
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        servers.login(home.path(), Some(now() - 5));
        let race = Race::new(codex_first);
        *servers.state.race.lock() = Some(race.clone());
        let served = Served::new(&servers, home.path()).await;
        let (theirs, ours) =
            tokio::join!(codex(&binary, &servers, home.path()), served.ask_at_once(20));
        assert_eq!(race.asked(), 2, "codex first: {codex_first}: {:?}", servers.state.asked.lock());
        assert_eq!(ours, [200; 20], "codex first: {codex_first}");
        // The token was good for one of them; what it gave is what lies there.
        assert_eq!(*servers.state.generation.lock(), 2);
        assert_eq!(auth_json(home.path())["tokens"]["refresh_token"], refresh_token(2));
        assert_eq!(auth_json(home.path())["tokens"]["account_id"], "acc-1");
        assert!(theirs.status.success(), "codex first: {codex_first}: {theirs:?}");
        // Whoever lost goes on with what the other wrote.
        let again = codex(&binary, &servers, home.path()).await;
        assert!(again.status.success(), "{again:?}");
        assert_eq!(served.ask_at_once(5).await, [200; 5]);
        assert_eq!(servers.asked(), 2);
        assert!(!names(home.path()).iter().any(|name| name.ends_with(".tmp")));
    }
}
