//! Secrets out of an answer that passes: a provider, or a proxy before it, may repeat a key in a
//! stream of events too, and what passes goes into the container.
//!
//! ```text
//!  piece ─> held + piece ─> bytes of secrets are marked ─> asterisks in their place ─> on
//!               ^                                │
//!               └── the end, with its marks, if a secret may begin there
//! ```
//!
//! Marks, since secrets may overlap or begin alike: what became asterisks for one could no longer be
//! known as a part of another.

use bytes::Bytes;

/// Bytes of the shortest text that is a secret; what is shorter would turn up by chance.
const SHORTEST: usize = 8;

/// What the secrets do not get past.
#[derive(Default)]
pub(super) struct Veil {
    secrets: Vec<Vec<u8>>,
    /// The end of what came, which a secret begins with.
    held: Vec<u8>,
    /// For each byte of it, whether it is of a secret.
    marked: Vec<bool>,
}

impl Veil {
    pub(super) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let secrets = secrets.into_iter().map(String::into_bytes);
        Self { secrets: secrets.filter(|s| s.len() >= SHORTEST).collect(), ..Self::default() }
    }

    /// The next piece without secrets; less of it if it ends as one begins.
    pub(super) fn pass(&mut self, piece: Bytes) -> Bytes {
        let clean = || self.secrets.iter().all(|secret| find(&piece, secret).is_none());
        if self.held.is_empty() && self.begun(&piece) == 0 && clean() {
            return piece;
        }
        let (mut bytes, mut marked) =
            (std::mem::take(&mut self.held), std::mem::take(&mut self.marked));
        bytes.extend_from_slice(&piece);
        marked.resize(bytes.len(), false);
        for secret in &self.secrets {
            let mut from = 0;
            while let Some(at) = find(&bytes[from..], secret) {
                marked[from + at..from + at + secret.len()].fill(true);
                from += at + 1;
            }
        }
        let on = bytes.len() - self.begun(&bytes);
        self.held = bytes.split_off(on);
        self.marked = marked.split_off(on);
        veiled(bytes, &marked)
    }

    /// What is held at the end of the answer.
    pub(super) fn rest(&mut self) -> Bytes {
        veiled(std::mem::take(&mut self.held), &std::mem::take(&mut self.marked))
    }

    /// How many bytes at the end of `bytes` a secret begins with.
    fn begun(&self, bytes: &[u8]) -> usize {
        let longest = |secret: &Vec<u8>| {
            (1..secret.len().min(bytes.len() + 1)).rev().find(|n| bytes.ends_with(&secret[..*n]))
        };
        self.secrets.iter().filter_map(longest).max().unwrap_or(0)
    }
}

/// `bytes` with an asterisk for each that is marked.
fn veiled(mut bytes: Vec<u8>, marked: &[bool]) -> Bytes {
    for (byte, _) in bytes.iter_mut().zip(marked).filter(|(_, marked)| **marked) {
        *byte = b'*';
    }
    bytes.into()
}

fn find(bytes: &[u8], secret: &[u8]) -> Option<usize> {
    let (first, mut from) = (secret.first()?, 0);
    loop {
        let at = from + bytes[from..].iter().position(|byte| byte == first)?;
        if bytes[at..].starts_with(secret) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(secrets: &[&str], pieces: &[&[u8]]) -> Vec<u8> {
        let mut veil = Veil::new(secrets.iter().map(|secret| (*secret).to_owned()));
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(veil.pass(Bytes::copy_from_slice(piece)));
        }
        out.extend(veil.rest());
        out
    }

    proptest! {
        #[test]
        fn however_it_is_cut_each_secret_goes_and_all_else_stays(
            parts in proptest::collection::vec(prop_oneof![
                Just("aabaabaac".to_owned()), Just("12345678".to_owned()), "[abc1-9]{0,6}",
            ], 0..8),
            cuts in proptest::collection::vec(0_usize..60, 0..8),
        ) {
            let secrets = ["aabaabaac", "12345678", "short"];
            let whole = parts.concat();
            let mut want = whole.clone();
            for secret in secrets.iter().filter(|secret| secret.len() >= SHORTEST) {
                want = want.replace(secret, &"*".repeat(secret.len()));
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| whole.len().min(*cut)).collect();
            cuts.sort();
            let (mut pieces, mut from) = (Vec::new(), 0);
            for cut in cuts {
                pieces.push(&whole.as_bytes()[from..cut]);
                from = cut;
            }
            pieces.push(&whole.as_bytes()[from..]);
            prop_assert_eq!(passed(&secrets, &pieces), want.into_bytes());
        }
    }

    #[test]
    fn secrets_that_begin_alike_or_overlap_go_whole() {
        // One begins with the other, one ends as another begins, and one with itself.
        let secrets = ["kq-12345", "kq-12345-longer", "longer-tail", "abababab"];
        for (text, want) in [
            ("a kq-12345-longer.", "a ***************."),
            ("a kq-12345-longer-tail.", "a ********************."),
            ("a kq-12345-long.", "a ********-long."),
            ("ababababab.", "**********."),
        ] {
            for cut in 0..=text.len() {
                let (front, back) = text.as_bytes().split_at(cut);
                let passed = passed(&secrets, &[front, back]);
                assert_eq!(String::from_utf8(passed).unwrap(), want, "{cut}");
            }
        }
    }

    #[test]
    fn nothing_is_held_that_no_secret_begins_with() {
        let mut veil = Veil::new(["kq-12345678".to_owned()]);
        assert_eq!(veil.pass("data: {}\n\n".into()), "data: {}\n\n");
        assert_eq!(veil.pass("a kq-1".into()), "a ");
        assert_eq!(veil.pass("x".into()), "kq-1x");
        assert!(veil.rest().is_empty());
    }
}
