//! What is on a node besides its mode: extended attributes (ACLs among them, which new files
//! inherit) and the flags that its owner can set with `chattr`.

use std::ffi::{CStr, CString};
use std::io;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs;
use rustix::io::Errno;

/// The flags that an owner can set (`FS_FL_USER_MODIFIABLE`, and what some file systems add:
/// uncompressed, encrypted, journalled data, no copy on write, direct access, project, case). The
/// others are the file system's, such as the index that a large directory gets and keeps.
const OWNERS_FLAGS: u32 = 0x6283_ccff;

/// The kernel's own limit of the names of a node's attributes, and of one value.
const MOST: usize = 64 << 10;

/// The label that SELinux gives to every file; no program without capabilities makes it another.
const LABEL: &CStr = c"security.selinux";

/// The flags of a node. What the file system does not have, nobody can set.
pub(super) fn flags(node: impl AsFd) -> u32 {
    fs::ioctl_getflags(node).map_or(0, |flags| flags.bits() & OWNERS_FLAGS)
}

/// The names of a node's attributes, in order.
pub(super) fn names(node: impl AsFd) -> io::Result<Vec<CString>> {
    // Almost always there are none, and that takes no large buffer to learn.
    let mut few = [0; 256];
    let mut many = Vec::new();
    let names = match fs::flistxattr(&node, &mut few[..]) {
        Ok(length) => &few[..length],
        Err(Errno::NOTSUP) => &[],
        Err(Errno::RANGE) => {
            many.resize(MOST, 0);
            let length = fs::flistxattr(node, &mut many[..])?;
            &many[..length]
        }
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<CString> = names
        .split_inclusive(|byte| *byte == 0)
        .map(|name| CStr::from_bytes_with_nul(name).map(CStr::to_owned).map_err(io::Error::other))
        .collect::<Result<_, _>>()?;
    names.sort_unstable();
    Ok(names)
}

/// The value of an attribute.
pub(super) fn value(node: impl AsFd, name: &CStr) -> io::Result<Vec<u8>> {
    let mut value = vec![0; MOST];
    let length = fs::fgetxattr(node, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

/// What a node has that was made in a directory and never marked.
#[derive(Debug)]
pub(super) struct Plain {
    flags: u32,
    label: Option<Vec<u8>>,
}

impl Plain {
    /// Of nodes in `directory`.
    pub(super) fn in_directory(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let has_label = names(directory)?.iter().any(|name| name.as_c_str() == LABEL);
        let label = if has_label { Some(value(directory, LABEL)?) } else { None };
        Ok(Self { flags: flags(directory), label })
    }

    /// Whether nothing was set on `node`.
    pub(super) fn is(&self, node: BorrowedFd<'_>) -> io::Result<bool> {
        if flags(node) != self.flags {
            return Ok(false);
        }
        for name in names(node)? {
            if name.as_c_str() != LABEL || Some(value(node, LABEL)?) != self.label {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_node_with_an_attribute_or_a_flag_is_not_plain() {
        let place = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(place.path()).unwrap();
        let plain = Plain::in_directory(root.as_fd()).unwrap();
        let node = |name: &str| {
            std::fs::create_dir(place.path().join(name)).unwrap();
            std::fs::File::open(place.path().join(name)).unwrap()
        };
        let bare = node("bare");
        bare.set_permissions(std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(plain.is(bare.as_fd()).unwrap());
        let marked = node("marked");
        match fs::fsetxattr(&marked, c"user.left", b"x", fs::XattrFlags::empty()) {
            Ok(()) => assert!(!plain.is(marked.as_fd()).unwrap()),
            Err(error) => assert_eq!(error, Errno::NOTSUP),
        }
        let flagged = node("flagged");
        match fs::ioctl_setflags(&flagged, fs::IFlags::NOATIME) {
            Ok(()) => assert!(!plain.is(flagged.as_fd()).unwrap()),
            Err(error) => assert!(matches!(error, Errno::NOTTY | Errno::NOTSUP), "{error}"),
        }
    }
}
