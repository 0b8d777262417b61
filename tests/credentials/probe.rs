//! `doctor --live` with a ChatGPT login.

use mcp_codex_orchestrator::config::{Config, DEFAULT_TOML};
use mcp_codex_orchestrator::model::Limits;

use crate::scripted::{Served, Servers, now};

async fn probe(served: &Served) -> Result<String, String> {
    let defaults: Config = toml::from_str(DEFAULT_TOML).unwrap();
    served.gateway.probe("m-1", Limits::new(&defaults.model, 0)).await
}

#[tokio::test]
async fn a_login_is_tried_with_its_account_and_refreshed_before_if_it_is_time() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    let served = Served::new(&servers, home.path()).await;
    assert_eq!(probe(&served).await.unwrap(), "127.0.0.1 answered with m-1");
    assert_eq!(servers.asked(), 1);
    let (_, account, status) = servers.state.requests.lock()[0].clone();
    assert_eq!((account.as_str(), status), ("acc-1", 200));
}

#[tokio::test]
async fn a_login_that_is_refused_or_over_says_what_to_do() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() + 86_400));
    *servers.state.refuse_all.lock() = true;
    let served = Served::new(&servers, home.path()).await;
    let said = probe(&served).await.unwrap_err();
    assert!(said.contains("refuses the ChatGPT login (401)"), "{said}");
    assert!(said.contains("mcp-codex-orchestrator auth login"), "{said}");

    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    *servers.state.generation.lock() = 7;
    let said = probe(&Served::new(&servers, home.path()).await).await.unwrap_err();
    assert!(said.contains("is over") && said.contains("run codex login"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}
