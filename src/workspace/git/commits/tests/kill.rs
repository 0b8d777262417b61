//! A server that is killed while it moves a branch: at each step, by SIGKILL, in a process of its
//! own. After the next start the repository is as before or as after, and no lock is left.

use super::super::switch::{Point, Switch, perform, recover_all};
use super::*;

const POINTS: [Point; 6] = [
    Point::Journaled,
    Point::Made,
    Point::Locked,
    Point::Prepared,
    Point::Renamed,
    Point::Committed,
];

/// Names the place and the point to the process that is to be killed.
const PLACE: &str = "CODEX_TEST_KILL_PLACE";
const POINT: &str = "CODEX_TEST_KILL_POINT";

/// Moves the branch, and kills this process at the point; for the test below, and alone nothing.
#[test]
fn moves_a_branch_and_is_killed() {
    let (Ok(place), Ok(point)) = (std::env::var(PLACE), std::env::var(POINT)) else { return };
    let place = PathBuf::from(place);
    let workspace = open(&place.join("home"));
    let tips = Tips::load(&place.join("run")).unwrap();
    let home = bundle::Home::open(&workspace, tips.digits).unwrap();
    let switch = Switch {
        branch: "refs/heads/main",
        from: tips.base_head.as_ref(),
        to: tips.head.as_ref(),
        run: RUN,
        state: &place.join("state"),
    };
    perform(&home, &workspace, &switch, &mut |at| {
        if format!("{at:?}") == point {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    })
    .unwrap();
}

#[test]
fn killed_at_each_step_the_next_start_repairs_it() {
    use std::os::unix::process::ExitStatusExt;
    for point in POINTS {
        let pair = Pair::new(|home| {
            write(home, "a.txt", "staged\n");
            git(home, &["add", "a.txt"]);
        });
        write(&pair.there, "c.txt", "by codex\n");
        pair.there(&["commit", "-qm", "mine", "--", "c.txt"]);
        pair.take_out().unwrap();
        pair.apply();
        // The objects and the references are there; the branch is about to follow.
        hold(&pair.folder, "c.txt");
        assert_eq!(pair.bring_home().state, CommitsState::Arrived);
        let state = || (pair.here(&["rev-parse", "HEAD"]), pair.here(&["ls-files", "-s"]));
        let before = state();
        let killed = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workspace::git::commits::tests::kill::moves_a_branch_and_is_killed"])
            .env(PLACE, pair.home.parent().unwrap())
            .env(POINT, format!("{point:?}"))
            .output()
            .unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point:?}: {killed:?}");
        recover_all(&pair.state);
        pair.check_clean();
        let now = state();
        let done = matches!(point, Point::Renamed | Point::Committed);
        let new = pair.there(&["rev-parse", "HEAD"]);
        assert_eq!(now.0, if done { new } else { before.0.clone() }, "{point:?}");
        assert_eq!(now.1 == before.1, !done, "{point:?}");
        assert_eq!(pair.here(&["diff", "--cached", "--name-only"]), "a.txt", "{point:?}");
        // And it can be done, or done again.
        fs::remove_file(pair.folder.join("changes.json")).unwrap();
        assert_eq!(pair.bring_home().state, CommitsState::Moved, "{point:?}");
        assert_eq!(pair.here(&["status", "--porcelain"]), "M  a.txt", "{point:?}");
    }
}

#[test]
fn what_the_user_did_after_the_kill_stays() {
    use std::os::unix::process::ExitStatusExt;
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    pair.take_out().unwrap();
    pair.apply();
    hold(&pair.folder, "new.txt");
    pair.bring_home();
    let killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "workspace::git::commits::tests::kill::moves_a_branch_and_is_killed"])
        .env(PLACE, pair.home.parent().unwrap())
        .env(POINT, "Renamed")
        .status()
        .unwrap();
    assert_eq!(killed.signal(), Some(9));
    // To the user the commit looks staged; they commit it themselves.
    assert_eq!(pair.here(&["status", "--porcelain"]), "A  new.txt");
    pair.here(&["commit", "-qm", "by the user"]);
    let _ = fs::remove_file(&pair.ran);
    let head = pair.here(&["rev-parse", "HEAD"]);
    recover_all(&pair.state);
    pair.check_clean();
    assert_eq!(pair.here(&["rev-parse", "HEAD"]), head);
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
}
