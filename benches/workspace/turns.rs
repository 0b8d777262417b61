//! The rounds of one tree, in which all ways take turns, and what came of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::docker::Failed;
use super::figures::{ms, percentile, say, table};
use super::ground::Ground;
use super::ours::Ours;
use super::rivals::Rivals;
use super::tree::Tree;

/// How many files are changed at a time, in one go after the other.
pub(crate) const CHANGES: [usize; 3] = [0, 10, 1_000];

pub(crate) const SEND: &str = "in: ours, whole";
pub(crate) const COLLECT_ALL: &str = "out: ours, all changed";
pub(crate) const RAW_IN: &str = "in: raw stream, no files";
pub(crate) const RAW_OUT: &str = "out: raw stream, no files";

/// What sending so many changes is called.
pub(crate) fn send_of(count: &str) -> String {
    format!("in: ours, {count} changed")
}

/// What collecting so many is called.
pub(crate) fn collect_of(count: &str) -> String {
    format!("out: ours, {count} changed")
}

/// Times in milliseconds of each way, in the order in which they were first taken.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    took: Vec<(String, Vec<f64>)>,
}

impl Turns {
    pub(crate) fn add(&mut self, arm: &str, took: Duration) {
        let at = match self.took.iter().position(|(name, _)| name == arm) {
            Some(at) => at,
            None => {
                self.took.push((arm.to_owned(), Vec::new()));
                self.took.len() - 1
            }
        };
        self.took[at].1.push(ms(took));
    }

    fn of(&self, arm: &str) -> &[f64] {
        self.took.iter().find(|(name, _)| name == arm).map_or(&[], |(_, took)| took)
    }

    /// The median of a way; not a number without any.
    pub(crate) fn median(&self, arm: &str) -> f64 {
        percentile(self.of(arm), 50)
    }

    /// The median of two ways together within a round.
    pub(crate) fn together(&self, one: &str, other: &str) -> f64 {
        let sums: Vec<f64> = self.of(one).iter().zip(self.of(other)).map(|(a, b)| a + b).collect();
        percentile(&sums, 50)
    }

    /// The median of the ratios of two ways within a round.
    pub(crate) fn ratio(&self, one: &str, other: &str) -> f64 {
        let pairs = self.of(one).iter().zip(self.of(other));
        percentile(&pairs.map(|(a, b)| a / b).collect::<Vec<_>>(), 50)
    }

    /// Prints the table: the ratio to our whole way in the same direction first.
    pub(crate) fn print(&self, tree: &Tree) {
        let rows: Vec<_> = self
            .took
            .iter()
            .map(|(arm, took)| {
                let whole = if arm.starts_with("in") { SEND } else { COLLECT_ALL };
                let median = percentile(took, 50);
                vec![
                    arm.clone(),
                    format!("{:.3}", self.ratio(arm, whole)),
                    format!("{median:.1}"),
                    format!("{:.1}", percentile(took, 100)),
                    format!("{:.0}", tree.bytes as f64 / 1e3 / median),
                ]
            })
            .collect();
        let (count, mb) = (tree.files.len(), tree.bytes as f64 / 1e6);
        say(&format!("\n{}: {count} files, {mb:.1} MB", tree.name));
        let header = ["way", "of ours, whole", "ms p50", "ms most", "MB/s of the tree"];
        table(&header, &rows);
    }
}

/// Takes `rounds` turns with one tree.
pub(crate) async fn take(
    ground: &Ground,
    rivals: &mut Rivals,
    tree: &Tree,
    home: &Path,
    rounds: usize,
) -> Result<Turns, Failed> {
    let mut turns = Turns::default();
    for round in 0..rounds {
        // Containers of this round alone, which go at the end; see `Rivals::renew`.
        let ours = &Ours::start(ground).await?;
        // Another one begins each round, so that none always follows the same one.
        if round.is_multiple_of(2) {
            our_turn(ours, tree, &mut turns).await?;
            their_turn(rivals, tree, home, &mut turns).await?;
        } else {
            their_turn(rivals, tree, home, &mut turns).await?;
            our_turn(ours, tree, &mut turns).await?;
        }
        if tree.is_few() {
            ours.end().await;
        }
    }
    turns.print(tree);
    Ok(turns)
}

/// The whole tree into a container that holds nothing, and then, as one run after another, what differs
/// into one that holds it.
async fn our_turn(ours: &Ours<'_>, tree: &Tree, turns: &mut Turns) -> Result<(), Failed> {
    let mut lease = ours.lease(tree).await?;
    let (took, ..) = ours.send(&mut lease, tree).await?;
    turns.add(SEND, took);
    turns.add("in: ours, host's part alone", ours.host_alone(tree).await?);
    ours.give_back(lease).await?;
    let all = tree.files.len();
    for count in changes(tree).chain([all]) {
        let named = if count == all { "all".to_owned() } else { count.to_string() };
        tree.change(count)?;
        let mut lease = ours.lease(tree).await?;
        let kept = lease.container().held().is_some();
        let (took, snapshot, sent) = ours.send(&mut lease, tree).await?;
        if sent < count as u64 {
            return Err(format!("{sent} files went in, and {count} were changed").into());
        }
        if kept {
            turns.add(&send_of(&named), took);
        } else {
            say(&format!("{}: the container gave the tree up ({named} changed)", tree.name));
        }
        ours.change(&mut lease, &tree.some(count)).await?;
        turns.add(&collect_of(&named), ours.collect(&mut lease, &snapshot, count).await?);
        if count == all {
            turns.add(RAW_IN, ours.raw_in(&mut lease, tree.bytes).await?);
            turns.add(RAW_OUT, ours.raw_out(&mut lease, tree.bytes).await?);
        }
        let reset = ours.give_back(lease).await?;
        turns.add(&format!("reset: {named} changed, the tree stays"), reset);
    }
    Ok(())
}

async fn their_turn(
    rivals: &mut Rivals,
    tree: &Tree,
    home: &Path,
    turns: &mut Turns,
) -> Result<(), Failed> {
    let root = tree.root();
    let mut to = Out { home, few: tree.is_few(), last: None };
    turns.add("in: tar | docker exec -i tar", rivals.exec_in(root).await?);
    turns.add("out: docker exec tar | tar", rivals.exec_out(&to.empty()?).await?);
    rivals.renew(tree.is_few()).await?;
    turns.add("in: tar | PUT archive", rivals.archive_in(root).await?);
    turns.add("out: GET archive | tar", rivals.archive_out(&to.empty()?).await?);
    rivals.renew(tree.is_few()).await?;
    if let Some(took) = rivals.rsync_in(root).await? {
        turns.add("in: rsync to the volume, whole", took);
        for count in changes(tree) {
            tree.change(count)?;
            if let Some(took) = rivals.rsync_in(root).await? {
                turns.add(&format!("in: rsync to the volume, {count} changed"), took);
            }
        }
    }
    let out = to.empty()?;
    if let Some(took) = rivals.rsync_out(&out).await? {
        turns.add("out: rsync from the volume, whole", took);
        for count in changes(tree) {
            rivals.change(&tree.some(count)).await?;
            if let Some(took) = rivals.rsync_out(&out).await? {
                turns.add(&format!("out: rsync from the volume, {count} changed"), took);
            }
        }
    }
    rivals.renew(tree.is_few()).await
}

/// How many files of the tree are changed, but for all of them.
fn changes(tree: &Tree) -> impl Iterator<Item = usize> {
    let all = tree.files.len();
    CHANGES.into_iter().filter(move |count| *count < all)
}

/// Places where rivals put what comes back, one after the other.
struct Out<'a> {
    home: &'a Path,
    few: bool,
    last: Option<tempfile::TempDir>,
}

impl Out<'_> {
    /// A new one; the one before goes now or at the end.
    fn empty(&mut self) -> Result<PathBuf, Failed> {
        let new = tempfile::tempdir_in(self.home)?;
        let path = new.path().to_owned();
        if let Some(last) = self.last.replace(new)
            && !self.few
        {
            // With the home.
            let _ = last.keep();
        }
        Ok(path)
    }
}
