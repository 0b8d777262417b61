use proptest::prelude::*;

use super::*;
use crate::job::call::Mode;
use crate::job::result::RunResult;
use crate::pool::owner::Owner;
use crate::record::Request;

fn rules(keep: usize, keep_for: u64, max_bytes: u64) -> RunsConfig {
    RunsConfig {
        dir: "".into(),
        keep,
        keep_for: Duration::from_secs(keep_for),
        max_bytes,
        log_limit: 1,
    }
}

fn candidates() -> impl Strategy<Value = Candidate> {
    (0_u64..200_000, 0_u64..100, 0_u64..50, any::<(bool, bool, bool)>(), 0..200_000_u64).prop_map(
        |(age, rest, logs, (goes_on, held, before), settled)| Candidate {
            age: Duration::from_secs(age),
            settled: Duration::from_secs(settled.min(age)),
            bytes: logs + rest,
            logs,
            goes_on,
            held,
            before,
        },
    )
}

proptest! {
    #[test]
    fn the_only_copy_of_something_stays_and_the_rest_is_within_the_rules(
        mut all in proptest::collection::vec(candidates(), 0..30),
        keep in 0_usize..10, keep_for in 3600_u64..300_000, max_bytes in 0_u64..500,
    ) {
        all.sort_by_key(|candidate| candidate.age);
        let rules = rules(keep, keep_for, max_bytes);
        let fates = fates(&all, &rules);
        let mut bytes = 0;
        let mut left = 0;
        for (candidate, fate) in all.iter().zip(&fates) {
            let only_copy = candidate.held || candidate.before;
            let young = candidate.age < rules.keep_for;
            match fate {
                Fate::Goes => {
                    prop_assert!(!candidate.goes_on);
                    prop_assert!(!only_copy || candidate.settled >= rules.keep_for);
                }
                Fate::Slim => {
                    prop_assert!(!candidate.goes_on && only_copy);
                    prop_assert!(candidate.settled < rules.keep_for);
                    bytes += candidate.bytes - candidate.logs;
                    left += 1;
                }
                Fate::Stays => {
                    prop_assert!(candidate.goes_on || only_copy || young);
                    bytes += candidate.bytes;
                    left += 1;
                }
            }
        }
        // As long as anything of a younger one stays that may go, the limits are kept.
        let spared = all.iter().zip(&fates).any(|(candidate, fate)| {
            *fate == Fate::Stays && !candidate.goes_on
                && (candidate.may_go(&rules) || candidate.logs > 0)
        });
        if spared {
            prop_assert!(left <= keep && bytes <= max_bytes);
        }
    }
}

fn request(owner: Option<String>) -> Request {
    Request {
        accepted: jiff::Timestamp::now(),
        prompt: "p".into(),
        mode: Mode::Suggest,
        timeout: 300,
        workspace: "/w".into(),
        working_dir: None,
        env_vars: Vec::new(),
        model: None,
        owner,
    }
}

/// A run that has ended, with logs of ten bytes.
fn ended(runs: &Path, state: ChangesState) -> String {
    // The ids are sorted by time.
    std::thread::sleep(Duration::from_millis(2));
    let record = Record::create(runs, &request(None)).unwrap();
    let id = record.id().to_owned();
    let mut result = RunResult::completed(&id);
    result.changes_state = state;
    fs::write(record.events_jsonl(), "0123456789").unwrap();
    record.finish(&result, false).unwrap();
    id
}

/// What goes now.
fn prune_now(runs: &Path, state: &Path, rules: &RunsConfig) -> Result<Pruned, RecordError> {
    prune(runs, state, rules, SystemTime::now())
}

fn left(runs: &Path) -> Vec<String> {
    list(runs).unwrap().iter().map(|record| record.id().to_owned()).collect()
}

#[test]
fn the_oldest_go_first_and_held_changes_stay_without_their_logs() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let held = ended(runs, ChangesState::Held);
    let ids = [ChangesState::None; 3].map(|state| ended(runs, state));
    let going_on = Record::create(runs, &request(None)).unwrap();
    let pruned = prune_now(runs, runs, &rules(3, 1000, 1 << 30)).unwrap();
    assert_eq!(pruned.removed, [ids[1].clone(), ids[0].clone()]);
    assert_eq!(pruned.slimmed, std::slice::from_ref(&held));
    assert!(pruned.bytes > 10);
    assert_eq!(left(runs), [going_on.id().to_owned(), ids[2].clone(), held.clone()]);
    let held = Record::open(runs, &held).unwrap();
    assert!(!held.events_jsonl().exists() && held.result().unwrap().is_some());
    let again = prune_now(runs, runs, &rules(3, 1000, 1 << 30)).unwrap();
    assert!(again.is_nothing(), "{again:?}");
}

#[test]
fn what_an_undo_needs_stays_and_so_does_what_was_taken_back() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let [with_before, with_kept, only_added] =
        [ChangesState::Applied; 3].map(|state| ended(runs, state));
    let undone = ended(runs, ChangesState::Held);
    let unsaved = ended(runs, ChangesState::Applied);
    let at = |id: &str| Record::open(runs, id).unwrap();
    fs::write(at(&with_before).before_tar(), [1; 2048]).unwrap();
    fs::create_dir(at(&with_kept).kept()).unwrap();
    fs::write(at(&only_added).before_tar(), [0; 1024]).unwrap();
    // The server was killed between the states of the changes and the result.
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::write(at(&unsaved).changes_json(), "{}").unwrap();
    fs::File::options()
        .write(true)
        .open(at(&unsaved).changes_json())
        .and_then(|file| file.set_modified(later))
        .unwrap();
    let pruned = prune_now(runs, runs, &rules(0, 1000, 0)).unwrap();
    assert_eq!(pruned.removed, [only_added]);
    assert_eq!(left(runs), [unsaved, undone, with_kept, with_before]);
    // Past keep_for all of them go.
    prune_now(runs, runs, &rules(9, 0, 1 << 30)).unwrap();
    assert!(left(runs).is_empty());
}

/// What was held is applied, or taken back, long after the run.
#[test]
fn the_time_of_a_pre_image_counts_and_not_that_of_its_run() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let ids = [ChangesState::Applied; 3].map(|state| ended(runs, state));
    let at = |id: &str| Record::open(runs, id).unwrap();
    let old = SystemTime::now() - Duration::from_secs(2000);
    let set_old = |path: &Path| {
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(old)).unwrap();
    };
    for id in &ids {
        fs::write(at(id).before_tar(), [1; 2048]).unwrap();
        set_old(&at(id).request_json());
    }
    set_old(&at(&ids[0]).before_tar());
    set_old(&at(&ids[2]).before_tar());
    fs::write(at(&ids[2]).changes_json(), "{}").unwrap();
    let pruned = prune_now(runs, runs, &rules(9, 1000, 1 << 30)).unwrap();
    assert_eq!(pruned.removed, [ids[0].clone()]);
    assert_eq!(pruned.slimmed, [ids[2].clone(), ids[1].clone()]);
}

#[test]
fn a_run_goes_on_as_long_as_its_server_lives() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let owner = Owner::claim(runs).unwrap();
    let record = Record::create(runs, &request(Some(owner.label().to_owned()))).unwrap();
    assert!(prune_now(runs, runs, &rules(0, 0, 0)).unwrap().is_nothing());
    drop(owner);
    let pruned = prune_now(runs, runs, &rules(0, 0, 0)).unwrap();
    assert_eq!(pruned.removed, [record.id().to_owned()]);
}

#[test]
fn what_somebody_applies_or_takes_back_right_now_stays() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let id = ended(runs, ChangesState::Applied);
    let used = Record::open(runs, &id).unwrap().share().unwrap();
    assert!(prune_now(runs, runs, &rules(0, 0, 0)).unwrap().is_nothing());
    drop(used);
    assert_eq!(prune_now(runs, runs, &rules(0, 0, 0)).unwrap().removed, [id]);
}

#[test]
fn what_a_killed_apply_needs_to_recover_stays() {
    let runs = tempfile::tempdir().unwrap();
    let (runs, state) = (runs.path(), tempfile::tempdir().unwrap());
    let id = ended(runs, ChangesState::Applied);
    let journal = state.path().join("applies/1-2.json");
    fs::create_dir(journal.parent().unwrap()).unwrap();
    let plan = serde_json::json!({
        "version": 1, "workspace": "/w", "key": {"dev": 1, "ino": 2}, "run": id,
        "folder": runs.join(&id), "direction": "undo", "ops": [],
    });
    fs::write(&journal, format!("{plan}\n")).unwrap();
    assert!(prune_now(runs, state.path(), &rules(0, 0, 0)).unwrap().is_nothing());
    // One that nobody can read may be about any run.
    fs::write(&journal, "{}\n").unwrap();
    assert!(prune_now(runs, state.path(), &rules(0, 0, 0)).unwrap().is_nothing());
    fs::remove_file(&journal).unwrap();
    assert_eq!(prune_now(runs, state.path(), &rules(0, 0, 0)).unwrap().removed, [id]);
}

#[test]
fn a_clock_that_was_set_forward_makes_nothing_old() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let id = ended(runs, ChangesState::Held);
    let rules = rules(9, 3600, 1 << 30);
    let (real, hour) = (SystemTime::now(), Duration::from_secs(3600));
    assert!(prune(runs, runs, &rules, real - 24 * hour).unwrap().is_nothing());
    assert!(prune(runs, runs, &rules, real).unwrap().is_nothing());
    let pruned = prune(runs, runs, &rules, real + 2 * hour).unwrap();
    assert_eq!((pruned.removed, pruned.left), (vec![id], 0));
}
