use proptest::prelude::*;

use super::*;
use crate::workspace::Node;

fn node(kind: NodeKind) -> Node {
    Node {
        kind,
        mode: 0o644,
        size: 1,
        mtime: (0, 0),
        ctime: (0, 0),
        dev: 0,
        ino: 0,
        hash: (kind == NodeKind::File).then(|| *blake3::hash(b"x").as_bytes()),
        target: None,
    }
}

fn snapshot(paths: &[(&str, NodeKind)]) -> Snapshot {
    Snapshot {
        nodes: paths.iter().map(|(p, k)| (RelPath::new(*p).unwrap(), node(*k))).collect(),
        ..Snapshot::default()
    }
}

/// One entry as the tar crate writes it.
fn put(tar: &mut tar::Builder<Vec<u8>>, name: &[u8], flag: u8, bytes: &[u8], target: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}

/// Name, kind, bytes and link target.
type Raw<'a> = (&'a [u8], u8, &'a [u8], &'a [u8]);

fn stream(entries: &[Raw<'_>], deleted: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, flag, bytes, target) in entries {
        put(&mut tar, name, *flag, bytes, target);
    }
    put(&mut tar, b"meta/deleted", b'0', deleted, b"");
    tar.into_inner().unwrap()
}

fn take(bytes: &[u8], snapshot: &Snapshot) -> Result<Received, ReceiveError> {
    take_with(bytes, snapshot, &ReceiveLimits::default())
}

fn take_with(
    bytes: &[u8],
    snapshot: &Snapshot,
    limits: &ReceiveLimits,
) -> Result<Received, ReceiveError> {
    let dir = tempfile::tempdir().unwrap();
    receive(bytes, snapshot, limits, &dir.path().join("changes.tar"))
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

#[test]
fn what_arrives_is_found_again_by_offset() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("changes.tar");
    let long = [&b"tree/"[..], &[b'n'; 300]].concat();
    let mut tar = tar::Builder::new(Vec::new());
    put(&mut tar, b"tree/a.txt", b'0', b"hello", b"");
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(3);
    let name = std::str::from_utf8(&long).unwrap();
    tar.append_data(&mut header, name, &b"big"[..]).unwrap();
    put(&mut tar, b"tree/dir/", b'5', b"", b"");
    put(&mut tar, b"tree/dir/l", b'2', b"", b"../a.txt");
    put(&mut tar, b"tree/pipe", b'6', b"", b"");
    put(&mut tar, b"meta/deleted", b'0', b"gone\0", b"");
    let sent = snapshot(&[("gone", NodeKind::File)]);
    let bytes = tar.into_inner().unwrap();
    let received = receive(&bytes[..], &sent, &ReceiveLimits::default(), &archive).unwrap();
    assert_eq!(received.entries.len(), 5);
    assert_eq!(received.deleted, BTreeSet::from([path("gone")]));
    assert_eq!(received.entries[&path("pipe")], Arrived::Special);
    let written = std::fs::read(&archive).unwrap();
    for (name, content) in [("a.txt", &b"hello"[..]), (&name[5..], b"big")] {
        let Arrived::Node { new, .. } = &received.entries[&path(name)] else { panic!() };
        let at = usize::try_from(new.offset).unwrap();
        assert_eq!(&written[at..at + content.len()], content);
        assert_eq!(new.hash.unwrap().0, *blake3::hash(content).as_bytes());
    }
    // People read it with tar.
    let mut names: Vec<_> = tar::Archive::new(&written[..])
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path_bytes().into_owned())
        .collect();
    names.sort();
    assert_eq!(names.len(), 4);
    assert!(names.contains(&long));
}

#[test]
fn what_is_no_plain_path_is_refused() {
    for name in [
        &b"tree//etc/passwd"[..],
        b"tree/../x",
        b"tree/a/../../x",
        b"tree/./x",
        b"tree/a//b",
        b"tree/",
        b"/etc/passwd",
        b"../x",
        b"a",
        b"meta/other",
    ] {
        let bytes = stream(&[(name, b'0', b"x", b"")], b"");
        assert!(take(&bytes, &Snapshot::default()).is_err(), "{:?}", name.escape_ascii());
    }
}

#[test]
fn a_set_that_contradicts_itself_is_refused() {
    let sent = snapshot(&[("f", NodeKind::File), ("d", NodeKind::Directory)]);
    let cases: &[(&[Raw<'_>], &[u8])] = &[
        (&[(b"tree/a", b'0', b"1", b""), (b"tree/a", b'0', b"2", b"")], b""),
        (&[(b"tree/a", b'0', b"1", b""), (b"tree/a/b", b'0', b"2", b"")], b""),
        (&[(b"tree/a", b'2', b"", b"d"), (b"tree/a/b", b'0', b"2", b"")], b""),
        (&[(b"tree/a", b'6', b"", b""), (b"tree/a/b", b'0', b"2", b"")], b""),
        (&[(b"tree/f/b", b'0', b"2", b"")], b""),
        (&[(b"tree/d/b", b'0', b"2", b"")], b"d"),
        (&[(b"tree/f", b'0', b"2", b"")], b"f"),
        (&[], b"never-sent"),
        (&[], b"f\0f"),
        (&[], b"../f"),
        (&[(b"tree/l", b'2', b"", b"")], b""),
        (&[(b"tree/d", b'5', b"bytes", b"")], b""),
        (&[(b"tree/d", b'6', b"bytes", b"")], b""),
        (&[(b"tree/s", b'S', b"bytes", b"")], b""),
        (&[(b"tree/s", b'g', b"bytes", b"")], b""),
        (&[(b"meta/deleted", b'0', b"", b"")], b""),
    ];
    for (entries, deleted) in cases {
        let outcome = take(&stream(entries, deleted), &sent);
        assert!(outcome.is_err(), "{entries:?} {deleted:?} {outcome:?}");
    }
}

#[test]
fn half_a_stream_is_no_change_set() {
    let bytes = stream(&[(b"tree/a", b'0', &[7; 2000], b"")], b"");
    assert!(take(&bytes, &Snapshot::default()).is_ok());
    // The last 512 bytes are the second block of zeros.
    for len in (0..bytes.len()).step_by(100).chain([bytes.len() - 512]) {
        let outcome = take(&bytes[..len], &Snapshot::default());
        assert!(matches!(outcome, Err(ReceiveError::Stream(_))), "{len} {outcome:?}");
    }
    let mut tar = tar::Builder::new(Vec::new());
    put(&mut tar, b"tree/a", b'0', b"1", b"");
    let bytes = tar.into_inner().unwrap();
    assert!(matches!(take(&bytes, &Snapshot::default()), Err(ReceiveError::Stream(_))));
}

#[test]
fn bytes_after_the_end_are_refused_and_padding_is_not() {
    let mut bytes = stream(&[], b"");
    bytes.extend([0; 9216]);
    assert!(take(&bytes, &Snapshot::default()).is_ok());
    bytes.push(1);
    assert!(matches!(take(&bytes, &Snapshot::default()), Err(ReceiveError::Malformed(_))));
    let endless = stream(&[], b"");
    let endless = std::io::Read::chain(&endless[..], std::io::repeat(0));
    let dir = tempfile::tempdir().unwrap();
    let outcome = receive(
        endless,
        &Snapshot::default(),
        &ReceiveLimits::default(),
        &dir.path().join("changes.tar"),
    );
    assert!(matches!(outcome, Err(ReceiveError::Malformed(_))));
}

#[test]
fn limits_are_kept_before_the_bytes_come() {
    let limits = ReceiveLimits { entries: 2, bytes: 1000, ..ReceiveLimits::default() };
    let mut header = tar::Header::new_gnu();
    header.set_path("tree/a").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 40);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let outcome = take_with(header.as_bytes(), &Snapshot::default(), &limits);
    assert!(matches!(outcome, Err(ReceiveError::TooLarge { what: "bytes", .. })), "{outcome:?}");
    let many = stream(
        &[(b"tree/1", b'0', b"", b""), (b"tree/2", b'0', b"", b""), (b"tree/3", b'0', b"", b"")],
        b"",
    );
    let outcome = take_with(&many, &Snapshot::default(), &limits);
    assert!(matches!(outcome, Err(ReceiveError::TooLarge { what: "paths", .. })));
    // The list is held in memory, so it may not be longer than one of all that was sent.
    let sent = snapshot(&[("f", NodeKind::File)]);
    header.set_size(3);
    header.set_path("meta/deleted").unwrap();
    header.set_cksum();
    let outcome = take(header.as_bytes(), &sent);
    assert!(matches!(&outcome, Err(ReceiveError::Malformed(what)) if what.contains("longer")));
}

#[test]
fn pax_records_are_read_and_unknown_ones_refused() {
    let pax = |records: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        put(&mut tar, b"pax", b'x', records, b"");
        put(&mut tar, b"short", b'0', b"1", b"");
        put(&mut tar, b"meta/deleted", b'0', b"", b"");
        take(&tar.into_inner().unwrap(), &Snapshot::default())
    };
    let received = pax(b"17 path=tree/a\xffb\n").unwrap();
    assert!(received.entries.contains_key(&RelPath::new(&b"a\xffb"[..]).unwrap()));
    for wrong in [
        &b"17 size=tree/a\xffb\n"[..],
        b"99 path=tree/a\n",
        b"x path=tree/a\n",
        b"2 \n",
        b"8 path=\n",
        b"16 path=tree/../a\n",
    ] {
        assert!(pax(wrong).is_err(), "{:?}", wrong.escape_ascii());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_corrupted_stream_never_panics_and_never_names_a_path_outside(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        mend in any::<bool>(),
    ) {
        let sent = snapshot(&[("gone", NodeKind::File), ("d", NodeKind::Directory)]);
        let mut bytes = stream(&[
            (b"tree/a", b'0', b"hello", b""),
            (b"tree/d/b", b'0', &[3; 700], b""),
            (b"tree/l", b'2', b"", b"a"),
            (b"tree/n/", b'5', b"", b""),
        ], b"gone");
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if mend {
            // Make the checksums fit, so that the damage gets further.
            for block in bytes.chunks_exact_mut(512) {
                if &block[257..262] == b"ustar" {
                    let sum: u32 = block.iter().enumerate()
                        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
                        .sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(received) = take(&bytes, &sent) {
            for path in received.entries.keys().chain(&received.deleted) {
                prop_assert!(path.components().all(|c| !matches!(c, b"" | b"." | b"..")));
            }
        }
    }
}

#[test]
fn new_ignored_files_are_taken_as_few_and_small_as_was_asked_for() {
    let sent = snapshot(&[("known", NodeKind::File)]);
    let env: Raw<'_> = (b"ignored/.env", b'0', b"A=1", b"");
    let received = take(&stream(&[env, (b"tree/a", b'0', b"x", b"")], b""), &sent).unwrap();
    assert_eq!(received.ignored, BTreeSet::from([path(".env")]));
    assert_eq!((received.entries.len(), received.bytes), (2, 4));

    let none = |entries: &[Raw<'_>]| take(&stream(entries, b""), &sent).unwrap_err().to_string();
    for (entry, why) in [
        ((&b"ignored/known"[..], b'0', &b"x"[..], &b""[..]), "no new file"),
        ((b"ignored/l", b'2', b"", b"/etc/passwd"), "no new file"),
        ((b"ignored/d", b'5', b"", b""), "no new file"),
        ((b"ignored/p", b'6', b"", b""), "no new file"),
        ((b"ignored/../x", b'0', b"x", b""), "cannot be a path"),
        ((b"ignored//etc/x", b'0', b"x", b""), "cannot be a path"),
        ((b"ignored/", b'0', b"x", b""), "cannot be a path"),
        ((b"ignored/big", b'0', &[0; (64 << 10) + 1], b""), "more ignored files"),
    ] {
        let told = none(&[entry]);
        assert!(told.contains(why), "{told}");
    }
    // Neither twice, nor as something else besides, nor below a file.
    assert!(none(&[env, env]).contains("twice"));
    assert!(none(&[env, (b"tree/.env", b'0', b"x", b"")]).contains("twice"));
    assert!(none(&[(b"ignored/known/x", b'0', b"x", b"")]).contains("no directory"));

    let names: Vec<Vec<u8>> = (0..101).map(|n| format!("ignored/{n}").into_bytes()).collect();
    let many = |size: usize, count: usize| {
        let bytes = vec![0; size];
        let entries: Vec<Raw<'_>> =
            names[..count].iter().map(|name| (&name[..], b'0', &bytes[..], &b""[..])).collect();
        take(&stream(&entries, b""), &sent)
    };
    assert_eq!(many(1, 100).unwrap().ignored.len(), 100);
    many(1, 101).unwrap_err();
    many(64 << 10, 16).unwrap();
    many(64 << 10, 17).unwrap_err();
}
