//! Files, and everything that can make one hard to remove.

use crate::harness::{Armed, Failure, Fate, check, engine_is_there, python};

use Fate::{Gone, Refused};

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_kind_are_removed_from_every_place() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    // All that uid 1000 can write to, found by trying, so that no place is forgotten.
    let everywhere = "
found=$(find / -xdev -type d -writable 2>/dev/null
        awk '{ print $2 }' /proc/mounts | while read -r m; do find \"$m\" -xdev -maxdepth 3 -type d -writable 2>/dev/null; done)
for place in $(printf '%s\\n' $found | grep -v '^/proc' | sort -u); do
    if echo x > $place/planted 2>/dev/null; then echo planted $place; fi
done";
    check(vec![
        ("files in each writable place", everywhere.to_owned(), Gone),
        (
            "a file with forged times and size",
            python(
                "before = os.stat('/app/file')
with open('/app/file', 'r+') as f: f.write('evil')
os.utime('/app/file', ns=(before.st_atime_ns, before.st_mtime_ns))
after = os.stat('/app/file')
assert (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino)
print('planted')",
            ),
            Gone,
        ),
        (
            "special files that need no device",
            python(
                "for place in ['/app', '/cache', '/tmp', '/home/codex', '/dev/shm']:
    os.mkfifo(place + '/fifo', 0)
    os.mknod(place + '/whiteout', 0o020000, 0)
    os.mknod(place + '/socket', 0o140777)
    os.symlink('/etc/passwd', place + '/link')
    os.symlink(place, place + '/loop')
    for kind in (0o020666, 0o060666):
        try: os.mknod(place + '/device', kind, os.makedev(1, 3)); raise SystemExit('a device was made')
        except PermissionError: pass
print('planted')",
            ),
            Gone,
        ),
        (
            "modes, owners and links that forbid deletion",
            "for p in /app /cache /tmp /home/codex /home/codex/.codex /dev/shm; do
    mkdir -p $p/closed/inner/more; echo x > $p/closed/inner/more/file; ln $p/closed/inner/more/file $p/second
    chmod 000 $p/closed/inner/more/file $p/closed/inner/more $p/closed/inner $p/closed
    mkdir $p/sticky; chmod 7777 $p/sticky; echo x > $p/setuid; chmod 6777 $p/setuid
done
chmod 000 /home/codex/.codex /home/codex /app /cache
ls /app 2>/dev/null || echo planted"
                .to_owned(),
            Gone,
        ),
        (
            "trees of 5,000 levels, names of 255 bytes and odd ones, and the keeper's own names",
            python(
                "for place in ['/app', '/cache', '/tmp']:
    os.chdir(place)
    for i in range(1, 200):
        os.mkdir(f'.codex-keeper-{i}'); open(f'.codex-keeper-{i}/full', 'w').close()
    open('.codex-keeper-200', 'w').close()
    os.symlink('/etc', '.codex-keeper-201')
    for i in range(5000 if place != '/tmp' else 1000):
        os.mkdir('d'); os.chdir('d')
    open('f' * 255, 'w').close()
    os.chdir(place)
    for name in [b'n' * 255, bytes(range(1, 47)) + bytes(range(48, 256)), b'-rf', b'new\\nline', b'\\xff\\xfe']:
        os.mkdir(name); open(name + b'/' + b'm' * 255, 'w').close()
print('planted')",
            ),
            Gone,
        ),
        (
            "what chattr, setfacl and setfattr leave on files",
            python(
                "acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', tag, 7, 0xffffffff) for tag in (1, 4, 0x20))
def flags(path, more):
    fd = os.open(path, os.O_RDONLY)
    try:
        now, = struct.unpack('l', fcntl.ioctl(fd, 0x80086601, b'\\0' * 8))
        fcntl.ioctl(fd, 0x40086602, struct.pack('l', now | more)); return True
    except OSError: return False
    finally: os.close(fd)
done = set()
for place in ['/app', '/cache', '/tmp', '/home/codex', '/dev/shm']:
    os.mkdir(place + '/marked'); open(place + '/marked/file', 'w').close()
    for path in [place + '/marked', place + '/marked/file']:
        for more in (0x10, 0x20):
            # The immutable and the append-only flag are root's alone to set.
            assert not flags(path, more), path
        if flags(path, 0x80 | 0x40 | 0x8): done.add('flags')
        for name, value in [('user.left', b'x' * 1000), ('system.posix_acl_default', acl), ('system.posix_acl_access', acl)]:
            try: os.setxattr(path, name, value); done.add(name)
            except OSError: pass
assert 'flags' in done and 'user.left' in done, done
print('planted', done)",
            ),
            Gone,
        ),
        (
            "attributes on a place itself",
            "python3 -c 'import os; os.setxattr(\"/app\", \"user.left\", b\"x\")' && echo planted".to_owned(),
            Refused,
        ),
        (
            "an ACL on a place itself",
            python(
                "acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', tag, 7, 0xffffffff) for tag in (1, 4, 0x20))
os.setxattr('/cache', 'system.posix_acl_default', acl)
print('planted')",
            ),
            Refused,
        ),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_by_the_times_of_a_place() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut armed = Armed::start(false).await;
    let places = "/app /cache /home/codex";
    armed.must(&format!("touch -d @1234567890 {places}")).await;
    armed.reset().await?;
    let times = armed.as_root(&format!("stat -c '%X %Y' {places}"));
    assert!(!times.contains("1234567890"), "{times}");
    Ok(())
}
