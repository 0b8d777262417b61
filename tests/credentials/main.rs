//! The ChatGPT login of the host behind the gateway, against a scripted token server and provider.

#![allow(missing_docs)]
// Helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod codex_beside;
#[path = "../common/codex_binary.rs"]
mod codex_binary;
mod probe;
mod scripted;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use self::scripted::{Served, Servers, locks, now, refresh_token, token, write_login};

fn auth_json(home: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(home.join("auth.json")).unwrap()).unwrap()
}

fn names(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_requests_at_once_through_an_expiry_refresh_once() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() + 599));
    let path = home.path().join("auth.json");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let served = Served::new(&servers, home.path()).await;
    assert_eq!(served.ask_at_once(50).await, [200; 50]);
    assert_eq!(
        *servers.state.asked.lock(),
        [json!({
            "client_id": "app_EMoamEEZ73f0CkXaXp7hrann", "grant_type": "refresh_token",
            "refresh_reason": "proactive_expiry", "refresh_token": refresh_token(1),
        })]
    );
    for (authorization, account, _) in &*servers.state.requests.lock() {
        assert!(authorization.starts_with("Bearer eyJ"), "{authorization}");
        assert_eq!(account, "acc-1");
    }
    // Nothing is lost of the file: mode, fields that are not known here, the account.
    let file = auth_json(home.path());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(file["tokens"]["refresh_token"], refresh_token(2));
    assert_eq!(file["tokens"]["id_token"], token(1, file_expiry(&file)));
    assert_eq!(file["tokens"]["account_id"], "acc-1");
    assert_eq!(file["tokens"]["of_a_later_codex"], json!([1]));
    assert_eq!(file["unknown"], json!({"kept": true}));
    assert_ne!(file["last_refresh"], "2026-01-01T00:00:00Z");
    assert_eq!(names(home.path()), ["auth.json", "auth.json.lock", "auth.lock"]);
    assert_eq!(served.ask_at_once(5).await, [200; 5]);
    assert_eq!(servers.asked(), 1);
}

fn file_expiry(file: &Value) -> Option<i64> {
    use base64::Engine as _;
    let id = file["tokens"]["id_token"].as_str().unwrap();
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = engine.decode(id.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["exp"].as_i64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn orchestrators_beside_each_other_refresh_once() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    let one = Served::new(&servers, home.path()).await;
    let two = Served::new(&servers, home.path()).await;
    let (one, two) = tokio::join!(one.ask_at_once(25), two.ask_at_once(25));
    assert_eq!((one, two), (vec![200; 25], vec![200; 25]));
    assert_eq!(servers.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn codex_that_refreshes_between_our_look_and_our_lock_is_followed() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    let served = Served::new(&servers, home.path()).await;
    let held = locks(home.path());
    let mut asking = Box::pin(served.ask_at_once(3));
    // They wait for the locks, and ask nobody meanwhile.
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut asking).await.is_err());
    *servers.state.generation.lock() = 2;
    write_login(home.path(), 2, Some(now() + 86_400));
    drop(held);
    assert_eq!(asking.await, [200; 3]);
    assert_eq!(servers.asked(), 0);
}

/// Codex 0.169 asks the token server first and takes the locks to write: here it was faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn codex_that_refreshed_first_and_writes_later_is_waited_for() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    *servers.state.generation.lock() = 2;
    let (path, (written, was_written)) = (home.path().to_owned(), oneshot::channel());
    let once = parking_lot::Mutex::new(Some(written));
    *servers.state.on_ask.lock() = Some(Box::new(move || {
        let (path, written) = (path.clone(), once.lock().take().unwrap());
        // Blocks until the gateway, which has just asked, gives the locks back.
        std::thread::spawn(move || {
            let _held = locks(&path);
            write_login(&path, 2, Some(now() + 86_400));
            written.send(()).unwrap();
        });
    }));
    let served = Served::new(&servers, home.path()).await;
    assert_eq!(served.ask_at_once(10).await, [200; 10]);
    was_written.await.unwrap();
    assert_eq!(servers.asked(), 1);
    assert_eq!(auth_json(home.path())["tokens"]["refresh_token"], refresh_token(2));
}

#[tokio::test]
async fn a_login_that_was_used_up_names_codex_login_and_works_after_it() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    *servers.state.generation.lock() = 7;
    let served = Served::new(&servers, home.path()).await;
    for _ in 0..2 {
        let (status, text) = served.ask().await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("run codex login") && text.contains("already used"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(!format!("{:?}", served.gateway).contains("secret"));
    }
    assert_eq!(servers.asked(), 1, "a void token is sent once");
    assert!(servers.state.requests.lock().is_empty());
    write_login(home.path(), 7, Some(now() + 86_400));
    assert_eq!(served.ask().await.0, 200);
    assert_eq!(names(home.path()), ["auth.json", "auth.json.lock", "auth.lock"]);
}

#[tokio::test]
async fn a_refresh_that_fails_ahead_of_time_costs_nothing() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() + 300));
    let served = Served::new(&servers, home.path()).await;
    *servers.state.answer.lock() = Some((503, "secret".into()));
    assert_eq!(served.ask_at_once(20).await, [200; 20]);
    assert_eq!(servers.asked(), 1, "not asked again at once");
    let before = auth_json(home.path());
    assert_eq!(before["tokens"]["refresh_token"], refresh_token(1));
}

#[tokio::test]
async fn after_401_the_login_is_read_again_and_refreshed_once() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    // Does not say when it ends, so only the provider can tell that it has.
    servers.login(home.path(), None);
    let served = Served::new(&servers, home.path()).await;
    assert_eq!(served.ask().await.0, 200);
    // Another program has refreshed: its tokens are taken.
    *servers.state.generation.lock() = 2;
    write_login(home.path(), 2, None);
    assert_eq!(served.ask().await.0, 200);
    assert_eq!(servers.asked(), 0);
    // Nobody has: refreshed here, once, for all that were refused.
    *servers.state.refuse_all.lock() = true;
    assert_eq!(served.ask_at_once(10).await, [401; 10]);
    assert_eq!(servers.asked(), 1);
    assert_eq!(servers.state.asked.lock()[0]["refresh_reason"], "unauthorized_recovery");
    assert_eq!(served.ask().await.0, 401);
    assert_eq!(servers.asked(), 1, "a new token would be no better");
    *servers.state.refuse_all.lock() = false;
    assert_eq!(served.ask().await.0, 200);
}

#[tokio::test]
async fn a_clock_that_is_days_ahead_causes_one_refresh() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 86_400));
    *servers.state.life.lock() = -3600;
    let served = Served::new(&servers, home.path()).await;
    for _ in 0..5 {
        assert_eq!(served.ask().await.0, 200);
    }
    assert_eq!(servers.asked(), 1);
}

/// What is over by the provider's clock looks good by ours.
#[tokio::test]
async fn a_clock_that_is_behind_is_put_right_by_the_providers_refusal() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() + 86_400));
    *servers.state.refuse_all.lock() = true;
    let state = Arc::clone(&servers.state);
    *servers.state.on_ask.lock() = Some(Box::new(move || *state.refuse_all.lock() = false));
    let served = Served::new(&servers, home.path()).await;
    assert_eq!(served.ask_at_once(5).await, [200; 5]);
    assert_eq!(servers.asked(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_does_not_lose_the_login() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    let gate = Arc::clone(&servers.state.gate);
    let all = gate.acquire_many(1000).await.unwrap();
    let (asked, was_asked) = oneshot::channel();
    let once = parking_lot::Mutex::new(Some(asked));
    *servers.state.on_ask.lock() = Some(Box::new(move || {
        if let Some(asked) = once.lock().take() {
            asked.send(()).unwrap();
        }
    }));
    let served = Served::new(&servers, home.path()).await;
    let gateway = served.gateway.clone();
    let asking = tokio::spawn(served.request().send());
    was_asked.await.unwrap();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    // Closes every connection to the gateway as well.
    drop(served);
    drop(all);
    gateway.credential().settle().await;
    assert_eq!(auth_json(home.path())["tokens"]["refresh_token"], refresh_token(2));
    assert_eq!(servers.asked(), 1);
}

#[tokio::test]
async fn what_could_not_be_written_is_not_asked_for() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    // No lock can be had: a directory is in its place.
    std::fs::create_dir(home.path().join("auth.lock")).unwrap();
    let served = Served::new(&servers, home.path()).await;
    let (status, text) = served.ask().await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("cannot be written") && text.contains("make it writable"), "{text}");
    assert_eq!(servers.asked(), 0);
}

#[tokio::test]
async fn a_login_that_vanishes_or_changes_its_form_is_told() {
    let (servers, home) = (Servers::start().await, tempfile::tempdir().unwrap());
    servers.login(home.path(), Some(now() - 5));
    let served = Served::new(&servers, home.path()).await;
    let key = r#"{"auth_mode":"apikey","OPENAI_API_KEY":"sk-secret"}"#;
    for text in [Some(key), Some("{\"tokens\":"), Some(""), None] {
        match text {
            Some(text) => std::fs::write(home.path().join("auth.json"), text).unwrap(),
            None => std::fs::remove_file(home.path().join("auth.json")).unwrap(),
        }
        let (status, said) = served.ask().await;
        assert_eq!(status, 400, "{said}");
        assert!(said.contains("run codex login") && !said.contains("secret"), "{said}");
    }
    assert_eq!(servers.asked(), 0);
}
