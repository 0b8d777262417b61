//! Which hosts `network.allow_hosts` opens.

use super::name::HostName;

/// The port of an entry that names none.
pub const DEFAULT_PORT: u16 = 443;

/// The entries of `network.allow_hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// Whether it stands for the names under `name` and not for `name` itself.
    under: bool,
    name: HostName,
    port: u16,
}

/// An entry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has {entry:?}, which {problem}")]
pub struct RuleError {
    /// As the user wrote it.
    pub entry: String,
    /// The rest of a sentence, with what to write instead.
    pub problem: String,
}

impl Rules {
    /// Reads entries of the forms `NAME`, `NAME:PORT`, `*.NAME` and `*.NAME:PORT`.
    ///
    /// # Errors
    ///
    /// The first entry that cannot be used.
    pub fn parse(entries: &[String]) -> Result<Self, RuleError> {
        let parse = |entry: &String| {
            Rule::parse(entry)
                .map_err(|problem| RuleError { entry: entry.chars().take(300).collect(), problem })
        };
        entries.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a program may connect to `port` of `name`. A `*.` entry stands for every name under
    /// its own, at any depth, and not for its own.
    pub fn allow(&self, name: &HostName, port: u16) -> bool {
        self.0.iter().any(|rule| rule.port == port && rule.is_for(name))
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rule {
    fn parse(entry: &str) -> Result<Self, String> {
        if entry.contains("://") || entry.contains('/') {
            return Err("has a scheme or a path; write the host's name alone, such as \
                        \"crates.example\" or \"example.com:8443\""
                .to_owned());
        }
        // An IPv6 address has colons of its own.
        if entry.parse::<std::net::IpAddr>().is_ok() || entry.starts_with('[') {
            return Err("is an address; only names are allowed".to_owned());
        }
        let (host, port) = match entry.split_once(':') {
            None => (entry, DEFAULT_PORT),
            Some((host, port)) => {
                let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                match port.parse::<u16>() {
                    Ok(port) if port > 0 && digits => (host, port),
                    _ => return Err("has no port from 1 to 65535 after the colon".to_owned()),
                }
            }
        };
        let (under, host) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        if host.contains('*') {
            return Err("has a * elsewhere than in front, as in \"*.example.com\"; a * for all \
                        hosts does not exist: network.mode = \"bridge\" opens them"
                .to_owned());
        }
        let name = HostName::parse(host).map_err(|error| error.to_string())?;
        if under && !name.as_str().contains('.') {
            return Err("stands for a whole top-level domain; name more of it, as in \
                        \"*.example.com\""
                .to_owned());
        }
        Ok(Self { under, name, port })
    }

    fn is_for(&self, name: &HostName) -> bool {
        match name.as_str().strip_suffix(self.name.as_str()) {
            Some("") => !self.under,
            Some(front) => self.under && front.ends_with('.'),
            None => false,
        }
    }
}

/// `name` as an entry of `network.allow_hosts`, which is how it is told.
pub fn entry(host: &str, port: u16) -> String {
    if port == DEFAULT_PORT { host.to_owned() } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(entries: &[&str]) -> Result<Rules, RuleError> {
        Rules::parse(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    fn allowed(entries: &[&str], host: &str, port: u16) -> bool {
        rules(entries).unwrap().allow(&HostName::parse(host).unwrap(), port)
    }

    #[test]
    fn entries_stand_for_names_and_ports() {
        for (entry, host, port, want) in [
            ("crates.example", "crates.example", 443, true),
            ("Crates.EXAMPLE.", "cRATES.example", 443, true),
            ("crates.example", "CRATES.EXAMPLE.", 443, true),
            ("crates.example", "crates.example", 80, false),
            ("crates.example", "static.crates.example", 443, false),
            ("crates.example", "evilcrates.example", 443, false),
            ("crates.example:8443", "crates.example", 8443, true),
            ("crates.example:8443", "crates.example", 443, false),
            ("*.crates.example", "static.crates.example", 443, true),
            ("*.crates.example", "a.b.crates.example", 443, true),
            ("*.crates.example", "crates.example", 443, false),
            ("*.crates.example", "evilcrates.example", 443, false),
            ("*.crates.example", "crates.example.evil.example", 443, false),
            ("*.crates.example:80", "a.crates.example", 80, true),
            ("*.crates.example:80", "a.crates.example", 443, false),
        ] {
            assert_eq!(allowed(&[entry], host, port), want, "{entry} {host}:{port}");
        }
        assert!(!allowed(&[], "crates.example", 443));
        assert!(allowed(&["a.example", "b.example"], "b.example", 443));
    }

    #[test]
    fn entries_that_make_no_sense_get_a_sentence() {
        for (entry, want) in [
            ("", "empty"),
            ("*", "bridge"),
            ("*.", "empty"),
            ("*.com", "top-level"),
            ("*.*.example.com", "elsewhere"),
            ("a.*.example.com", "elsewhere"),
            ("*a.example.com", "elsewhere"),
            ("https://crates.example", "scheme"),
            ("crates.example/api", "path"),
            ("crates.example:", "port"),
            ("crates.example:0", "port"),
            ("crates.example:65536", "port"),
            ("crates.example:+80", "port"),
            ("crates.example:https", "port"),
            ("a:b:c", "port"),
            ("a..b", "label"),
            ("1.2.3.4", "address"),
            ("1.2.3.4:443", "address"),
            ("*.1.2.3", "address"),
            ("::1", "address"),
            ("[::1]:443", "address"),
            ("user@crates.example", "characters"),
            ("crates.example ", "characters"),
            ("bücher.example", "xn--"),
        ] {
            let error = rules(&["ok.example", entry]).unwrap_err();
            assert_eq!(error.entry, entry);
            assert!(error.problem.contains(want), "{entry:?}: {error}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-z][a-z0-9]{0,3}(\\.[a-z][a-z0-9]{0,3}){1,3}"
    }

    proptest! {
        /// Against another way to say it: labels from the end.
        #[test]
        fn a_name_is_allowed_as_its_labels_say(
            names in proptest::collection::vec((any::<bool>(), name(), 1_u16..4), 0..4),
            host in name(),
            extra in proptest::option::of("[a-z]{1,2}"),
            take in any::<bool>(),
            port in 1_u16..4,
        ) {
            let host = match (take, names.first(), extra) {
                (true, Some((_, name, _)), Some(extra)) => format!("{extra}.{name}"),
                (true, Some((_, name, _)), None) => name.clone(),
                (_, _, _) => host,
            };
            let entries: Vec<String> = names.iter().map(|(under, name, port)| {
                format!("{}{name}:{port}", if *under { "*." } else { "" })
            }).collect();
            let labels = |name: &str| {
                name.split('.').rev().map(str::to_owned).collect::<Vec<_>>()
            };
            let wanted = names.iter().any(|(under, name, at)| {
                let (have, need) = (labels(&host), labels(name));
                *at == port && have.starts_with(&need) && (have.len() > need.len()) == *under
            });
            let rules = Rules::parse(&entries).unwrap();
            prop_assert_eq!(rules.allow(&HostName::parse(&host).unwrap(), port), wanted);
        }

        #[test]
        fn no_entry_panics(entry in any::<String>()) {
            let _ = Rules::parse(&[entry]);
        }

        #[test]
        fn what_is_told_of_a_denied_host_allows_it(host in name(), port in 1_u16..) {
            let rules = Rules::parse(&[entry(&host, port)]).unwrap();
            prop_assert!(rules.allow(&HostName::parse(&host).unwrap(), port));
        }
    }
}
