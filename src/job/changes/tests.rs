//! Calls that come back for the changes of a run, on a workspace without an engine.

use std::fs;
use std::path::PathBuf;

use super::later::apply_now;
use super::undo::undo_now;
use super::*;
use crate::job::Places;
use crate::job::call::{ApplyCall, Conflicts, Mode, UndoCall};
use crate::job::ended::ended;
use crate::job::result::{ApplyReport, Status, UndoReport};
use crate::pool::owner::Owner;
use crate::record::Request;
use crate::workspace::NodeKind;
use crate::workspace::change::{ChangesState, ContentHash, Hold, NewNode};
use crate::workspace::root::Roots;

const BYTES: &[u8] = b"contents";

const HOW: How =
    How { on_conflict: OnConflict::HoldAll, lock_timeout: std::time::Duration::from_secs(30) };

struct Desk {
    dir: tempfile::TempDir,
    places: Places,
    roots: Roots,
    run_id: String,
}

impl Desk {
    /// A run that added files, with no result yet.
    fn new(changes: Vec<Change>, owner: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["ws", "home"] {
            fs::create_dir(at(name)).unwrap();
        }
        let places = Places {
            runs: at("runs"),
            state: at("state"),
            docker_env: None,
            codex_home: at("codex"),
        };
        let loaded = crate::config::load(&crate::config::Overrides::default(), |_| None).unwrap();
        let mut config = loaded.config.workspace;
        config.path = at("ws");
        let (home, codex) = (at("home"), at("codex"));
        let roots =
            Roots::from(&config, |_| None, None, &places.runs, &places.state, &codex, &home);
        let request = Request {
            accepted: jiff::Timestamp::now(),
            prompt: "p".into(),
            mode: Mode::Suggest,
            timeout: 300,
            workspace: at("ws").canonicalize().unwrap(),
            working_dir: None,
            env_vars: Vec::new(),
            model: None,
            continue_run: None,
            keep_thread: false,
            owner: Some(owner.to_owned()),
        };
        let record = Record::create(&places.runs, &request).unwrap();
        let run_id = record.id().to_owned();
        fs::write(record.changes_tar(), BYTES).unwrap();
        Files::of(&record).save(&ChangeSet { changes }).unwrap();
        // As if the server were killed here: nobody closes the record.
        std::mem::forget(record);
        Self { dir, places, roots, run_id }
    }

    fn finished(changes: Vec<Change>) -> Self {
        let desk = Self::new(changes, "");
        let record = desk.record();
        let mut result = RunResult::completed(&desk.run_id);
        tell_state(&mut result, &Files::of(&record).load().unwrap());
        record.replace_result(&result).unwrap();
        desk
    }

    fn record(&self) -> Record {
        Record::open(&self.places.runs, &self.run_id).unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("ws").join(name)
    }

    fn apply(&self, paths: &[&str], on_conflict: Conflicts) -> Result<ApplyReport, Failure> {
        let call = ApplyCall {
            run_id: self.run_id.clone(),
            paths: paths.iter().map(ToString::to_string).collect(),
            on_conflict: Some(on_conflict),
        };
        apply_now(&self.places, &self.roots, HOW, call)
    }

    fn undo(&self, paths: &[&str]) -> Result<UndoReport, Failure> {
        let paths = paths.iter().map(ToString::to_string).collect();
        undo_now(
            &self.places,
            &self.roots,
            HOW.lock_timeout,
            UndoCall { run_id: self.run_id.clone(), paths },
        )
    }
}

fn added(path: &str, hold: Option<Hold>) -> Change {
    Change {
        path: RelPath::parse(path).unwrap(),
        kind: ChangeKind::Added,
        bytes: BYTES.len() as u64,
        state: ChangeState::Held,
        reason: None,
        hold,
        base: None,
        new: Some(NewNode {
            kind: NodeKind::File,
            executable: false,
            size: BYTES.len() as u64,
            hash: Some(ContentHash(*blake3::hash(BYTES).as_bytes())),
            offset: 0,
            target: None,
        }),
        before: None,
    }
}

fn sentence<T: std::fmt::Debug>(done: Result<T, Failure>) -> String {
    let failure = done.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::InvalidArgument, "{failure:?}");
    failure.sentence
}

#[test]
fn what_git_ignores_is_applied_only_by_its_path() {
    let desk = Desk::finished(vec![added(".env.new", Some(Hold::Ignored)), added("a", None)]);
    let report = desk.apply(&[], Conflicts::HoldAll).unwrap();
    assert_eq!(report.files_changed, ["a"]);
    assert_eq!(report.changes_state, ChangesState::Applied);
    assert_eq!(report.changes.len(), 1);
    assert!(!desk.at(".env.new").exists());
    assert!(sentence(desk.apply(&[], Conflicts::HoldAll)).contains("is applied already"));
    // One that cannot be applied is as ignored as before.
    fs::write(desk.at(".env.new"), "mine").unwrap();
    let report = desk.apply(&[".env.new"], Conflicts::HoldAll).unwrap();
    assert_eq!(report.conflicts.len(), 1);
    assert_eq!(report.changes_state, ChangesState::Applied);
    fs::remove_file(desk.at(".env.new")).unwrap();
    let report = desk.apply(&[".env.new"], Conflicts::HoldAll).unwrap();
    assert_eq!(report.files_changed, [".env.new"]);
    assert_eq!(fs::read(desk.at(".env.new")).unwrap(), BYTES);
    let result = desk.record().result().unwrap().unwrap();
    assert_eq!(result.files_changed, [".env.new", "a"]);
    let undone = desk.undo(&[".env.new"]).unwrap();
    assert_eq!((undone.files_changed.len(), undone.changes_state), (1, ChangesState::Partly));
}

#[test]
fn nothing_is_applied_or_taken_back_twice() {
    let desk = Desk::finished(vec![added("a", None), added("b", None)]);
    assert!(sentence(desk.undo(&[])).contains("nothing of this run is applied"));
    desk.apply(&["a"], Conflicts::HoldAll).unwrap();
    let twice = sentence(desk.apply(&["a"], Conflicts::Markers));
    assert!(twice.starts_with("a is applied already"), "{twice}");
    assert!(sentence(desk.undo(&["b"])).contains("the change of b is not applied"));
    assert!(sentence(desk.undo(&["c"])).contains("changed nothing at c"));
    // Naming both applies what is left.
    let rest = desk.apply(&["a", "b"], Conflicts::HoldAll).unwrap();
    assert_eq!(rest.files_changed, ["b"]);
    desk.undo(&[]).unwrap();
    assert!(sentence(desk.undo(&[])).contains("nothing of this run is applied"));
    assert!(fs::read_dir(desk.at("")).unwrap().next().is_none());
}

#[test]
fn a_run_has_no_result_while_its_server_lives_and_one_from_its_folder_after_that() {
    let state = tempfile::tempdir().unwrap();
    let owner = Owner::claim(state.path()).unwrap();
    let mut desk = Desk::new(vec![added("a", None)], owner.label());
    desk.places.state = state.path().to_owned();
    let refused = ended(&desk.places, &desk.roots, HOW.lock_timeout, &desk.run_id);
    assert!(sentence(refused).contains("has not ended; wait for its result"));
    assert!(sentence(desk.apply(&[], Conflicts::HoldAll)).contains("has not ended"));
    drop(owner);
    let found = ended(&desk.places, &desk.roots, HOW.lock_timeout, &desk.run_id).unwrap();
    assert_eq!(found.result.status, Status::Failed);
    assert_eq!(found.result.error_kind, Some(ErrorKind::Internal));
    assert_eq!(found.result.changes_state, ChangesState::Held);
    let error = found.result.error.clone().unwrap();
    assert!(error.contains("the server ended") && error.contains("codex_run_apply"), "{error}");
    assert!(fs::read_to_string(found.record.diff_patch()).unwrap().contains("+contents"));
    assert_eq!(desk.apply(&[], Conflicts::HoldAll).unwrap().files_changed, ["a"]);
    assert_eq!(desk.record().result().unwrap().unwrap().changes_state, ChangesState::Applied);
}

#[test]
fn of_a_server_that_nobody_can_judge_nothing_is_assumed() {
    let desk = Desk::new(vec![added("a", None)], "somewhere-else");
    let refused = sentence(ended(&desk.places, &desk.roots, HOW.lock_timeout, &desk.run_id));
    assert!(refused.contains("nobody here can tell"), "{refused}");
    assert!(desk.record().result().unwrap().is_none());
}

#[test]
fn conflicts_say_what_both_sides_did() {
    let desk = Desk::finished(vec![added("a", None), added("b", None)]);
    fs::write(desk.at("a"), "mine").unwrap();
    let report = desk.apply(&[], Conflicts::HoldAll).unwrap();
    assert!(report.files_changed.is_empty() && !desk.at("b").exists());
    assert_eq!(
        report.conflicts[0].reason,
        "added by Codex; exists on the host, where nothing was sent from"
    );
    let report = desk.apply(&[], Conflicts::Markers).unwrap();
    assert_eq!(report.files_changed, ["b"]);
    let reason = &report.conflicts[0].reason;
    assert!(reason.ends_with("not merged: one side has no file there"), "{reason}");
    assert_eq!(fs::read(desk.at("a")).unwrap(), b"mine");
}

#[test]
fn a_result_that_was_written_before_an_apply_was_killed_is_brought_up_to_date() {
    let desk = Desk::finished(vec![added("a", None), added("b", None)]);
    let before = fs::read(desk.record().result_json()).unwrap();
    desk.apply(&["a"], Conflicts::HoldAll).unwrap();
    // As if the kill came between changes.json and result.json.
    let record = desk.record();
    fs::write(record.result_json(), before).unwrap();
    let past = std::time::SystemTime::now() - Duration::from_secs(60);
    let file = File::options().write(true).open(record.result_json()).unwrap();
    file.set_modified(past).unwrap();
    assert_eq!(record.result().unwrap().unwrap().changes_state, ChangesState::Held);
    let found = ended(&desk.places, &desk.roots, HOW.lock_timeout, &desk.run_id).unwrap();
    assert_eq!(found.result.changes_state, ChangesState::Partly);
    assert_eq!(found.result.files_changed, ["a"]);
    assert!(found.result.success && !record.has_later_changes());
}
