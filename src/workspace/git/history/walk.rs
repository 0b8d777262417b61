//! Which commits go.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::super::command::{Git, GitCommandError};

/// Commits that are listed: with many merges the ones next to HEAD are not the newest ones.
const LISTED: &str = "--max-count=2000";

/// The parents of each commit that git listed.
pub(super) type Listing = HashMap<String, Vec<String>>;

/// Lists the newest commits that `head` leads to.
pub(super) fn list(git: &Git<'_>, head: &str) -> Result<Listing, GitCommandError> {
    let answer = git.run(&["rev-list", "--parents", LISTED, head])?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let lines = answer.lines().filter_map(|line| {
        let mut names = line.split(' ').map(str::to_owned);
        Some((names.next()?, names.collect()))
    });
    Ok(lines.collect())
}

/// The commits in a file `shallow`.
pub(super) fn marks(shallow: &[u8]) -> BTreeSet<String> {
    let lines = shallow.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

/// What goes besides what is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Each commit, and its parents that go or are there: all of them, or none.
    pub(super) commits: BTreeMap<String, Vec<String>>,
    /// Those of which it is none although it has some.
    pub(super) shallow: BTreeSet<String>,
}

/// Chooses at most `depth` commits, those with the fewest steps from `head` first. Those that are
/// `there` lead no further. `marked` are shallow on the host.
pub(super) fn choose(
    head: &str,
    listing: &Listing,
    marked: &BTreeSet<String>,
    there: impl Fn(&str) -> bool,
    depth: usize,
) -> Chosen {
    let mut chosen = Chosen::default();
    let mut seen = BTreeSet::from([head]);
    let mut waiting = VecDeque::from([head]);
    while let Some(commit) = waiting.pop_front() {
        let parents = listing.get(commit).filter(|_| !marked.contains(commit));
        let new: BTreeSet<&str> = parents
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|parent| !seen.contains(parent) && !there(parent))
            .collect();
        match parents {
            Some(parents) if seen.len() + new.len() <= depth => {
                chosen.commits.insert(commit.to_owned(), parents.clone());
                waiting.extend(&new);
                seen.extend(new);
            }
            _ => {
                chosen.commits.insert(commit.to_owned(), Vec::new());
                chosen.shallow.insert(commit.to_owned());
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listing(of: &[(&str, &[&str])]) -> Listing {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        of.iter().map(|(commit, parents)| ((*commit).to_owned(), owned(parents))).collect()
    }

    #[test]
    fn a_commit_goes_with_all_its_parents_or_is_marked() {
        let merged = listing(&[("m", &["a", "b"]), ("a", &["r"]), ("b", &["r"]), ("r", &[])]);
        let none = BTreeSet::new();
        let all = choose("m", &merged, &none, |_| false, 4);
        assert!(all.commits.len() == 4 && all.shallow.is_empty(), "{all:?}");
        let two = choose("m", &merged, &none, |_| false, 2);
        assert_eq!(two.shallow.iter().collect::<Vec<_>>(), ["m"]);
        let three = choose("m", &merged, &none, |_| false, 3);
        assert_eq!(three.shallow.iter().collect::<Vec<_>>(), ["a", "b"]);
        let more = choose("m", &merged, &none, |id| id == "r", 3);
        assert!(more.commits.len() == 3 && more.shallow.is_empty(), "{more:?}");
        let shallow = choose("m", &merged, &BTreeSet::from(["r".to_owned()]), |_| false, 9);
        assert_eq!(shallow.shallow.iter().collect::<Vec<_>>(), ["r"]);
    }

    proptest! {
        #[test]
        fn what_can_be_reached_is_there(
            parents in prop::collection::vec(prop::collection::vec(0_usize..40, 0..3), 1..40),
            depth in 1_usize..30,
            there in prop::collection::btree_set(0_usize..40, 0..10),
        ) {
            // Parents come after their children.
            let graph: Listing = parents.iter().enumerate().map(|(at, parents)| {
                let later = parents.iter().map(|step| at + 1 + step % 5);
                let later = later.filter(|at| *at < 40).map(|at| at.to_string());
                (at.to_string(), later.collect())
            }).collect();
            let there: BTreeSet<String> =
                there.iter().filter(|at| **at > 0).map(ToString::to_string).collect();
            let chosen = choose("0", &graph, &BTreeSet::new(), |id| there.contains(id), depth);
            prop_assert!(chosen.commits.len() <= depth);
            for (commit, parents) in &chosen.commits {
                if !chosen.shallow.contains(commit) {
                    prop_assert_eq!(Some(parents), graph.get(commit));
                }
                for parent in parents {
                    prop_assert!(chosen.commits.contains_key(parent) || there.contains(parent));
                }
            }
        }
    }
}
