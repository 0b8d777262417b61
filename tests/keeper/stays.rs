//! A tree that stays in the container from one run to the next.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::keeper::wire::{
    Fingerprint, KeptTree, REMOVED, ResetReport, ResetRequest,
};
use tar::EntryType;

use crate::harness::{Contained, Failure, engine_is_there, entries, header, start, tree};

/// Ends everything and resets; the tree stays, and build state too if `keep_ignored` says so.
pub(crate) async fn reset(
    container: &Contained,
    keep_ignored: bool,
    armed: &Fingerprint,
) -> Result<ResetReport, Failure> {
    assert_eq!(container.keeper().end().await?.left, 0);
    let request = ResetRequest { keep_ignored, keep_tree: true };
    let report = container.keeper().reset_with(request).await?;
    assert_eq!(&report.fingerprint, armed);
    Ok(report)
}

pub(crate) fn dropped(tree: &KeptTree) -> Vec<String> {
    tree.dropped.iter().map(ToString::to_string).collect()
}

/// Runs a script that must succeed, and gives what it printed.
pub(crate) async fn run(container: &Contained, script: &str) -> String {
    let (exit, out, err) = container.run(&format!("set -e\n{script}")).await;
    assert_eq!(exit.code, Some(0), "{out}{err}");
    out
}

/// Entries of a delta: files, links (mode 0o777) and what is removed (no mode).
pub(crate) fn delta(nodes: &[(&str, Option<u32>, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, text) in nodes {
        let kind = match mode {
            None => EntryType::new(REMOVED),
            Some(0o777) => EntryType::Symlink,
            Some(_) if path.ends_with('/') => EntryType::Directory,
            Some(_) => EntryType::Regular,
        };
        let size = if kind == EntryType::Regular { text.len() } else { 0 };
        let mut header = header(kind, mode.unwrap_or_default(), size);
        match kind {
            EntryType::Symlink => tar.append_link(&mut header, path, text).unwrap(),
            _ => tar.append_data(&mut header, path, &text.as_bytes()[..size]).unwrap(),
        }
    }
    tar.into_inner().unwrap()
}

/// All of `/app`: path, kind, mode, link target, and the contents of files.
const ALL: &str = "find . -mindepth 1 -printf '%P %y %m %l\\n' | LC_ALL=C sort
                   find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r tail -v -n +1";

const FIRST: [(&str, &[u8]); 7] = [
    (".git/HEAD", b"ref: refs/heads/main\n"),
    (".git/objects/aa/bb", b"object"),
    (".git/refs/heads/main", b"id"),
    (".gitignore", b"target/\n"),
    ("a/x", b"x"),
    ("a/y", b"y"),
    ("b", b"b"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_goes_on_what_stayed_round_after_round() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await.fingerprint;
    let first = container.put(tree(&FIRST)).await?;
    let mut tree_now = first.tree;
    let inodes = "stat -c '%i %n' a/x .git/objects/aa/bb";
    let before = run(&container, inodes).await;
    for round in 0..4 {
        let script = format!(
            "echo {round} > a/y; echo new > a/new; mkdir -p n/e/w target; echo {round} >> target/o
             echo hook > .git/hook; echo {round} > .git/HEAD; rm -f l; touch b; chmod 700 n"
        );
        run(&container, &script).await;
        container.keeper().end().await?;
        let (report, tar) = container.collect().await?;
        assert_eq!(report.entries, 5, "{:?}", entries(&tar));
        let report = reset(&container, true, &armed).await?;
        let kept = report.tree.unwrap();
        assert!(kept.tree > tree_now);
        let gone: &[&str] =
            if round == 0 { &[".git/HEAD", "a/y", "b"] } else { &[".git/HEAD", "a/y", "b", "l"] };
        assert_eq!(dropped(&kept), gone);
        assert_eq!((report.kept.len(), report.kept[0].path.as_str()), (1, "target/"));
        let more = delta(&[
            (".git/HEAD", Some(0o644), "ref: refs/heads/main\n"),
            ("a/", Some(0o755), ""),
            ("a/y", Some(0o755), &format!("y{round}")),
            ("b", Some(0o644), "b"),
            ("l", Some(0o777), "a/x"),
        ]);
        let put = container.put_on(Some(kept.tree), more).await?;
        assert_eq!((put.entries, put.tree > kept.tree), (5, true));
        tree_now = put.tree;
        // As if all of it were put anew, and what was not touched is the very same.
        assert_eq!(run(&container, inodes).await, before);
        let text = run(&container, ALL).await;
        let expected = ".git d 755 \n.git/HEAD f 644 \n.git/objects d 755 \n.git/objects/aa d 755 \n\
             .git/objects/aa/bb f 644 \n.git/refs d 755 \n.git/refs/heads d 755 \n\
             .git/refs/heads/main f 644 \n.gitignore f 644 \na d 755 \na/x f 644 \na/y f 755 \n\
             b f 644 \nl l 777 a/x\ntarget d 755 \ntarget/o f 644 \n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains(&format!("y{round}")), "{text}");
        assert_eq!(run(&container, "wc -l < target/o").await, format!("{}\n", round + 1));
        container.keeper().end().await?;
        let (report, tar) = container.collect().await?;
        assert_eq!((report.entries, report.deleted), (0, 0), "{:?}", entries(&tar));
        assert!(!report.git_changed);
    }
    // A reset that keeps nothing leaves nothing, and then a tree is put as into a new container.
    container.keeper().end().await?;
    assert_eq!(container.keeper().reset().await?, armed);
    assert_eq!(run(&container, "find /app -mindepth 1").await, "");
    container.keeper().reset().await?;
    let error = container.put_on(Some(tree_now), delta(&[])).await.unwrap_err();
    assert!(error.to_string().contains("another tree"), "{error}");
    container.put(tree(&[("other", b"x")])).await?;
    assert_eq!(run(&container, "ls -A").await, "other\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_only_put_on_as_long_as_it_is_the_one_that_is_known() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await.fingerprint;
    let refused = async |base, sentence: &str| {
        let error = container.put_on(base, delta(&[])).await.unwrap_err();
        assert!(error.to_string().contains(sentence), "{error}");
    };
    refused(Some(0), "another tree").await;
    let put = container.put(tree(&FIRST)).await?;
    refused(None, "holds a tree already").await;
    refused(Some(put.tree + 1), "another tree").await;
    // A refusal changes nothing, and a tree on which nothing ran is put on, also after a collection.
    let (report, _) = container.collect().await?;
    assert_eq!(report.entries, 0);
    let put = container.put_on(Some(put.tree), delta(&[("c", Some(0o644), "c")])).await?;
    // Once a program ran, nobody knows.
    run(&container, "true").await;
    container.keeper().end().await?;
    refused(Some(put.tree), "another tree").await;
    let kept = reset(&container, false, &armed).await?.tree.unwrap();
    assert_eq!(dropped(&kept), [""; 0]);
    assert_eq!(kept.bytes, 21 + 6 + 2 + 8 + 1 + 1 + 1 + 1);
    refused(Some(put.tree), "another tree").await;
    // Nothing was put since: it stays, as another tree.
    let again = reset(&container, false, &armed).await?.tree.unwrap();
    assert!(again.tree > kept.tree);

    // A put that fails midway leaves nothing that anything can be put on.
    let bad = delta(&[("c", Some(0o644), "new"), ("a", Some(0o644), "no directory")]);
    let error = container.put_on(Some(again.tree), bad).await.unwrap_err();
    assert!(error.to_string().contains("write a"), "{error}");
    refused(Some(again.tree), "another tree").await;
    refused(None, "holds a tree already").await;
    let error = container.run_with("true", "").await.unwrap_err();
    assert!(error.to_string().contains("not put whole"), "{error}");
    let report = reset(&container, true, &armed).await?;
    assert_eq!((report.tree, report.kept.len()), (None, 0));
    assert_eq!(run(&container, "find /app -mindepth 1").await, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn build_state_beside_a_tree_that_stays_follows_the_rules_of_the_next() -> Result<(), Failure>
{
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await.fingerprint;
    container.put(tree(&[(".gitignore", b"*_out/\n"), ("d/a", b"x"), ("m_out/put", b"x")])).await?;
    let build = "for d in . d new; do for n in file link free; do mkdir -p $d/${n}_out
                 echo built > $d/${n}_out/o; done; done; echo built > m_out/o; echo n > new/n";
    run(&container, build).await;
    let report = reset(&container, true, &armed).await?;
    let kept = report.tree.unwrap();
    assert_eq!((dropped(&kept), report.kept.len()), (Vec::new(), 10));
    // What is put wins; what is in a new directory goes with it, or comes back in it.
    let more = delta(&[
        ("file_out", Some(0o644), "put"),
        ("link_out", Some(0o777), "/etc"),
        ("new/n", Some(0o644), "n"),
        ("d", None, ""),
        ("d/a", Some(0o644), "x"),
    ]);
    container.put_on(Some(kept.tree), more).await?;
    let list = "find . -mindepth 1 -printf '%P %y\\n' | LC_ALL=C sort";
    assert_eq!(
        run(&container, list).await,
        ".gitignore f\nd d\nd/a f\nfile_out f\nfree_out d\nfree_out/o f\nlink_out l\nm_out d\n\
         m_out/o f\nm_out/put f\nnew d\nnew/file_out d\nnew/file_out/o f\nnew/free_out d\n\
         new/free_out/o f\nnew/link_out d\nnew/link_out/o f\nnew/n f\n"
    );
    // A program that is started before anything is put finds it in its place, too.
    let kept = reset(&container, true, &armed).await?.tree.unwrap();
    assert_eq!(dropped(&kept), [""; 0]);
    assert_eq!(run(&container, "cat free_out/o; ls -A | head -1").await, "built\n.gitignore\n");
    // Rules that ignore it no more.
    let kept = reset(&container, true, &armed).await?.tree.unwrap();
    let rules = delta(&[(".gitignore", Some(0o644), "new/free_out/\n"), ("m_out", None, "")]);
    container.put_on(Some(kept.tree), rules).await?;
    assert_eq!(
        run(&container, list).await,
        ".gitignore f\nd d\nd/a f\nfile_out f\nlink_out l\nnew d\nnew/free_out d\nnew/free_out/o f\n\
         new/n f\n"
    );
    // Not wished for, none of it stays, and the tree does; without a tree, it does.
    run(&container, "mkdir -p new/free_out; echo x > new/free_out/x").await;
    let kept = reset(&container, false, &armed).await?;
    assert_eq!((kept.tree.is_some(), kept.kept.len()), (true, 0));
    assert!(!run(&container, list).await.contains("free_out"));
    run(&container, "mkdir -p new/free_out; echo x > new/free_out/x").await;
    container.keeper().end().await?;
    let request = ResetRequest { keep_ignored: true, keep_tree: false };
    let report = container.keeper().reset_with(request).await?;
    assert_eq!((report.tree, report.kept.len(), report.fingerprint), (None, 1, armed));
    Ok(())
}

/// So many files in directories of a hundred, as a tar stream.
fn many(files: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..files {
        let path = format!("package-{:04}/module/file-{number:06}.rs", number / 100);
        let text = format!("// {number}\n").repeat(40);
        let mut header = header(EntryType::Regular, 0o644, text.len());
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The least of three.
fn least(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap_or_default()
}

async fn figures(files: usize) -> Result<String, Failure> {
    let container = start(&[]).await;
    let armed = container.arm().await.fingerprint;
    let tree = many(files);
    let started = Instant::now();
    let put = container.put(tree).await?;
    println!("{files} files: put {:?}", started.elapsed());
    let (mut collects, mut resets, mut puts) = (Vec::new(), Vec::new(), Vec::new());
    let mut number = put.tree;
    for _ in 0..5 {
        run(&container, "true").await;
        container.keeper().end().await?;
        let started = Instant::now();
        let (report, _) = container.collect().await?;
        collects.push(started.elapsed());
        assert_eq!((report.entries, report.deleted), (0, 0));
        let started = Instant::now();
        let report = reset(&container, true, &armed).await?;
        resets.push(started.elapsed());
        let kept = report.tree.unwrap();
        assert_eq!((kept.dropped.len(), kept.tree > number), (0, true));
        let started = Instant::now();
        number = container.put_on(Some(kept.tree), delta(&[])).await?.tree;
        puts.push(started.elapsed());
    }
    run(&container, "true").await;
    container.keeper().end().await?;
    reset(&container, true, &armed).await?;
    let memory = crate::life::anonymous(&container).await;
    println!(
        "{files} files unchanged: collect {:?} reset {:?} put {:?}; keeper {memory}",
        least(&collects),
        least(&resets),
        least(&puts)
    );
    Ok(memory)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_ten_thousand_files_takes_little_memory() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let memory = figures(10_000).await?;
    let kib: u64 = memory.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(kib <= 8 << 10, "{memory}");
    figures(100_000).await?;
    Ok(())
}
