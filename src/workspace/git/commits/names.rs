//! Names of references and of objects, and the listing that a container makes of its own. Nothing
//! in it is trusted: what is not plainly a name is no name.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of an object, as many lower case hexadecimal digits as the repository's format has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(String);

impl ObjectId {
    /// Takes exactly `digits` digits.
    pub(super) fn parse(text: &[u8], digits: usize) -> Option<Self> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let plain = text.len() == digits && text.iter().all(is_digit);
        // All zeros means "no object" wherever git reads a name.
        let some = text.iter().any(|byte| *byte != b'0');
        (plain && some).then(|| Self(String::from_utf8_lossy(text).into_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first digits, for a person.
    pub fn short(&self) -> &str {
        self.0.get(..10).unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest name of a reference that is taken over.
const LONGEST: usize = 200;

/// Whether it is a name that a reference of the container may have on the host: a branch, a tag or
/// the stash, of letters, digits and the few signs that mean nothing to git or a shell. Git allows
/// more.
pub(super) fn is_ref(name: &str) -> bool {
    let Some(inner) = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"))
    else {
        return name == "refs/stash";
    };
    let is_plain = |c: char| c.is_alphanumeric() || "-_.+/@#=,%".contains(c);
    let is_component = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-', '#', '@', '='])
            && !part.ends_with('.')
            && !part.to_ascii_lowercase().ends_with(".lock")
            && !part.contains("..")
    };
    name.len() <= LONGEST && inner.chars().all(is_plain) && inner.split('/').all(is_component)
}

/// What a container's git says of itself; see [`Listing::parse`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The reference that HEAD names, if it names one that can be taken over.
    pub(super) branch: Option<String>,
    /// The commit that HEAD leads to; none before the first commit.
    pub(super) head: Option<ObjectId>,
    /// Branches, tags and the stash.
    pub(super) refs: BTreeMap<String, ObjectId>,
    /// References whose names are not taken over.
    pub(super) odd: usize,
    /// Commits that the new ones are made on.
    pub(super) boundary: Vec<ObjectId>,
}

impl Listing {
    /// Reads: what HEAD names or an empty line, its commit or an empty line, a line `object name`
    /// for each reference, a line `.`, and a line for each new commit, with a `-` before those that
    /// were sent. `None` if it is anything else.
    pub fn parse(text: &[u8], digits: usize) -> Option<Self> {
        let mut lines = text.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
        let name = |bytes| std::str::from_utf8(bytes).ok().filter(|name| is_ref(name));
        let branch = lines.next().and_then(name).filter(|name| name.starts_with("refs/heads/"));
        let mut listing = Self { branch: branch.map(str::to_owned), ..Self::default() };
        let head = lines.next()?;
        if !head.is_empty() {
            listing.head = Some(ObjectId::parse(head, digits)?);
        }
        for line in lines.by_ref().take_while(|line| line != b".") {
            let (object, rest) = line.split_at_checked(digits)?;
            let object = ObjectId::parse(object, digits)?;
            match name(rest.strip_prefix(b" ")?) {
                Some(name) => {
                    listing.refs.insert(name.to_owned(), object);
                }
                None => listing.odd += 1,
            }
        }
        for line in lines {
            match line.strip_prefix(b"-") {
                Some(object) => listing.boundary.push(ObjectId::parse(object, digits)?),
                None => drop(ObjectId::parse(line, digits)?),
            }
        }
        Some(listing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[test]
    fn a_listing_is_read() {
        let (a, b) = (id('a'), id('b'));
        let text = format!(
            "refs/heads/main\n{a}\n{a} refs/heads/main\n{b} refs/tags/v1.0\n{b} refs/heads/x y\n.\n{a}\n-{b}\n"
        );
        let listing = Listing::parse(text.as_bytes(), 40).unwrap();
        assert_eq!(listing.branch.as_deref(), Some("refs/heads/main"));
        assert_eq!(listing.head.unwrap().as_str(), a);
        assert_eq!(listing.refs.len(), 2);
        assert_eq!((listing.odd, listing.boundary.len()), (1, 1));
        let unborn = Listing::parse(b"refs/heads/main\n\n.\n", 40).unwrap();
        assert_eq!((unborn.head, unborn.refs.len()), (None, 0));
    }

    #[test]
    fn what_is_no_listing_is_none() {
        let a = id('a');
        let texts = [
            String::new(),
            "refs/heads/main\nHEAD\n.\n".into(),
            format!("\n{a}\n{a}\n.\n"),
            format!("\n{a}\n.\n{a} --all\n"),
            format!("\n{a}\n.\n--{a}\n"),
            format!("\n{}\n.\n", id('0')),
            format!("\n{}\n.\n", id('A')),
            format!("\n{a}{}\n.\n", &a[..24]),
        ];
        for text in texts {
            assert_eq!(Listing::parse(text.as_bytes(), 40), None, "{text:?}");
        }
    }

    #[test]
    fn a_name_can_be_nothing_but_a_name() {
        let good =
            ["refs/heads/main", "refs/heads/feature/ÜBER-1.2_x", "refs/tags/v1", "refs/stash"];
        assert!(good.iter().all(|name| is_ref(name)));
        let bad = [
            "HEAD",
            "refs/stash/x",
            "refs/heads/",
            "refs/heads",
            "refs/notes/x",
            "refs/codex/x",
            "refs/heads/../../config",
            "refs/heads/a..b",
            "refs/heads/.x",
            "refs/heads/a/.b",
            "refs/heads/x.lock",
            "refs/heads/X.LOCK/y",
            "refs/heads/x.",
            "refs/heads//x",
            "refs/heads/x/",
            "refs/heads/-x",
            "refs/heads/a b",
            "refs/heads/a\tb",
            "refs/heads/a\0b",
            "refs/heads/a\nb",
            "refs/heads/a~1",
            "refs/heads/a^",
            "refs/heads/a:b",
            "refs/heads/a?",
            "refs/heads/a*",
            "refs/heads/a[b",
            "refs/heads/a\\b",
            "refs/heads/@{u}",
            "refs/heads/@",
            "refs/heads/$(x)",
            "refs/heads/`x`",
            "refs/heads/a;b",
            "refs/heads/a\u{202e}b",
            "refs/heads/a\u{7f}",
        ];
        for name in bad {
            assert!(!is_ref(name), "{name:?}");
        }
        assert!(!is_ref(&format!("refs/heads/{}", "x".repeat(200))));
    }

    proptest::proptest! {
        #[test]
        fn git_takes_every_name_that_is_taken(name in "refs/(heads|tags)/[ -~]{0,12}") {
            if is_ref(&name) {
                let status = std::process::Command::new("git").args(["check-ref-format", &name]).status();
                assert!(status.unwrap().success(), "{name:?}");
            }
        }

        #[test]
        fn no_bytes_make_it_fail(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Listing::parse(&text, 40);
        }
    }
}
