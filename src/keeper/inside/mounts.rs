//! The mount table.

use super::{Doing, Refusal};

/// File systems that hold nothing a program could leave behind, and the devices.
const SYSTEM: [&str; 12] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "pstore",
    "configfs",
    "devtmpfs",
];

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) path: Vec<u8>,
    pub(super) kind: String,
    pub(super) options: String,
    pub(super) source: String,
}

impl Mount {
    pub(super) fn writable(&self) -> bool {
        self.options.split(',').any(|option| option == "rw")
    }

    /// Whether it is one of the kernel's views or the device directory, where uid 1000 has no right
    /// to create anything.
    pub(super) fn is_system(&self) -> bool {
        SYSTEM.contains(&self.kind.as_str())
            || self.path == b"/dev"
            || self.path.starts_with(b"/proc/")
            || self.path.starts_with(b"/sys/")
    }
}

/// Reads the table.
pub(super) fn read() -> Result<Vec<Mount>, Refusal> {
    let table = std::fs::read("/proc/self/mountinfo").doing("read the mount table")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /path rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`
pub(super) fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescape(fields.nth(4)?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = String::from_utf8_lossy(fields.next()?).into_owned();
    let super_options = fields.next().map(String::from_utf8_lossy).unwrap_or_default();
    Some(Mount { path, kind, options: merge(&options, &super_options), source })
}

/// The options of the mount, and those of its file system that it does not name or contradict.
fn merge(options: &str, super_options: &str) -> String {
    let mut merged: Vec<&str> = options.split(',').collect();
    for option in super_options.split(',') {
        if !option.is_empty() && !matches!(option, "rw" | "ro") && !merged.contains(&option) {
            merged.push(option);
        }
    }
    // A read-only file system is read-only however it is mounted.
    if super_options.split(',').any(|option| option == "ro") {
        for option in &mut merged {
            if *option == "rw" {
                *option = "ro";
            }
        }
    }
    merged.join(",")
}

/// The kernel writes blanks, tabs, line ends and backslashes as three octal digits.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && tail.len() >= 3
            && let Ok(digits) = std::str::from_utf8(&tail[..3])
            && let Ok(byte) = u8::from_str_radix(digits, 8)
        {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_optional_fields_and_a_blank_in_the_path() {
        let line = br"36 35 98:0 / /a\040b rw,nosuid shared:1 master:2 - tmpfs tmpfs rw,size=64k";
        let mount = parse(line).unwrap();
        assert_eq!(mount.path, b"/a b");
        assert_eq!(mount.kind, "tmpfs");
        assert_eq!(mount.options, "rw,nosuid,size=64k");
        assert!(mount.writable());
    }

    #[test]
    fn a_read_only_file_system_is_not_writable() {
        let mount = parse(b"1 2 0:1 / /x rw - ext4 /dev/a ro").unwrap();
        assert!(!mount.writable());
    }

    #[test]
    fn a_cut_line_is_no_mount() {
        assert_eq!(parse(b"1 2 0:1 / /x rw"), None);
    }
}
