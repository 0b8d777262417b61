//! What the proxy of one run decided, bounded in number and length: whatever runs in a container
//! chooses the names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::name::HostName;
use super::rules;

/// Kinds kept of one run of each [`Decision`]; more are only counted. Each has a share of its own, so
/// that a program that asks for much that is refused does not hide where it got through.
const MAX_KEPT: usize = 200;

/// Hosts in a sentence at most.
const MAX_TOLD: usize = 10;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A connection was made.
    Allowed,
    /// It was refused.
    Denied,
    /// It was allowed, but there was no connection to be had.
    Failed,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An entry of `network.allow_hosts` allows it.
    Listed,
    /// None does.
    NotListed,
    /// It was asked for by address.
    Address,
    /// It is no host name.
    NoName,
    /// One of its addresses is not of the public internet.
    NotPublic,
    /// One of its addresses is the host's own.
    ThisMachine,
    /// Plain http was asked for.
    PlainHttp,
    /// Too many connections at once.
    TooMany,
    /// The name has no address.
    Unresolved,
    /// The host did not answer.
    Unreachable,
}

/// Who was asked for: nothing in it that a name or an address cannot have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Name(HostName),
    Address(IpAddr),
    Other,
}

/// One line of the record of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The name or address; left out if it was neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port; left out if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What became of it.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// How often.
    pub count: u64,
}

/// Everything that was decided, as the run folder keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Each kind once.
    pub decisions: Vec<Decided>,
    /// Connections besides those that are listed.
    pub more: u64,
}

type Kind = (Asked, Option<u16>, Decision, Reason);

/// The decisions of one run; shared by its connections.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<(BTreeMap<Kind, u64>, u64)>);

impl Decisions {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn add(&self, asked: Asked, port: Option<u16>, decision: Decision, reason: Reason) {
        let mut guard = self.0.lock();
        let (kept, more) = &mut *guard;
        let kind = (asked, port, decision, reason);
        if !kept.contains_key(&kind) {
            let alike = kept.keys().filter(|(_, _, other, _)| *other == decision).count();
            if alike >= MAX_KEPT {
                *more = more.saturating_add(1);
                return;
            }
        }
        let count = kept.entry(kind).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// What was decided so far.
    pub fn report(&self) -> Report {
        let guard = self.0.lock();
        let (kept, more) = &*guard;
        let decided = |((asked, port, decision, reason), count): (&Kind, &u64)| Decided {
            host: match asked {
                Asked::Name(name) => Some(name.to_string()),
                Asked::Address(IpAddr::V6(address)) => Some(format!("[{address}]")),
                Asked::Address(address) => Some(address.to_string()),
                Asked::Other => None,
            },
            port: *port,
            decision: *decision,
            reason: *reason,
            count: *count,
        };
        Report { decisions: kept.iter().map(decided).collect(), more: *more }
    }
}

impl Report {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// Who was refused, each once, in the form of an entry of `network.allow_hosts`.
    pub fn denied_hosts(&self) -> Vec<String> {
        let denied = |decided: &&Decided| decided.decision == Decision::Denied;
        let mut hosts: Vec<String> =
            self.decisions.iter().filter(denied).filter_map(entry).collect();
        hosts.dedup();
        hosts
    }

    /// What a caller is told of it, with the line that would allow what was refused, beside what
    /// `allowed` has.
    pub fn notes(&self, allowed: &[String]) -> Vec<String> {
        let with = |reason| {
            let denied = self.decisions.iter().filter(move |decided| {
                decided.decision == Decision::Denied && decided.reason == reason
            });
            denied.filter_map(entry).collect::<Vec<_>>()
        };
        let mut notes = Vec::new();
        let unlisted = with(Reason::NotListed);
        if !unlisted.is_empty() {
            let entries = allowed.iter().chain(unlisted.iter().take(MAX_TOLD));
            let entries: Vec<_> = entries.map(|entry| format!("{entry:?}")).collect();
            let verb = if unlisted.len() == 1 { "is" } else { "are" };
            notes.push(format!(
                "{} {verb} not allowed, and the run asked for it; to allow that, set \
                 network.allow_hosts = [{}] (then whatever runs in a container can send your files \
                 there)",
                several(&unlisted),
                entries.join(", ")
            ));
        }
        for (reason, problem) in [
            (Reason::NotPublic, "refused: an address of the name is not of the public internet"),
            (Reason::ThisMachine, "refused: an address of the name is this machine's own"),
            (Reason::Address, "refused: the proxy connects to names, not to addresses"),
            (
                Reason::PlainHttp,
                "refused: only TLS passes the proxy, so use https instead of plain http",
            ),
        ] {
            let hosts = with(reason);
            if !hosts.is_empty() {
                notes.push(format!("network access to {} was {problem}", several(&hosts)));
            }
        }
        notes
    }
}

fn entry(decided: &Decided) -> Option<String> {
    let host = decided.host.as_deref()?;
    Some(rules::entry(host, decided.port.unwrap_or(rules::DEFAULT_PORT)))
}

fn several(hosts: &[String]) -> String {
    let told = hosts.iter().take(MAX_TOLD).map(String::as_str).collect::<Vec<_>>().join(", ");
    match hosts.len().saturating_sub(MAX_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Asked {
        Asked::Name(HostName::parse(text).unwrap())
    }

    #[test]
    fn the_line_that_is_told_allows_what_was_refused_and_what_was_allowed() {
        let decisions = Decisions::new();
        for _ in 0..3 {
            decisions.add(name("crates.example"), Some(443), Decision::Denied, Reason::NotListed);
        }
        decisions.add(name("b.example"), Some(8443), Decision::Denied, Reason::NotListed);
        decisions.add(name("a.example"), Some(443), Decision::Allowed, Reason::Listed);
        let report = decisions.report();
        assert_eq!(report.denied_hosts(), ["b.example:8443", "crates.example"]);
        let notes = report.notes(&["a.example".to_owned()]).join("\n");
        let line = "network.allow_hosts = [\"a.example\", \"b.example:8443\", \"crates.example\"]";
        assert!(notes.contains(line), "{notes}");
        let counts: Vec<_> = report.decisions.iter().map(|decided| decided.count).collect();
        assert_eq!(counts, [1, 1, 3]);
        let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(back, report);
    }

    #[test]
    fn what_no_setting_opens_is_told_without_a_line() {
        let decisions = Decisions::new();
        decisions.add(name("a.example"), Some(443), Decision::Denied, Reason::NotPublic);
        let address = Asked::Address("169.254.169.254".parse().unwrap());
        decisions.add(address, Some(80), Decision::Denied, Reason::Address);
        decisions.add(Asked::Other, None, Decision::Denied, Reason::NoName);
        decisions.add(name("b.example"), Some(443), Decision::Failed, Reason::Unreachable);
        let report = decisions.report();
        assert_eq!(report.denied_hosts(), ["a.example", "169.254.169.254:80"]);
        let notes = report.notes(&[]).join("\n");
        assert!(!notes.contains("allow_hosts") && notes.contains("public"), "{notes}");
    }

    #[test]
    fn a_program_that_makes_up_names_fills_nothing() {
        let decisions = Decisions::new();
        for number in 0..10_000 {
            let made_up = name(&format!("{}{number}.example", "a".repeat(50)));
            decisions.add(made_up, Some(443), Decision::Denied, Reason::NotListed);
        }
        let report = decisions.report();
        assert_eq!(report.decisions.len(), MAX_KEPT);
        assert_eq!(report.more, 10_000 - MAX_KEPT as u64);
        // What it reached after that is on record all the same.
        decisions.add(name("b.example"), Some(443), Decision::Allowed, Reason::Listed);
        let report = decisions.report();
        let allowed = report.decisions.iter().find(|kind| kind.decision == Decision::Allowed);
        assert_eq!(allowed.unwrap().host.as_deref(), Some("b.example"));
        assert!(report.notes(&[]).join("").len() < 4096);
        assert!(Decisions::new().report().is_empty());
    }
}
