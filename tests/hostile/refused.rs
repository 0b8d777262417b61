//! Streams that are no change set: the whole is refused, and nothing of it is used.

use std::fs;

use mcp_codex_orchestrator::path::RelPath;

use super::place::Place;
use super::tar::{Header, Tar};

fn place() -> Place {
    let place = Place::new();
    place.write("f", "f").write("d/f", "d/f").write("e/g/h", "h");
    place.link("out", place.outside()).link("in", "d").link("up", "../outside");
    place
}

fn refused(why: &str, stream: &[u8]) {
    let place = place();
    let before = place.tree();
    let outcome = place.play(stream);
    assert!(outcome.is_err(), "{why}: was taken in as {:?}", outcome.map(|run| run.set));
    assert_eq!(place.tree(), before, "{why}");
}

#[test]
fn paths_that_lead_anywhere_else() {
    let outside = place().outside();
    let absolute = [b"/", outside.as_os_str().as_encoded_bytes(), b"/f"].concat();
    for path in [
        &b"/etc/passwd"[..],
        b"//etc/passwd",
        &absolute,
        b"..",
        b"../outside/f",
        b"d/../../outside/f",
        b"d/..",
        b"./f",
        b"d/./f",
        b"d//f",
        b".",
        b"",
        b"d/",
    ] {
        refused("a path in a header", &Tar::default().file(path, b"x").end(&[]));
        refused("a directory", &Tar::default().directory([path, b"//"].concat()).end(&[]));
        let name = [b"tree/", path].concat();
        let by_pax = Tar::default().pax(&[("path", &name)]).file("f", b"x").end(&[]);
        refused("a path in pax", &by_pax);
        let long = [&name[..], b"\0"].concat();
        let by_gnu = Tar::default().raw(&Header::new(b"L", b'L', long.len() as u64), &long);
        refused("a path in a GNU name", &by_gnu.file("f", b"x").end(&[]));
        let mut posix = Header::new(&[&path[..path.len().min(90)], b"x"].concat(), b'0', 0);
        posix.magic = b"ustar\x0000".to_vec();
        let mut block = posix.bytes();
        block[345..349].copy_from_slice(b"tree");
        block[345 + 4..345 + 4 + 3].copy_from_slice(b"/..");
        refused("a prefix", &Tar(block.to_vec()).end(&[]));
        if let Ok(path) = std::str::from_utf8(path) {
            refused("a deleted path", &Tar::default().end(&[path, "f"]));
        }
    }
    for name in [&b"/tree/f"[..], b"../tree/f", b"other/f", b"meta/x", b"tre", b"TREE/f", b""] {
        refused("no known place", &Tar::default().raw(&Header::new(name, b'0', 0), b"").end(&[]));
    }
}

#[test]
fn what_lies_below_no_directory() {
    let file = |path: &str| Tar::default().file(path, b"x");
    refused("below a link that was sent", &file("out/f").end(&[]));
    refused("below a link inwards", &file("in/f").end(&[]));
    refused("below a link upwards", &file("up/f").end(&[]));
    refused("a directory below a link", &Tar::default().directory("out/deep/x").end(&[]));
    refused("below a file", &file("f/x").end(&[]));
    refused("below what is gone", &file("d/f").end(&["d"]));
    refused("deep below what is gone", &file("e/g/i").end(&["e"]));
    refused("below a new link", &Tar::default().link("n", "d").file("n/f", b"x").end(&[]));
    refused("below a link that comes later", &file("n/f").link("n", "d").end(&[]));
    refused("below a link for a directory", &file("d/x").link("d", "e").end(&[]));
    refused("deep below it", &file("e/g/i/j").link("e", "d").end(&[]));
    let fifo = file("p/x").node(b"p", b'6', 0o644, b"", b"");
    refused("below a FIFO", &fifo.end(&[]));
    let hard = file("h/x").node(b"h", b'1', 0o644, b"", b"f");
    refused("below a hard link", &hard.end(&[]));
}

#[test]
fn what_is_said_twice() {
    let twice = Tar::default().file("a", b"1");
    refused("a file twice", &twice.clone().file("a", b"2").end(&[]));
    refused("a file and a directory", &twice.clone().directory("a").end(&[]));
    refused("a directory by two names", &Tar::default().directory("a").directory("a/").end(&[]));
    refused("a link and a file", &Tar::default().link("a", "f").file("a", b"x").end(&[]));
    refused("changed and gone", &Tar::default().file("f", b"x").end(&["f"]));
    refused("gone twice", &Tar::default().end(&["f", "f"]));
    refused("gone and never there", &Tar::default().end(&["never"]));
    refused("two lists", &[&Tar::default().end(&[])[..1024], &Tar::default().end(&[])].concat());
    refused("an entry after the list", &{
        let mut tar = Tar(Tar::default().end(&[])[..512].to_vec());
        tar = tar.file("late", b"x");
        tar.0.extend([0; 1024]);
        tar.0
    });
    refused("no list", &{
        let mut tar = Tar::default().file("a", b"x");
        tar.0.extend([0; 1024]);
        tar.0
    });
}

#[test]
fn headers_that_lie() {
    let with = |change: &dyn Fn(&mut Header)| {
        let mut header = Header::new(b"tree/a", b'0', 1);
        change(&mut header);
        Tar::default().raw(&header, b"x").end(&[])
    };
    assert!(place().play(&with(&|_| {})).is_ok());
    refused("a negative size", &with(&|h| h.size = vec![0xff; 12]));
    refused("a size over 64 bits", &with(&|h| h.size = [&[0x81][..], &[0; 11]].concat()));
    refused("a size that is no number", &with(&|h| h.size = b"0000000000x\0".to_vec()));
    refused("a size of nines", &with(&|h| h.size = b"99999999999\0".to_vec()));
    refused("a signed size", &with(&|h| h.size = b"-0000000001\0".to_vec()));
    refused("a size with a gap", &with(&|h| h.size = b"1 1        \0".to_vec()));
    refused("a larger size", &with(&|h| h.size = b"00000010000\0".to_vec()));
    refused("a smaller size", &with(&|h| h.size = b"00000000000\0".to_vec()));
    refused("a mode in base 256", &with(&|h| h.mode = [0x80, 0, 0, 0, 0, 0, 1, 0xed].to_vec()));
    refused("a mode with more bits", &with(&|h| h.mode = b"0100644\0".to_vec()));
    refused("no magic", &with(&|h| h.magic = vec![0; 8]));
    let mut sum = with(&|_| {});
    sum[150] ^= 1;
    refused("a checksum that does not fit", &sum);
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let node = Tar::default().node(b"a", kind, 0o644, &[1; 600], b"f");
        refused("bytes where none belong", &node.end(&[]));
    }
    refused("a link to nowhere", &Tar::default().link("a", "").end(&[]));
    refused("a link of 5,000 bytes", &Tar::default().link("a", vec![b'x'; 5000]).end(&[]));
}

#[test]
fn extensions_that_a_keeper_does_not_send() {
    let pax = |key: &str, value: &[u8]| Tar::default().pax(&[(key, value)]).file("a", b"x");
    for key in [
        "size",
        "GNU.sparse.major",
        "GNU.sparse.name",
        "GNU.sparse.realsize",
        "SCHILY.xattr.security.capability",
        "uid",
        "hdrcharset",
        "comment",
        "",
    ] {
        refused(key, &pax(key, b"1").end(&[]));
    }
    let twice: [(&str, &[u8]); 2] = [("path", b"tree/a"), ("path", b"tree/b")];
    refused("a path twice in pax", &Tar::default().pax(&twice).file("a", b"x").end(&[]));
    refused("a NUL in a path", &pax("path", b"tree/a\0b").end(&[]));
    let both = Tar::default().pax(&twice[..1]).raw(&Header::new(b"L", b'L', 7), b"tree/b\0");
    refused("a path by two ways", &both.file("a", b"x").end(&[]));
    refused("an extension of nothing", &Tar::default().pax(&twice[..1]).end(&[])[..1024]);
    let last = Tar::default().pax(&twice[..1]).0;
    refused("an extension at the end", &[last, vec![0; 1024]].concat());
    for flag in (0..=255_u8).filter(|flag| !b"\x000123456LKx".contains(flag)) {
        refused("an unknown kind", &Tar::default().node(b"a", flag, 0o644, b"", b"").end(&[]));
    }
}

#[test]
fn trees_that_are_too_deep() {
    refused("10,000 deep", &Tar::default().directory("d/".repeat(10_000) + "d").end(&[]));
    refused(
        "as deep as a path can be",
        &Tar::default().file("d/".repeat(2047) + "f", b"").end(&[]),
    );
    refused("deeper than 512", &Tar::default().file("d/".repeat(512) + "f", b"").end(&[]));
    refused("a long path", &Tar::default().file("n".repeat(RelPath::MAX_BYTES + 1), b"").end(&[]));
    // What the keeper allows is applied.
    let place = place();
    let deepest = "d/".repeat(511) + "f";
    let run = place.play(&Tar::default().file(&deepest, b"deep").end(&[])).unwrap();
    assert_eq!(run.held(), Vec::<String>::new());
    assert_eq!(fs::read(place.at(&deepest)).unwrap(), b"deep");
}

#[test]
fn errors_show_little_of_what_they_are_about() {
    let place = place();
    let name = [&b"\x1b[2J\n"[..], &[b'x'; 4000]].concat();
    for stream in [
        Tar::default().file([&name[..], b"/../x"].concat(), b"").end(&[]),
        Tar::default().file(&name, b"").file(&name, b"").end(&[]),
        Tar::default().pax(&[("path", &name)]).file("a", b"").end(&[]),
    ] {
        let text = place.take(&stream[..], &place.snapshot()).err().unwrap().to_string();
        assert!(text.len() < 500 && !text.contains(['\x1b', '\n']), "{text}");
    }
}
