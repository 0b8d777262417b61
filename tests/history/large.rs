//! Large files that LFS keeps elsewhere are pointers in the history.

use super::Host;

#[test]
fn pointers_of_lfs_go_as_they_are() {
    let host = Host::new(&[]);
    host.grow(50);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    host.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    host.write("a.bin", pointer);
    host.git(&["-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process=", "add", "-A"]);
    host.git(&["commit", "-q", "-m", "pointer"]);
    let sent = host.send();
    sent.is_sound(50);
    assert_eq!(sent.git(&["show", "HEAD:a.bin"]), pointer);
}
