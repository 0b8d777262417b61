use tempfile::TempDir;

use super::*;
use crate::config::RunConfig;
use crate::job::call::RunCall;
use crate::job::result::RunResult;
use crate::record::Request;

const ID: &str = "01a206e9-25ab-7c10-af1d-54aa4c6b91f5";

fn call() -> RunCall {
    let second = Duration::from_secs(1);
    let limits = RunConfig {
        timeout: second,
        min_timeout: second,
        max_timeout: second,
        end_timeout: second,
        transfer_timeout: second,
        output_limit: 1,
        max_tokens: 0,
    };
    RunCall::new("p", &limits).unwrap()
}

/// The record of a run on `/w` whose thread was kept.
fn kept(runs: &TempDir) -> Record {
    let request = Request::new(&call(), Path::new("/w"), "of nobody");
    let record = Record::create(runs.path(), &request).unwrap();
    let id = record.id().to_owned();
    let folder = record.folder().to_owned();
    fs::write(record.thread_jsonl(), "a thread\n").unwrap();
    let usage = Usage { input_tokens: 5, ..Usage::default() };
    let about = About { thread_id: ID.to_owned(), model: Some("m".to_owned()), usage, bytes: 9 };
    write_json(&record.thread_json(), &about).unwrap();
    let mut result = RunResult::completed(&id);
    result.thread_kept = true;
    record.finish(&result, false).unwrap();
    let again = Record::open(runs.path(), &id).unwrap();
    assert_eq!(again.folder(), folder);
    again
}

fn refusal(runs: &TempDir, workspace: &str, run: &str) -> String {
    let state = TempDir::new().unwrap();
    let failure = open(runs.path(), state.path(), Path::new(workspace), run).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::InvalidArgument, "{failure:?}");
    failure.sentence
}

#[test]
fn a_kept_thread_is_opened_and_stays_open_whatever_becomes_of_its_record() {
    let runs = TempDir::new().unwrap();
    let record = kept(&runs);
    let open = || open(runs.path(), runs.path(), Path::new("/w"), record.id()).unwrap();
    let (one, other) = (open(), open());
    fs::remove_dir_all(record.folder()).unwrap();
    for kept in [one, other] {
        assert_eq!((kept.id.as_str(), kept.usage.input_tokens, kept.bytes), (ID, 5, 9));
        assert_eq!(kept.model.as_deref(), Some("m"));
        let mut text = String::new();
        (&kept.file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "a thread\n");
    }
}

#[test]
fn what_cannot_be_continued_is_refused_with_the_reason() {
    let runs = TempDir::new().unwrap();
    let record = kept(&runs);
    let id = record.id();
    for (workspace, run, want) in [
        ("/w", "../x", "\"../x\" is no run id"),
        ("/w", ID, "no run 01a206e9-25ab-7c10-af1d-54aa4c6b91f5 to continue"),
        ("/other", id, "was on the workspace /w, not on /other"),
    ] {
        let refusal = refusal(&runs, workspace, run);
        assert!(refusal.contains(want), "{refusal}");
    }
    fs::write(record.thread_jsonl(), "a thre").unwrap();
    assert!(refusal(&runs, "/w", id).contains("damaged"));
    fs::remove_file(record.thread_json()).unwrap();
    assert!(refusal(&runs, "/w", id).contains("no longer kept"));
    record.replace_result(&RunResult::completed(id)).unwrap();
    assert!(refusal(&runs, "/w", id).contains("was not kept"));
    fs::remove_file(record.result_json()).unwrap();
    assert!(refusal(&runs, "/w", id).contains("has not ended"));
}
