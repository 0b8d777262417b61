//! Host paths of the workspace, made to lead to it.
//!
//! An absolute path of the host, in a prompt or in the cache of a tool, leads to the same file in the
//! container: where the workspace is on the host there is a link to where it is here. The places for
//! such links are small and root's own, so no program changes them; a reset empties them with all
//! others.

use std::ffi::CString;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::{Doing, Refusal, places};
use crate::keeper::wire::WORKSPACE;
use crate::path::RelPath;

/// Makes each of `links` a link to the workspace, if it lies in one of `places`. What is there
/// already stays, unless it is a link of an earlier put. No process of a run may be there.
pub(super) fn make(places: &[String], links: &[String]) -> Result<(), Refusal> {
    for link in links {
        let within = places.iter().filter_map(|place| Some((place, below(place, link)?)));
        let Some((place, path)) = within.max_by_key(|(place, _)| place.len()) else { continue };
        let place = places::open(place.as_bytes()).doing(format_args!("open {place}"))?;
        make_below(place.as_fd(), &path)
            .doing(format_args!("make {link} lead to the workspace"))?;
    }
    Ok(())
}

/// `link` as a path below `place`; `None` if it is not below it, or no plain path.
fn below(place: &str, link: &str) -> Option<RelPath> {
    let rest = link.strip_prefix(place)?.strip_prefix('/')?;
    RelPath::new(rest.as_bytes()).ok()
}

fn make_below(place: BorrowedFd<'_>, path: &RelPath) -> rustix::io::Result<()> {
    let mut components: Vec<&[u8]> = path.components().collect();
    let Some(last) = components.pop() else { return Ok(()) };
    let mut directory: Option<OwnedFd> = None;
    for component in components {
        let parent = directory.as_ref().map_or(place, AsFd::as_fd);
        let name = CString::new(component).map_err(|_| Errno::INVAL)?;
        match fs::mkdirat(parent, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        match fs::openat(parent, &name, places::DIRECTORY, Mode::empty()) {
            Ok(opened) => directory = Some(opened),
            // A link to a workspace that holds this one: the path resolves through it.
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    let parent = directory.as_ref().map_or(place, AsFd::as_fd);
    let name = CString::new(last).map_err(|_| Errno::INVAL)?;
    match fs::symlinkat(WORKSPACE, parent, &name) {
        Err(Errno::EXIST) => {
            let stat = fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
                return Ok(());
            }
            fs::unlinkat(parent, &name, AtFlags::empty())?;
            fs::symlinkat(WORKSPACE, parent, &name)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn make_in(place: &Path, links: &[&str]) -> Result<(), Refusal> {
        let place = place.to_str().unwrap().to_owned();
        let links: Vec<String> = links.iter().map(|link| format!("{place}{link}")).collect();
        make(&[place], &links)
    }

    #[test]
    fn a_path_in_a_place_leads_to_the_workspace_however_often_it_is_made() {
        let place = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            make_in(place.path(), &["/a/b/project", "/other"]).unwrap();
        }
        for link in ["a/b/project", "other"] {
            let target = std::fs::read_link(place.path().join(link)).unwrap();
            assert_eq!(target, Path::new(WORKSPACE), "{link}");
        }
    }

    #[test]
    fn what_is_in_the_way_stays_and_nothing_is_made_through_a_link() {
        let (place, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path().join("there")).unwrap();
        std::os::unix::fs::symlink(outside.path(), place.path().join("out")).unwrap();
        make_in(place.path(), &["/there", "/out/project", "/there/x"]).unwrap();
        assert!(place.path().join("there").symlink_metadata().unwrap().is_dir());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(place.path().join("there/x").is_symlink());
    }

    #[test]
    fn a_path_elsewhere_or_none_at_all_makes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().to_str().unwrap();
        let beside = format!("{own}x/project");
        make(&[own.to_owned()], &[beside, own.to_owned(), "/".into(), "x".into()]).unwrap();
        make_in(place.path(), &["/../up", "/a//b", "/", "/./c"]).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        assert!(!Path::new(&format!("{own}x")).exists());
    }
}
