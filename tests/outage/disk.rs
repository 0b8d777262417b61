//! A small disk for an engine's data, to be filled: ext4 in a sparse file.
//!
//! It is mounted by the first process of the engine's namespaces, and there only: when that ends,
//! however it does, the kernel unmounts it and detaches its loop device.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FallocateFlags;

use crate::engine::{SecondEngine, run};

/// What it needs besides what the engine does.
pub(crate) const PROGRAMS: [&str; 2] = ["mkfs.ext4", "losetup"];

/// Room for the image twice: as it comes, and unpacked.
const BYTES: u64 = 4 << 30;

/// Files of the image, and half as many again.
const FILES: u64 = 70_000;

/// The disk in `work`; made if there is none.
pub(super) fn image(work: &Path) -> PathBuf {
    let path = work.join("disk.ext4");
    if !path.exists() {
        let fresh = work.join("fresh.ext4");
        File::create(&fresh).unwrap().set_len(BYTES).unwrap();
        // Nothing is kept for root, whom the engine is.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-N", &FILES.to_string()])
            .arg(&fresh))
        .unwrap();
        std::fs::rename(fresh, &path).unwrap();
    }
    path
}

/// Whether a loop device still has it.
pub(super) fn is_attached(image: &Path) -> bool {
    run(Command::new("losetup").arg("-j").arg(image)).is_ok_and(|listed| !listed.is_empty())
}

/// What a disk may have too little of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lack {
    /// Room for bytes.
    Bytes,
    /// Room for files.
    Files,
}

impl SecondEngine {
    /// Takes all that is left of its disk, but for so many bytes or files.
    pub(crate) fn fill(&self, of: Lack, but: u64) {
        let filler = self.filler();
        std::fs::create_dir_all(&filler).unwrap();
        match of {
            Lack::Bytes => {
                let large = File::create(filler.join("large")).unwrap();
                let mut len = 0;
                // What the map of the file takes shows only afterwards.
                loop {
                    let take = (room(&filler).saturating_sub(but) / 2) & !0xfff;
                    let none = FallocateFlags::empty();
                    if take == 0 || rustix::fs::fallocate(&large, none, len, take).is_err() {
                        break;
                    }
                    len += take;
                }
                while but == 0 && room(&filler) > 0 {
                    let mut rest = File::options()
                        .append(true)
                        .create(true)
                        .open(filler.join("rest"))
                        .unwrap();
                    while rest.write_all(&[0x5a; 4096]).is_ok() {}
                    let _ = rest.sync_all();
                }
            }
            Lack::Files => {
                for number in 0_u64.. {
                    if rustix::fs::statvfs(&filler).unwrap().f_favail <= but {
                        break;
                    }
                    // In many directories, lest one grows large.
                    let folder = filler.join((number / 1000).to_string());
                    let made = std::fs::create_dir_all(&folder)
                        .and_then(|()| File::create(folder.join(number.to_string())));
                    if made.is_err() {
                        break;
                    }
                }
            }
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub(crate) fn free(&self) {
        match std::fs::remove_dir_all(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    fn filler(&self) -> PathBuf {
        self.data().join("filler")
    }
}

/// Bytes that are free on the disk of a path.
fn room(at: &Path) -> u64 {
    let disk = rustix::fs::statvfs(at).unwrap();
    disk.f_bavail * disk.f_frsize
}
