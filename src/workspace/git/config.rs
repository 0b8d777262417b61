//! What of the user's git configuration goes into the made `.git`, and nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The identity of commits made in the container when the user has none.
const NAME: &str = "Codex Runner";
const EMAIL: &str = "codex-runner@localhost";

/// Settings of `core` that change how files are compared, and so go along.
const CORE: [&str; 4] = ["filemode", "autocrlf", "eol", "safecrlf"];

/// Extensions that a made `.git` can do without or that are known to the container's git.
const EXTENSIONS: [&str; 6] = [
    "noop",
    "objectformat",
    "preciousobjects",
    "refstorage",
    "relativeworktrees",
    "worktreeconfig",
];

/// The values of `git config -z --list`, the last of each key.
#[derive(Clone, Debug, Default)]
pub(in crate::workspace) struct GitConfig {
    values: HashMap<String, String>,
}

impl GitConfig {
    /// Reads the listing: `key LF value NUL`, or `key NUL` for a bare key, which means true.
    pub(in crate::workspace) fn parse(listing: &[u8]) -> Self {
        let entries = listing.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        let values = entries
            .filter_map(|entry| std::str::from_utf8(entry).ok())
            .map(|entry| {
                let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
                (key.to_owned(), value.to_owned())
            })
            .collect();
        Self { values }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Bytes of an object name.
    pub(in crate::workspace) fn hash_len(&self) -> usize {
        if self.get("extensions.objectformat") == Some("sha256") { 32 } else { 20 }
    }

    /// The file of patterns that git ignores everywhere.
    pub(in crate::workspace) fn excludes_file(
        &self,
        home: Option<&Path>,
        xdg: Option<&Path>,
    ) -> Option<PathBuf> {
        match self.get("core.excludesfile") {
            Some("") => None,
            Some(path) => match path.strip_prefix("~/") {
                Some(rest) => home.map(|home| home.join(rest)),
                None => Some(path.into()),
            },
            None => xdg
                .map(Path::to_owned)
                .or_else(|| home.map(|home| home.join(".config")))
                .map(|config| config.join("git/ignore")),
        }
    }

    /// Why this repository is not an ordinary one, in words that follow "because".
    pub(in crate::workspace) fn odd(&self) -> Option<String> {
        let version = self.get("core.repositoryformatversion").unwrap_or("0");
        if !matches!(version, "0" | "1") {
            return Some(format!("its format version is {version}"));
        }
        if is_true(self.get("core.bare")) {
            return Some("it is a bare repository".into());
        }
        if self.get("core.worktree").is_some() {
            return Some("its files are elsewhere (core.worktree)".into());
        }
        for (key, value) in &self.values {
            if let Some(extension) = key.strip_prefix("extensions.") {
                if extension == "partialclone" {
                    return Some("it is a partial clone, which lacks objects".into());
                }
                let known = EXTENSIONS.contains(&extension)
                    && (extension != "refstorage" || value == "files")
                    && (extension != "objectformat" || matches!(&**value, "sha1" | "sha256"));
                if !known {
                    return Some(format!("it uses the extension {extension} = {value}"));
                }
            }
            if key.starts_with("remote.") && key.ends_with(".promisor") && is_true(Some(value)) {
                return Some("it is a partial clone, which lacks objects".into());
            }
        }
        None
    }

    /// The text of the made `config`.
    pub(in crate::workspace) fn made(&self) -> String {
        let sha256 = self.hash_len() == 32;
        let mut text = String::from("[core]\n");
        let mut line = |section: Option<&str>, key: &str, value: &str| {
            if let Some(section) = section {
                text.push_str(section);
            }
            text.push_str(&format!("\t{key} = {}\n", quoted(value)));
        };
        line(None, "repositoryformatversion", if sha256 { "1" } else { "0" });
        line(None, "bare", "false");
        line(None, "logallrefupdates", "true");
        // The container's inodes and times are its own; git then compares seconds and sizes.
        line(None, "checkstat", "minimal");
        line(None, "trustctime", "false");
        line(None, "untrackedcache", "false");
        for key in CORE {
            if let Some(value) = self.get(&format!("core.{key}")) {
                line(None, key, value);
            }
        }
        line(Some("[gc]\n"), "auto", "0");
        line(Some("[maintenance]\n"), "auto", "false");
        if sha256 {
            line(Some("[extensions]\n"), "objectformat", "sha256");
        }
        line(Some("[user]\n"), "name", self.get("user.name").unwrap_or(NAME));
        line(None, "email", self.get("user.email").unwrap_or(EMAIL));
        for (branch, key, value) in self.branches() {
            line(Some(&format!("[branch {}]\n", quoted(branch))), key, value);
        }
        text
    }

    /// What each branch follows; names only, no remote written as a URL or path.
    fn branches(&self) -> Vec<(&str, &str, &str)> {
        let mut found: Vec<(&str, &str, &str)> = self
            .values
            .iter()
            .filter_map(|(key, value)| {
                let (branch, key) = key.strip_prefix("branch.")?.rsplit_once('.')?;
                let plain = match key {
                    "merge" => value.starts_with("refs/"),
                    "remote" => !value.contains([':', '/', '@', '\\']) || self.has_remote(value),
                    _ => false,
                };
                plain.then_some((branch, key, &**value))
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// Whether `name` is a remote's name and not its URL.
    fn has_remote(&self, name: &str) -> bool {
        self.values.contains_key(&format!("remote.{name}.fetch")) && !name.contains("://")
    }
}

fn is_true(value: Option<&str>) -> bool {
    matches!(value.map(str::to_ascii_lowercase).as_deref(), Some("true" | "yes" | "on" | "1"))
}

/// A value as git's config syntax quotes it.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\0' => {}
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_travels_that_is_not_on_the_list() {
        let config = GitConfig::parse(
            b"core.filemode\ntrue\0core.hookspath\n/evil\0core.fsmonitor\nevil\0core.sshcommand\nevil\0\
              filter.x.clean\nevil\0alias.st\n!evil\0remote.origin.url\nhttps://u:secret@h/r\0\
              remote.origin.fetch\n+refs/heads/*:refs/remotes/origin/*\0\
              branch.main.remote\norigin\0branch.main.merge\nrefs/heads/main\0\
              branch.x.remote\nhttps://u:secret@h/r\0user.name\nA \"quoted\" name\\\0user.email\na@b\0\
              credential.helper\nevil\0url.https://u:secret@h.insteadof\nh:\0",
        );
        let text = config.made();
        assert!(!text.contains("evil") && !text.contains("secret"), "{text}");
        assert!(text.contains("[branch \"main\"]\n\tmerge = \"refs/heads/main\""), "{text}");
        assert!(text.contains("name = \"A \\\"quoted\\\" name\\\\\""), "{text}");
        assert!(text.contains("checkstat = \"minimal\""), "{text}");
    }

    #[test]
    fn without_an_identity_it_is_the_runners() {
        let text = GitConfig::parse(b"").made();
        assert!(text.contains("name = \"Codex Runner\""), "{text}");
    }

    #[test]
    fn odd_repositories_are_told() {
        for listing in [
            &b"extensions.partialclone\norigin\0"[..],
            b"remote.origin.promisor\ntrue\0",
            b"extensions.refstorage\nreftable\0",
            b"extensions.unheardof\ntrue\0",
            b"core.repositoryformatversion\n2\0",
            b"core.bare\ntrue\0",
            b"core.worktree\n/else\0",
        ] {
            assert!(GitConfig::parse(listing).odd().is_some(), "{listing:?}");
        }
        for listing in
            [&b""[..], b"extensions.objectformat\nsha256\0extensions.worktreeconfig\ntrue\0"]
        {
            assert_eq!(GitConfig::parse(listing).odd(), None);
        }
    }
}
