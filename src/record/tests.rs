use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

fn request() -> Request {
    Request {
        accepted: Timestamp::now(),
        prompt: "do it".into(),
        mode: Mode::FullAuto,
        timeout: 300,
        workspace: "/w".into(),
        working_dir: None,
        env_vars: vec!["TOKEN".into()],
        model: None,
        continue_run: None,
        keep_thread: false,
        owner: None,
    }
}

#[test]
fn a_record_is_written_and_read_back() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path().join("new");
    let record = Record::create(&runs, &request()).unwrap();
    let id = record.id().to_owned();
    let mode = fs::metadata(record.folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    let opened = Record::open(&runs, &id).unwrap();
    assert_eq!(opened.result().unwrap(), None);
    assert_eq!(opened.request().unwrap().prompt, "do it");

    let result = RunResult::completed(&id);
    record.finish(&result, true).unwrap();
    assert_eq!(opened.result().unwrap(), Some(result));
    let log = fs::read_to_string(opened.log_jsonl()).unwrap();
    assert_eq!(log.lines().count(), 1);
    let event: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!(event["run_id"], id.as_str());
    let mut names: Vec<_> = fs::read_dir(opened.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log.jsonl", "request.json", "result.json"]);
}

#[test]
fn a_record_that_is_dropped_still_gets_a_result() {
    let runs = tempfile::tempdir().unwrap();
    let record = Record::create(runs.path(), &request()).unwrap();
    let id = record.id().to_owned();
    drop(record);
    let result = Record::open(runs.path(), &id).unwrap().result().unwrap().unwrap();
    assert_eq!(result.error_kind, Some(ErrorKind::Internal));
}

#[test]
fn a_log_that_cannot_be_written_does_not_cost_the_result() {
    let runs = tempfile::tempdir().unwrap();
    let record = Record::create(runs.path(), &request()).unwrap();
    let id = record.id().to_owned();
    fs::create_dir(record.log_jsonl()).unwrap();
    assert!(record.finish(&RunResult::completed(&id), true).is_err());
    assert!(Record::open(runs.path(), &id).unwrap().result().unwrap().unwrap().success);
}

#[test]
fn an_id_is_no_path() {
    let runs = tempfile::tempdir().unwrap();
    for id in ["", "..", "../x", "/etc", "a/b", "0198C0DE-0000-7000-8000-000000000000"] {
        assert!(matches!(Record::open(runs.path(), id), Err(RecordError::BadId(_))), "{id}");
    }
    let unknown = Uuid::now_v7().to_string();
    let failure = Failure::from(Record::open(runs.path(), &unknown).unwrap_err());
    assert_eq!(failure.kind, ErrorKind::InvalidArgument);
    assert!(failure.sentence.contains(&unknown));
}

#[test]
fn the_list_has_the_newest_first_and_nothing_else() {
    let runs = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (0..3)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            let record = Record::create(runs.path(), &request()).unwrap();
            record.id().to_owned()
        })
        .collect();
    fs::write(runs.path().join(".gitkeep"), "").unwrap();
    fs::create_dir(runs.path().join("other")).unwrap();
    let listed: Vec<String> =
        list(runs.path()).unwrap().iter().map(|record| record.id().to_owned()).collect();
    assert_eq!(listed, [ids[2].clone(), ids[1].clone(), ids[0].clone()]);
    assert!(list(&runs.path().join("none")).unwrap().is_empty());
}

#[test]
fn a_request_has_no_value_of_a_variable() {
    let mut call = RunCall {
        prompt: "p".into(),
        mode: Mode::Suggest,
        timeout: Duration::from_secs(10),
        repo: None,
        working_dir: None,
        env_vars: crate::job::call::EnvVars::default(),
        model: None,
        output_schema: None,
        thread: crate::job::call::ThreadCall::default(),
    };
    call.env_vars.insert("TOKEN".into(), "hunter2".into()).unwrap();
    let text = serde_json::to_string(&Request::new(&call, Path::new("/w"), "me")).unwrap();
    assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
}
