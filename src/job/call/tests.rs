use serde_json::json;

use super::*;

fn limits() -> RunConfig {
    RunConfig {
        timeout: Duration::from_secs(300),
        min_timeout: Duration::from_secs(10),
        max_timeout: Duration::from_secs(3600),
        end_timeout: Duration::from_secs(5),
        transfer_timeout: Duration::from_secs(300),
        output_limit: 65536,
        max_tokens: 0,
    }
}

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("not an object") };
    map
}

fn refused(value: Value) -> String {
    let failure = RunCall::parse(map(value), &limits()).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::InvalidArgument);
    assert!(!failure.sentence.contains('\n'));
    failure.sentence
}

#[test]
fn parse_takes_every_argument() {
    let call = RunCall::parse(
        map(json!({
            "prompt": "do it", "mode": "suggest", "timeout": 3600, "repo": "/w",
            "working_dir": "src", "env_vars": {"A": "1=2"}, "model": "m",
            "continue_run": "r", "keep_thread": true
        })),
        &limits(),
    )
    .unwrap();
    assert_eq!(call.mode, Mode::Suggest);
    assert_eq!(call.timeout, Duration::from_secs(3600));
    assert_eq!(call.env_vars.iter().collect::<Vec<_>>(), [("A", "1=2")]);
    assert_eq!(call.repo.as_deref(), Some("/w"));
    assert_eq!(call.working_dir.as_deref(), Some("src"));
    assert_eq!(call.model.as_deref(), Some("m"));
    assert_eq!(call.thread, ThreadCall { continues: Some("r".to_owned()), keep: true });
}

#[test]
fn parse_fills_in_the_defaults_and_takes_null_for_absent() {
    let call =
        RunCall::parse(map(json!({"prompt": "x", "repo": null, "timeout": 60.0})), &limits())
            .unwrap();
    assert_eq!((call.mode, call.timeout), (Mode::FullAuto, Duration::from_secs(60)));
    assert_eq!(RunCall::new("x", &limits()).unwrap().timeout, Duration::from_secs(300));
}

#[test]
fn every_bad_argument_gets_its_sentence() {
    for (arguments, sentence) in [
        (json!({}), "prompt is missing; say what Codex shall do"),
        (json!({"prompt": null}), "prompt is missing; say what Codex shall do"),
        (
            json!({"prompt": "x", "keep_thread": "yes"}),
            "keep_thread must be true or false, but was \"yes\"",
        ),
        (
            json!({"prompt": "x", "continue_run": ""}),
            "continue_run is blank; leave it out or give it a value",
        ),
        (json!({"prompt": " \n"}), "prompt is blank; say what Codex shall do"),
        (json!({"prompt": 3}), "prompt must be a string, but was 3"),
        (
            json!({"prompt": "x", "mode": "yolo"}),
            "mode must be \"full-auto\", \"suggest\" or \"ask\", but was \"yolo\"",
        ),
        (json!({"prompt": "x", "repo": " "}), "repo is blank; leave it out or give it a value"),
        (json!({"prompt": "x", "repo": ["a"]}), "repo must be a string, but was a list"),
        (json!({"prompt": "x", "repo": "a\0b"}), "repo contains NUL; remove it"),
        (json!({"prompt": "x", "working_dir": 1}), "working_dir must be a string, but was 1"),
        (json!({"prompt": "x", "model": ""}), "model is blank; leave it out or give it a value"),
        (
            json!({"prompt": "x", "promt": "y"}),
            "codex_run has no argument \"promt\"; did you mean \"prompt\"?",
        ),
        (
            json!({"prompt": "x", "workingDir": "y"}),
            "codex_run has no argument \"workingDir\"; did you mean \"working_dir\"?",
        ),
        (
            json!({"prompt": "x", "env_vars": []}),
            "env_vars must be an object of strings, but was a list",
        ),
        (
            json!({"prompt": "x", "env_vars": {"": "a"}}),
            "env_vars has an empty name; give every variable a name",
        ),
        (
            json!({"prompt": "x", "env_vars": {"A=secret": "a"}}),
            "env_vars has the name \"A=…\", but a name may not contain \"=\" or NUL",
        ),
        (
            json!({"prompt": "x", "env_vars": {"A\0B": "a"}}),
            "env_vars has the name \"A\\0…\", but a name may not contain \"=\" or NUL",
        ),
        (
            json!({"prompt": "x", "env_vars": {"A": "a\0"}}),
            "the value of env_vars.A contains NUL, which no environment can hold; remove it",
        ),
        (
            json!({"prompt": "x", "env_vars": {"A": 4711}}),
            "the value of env_vars.A must be a string, but was a number",
        ),
    ] {
        assert_eq!(refused(arguments), sentence);
    }
}

#[test]
fn timeout_must_be_whole_seconds_within_the_limits() {
    for (timeout, shown) in [
        (json!(9), "9"),
        (json!(3601), "3601"),
        (json!("5m"), "\"5m\""),
        (json!(-1), "-1"),
        (json!(1.5), "1.5"),
        (json!(true), "true"),
        (json!(u64::MAX), "18446744073709551615"),
    ] {
        assert_eq!(
            refused(json!({"prompt": "x", "timeout": timeout})),
            format!("timeout must be a whole number of seconds from 10 to 3600, but was {shown}")
        );
    }
}

#[test]
fn a_prompt_over_one_mebibyte_is_refused_and_not_repeated() {
    let sentence = refused(json!({"prompt": "x".repeat(MAX_PROMPT_BYTES + 1)}));
    assert!(sentence.starts_with("prompt is 1048577 bytes long"), "{sentence}");
    assert!(RunCall::new("x".repeat(MAX_PROMPT_BYTES), &limits()).is_ok());
}

#[test]
fn the_name_of_a_model_is_short_and_has_no_spaces() {
    for name in ["gpt 5", "gpt-5\n", "x\u{7}y", &"x".repeat(201)] {
        let sentence = refused(json!({"prompt": "x", "model": name}));
        assert!(sentence.starts_with("model must be a name of at most 200"), "{sentence}");
        assert!(sentence.len() < 400, "{sentence}");
    }
    let longest = "x".repeat(200);
    assert!(RunCall::parse(map(json!({"prompt": "x", "model": longest})), &limits()).is_ok());
}

#[test]
fn a_form_of_the_answer_that_is_none_is_refused() {
    for schema in [json!("x"), json!({"type": 3}), json!({"$ref": "http://127.0.0.1/x"})] {
        let sentence = refused(json!({"prompt": "x", "output_schema": schema}));
        assert!(sentence.starts_with("output_schema "), "{sentence}");
    }
    let call = json!({"prompt": "x", "output_schema": {"type": "object"}});
    let call = RunCall::parse(map(call), &limits()).unwrap();
    assert_eq!(call.output_schema.unwrap().value(), &json!({"type": "object"}));
}

#[test]
fn arguments_of_later_versions_are_refused_by_name() {
    for name in ["verify", "return_after"] {
        let sentence = refused(json!({"prompt": "x", name: 1}));
        assert!(
            sentence.starts_with(&format!("codex_run has no argument \"{name}\"; ")),
            "{sentence}"
        );
    }
}

#[test]
fn debug_shows_no_value_of_a_variable() {
    let call =
        RunCall::parse(map(json!({"prompt": "x", "env_vars": {"TOKEN": "hunter2"}})), &limits())
            .unwrap();
    let text = format!("{call:?}");
    assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
}

#[test]
fn diff_and_apply_check_their_arguments() {
    let diff = |value| DiffCall::parse(map(value)).map_err(|failure| failure.sentence);
    assert_eq!(
        diff(json!({"run_id": "a", "paths": ["x"], "page": 2})),
        Ok(DiffCall { run_id: "a".into(), paths: vec!["x".into()], page: 2 })
    );
    assert_eq!(
        diff(json!({"run_id": "a", "page": 0})),
        Err("page must be a whole number from 1, but was 0".into())
    );
    assert!(diff(json!({})).unwrap_err().starts_with("run_id is missing"));
    assert!(diff(json!({"run_id": "a", "paths": "x"})).unwrap_err().starts_with("paths must"));

    let apply = |value| ApplyCall::parse(map(value)).map_err(|failure| failure.sentence);
    for (text, on_conflict) in [
        ("hold_all", Conflicts::HoldAll),
        ("hold_conflicting", Conflicts::HoldConflicting),
        ("markers", Conflicts::Markers),
    ] {
        let call = apply(json!({"run_id": "a", "on_conflict": text})).unwrap();
        assert_eq!(call.on_conflict, Some(on_conflict));
    }
    assert_eq!(apply(json!({"run_id": "a"})).unwrap().on_conflict, None);
    let wrong = apply(json!({"run_id": "a", "on_conflict": "overwrite"})).unwrap_err();
    assert!(wrong.contains("hold_conflicting") && wrong.contains("overwrite"), "{wrong}");

    let undo = |value| UndoCall::parse(map(value)).map_err(|failure| failure.sentence);
    assert_eq!(
        undo(json!({"run_id": "a", "paths": ["x"]})),
        Ok(UndoCall { run_id: "a".into(), paths: vec!["x".into()] })
    );
    assert!(undo(json!({"run_id": "a", "on_conflict": "hold_all"})).is_err());
}
