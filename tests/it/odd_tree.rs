//! A workspace with odd files in it, all the way there and back. What each kind is worth is tested
//! without a container in `tests/workspace_send`.

use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use mcp_codex_orchestrator::workspace::DEEPEST;

use crate::need_engine;
use crate::support::{Options, Server};

#[tokio::test(flavor = "multi_thread")]
async fn odd_files_stay_or_travel_and_nothing_at_home_suffers() {
    need_engine!();
    let deepest = "d/".repeat(DEEPEST);
    let script = Script::always(vec![
        Step::run(format!(
            "ls > seen; wc -c < image >> seen; echo changed > one; echo x > {deepest}new"
        )),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let at = |path: &str| server.workspace.join(path);
    server.write("one", "same\n");
    std::fs::hard_link(at("one"), at("two")).unwrap();
    let image = std::fs::File::create(at("image")).unwrap();
    image.set_len(100 << 20).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::fs::create_dir_all(at(&format!("{deepest}d"))).unwrap();
    server.write("restless", &"a".repeat(3_000_000));

    let stop = AtomicBool::new(false);
    let path = at("restless");
    let result = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                for number in (0..=255_u8).cycle() {
                    file.write_all_at(&[number; 64], 1_000_000).unwrap();
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let result = tokio::runtime::Handle::current().block_on(server.run("look"));
            stop.store(true, Ordering::Relaxed);
            result
        })
    });
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    let notes = result["notes"].to_string();
    assert!(notes.contains("restless") && notes.contains("it changed whenever it was read"));
    assert!(notes.contains("it lies too deep in directories"), "{notes}");
    let seen = server.read("seen");
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(seen, ["README.md", "d", "image", "one", "seen", "src", "two", "104857600"]);

    // The name that was changed has a file of its own now; the other one is as it was.
    assert_eq!((server.read("one"), server.read("two")), ("changed\n".into(), "same\n".into()));
    let at = |path: &str| std::fs::symlink_metadata(server.workspace.join(path)).unwrap();
    assert_ne!(at("one").ino(), at("two").ino());
    assert!(at("fifo").file_type().is_fifo() && at("socket").file_type().is_socket());
    assert_eq!(at("restless").len(), 3_000_000);
    assert_eq!((at("image").len(), at("image").blocks()), (100 << 20, 0));
    assert_eq!(server.read(&format!("{deepest}new")), "x\n");
    server.stop().await;
}
