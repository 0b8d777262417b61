//! Much history for a small tree, and large files that LFS keeps elsewhere.

use std::time::Instant;

use super::{Host, LIMIT, kept};

/// The history has so many MiB; `make soak-history` asks for more than 2 GiB.
const SIZE: &str = "CODEX_HISTORY_MIB";

#[test]
fn a_large_history_of_a_small_tree_is_packed_once() {
    let mib: usize = std::env::var(SIZE).map_or(8, |text| text.parse().unwrap());
    let host = Host::new(&[]);
    host.import(mib.div_ceil(64), mib.min(64) << 20, 60);
    let timed = || {
        let began = Instant::now();
        (host.send(), began.elapsed())
    };
    let (first, packing) = timed();
    first.is_sound(50);
    assert!(first.cut().unwrap().bytes >= (mib as u64) << 20);
    let files = kept(&host.state());
    let (again, unchanged) = timed();
    again.is_sound(50);
    assert_eq!(kept(&host.state()), files);
    host.commit("new", "new\n");
    let (new, added) = timed();
    new.is_sound(51);
    let bytes: u64 = files.values().map(|(_, size)| size).sum();
    assert!(bytes < LIMIT, "{bytes}");
    eprintln!(
        "{mib} MiB of history: {bytes} bytes go; first {packing:?}, unchanged {unchanged:?}, one \
         commit more {added:?}"
    );
}

#[test]
fn pointers_of_lfs_go_as_they_are() {
    let host = Host::new(&[]);
    host.grow(50);
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
                   oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
                   size 12345\n";
    host.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    host.write("a.bin", pointer);
    host.git(&["-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process=", "add", "-A"]);
    host.git(&["commit", "-q", "-m", "pointer"]);
    let sent = host.send();
    sent.is_sound(50);
    assert_eq!(sent.git(&["show", "HEAD:a.bin"]), pointer);
}
