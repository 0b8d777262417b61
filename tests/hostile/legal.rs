//! Names that look like an attack and are legal on Linux: they are applied as they are, and shown
//! so that they can be told apart.

use std::fs;

use mcp_codex_orchestrator::path::RelPath;

use super::place::Place;
use super::tar::Tar;

#[test]
fn odd_names_are_applied_and_shown_quoted() {
    let names: &[&[u8]] = &[
        b"new\nline",
        b"tab\t",
        b"back\\slash",
        b"..\\up",
        b"C:\\x",
        b"a:stream",
        b"bell\x07",
        b"\x1b[31mred",
        b"\xff\xfe",
        b"caf\xc3\xa9",
        b"trailing.",
        b"trailing ",
        b" leading",
        b"...",
        b"-rf",
        b"~",
        b"*",
        b"$(id)",
        b"\"quoted\"",
        b"CON",
        b"nul.txt",
        b"COM1",
        b"aux",
        b"\xe2\x80\xaegnp.exe",
        b"\x7f",
        b"tree",
        b"meta",
    ];
    let place = Place::new();
    let mut tar = Tar::default();
    for name in names {
        tar = tar.file(name, name).file([b"d/", *name].concat(), name);
    }
    let run = place.play(&tar.end(&[])).unwrap();
    assert_eq!(run.held(), Vec::<String>::new());
    for name in names {
        assert_eq!(&fs::read(place.at(name)).unwrap(), name);
        assert_eq!(&fs::read(place.at([b"d/", *name].concat())).unwrap(), name);
    }
    for change in &run.set.changes {
        let shown = change.path.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        assert_eq!(RelPath::parse(&shown).unwrap(), change.path);
    }
    assert_eq!(fs::read_dir(place.at("d")).unwrap().count(), names.len());
}

#[test]
fn pax_names_of_an_honest_writer_are_read() {
    let place = Place::new();
    let name = [&b"tree/"[..], &[b'n'; 150]].concat();
    let tar = Tar::default().pax(&[("path", &name), ("mtime", b"1700000000.5")]).file("x", b"y");
    place.play(&tar.end(&[])).unwrap();
    assert_eq!(fs::read(place.at(vec![b'n'; 150])).unwrap(), b"y");
}

#[test]
fn only_the_executable_bit_of_a_mode_travels() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let tar = Tar::default()
        .node(b"wide", b'0', 0o777, b"x", b"")
        .node(b"none", b'0', 0o000, b"x", b"")
        .node(b"d", b'5', 0o7777, b"", b"");
    place.play(&tar.end(&[])).unwrap();
    let mode = |path: &str| fs::metadata(place.at(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("wide") & 0o7022, 0, "{:o}", mode("wide"));
    assert_eq!(mode("none"), 0o644);
    assert_eq!(mode("d"), 0o755, "bits of a directory never travel");
}
