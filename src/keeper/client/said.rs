//! What the keeper says in words, made fit to be shown.
//!
//! Whoever controls the keeper chooses these words, and they end in errors, logs and results that
//! people and agents read. Each answer passes here before anything else sees it: what is shown is
//! cut and has no control bytes, what is compared is refused if no keeper would write it.

use super::KeeperError;
use crate::keeper::wire::{
    Armed, CollectReport, EndReport, ExitReport, Fingerprint, Hello, IgnoredTotal, KeptTree,
    Posture, PutReport, ResetReport,
};
use crate::path::RelPath;

/// Characters of a sentence that are shown.
pub(super) const MAX_SENTENCE: usize = 300;
/// Characters of a name: a version, a place, an interface, a kind of file system.
const MAX_NAME: usize = 80;
/// Bytes of a mount point or of the options of a mount; the kernel writes no longer ones.
const MAX_MOUNT: usize = 16 << 10;
/// Mounts or interfaces of one container.
const MAX_MOUNTS: usize = 1024;
/// Topmost ignored paths of one report.
const MAX_IGNORED: usize = 2000;
/// Ports that are listened on at most.
const MAX_PORTS: usize = 16;

/// `text` in at most `most` characters, none of which moves the cursor, ends the line or turns the
/// direction of writing.
pub(super) fn fit(text: &str, most: usize) -> String {
    let mut chars = text.chars().map(|char| if is_plain(char) { char } else { '\u{fffd}' });
    let mut fit: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        fit.pop();
        fit.push('…');
    }
    fit
}

fn is_plain(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl KeeperError {
    pub(super) fn refused(sentence: &[u8]) -> Self {
        // A character has at most four bytes.
        let sentence = &sentence[..sentence.len().min(4 * MAX_SENTENCE + 4)];
        Self::Refused(fit(&String::from_utf8_lossy(sentence), MAX_SENTENCE))
    }

    pub(super) fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::Corrupt(fit(&what.to_string(), MAX_SENTENCE))
    }

    pub(super) fn lost(reason: &str) -> Self {
        Self::Lost(fit(reason, MAX_SENTENCE))
    }
}

/// An answer whose words are checked.
pub(super) trait Said: Sized {
    /// The answer, fit to be shown.
    ///
    /// # Errors
    ///
    /// [`KeeperError::Corrupt`] for what no keeper would say.
    fn checked(self) -> Result<Self, KeeperError>;
}

impl Said for () {
    fn checked(self) -> Result<Self, KeeperError> {
        Ok(self)
    }
}

impl Said for PutReport {
    fn checked(self) -> Result<Self, KeeperError> {
        Ok(self)
    }
}

impl Said for EndReport {
    fn checked(self) -> Result<Self, KeeperError> {
        Ok(self)
    }
}

impl Said for Hello {
    fn checked(self) -> Result<Self, KeeperError> {
        Ok(Self { version: fit(&self.version, MAX_NAME), ..self })
    }
}

impl Said for ExitReport {
    fn checked(self) -> Result<Self, KeeperError> {
        let disk_full = self.disk_full.map(|place| fit(&place, MAX_NAME));
        Ok(Self { disk_full, ..self })
    }
}

impl Said for Armed {
    fn checked(self) -> Result<Self, KeeperError> {
        let fingerprint = self.fingerprint.checked()?;
        Ok(Self { posture: self.posture.checked()?, fingerprint, ports: some_ports(self.ports)? })
    }
}

impl Said for Posture {
    fn checked(mut self) -> Result<Self, KeeperError> {
        let lists = [self.interfaces.len(), self.writable.len(), self.devices.len()];
        let lists = lists.into_iter().chain([self.allowed.len(), self.unread.len()]);
        if lists.max() > Some(MAX_MOUNTS) {
            return Err(KeeperError::corrupt("a posture with too many mounts or interfaces"));
        }
        for device in &mut self.devices {
            *device = fit(device, MAX_NAME);
        }
        for interface in &mut self.interfaces {
            *interface = fit(interface, MAX_NAME);
        }
        for mount in &mut self.writable {
            // These are compared, so nothing of them may be cut away unseen.
            if mount.path.len().max(mount.options.len()) > MAX_MOUNT {
                return Err(KeeperError::corrupt("a mount with a name or options without end"));
            }
            mount.path = fit(&mount.path, MAX_MOUNT);
            mount.options = fit(&mount.options, MAX_MOUNT);
            mount.kind = fit(&mount.kind, MAX_NAME);
        }
        Ok(self)
    }
}

impl Said for Fingerprint {
    fn checked(self) -> Result<Self, KeeperError> {
        let is_hash = |text: &str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match is_hash(&self.places) && is_hash(&self.mounts) {
            true => Ok(self),
            false => Err(KeeperError::corrupt("a fingerprint that is none")),
        }
    }
}

/// Whether these can be the ports of listeners.
fn some_ports(ports: Vec<u16>) -> Result<Vec<u16>, KeeperError> {
    match ports.len() > MAX_PORTS || ports.contains(&0) {
        true => Err(KeeperError::corrupt("ports that nothing listens on")),
        false => Ok(ports),
    }
}

impl Said for ResetReport {
    fn checked(self) -> Result<Self, KeeperError> {
        let mut kept = self.kept;
        // Nothing is decided by them.
        kept.truncate(MAX_IGNORED);
        check_totals(&kept)?;
        let ports = some_ports(self.ports)?;
        if self.tree.as_ref().is_some_and(|tree| tree.dropped.len() > KeptTree::MAX_DROPPED) {
            return Err(KeeperError::corrupt("a tree that lost more than a tree may lose"));
        }
        Ok(Self { fingerprint: self.fingerprint.checked()?, kept, ports, tree: self.tree })
    }
}

impl Said for CollectReport {
    fn checked(self) -> Result<Self, KeeperError> {
        check_totals(&self.ignored)?;
        Ok(self)
    }
}

/// At most so many paths, each in the one way in which paths are quoted.
fn check_totals(totals: &[IgnoredTotal]) -> Result<(), KeeperError> {
    let is_path = |text: &str| {
        let bare = text.strip_suffix('/').unwrap_or(text);
        text == "…" || RelPath::parse(bare).is_ok_and(|path| path.to_string() == bare)
    };
    match totals.len() <= MAX_IGNORED && totals.iter().all(|total| is_path(&total.path)) {
        true => Ok(()),
        false => Err(KeeperError::corrupt("a report of ignored paths that is malformed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::wire::WritableMount;

    const RUDE: &str = "\u{1b}[2J\r\n\u{202e}gnp.exe\u{0}\u{9b}1m";

    fn is_fit(text: &str, most: usize) -> bool {
        text.chars().count() <= most && text.chars().all(is_plain)
    }

    #[test]
    fn sentences_are_cut_and_move_no_cursor() {
        let long = format!("{RUDE}{}", "ä".repeat(100_000));
        for error in [
            KeeperError::refused(long.as_bytes()),
            KeeperError::refused(&[0xff; 70_000]),
            KeeperError::corrupt(&long),
            KeeperError::lost(&long),
        ] {
            let (KeeperError::Refused(text) | KeeperError::Corrupt(text) | KeeperError::Lost(text)) =
                &error
            else {
                panic!("{error}")
            };
            assert!(is_fit(text, MAX_SENTENCE) && text.ends_with('…'), "{text:?}");
        }
        let plain = "cannot write x: No space left on device";
        assert_eq!(KeeperError::refused(plain.as_bytes()), KeeperError::Refused(plain.into()));
        let exact = "x".repeat(MAX_SENTENCE);
        assert_eq!(fit(&exact, MAX_SENTENCE), exact);
    }

    #[test]
    fn names_in_answers_are_cut_and_plain() {
        let long = RUDE.repeat(50_000);
        let hello = Hello { protocol: 2, version: long.clone() }.checked().unwrap();
        assert!(is_fit(&hello.version, MAX_NAME));
        let exit = ExitReport {
            nonce: "n".into(),
            code: None,
            signal: Some(9),
            out_of_memory: false,
            disk_full: Some(long.clone()),
            dropped_bytes: 0,
        };
        assert!(is_fit(&exit.checked().unwrap().disk_full.unwrap(), MAX_NAME));
        let mount = WritableMount { path: RUDE.into(), kind: long.clone(), ..Default::default() };
        let posture = Posture {
            interfaces: vec![long.clone()],
            writable: vec![mount.clone()],
            ..Posture::default()
        };
        let seen = posture.checked().unwrap();
        assert!(is_fit(&seen.interfaces[0], MAX_NAME) && is_fit(&seen.writable[0].kind, MAX_NAME));
        assert!(is_fit(&seen.writable[0].path, MAX_MOUNT));
    }

    #[test]
    fn what_is_compared_is_refused_and_not_cut() {
        let mount = |path: &str, options: &str| Posture {
            writable: vec![WritableMount {
                path: path.into(),
                options: options.into(),
                ..WritableMount::default()
            }],
            ..Posture::default()
        };
        let long = "o".repeat(MAX_MOUNT + 1);
        assert_eq!(mount("/tmp", "rw,nosuid").checked(), Ok(mount("/tmp", "rw,nosuid")));
        mount(&long, "rw").checked().unwrap_err();
        mount("/tmp", &long).checked().unwrap_err();
        let many = Posture { interfaces: vec![String::new(); 1025], ..Posture::default() };
        many.checked().unwrap_err();

        let hash = "0123456789abcdef".repeat(4);
        let print = |places: &str| Fingerprint { places: places.into(), ..Fingerprint::default() };
        assert_eq!(print(&hash).checked(), Ok(print(&hash)));
        print(&format!("{hash}0")).checked().unwrap_err();
        print("\u{1b}[2J").checked().unwrap_err();
    }

    #[test]
    fn a_report_names_paths_and_no_more_than_a_page_of_them() {
        let total = |path: &str| IgnoredTotal { path: path.into(), ..IgnoredTotal::default() };
        let collect = |ignored| CollectReport { ignored, ..CollectReport::default() }.checked();
        let reset = |kept| ResetReport { kept, ..ResetReport::default() }.checked();
        for good in ["target/", "a b", "\"a\\033\"/", "…", "x.log"] {
            assert!(collect(vec![total(good)]).is_ok(), "{good}");
            assert!(reset(vec![total(good)]).is_ok(), "{good}");
        }
        let long = "n".repeat(RelPath::MAX_BYTES + 1);
        for bad in ["", "/", "/etc/", "../x", "a\nb", "\u{1b}[2Jx", "\"a\"", "\"", "a//", &long] {
            assert!(collect(vec![total(bad)]).is_err(), "{bad:?}");
            assert!(reset(vec![total(bad)]).is_err(), "{bad:?}");
        }
        let lost = |paths| {
            let dropped = vec![RelPath::new("a").unwrap(); paths];
            let tree = Some(KeptTree { dropped, ..KeptTree::default() });
            ResetReport { tree, ..ResetReport::default() }.checked()
        };
        assert!(lost(KeptTree::MAX_DROPPED).is_ok());
        lost(KeptTree::MAX_DROPPED + 1).unwrap_err();
        assert!(collect(vec![total("a"); MAX_IGNORED + 1]).is_err());
        assert_eq!(reset(vec![total("a"); MAX_IGNORED + 1]).unwrap().kept.len(), MAX_IGNORED);
    }
}
