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

fn conflict(path: &str) -> ResultConflict {
    ResultConflict { path: path.into(), reason: "deleted by Codex; changed on the host".into() }
}

#[test]
fn text_of_conflicts_says_what_both_did_that_both_are_safe_and_what_to_do() {
    let mut result = RunResult::completed("r1");
    result.changes = vec![change("a", ChangeState::Held)];
    result.changes_state = ChangesState::Held;
    result.conflicts = vec![conflict("a")];
    let report = ApplyReport { conflicts: vec![conflict("a")], ..report() };
    for text in [result.text(), report.text()] {
        for part in [
            "a (deleted by Codex; changed on the host)",
            "Both versions are safe",
            "codex_run_apply with run_id \"r1\" and on_conflict \"hold_conflicting\"",
            "\"markers\"",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    assert!(report.text().starts_with("Nothing was applied; the workspace is unchanged."));
}

fn report() -> ApplyReport {
    ApplyReport {
        run_id: "r1".into(),
        changes_state: ChangesState::Partly,
        files_changed: Vec::new(),
        merged: Vec::new(),
        changes: Vec::new(),
        conflicts: Vec::new(),
        notes: Vec::new(),
        truncated: false,
    }
}

#[test]
fn text_of_an_apply_tells_merges_apart() {
    let merged = |path: &str, conflicts| ResultMerge { path: path.into(), conflicts };
    let report = ApplyReport {
        files_changed: vec!["a".into(), "b".into(), "c".into()],
        merged: vec![merged("b", 0), merged("c", 2)],
        conflicts: vec![conflict("d")],
        ..report()
    };
    let text = report.text();
    for part in [
        "Applied to the workspace:\n  a\n  b (merged with your changes, no conflict)\n  c (merged",
        "2 conflicts are marked in it",
        "settle them by hand",
        "Could not be applied:\n  d (",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(ApplyReport { merged: Vec::new(), ..report }.text().contains("\n  c\n"));
}

#[test]
fn text_of_an_undo_says_what_stays_and_how_to_apply_again() {
    let report = UndoReport {
        run_id: "r1".into(),
        changes_state: ChangesState::Partly,
        files_changed: vec!["a".into()],
        refused: vec![ResultConflict { path: "b".into(), reason: "edited since".into() }],
        changes: Vec::new(),
        notes: Vec::new(),
        truncated: false,
    };
    let text = report.text();
    for part in [
        "Taken back; in the workspace these are as before the run:\n  a",
        "codex_run_apply with run_id \"r1\" applies them again",
        "Not taken back; these stay as they are now:\n  b (edited since)",
        "Nothing of yours was overwritten",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let nothing = UndoReport { files_changed: Vec::new(), ..report }.text();
    assert!(
        nothing.starts_with("Nothing was taken back; the workspace is unchanged."),
        "{nothing}"
    );
}
