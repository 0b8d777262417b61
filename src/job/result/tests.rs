use super::*;

fn change(path: &str, state: ChangeState) -> ResultChange {
    ResultChange { path: path.into(), kind: ChangeKind::Modified, bytes: 1, state, reason: None }
}

#[test]
fn absent_fields_are_left_out() {
    let json = serde_json::to_value(RunResult::completed("r")).unwrap();
    for absent in ["container_id", "warm", "cold_reason", "usage", "sent", "truncated", "error"] {
        assert!(json.get(absent).is_none(), "{absent}");
    }
    assert_eq!(json["timings_ms"], serde_json::json!({}));
    assert_eq!(json["conflicts"], serde_json::json!([]));
    assert_eq!(serde_json::from_value::<RunResult>(json).unwrap(), RunResult::completed("r"));
}

#[test]
fn status_and_exit_code_follow_the_kind_of_failure() {
    for (kind, status, exit_code, retryable) in [
        (ErrorKind::TimedOut, Status::TimedOut, -1, false),
        (ErrorKind::Cancelled, Status::Cancelled, -2, false),
        (ErrorKind::QueueFull, Status::Failed, -3, true),
    ] {
        let result = RunResult::never_started("r", &Failure::new(kind, "s"));
        assert_eq!(
            (result.success, result.status, result.exit_code, result.retryable),
            (false, status, exit_code, Some(retryable))
        );
    }
    assert_eq!(RunResult::refused(&Failure::new(ErrorKind::Internal, "s")).run_id, None);
}

#[test]
fn lists_are_cut_and_say_so() {
    let mut result = RunResult::completed("r");
    result.files_changed = vec!["a".into(); MAX_LISTED];
    assert!(!result.clone().cut().truncated);
    result.files_changed.push("b".into());
    let cut = result.cut();
    assert!(cut.truncated);
    assert_eq!(cut.files_changed.len(), MAX_LISTED);
}

#[test]
fn text_of_held_changes_names_the_tools() {
    let mut result = RunResult::completed("r1");
    result.changes = vec![change("src/a.rs", ChangeState::Held)];
    result.changes_state = ChangesState::Held;
    let text = result.text();
    for part in ["modified src/a.rs", "codex_run_diff", "codex_run_apply", "\"r1\""] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn text_of_a_failure_begins_with_its_sentence() {
    let mut result = RunResult::completed("r1");
    result.output = "tail".into();
    result.fail(&Failure::new(ErrorKind::TimedOut, "Execution timeout after 10 s; ask again"));
    assert_eq!(result.text(), "Execution timeout after 10 s; ask again\n\ntail\n\nRun r1");
}

#[test]
fn text_of_many_changes_is_short() {
    let mut result = RunResult::completed("r1");
    result.changes_state = ChangesState::Applied;
    result.changes = vec![change("a", ChangeState::Applied); 60];
    let text = result.text();
    assert!(text.contains("and 10 more"), "{text}");
}
