//! Build state that stays from one tree to the next, and what uid 1000 may try with it.

use std::time::Instant;

use mcp_codex_orchestrator::keeper::wire::{CollectReport, ResetReport, ResetRequest};

use crate::harness::{Contained, Failure, engine_is_there, entries, find, start, tree};

const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n";

/// Ends everything and resets, keeping build state.
async fn reset(container: &Contained) -> Result<ResetReport, Failure> {
    assert_eq!(container.keeper().end().await?.left, 0);
    Ok(container.keeper().reset_with(ResetRequest { keep_ignored: true, keep_tree: false }).await?)
}

fn kept(report: &ResetReport) -> Vec<&str> {
    report.kept.iter().map(|kept| kept.path.as_str()).collect()
}

/// The topmost ignored paths of a collection, and whether each stays.
fn counted(report: &CollectReport) -> Vec<(&str, bool)> {
    report.ignored.iter().map(|ignored| (ignored.path.as_str(), ignored.stays)).collect()
}

/// Runs a script that must succeed, and gives what it printed.
async fn run(container: &Contained, script: &str) -> String {
    let (exit, out, err) = container.run(&format!("set -e\n{script}")).await;
    assert_eq!(exit.code, Some(0), "{out}{err}");
    out
}

/// All of `/app` but `.git`, one path a line.
const LIST: &str = "find . -mindepth 1 -not -path ./.git -not -path './.git/*' | LC_ALL=C sort";

#[tokio::test(flavor = "multi_thread")]
async fn ignored_directories_stay_for_the_next_tree_and_nothing_else_does() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let sent: [(&str, &[u8]); 5] = [
        (".gitignore", b"target/\n__pycache__/\n.env\nbig.log\nvendor/\n"),
        (".git/HEAD", b"ref: refs/heads/main\n"),
        ("a/x", b"x"),
        ("vendor/tracked", b"x"),
        ("plain", b"x"),
    ];
    container.put(tree(&sent)).await?;
    run(
        &container,
        "mkdir -p target/d a/__pycache__ new/__pycache__ venv/bin cache plain2
         echo built > target/d/o; echo p > a/__pycache__/c; echo p > new/__pycache__/c; echo n > new/n
         echo '*' > venv/.gitignore; echo p > venv/bin/python
         printf 'Signature: 8a477f597d28d172789f06886806bc55' > cache/CACHEDIR.TAG; echo c > cache/c
         echo o > vendor/object; ln -s object vendor/link
         echo S=1 > .env; head -c 70000 /dev/zero > big.log; echo x > plain2/y; mkfifo target/fifo",
    )
    .await;
    container.keeper().end().await?;
    let (report, tar) = container.collect().await?;
    let found = entries(&tar);
    let expected = [
        (".env", false),
        ("a/__pycache__/", true),
        ("big.log", false),
        ("cache/", true),
        ("new/__pycache__/", true),
        ("target/", true),
        ("vendor/link", true),
        ("vendor/object", true),
        ("venv/", true),
    ];
    assert_eq!(counted(&report), expected);
    // The small file comes along, marked; caches and virtual environments do not, nor as a shell.
    assert_eq!(find(&found, "ignored/.env").unwrap().2, b"S=1\n");
    let names: Vec<_> = found.iter().map(|(path, ..)| String::from_utf8_lossy(path)).collect();
    assert_eq!(
        names,
        ["ignored/.env", "tree/new", "tree/new/n", "tree/plain2", "tree/plain2/y", "meta/deleted"]
    );
    assert_eq!((report.entries, report.bytes), (5, 4 + 2 + 2));

    let reset_report = reset(&container).await?;
    assert_eq!(reset_report.fingerprint, armed.fingerprint);
    let all = [
        "a/__pycache__/",
        "cache/",
        "new/__pycache__/",
        "target/",
        "vendor/link",
        "vendor/object",
        "venv/",
    ];
    assert_eq!(kept(&reset_report), all);
    assert_eq!(reset_report.kept[3].bytes, 6);
    // Again, with nothing put meanwhile: it is still there.
    let again = reset(&container).await?;
    assert_eq!((kept(&again), &again.fingerprint), (all.to_vec(), &armed.fingerprint));

    // `new` was not applied, so its cache has no place; the rest is as it was.
    container.put(tree(&sent)).await?;
    let out = run(&container, LIST).await;
    let there = "./.gitignore ./a ./a/__pycache__ ./a/__pycache__/c ./a/x ./cache ./cache/CACHEDIR.TAG \
                 ./cache/c ./plain ./target ./target/d ./target/d/o ./vendor ./vendor/link \
                 ./vendor/object ./vendor/tracked ./venv ./venv/.gitignore ./venv/bin ./venv/bin/python";
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>(),
        there.split(' ').filter(|p| !p.is_empty()).collect::<Vec<_>>()
    );
    let out =
        run(&container, "cat target/d/o; stat -c %U:%a . target; echo more >> target/d/o").await;
    assert_eq!(out, "built\ncodex:755\ncodex:755\n");
    container.keeper().end().await?;
    let (report, tar) = container.collect().await?;
    assert_eq!((report.entries, report.deleted), (0, 0), "{:?}", entries(&tar));

    // Asked for without keeping, nothing is left.
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    container.put(tree(&sent)).await?;
    assert!(!run(&container, LIST).await.contains("target"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_wins_and_what_is_ignored_no_more_goes() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    container.put(tree(&[(".gitignore", b"*_out/\n"), ("s", b"x")])).await?;
    let script = "for d in file link merged dropped free; do
            mkdir -p ${d}_out/sub; echo built > ${d}_out/sub/o; echo built > ${d}_out/both
        done";
    run(&container, script).await;
    let report = reset(&container).await?;
    assert_eq!(report.fingerprint, armed.fingerprint);
    assert_eq!(report.kept.len(), 5);

    let mut tar = tar::Builder::new(Vec::new());
    let files: [(&str, &[u8]); 5] = [
        (".gitignore", b"*_out/\n!dropped_out/\n"),
        ("file_out", b"sent"),
        ("merged_out/both", b"sent"),
        ("merged_out/sub/p", b"sent"),
        ("s", b"x"),
    ];
    for (path, bytes) in files {
        let mut header = crate::harness::header(tar::EntryType::Regular, 0o644, bytes.len());
        tar.append_data(&mut header, path, bytes)?;
    }
    let mut header = crate::harness::header(tar::EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut header, "link_out", "/etc")?;
    container.put(tar.into_inner()?).await?;
    let out =
        run(&container, &format!("{LIST}; cat file_out merged_out/both merged_out/sub/o")).await;
    assert_eq!(
        out,
        "./.gitignore\n./file_out\n./free_out\n./free_out/both\n./free_out/sub\n./free_out/sub/o\n\
         ./link_out\n./merged_out\n./merged_out/both\n./merged_out/sub\n./merged_out/sub/o\n\
         ./merged_out/sub/p\n./s\nsentsentbuilt\n"
    );
    container.keeper().end().await?;
    let (report, tar) = container.collect().await?;
    assert_eq!((report.entries, report.deleted), (0, 0), "{:?}", entries(&tar));
    assert_eq!(
        counted(&report),
        [("free_out/", true), ("merged_out/sub/o", true)],
        "what was put is no new ignored path"
    );
    // Something changed in what was put is seen although kept things lie beside it.
    container.run("echo changed > merged_out/both").await;
    container.keeper().end().await?;
    let (report, tar) = container.collect().await?;
    assert_eq!(report.entries, 1);
    assert_eq!(find(&entries(&tar), "tree/merged_out/both").unwrap().2, b"changed\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_directory_breaks_no_reset_and_stays_what_it_was() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let files: [(&str, &[u8]); 4] =
        [(".gitignore", b"t/\n.git/\n"), (".git/HEAD", b"ref: x\n"), ("a", b"old"), ("tag/a", TAG)];
    container.put(tree(&files)).await?;
    let script = r#"
        mkdir -p t/closed/in t/odd sub/.git t/.git; echo x > t/closed/in/f; echo h > sub/.git/config
        echo h > t/.git/config
        ln -s /etc t/etc; ln -s ../a t/up; ln -s /app/.git t/git; ln a t/hard
        ln .git/HEAD t/head
        mkfifo t/fifo t/odd/fifo
        python3 -c "
import os, socket
s = socket.socket(socket.AF_UNIX); s.bind('t/socket')
os.mkdir(b't/\xff\n'); open(b't/\xff\n/f', 'w').close()
os.setxattr('t/odd', 'user.left', b'x')"
        cp /bin/true t/setuid; chmod 6755 t/setuid; chmod 1777 t/odd
        mkdir .git/objects; echo poison > .git/objects/x
        printf '*\n' > .gitignore
        mkdir everything; echo x > everything/x; echo x > loose
        ln -s /app .codex-keeper-aside
        chmod 000 t/closed t; chmod 000 .
    "#;
    run(&container, script).await;
    let report = reset(&container).await?;
    assert_eq!(report.fingerprint, armed.fingerprint);
    // Nobody gains by ignoring everything: directories are kept for the same workspace, and `.git`
    // never is, whatever ignores it.
    assert_eq!(kept(&report), ["everything/", "sub/", "t/"]);

    container.put(tree(&files)).await?;
    let (_, out, _) = container.run(&format!("stat -c %a t; chmod 700 t; {LIST}")).await;
    // By the rules of the tree that is there now, `everything` and `sub` are no build state.
    assert!(!out.contains("everything") && !out.contains("sub") && !out.contains("loose"), "{out}");
    assert!(out.starts_with("0\n") && !out.contains("fifo") && !out.contains("socket"), "{out}");
    let out = run(
        &container,
        "cat a t/hard; stat -c %h t/hard t/head; stat -c %i a t/hard | sort -u | wc -l
         cat .git/HEAD; ls .git; chmod 700 t/closed; cat t/closed/in/f; stat -c %a t/odd
         echo overwritten > t/hard; cat a",
    )
    .await;
    assert_eq!(out, "oldold1\n1\n2\nref: x\nHEAD\nx\n1777\nold");
    container.keeper().end().await?;
    let (collected, tar) = container.collect().await?;
    assert_eq!((collected.entries, collected.deleted), (0, 0), "{:?}", entries(&tar));
    assert_eq!(counted(&collected), [("t/", true)]);
    assert_eq!(reset(&container).await?.fingerprint, armed.fingerprint);

    // A program that runs without a tree sees nothing of what is kept, and cannot take it along.
    let out =
        run(&container, "ls -A; mkdir planted; mv .codex* mine 2>/dev/null || true; ls -A").await;
    assert_eq!(out, "planted\n");
    let report = reset(&container).await?;
    assert_eq!((kept(&report), &report.fingerprint), (Vec::new(), &armed.fingerprint));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_deep_too_many_or_not_a_directory_any_more_is_dropped() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let files: [(&str, &[u8]); 3] = [(".gitignore", b"t*/\n"), ("a/f", b"x"), ("d/a", b"x")];
    container.put(tree(&files)).await?;
    let deep = "python3 -c \"
import os
for top, levels in (('a/t-deep', 3000), ('a/t-flat', 3)):
    os.mkdir(top); at = os.open(top, os.O_RDONLY)
    for i in range(levels):
        os.mkdir('n', dir_fd=at); inner = os.open('n', os.O_RDONLY, dir_fd=at); os.close(at); at = inner
    os.close(at)
for i in range(1100):
    os.mkdir('d/t%04d' % i)\"; rm -r d/a; ln -s d t-link";
    run(&container, deep).await;
    let report = reset(&container).await?;
    assert_eq!(report.fingerprint, armed.fingerprint);
    assert_eq!(report.kept.len(), 1000);
    // In the order of the paths, and without the one that is too deep.
    assert_eq!(kept(&report)[..2], ["a/t-flat/", "d/t0000/"]);
    container.put(tree(&files)).await?;
    let out = run(&container, "ls -d a/t* d/t* | wc -l").await;
    assert_eq!(out, "1000\n");

    // A tree that came only in part keeps nothing for the next.
    assert_eq!(reset(&container).await?.kept.len(), 1000);
    container.put(tree(&[("d/a", b"x"), ("d/a/b", b"x")])).await.unwrap_err();
    let report = reset(&container).await?;
    assert_eq!((report.kept.len(), report.fingerprint), (0, armed.fingerprint));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_kept_files_cost_a_walk_and_no_memory() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let files: [(&str, &[u8]); 2] = [(".gitignore", b"target/\n"), ("a", b"x")];
    container.put(tree(&files)).await?;
    let make = "mkdir target; for d in $(seq 100); do mkdir target/$d; for f in $(seq 100); do
                echo $f > target/$d/$f; done; done";
    run(&container, make).await;
    for round in 0..3 {
        container.keeper().end().await?;
        let started = Instant::now();
        let report = container
            .keeper()
            .reset_with(ResetRequest { keep_ignored: true, keep_tree: false })
            .await?;
        let reset = started.elapsed();
        assert_eq!((kept(&report), &report.fingerprint), (vec!["target/"], &armed.fingerprint));
        let started = Instant::now();
        container.put(tree(&files)).await?;
        println!(
            "round {round}: 10,000 kept files: reset {reset:?}, put {:?}; keeper {}",
            started.elapsed(),
            crate::life::anonymous(&container).await
        );
    }
    assert_eq!(run(&container, "find target -type f | wc -l").await, "10000\n");
    container.keeper().end().await?;
    let started = Instant::now();
    container.keeper().reset().await?;
    println!("reset that removes them: {:?}", started.elapsed());
    Ok(())
}
