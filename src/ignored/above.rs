//! The rules of the directories above a tree, for whoever has the tree alone.

use serde::{Deserialize, Serialize};

use super::Rules;

/// Pattern files that are not in a tree but hold in it, and where the tree is: a workspace that is
/// a part of a repository goes into a container without what is above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Above {
    /// Where the tree is, relative to the top of its repository; empty for the top itself.
    pub prefix: Vec<u8>,
    /// The directory of each pattern file, relative to the top of the repository, and its bytes;
    /// the weakest first.
    pub files: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Above {
    /// The rules in force above the tree; they are asked with paths of the repository.
    pub fn rules(&self) -> Rules {
        let enter = |rules: Rules, (base, bytes): &(Vec<u8>, Vec<u8>)| {
            rules.enter(base, Some(bytes.as_slice()))
        };
        self.files.iter().fold(Rules::default(), enter)
    }

    /// A path of the tree (empty for its top) as a path of the repository.
    pub fn inside(&self, path: &[u8]) -> Vec<u8> {
        match (&self.prefix[..], path) {
            (b"", path) => path.to_vec(),
            (prefix, b"") => prefix.to_vec(),
            (prefix, path) => [prefix, b"/", path].concat(),
        }
    }
}
