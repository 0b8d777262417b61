use super::api_key::KEY;
use super::*;

fn with(key: &'static str) -> impl Fn(&str) -> Option<String> {
    move |name| (name == KEY && !key.is_empty()).then(|| key.to_owned())
}

fn model(auth: Auth) -> ModelConfig {
    let defaults = crate::config::load(&crate::config::Overrides::default(), |_| None).unwrap();
    ModelConfig { base_url: OPENAI.to_owned(), auth, ..defaults.config.model }
}

fn nothing() -> Files<'static> {
    Files { docker_env: None, codex_home: Path::new("/nonexistent") }
}

fn secret(credential: &Credential) -> Option<&str> {
    match &credential.kind {
        Kind::ApiKey(key) => Some(key),
        _ => None,
    }
}

#[test]
fn debug_shows_no_secret() {
    let found = find(&model(Auth::Auto), with("sk-very-secret"), nothing()).unwrap();
    assert_eq!(secret(&found), Some("sk-very-secret"));
    assert!(!format!("{found:?}").contains("secret\""));
    assert!(!format!("{found:?}").contains("sk-"));
}

#[test]
fn the_environment_goes_before_the_file_and_an_empty_value_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".env");
    std::fs::write(&file, "# c\nexport OPENAI_API_KEY=\"sk-file\" # c\nOTHER=1\n").unwrap();
    let files = Files { docker_env: Some(&file), ..nothing() };
    let from_file = find(&model(Auth::ApiKey), with("  "), files).unwrap();
    assert_eq!(secret(&from_file), Some("sk-file"));
    assert_eq!(from_file.source(), &Source::File(file.clone()));
    let from_env = find(&model(Auth::ApiKey), with("sk-env\n"), files).unwrap();
    assert_eq!(secret(&from_env), Some("sk-env"));
}

#[test]
fn none_needs_nothing_and_nothing_found_says_what_to_do() {
    assert!(find(&model(Auth::None), with("sk-x"), nothing()).unwrap().is_none());
    let missing = Path::new("/nonexistent/.env");
    let files = Files { docker_env: Some(missing), ..nothing() };
    let failure = Failure::from(find(&model(Auth::Auto), with(""), files).unwrap_err());
    assert_eq!(failure.kind, ErrorKind::AuthMissing);
    for way in ["set OPENAI_API_KEY", "run codex login", "model.auth = \"none\""] {
        assert!(failure.sentence.contains(way), "{failure}");
    }
    assert!(matches!(
        find(&model(Auth::Auto), with("sk-a\nb"), nothing()).unwrap_err(),
        CredentialError::Malformed(_)
    ));
}

#[test]
fn of_auth_json_each_setting_takes_what_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files { docker_env: None, codex_home: dir.path() };
    let write = |text: &str| std::fs::write(dir.path().join("auth.json"), text).unwrap();
    let source = |auth, key: &'static str| {
        find(&model(auth), with(key), files).map(|found| found.status().kind)
    };
    write(r#"{"auth_mode":"apikey","OPENAI_API_KEY":"sk-stored"}"#);
    assert_eq!(source(Auth::Auto, "").unwrap(), "api-key");
    assert_eq!(source(Auth::ApiKey, "").unwrap(), "api-key");
    assert!(matches!(source(Auth::ChatGpt, "sk-x"), Err(CredentialError::NoLogin { .. })));
    write(r#"{"auth_mode":"chatgpt","tokens":{"access_token":"a","refresh_token":"r-secret"}}"#);
    assert_eq!(source(Auth::Auto, "").unwrap(), "chatgpt");
    assert_eq!(source(Auth::Auto, "sk-x").unwrap(), "api-key");
    assert_eq!(source(Auth::ChatGpt, "sk-x").unwrap(), "chatgpt");
    assert!(matches!(source(Auth::ApiKey, ""), Err(CredentialError::Missing)));
    write("{");
    assert!(matches!(source(Auth::Auto, ""), Err(CredentialError::AuthFile { .. })));
    assert_eq!(source(Auth::Auto, "sk-x").unwrap(), "api-key");
}

#[test]
fn a_chatgpt_login_goes_to_another_provider_only_if_asked_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files { docker_env: None, codex_home: dir.path() };
    let text = r#"{"tokens":{"access_token":"a","refresh_token":"r-secret"}}"#;
    std::fs::write(dir.path().join("auth.json"), text).unwrap();
    let mut config = model(Auth::Auto);
    let found = find(&config, with(""), files).unwrap();
    assert_eq!(found.base_url("https://api.openai.com/v1/"), CHATGPT);
    assert!(!format!("{found:?} {:?}", found.status()).contains("r-secret"));
    assert_eq!(found.redact("x r-secret x"), "x [redacted] x");
    config.base_url = "http://localhost:11434/v1".to_owned();
    let error = find(&config, with(""), files).unwrap_err();
    assert!(matches!(error, CredentialError::OtherProvider { .. }), "{error}");
    config.auth = Auth::ChatGpt;
    let found = find(&config, with(""), files).unwrap();
    assert_eq!(found.base_url(&config.base_url), config.base_url);
}

#[test]
fn a_login_is_refreshed_where_codex_refreshes_it_and_never_in_the_clear() {
    let endpoint = |text: &str| refresh::endpoint(Some(text.to_owned()));
    assert_eq!(refresh::endpoint(None).unwrap(), TOKEN_ENDPOINT);
    assert_eq!(endpoint(" ").unwrap(), TOKEN_ENDPOINT);
    for good in ["https://other.example/oauth/token", "http://127.0.0.1:9/t", "http://localhost/t"]
    {
        assert_eq!(endpoint(good).unwrap(), good);
    }
    for bad in ["http://other.example/t", "http://127.0.0.1.example/t", "file:///t", "x"] {
        assert_eq!(endpoint(bad), None, "{bad}");
    }
    let dir = tempfile::tempdir().unwrap();
    let files = Files { docker_env: None, codex_home: dir.path() };
    let text = r#"{"tokens":{"access_token":"a","refresh_token":"r"}}"#;
    std::fs::write(dir.path().join("auth.json"), text).unwrap();
    let lookup = |name: &str| (name == TOKEN_VARIABLE).then(|| "http://example/t".to_owned());
    let error = find(&model(Auth::Auto), lookup, files).unwrap_err();
    assert!(error.to_string().contains("must be a URL that begins with https://"), "{error}");
}

#[test]
fn a_login_that_others_can_read_is_warned_of_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let files = Files { docker_env: None, codex_home: dir.path() };
    let path = dir.path().join("auth.json");
    std::fs::write(&path, r#"{"tokens":{"access_token":"a","refresh_token":"r"}}"#).unwrap();
    for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let status = find(&model(Auth::Auto), with(""), files).unwrap().status();
        assert_eq!(!status.warnings.is_empty(), warned, "{mode:o}");
        assert!(status.warnings.iter().all(|w| w.contains("run: chmod 600")), "{status:?}");
    }
}
