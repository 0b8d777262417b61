//! Files that a keeper says git ignores: few, small, new, and never applied unasked.

use mcp_codex_orchestrator::workspace::change::{ChangeState, Hold};

use super::place::Place;
use super::tar::{Header, Tar};

fn place() -> Place {
    let place = Place::new();
    place.write("f", "f").write("d/f", "d/f");
    place.link("out", place.outside()).link("in", "d");
    place
}

trait Ignored: Sized {
    fn ignored(self, path: &[u8], flag: u8, bytes: &[u8]) -> Self;
}

impl Ignored for Tar {
    fn ignored(self, path: &[u8], flag: u8, bytes: &[u8]) -> Self {
        self.raw(&Header::new(&[b"ignored/", path].concat(), flag, bytes.len() as u64), bytes)
    }
}

fn refused(why: &str, tar: Tar) {
    let place = place();
    let before = place.tree();
    let outcome = place.play(&tar.end(&[]));
    assert!(outcome.is_err(), "{why}: was taken in as {:?}", outcome.map(|run| run.set));
    assert_eq!(place.tree(), before, "{why}");
}

#[test]
fn what_is_no_new_small_file_in_the_tree_is_refused() {
    let one = || Tar::default().ignored(b".env", b'0', b"A=1");
    refused("twice", one().ignored(b".env", b'0', b"A=1"));
    refused("in both places", one().file(".env", b"A=2"));
    refused("in both places, the other way round", {
        Tar::default().file(".env", b"A=2").ignored(b".env", b'0', b"A=1")
    });
    refused("as a directory besides", one().directory(".env"));
    refused("with something below it", one().file(".env/x", b"x"));
    refused("what was sent", Tar::default().ignored(b"f", b'0', b"x"));
    for (flag, kind) in
        [(b'5', "directory"), (b'2', "link"), (b'1', "hard link"), (b'3', "device"), (b'6', "FIFO")]
    {
        refused(kind, Tar::default().ignored(b"new", flag, b""));
    }
    for path in [
        &b""[..],
        b".",
        b"..",
        b"../outside/f",
        b"/etc/passwd",
        b"d/../../outside/f",
        b"d//x",
        b"new/",
        b"out/f",
        b"out/new",
        b"in/new",
        b"f/new",
    ] {
        refused(&String::from_utf8_lossy(path), Tar::default().ignored(path, b'0', b"x"));
    }
}

#[test]
fn more_than_was_asked_for_is_refused_before_it_is_read() {
    let most = Tar::default().ignored(b"big", b'0', &[b'x'; 64 << 10]);
    assert_eq!(place().play(&most.end(&[])).unwrap().held(), ["big"]);
    refused("a large one", Tar::default().ignored(b"big", b'0', &[b'x'; (64 << 10) + 1]));
    for count in [100, 101] {
        let tar = (0..count)
            .fold(Tar::default(), |tar, n| tar.ignored(format!("n{n}").as_bytes(), b'0', b"x"));
        match count {
            100 => assert_eq!(place().play(&tar.end(&[])).unwrap().held().len(), 100),
            _ => refused("many", tar),
        }
    }
    let full = |tar: Tar, n: u32| tar.ignored(format!("n{n}").as_bytes(), b'0', &[0; 64 << 10]);
    refused("many large ones", (0..17).fold(Tar::default(), full));
    // Sizes that lie: more than follows, less than follows, more than there can be.
    for size in [
        b"00000003000\0".to_vec(),
        b"00000000000\0".to_vec(),
        b"77777777777\0".to_vec(),
        [&[0x80][..], &[0xff; 11]].concat(),
        [&[0x80, 0, 0, 0][..], &[0xff; 8]].concat(),
        b"-0000000001\0".to_vec(),
    ] {
        let mut header = Header::new(b"ignored/lie", b'0', 0);
        header.size.clone_from(&size);
        refused(&format!("a size of {size:?}"), Tar::default().raw(&header, &[b'x'; 600]));
    }
}

#[test]
fn being_ignored_never_makes_a_file_less_held() {
    let place = place();
    let tar = Tar::default()
        .ignored(b".env", b'0', b"A=1")
        .ignored(b".GIT", b'0', b"x")
        .ignored(b"git~1", b'0', b"x")
        .ignored(b".vscode/tasks.json", b'0', b"{}")
        .file("sub/.git/config", b"[core]")
        .ignored(b"sub/.env", b'0', b"B=1")
        .ignored(b"sub/.git/hooks/post-checkout", b'0', b"#!/bin/sh")
        .ignored(&[&b"n"[..], &[b'n'; 80]].concat(), b'0', b"x")
        .file("plain", b"applied");
    let mut run = place.play(&tar.end(&[])).unwrap();
    for path in [".GIT", "git~1", "sub/.git/config", "sub/.git/hooks/post-checkout"] {
        assert_eq!(run.change(path).hold, Some(Hold::Never), "{path}");
    }
    for (path, word) in [
        (".env", "git ignores it"),
        (".vscode/tasks.json", "workspace.protect"),
        ("sub/.env", "embedded repository"),
    ] {
        let change = run.change(path);
        assert_eq!((change.hold, change.state), (Some(Hold::Ignored), ChangeState::Held), "{path}");
        assert!(change.reason.as_deref().unwrap().contains(word), "{change:?}");
    }
    let applied: Vec<_> =
        run.set.changes.iter().filter(|c| c.state == ChangeState::Applied).collect();
    assert_eq!(applied.len(), 1, "{applied:?}");
    assert_eq!(run.change("plain").state, ChangeState::Applied);
    // By path it comes; what can never be applied does not, whatever is asked for.
    let all: Vec<_> = run.set.changes.iter().map(|change| change.path.clone()).collect();
    run.set.allow(&all);
    place.apply(&mut run).unwrap();
    place.nothing_escaped();
    let held: Vec<_> = run.set.changes.iter().filter(|c| c.state == ChangeState::Held).collect();
    assert!(held.iter().all(|change| change.hold == Some(Hold::Never)), "{held:?}");
    assert_eq!(run.change("sub/.env").state, ChangeState::Applied);
    assert!(!place.at("sub/.git").exists() && !place.at(".GIT").exists());
}
