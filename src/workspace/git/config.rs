//! What of the user's git configuration goes into the made `.git`, and nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The identity of commits made in the container when the user has none.
const NAME: &str = "Codex Runner";
const EMAIL: &str = "codex-runner@localhost";

/// Settings of `core` that change how files are compared, and so go along.
const CORE: [&str; 4] = ["filemode", "autocrlf", "eol", "safecrlf"];

/// Extensions that a made `.git` can do without or that are known to the container's git.
const EXTENSIONS: [&str; 7] = [
    "noop",
    "objectformat",
    "partialclone",
    "preciousobjects",
    "refstorage",
    "relativeworktrees",
    "worktreeconfig",
];

/// The filter for large files as it is in the container. Nothing is fetched there: what is not at
/// hand stays a pointer.
const LFS: [(&str, &str); 4] = [
    ("clean", "git-lfs clean -- %f"),
    ("smudge", "git-lfs smudge --skip -- %f"),
    ("process", "git-lfs filter-process --skip"),
    ("required", "true"),
];

/// The same filter switched off.
const NO_LFS: [(&str, &str); 4] =
    [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")];

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

    /// Whether references are kept in another way than as files.
    pub(in crate::workspace) fn has_reftable(&self) -> bool {
        self.get("extensions.refstorage") == Some("reftable")
    }

    /// Where the repository says that its files are, relative to its own directory.
    pub(in crate::workspace) fn worktree(&self) -> Option<&str> {
        self.get("core.worktree")
    }

    /// Where contents of large files are kept, relative to the repository, if not in its `lfs`.
    pub(in crate::workspace) fn lfs_storage(&self) -> Option<&str> {
        self.get("lfs.storage").filter(|path| !path.is_empty())
    }

    /// Why this repository is not an ordinary one, in words that follow "because". Of a linked
    /// worktree the repository itself may be bare.
    pub(in crate::workspace) fn odd(&self, is_worktree: bool) -> Option<String> {
        let version = self.get("core.repositoryformatversion").unwrap_or("0");
        if !matches!(version, "0" | "1") {
            return Some(format!("its format version is {version}"));
        }
        if is_true(self.get("core.bare")) && !is_worktree {
            return Some("it is a bare repository".into());
        }
        for (key, value) in &self.values {
            if let Some(extension) = key.strip_prefix("extensions.") {
                let known = EXTENSIONS.contains(&extension)
                    && (extension != "refstorage" || matches!(&**value, "files" | "reftable"))
                    && (extension != "objectformat" || matches!(&**value, "sha1" | "sha256"));
                if !known {
                    return Some(format!("it uses the extension {extension} = {value}"));
                }
            }
        }
        None
    }

    /// The text of the made `config`.
    pub(in crate::workspace) fn made(&self) -> String {
        let sha256 = self.hash_len() == 32;
        let promisor = self.promisor();
        let extended = sha256 || promisor.is_some();
        let mut text = String::from("[core]\n");
        let mut line = |section: Option<&str>, key: &str, value: &str| {
            if let Some(section) = section {
                text.push_str(section);
            }
            text.push_str(&format!("\t{key} = {}\n", quoted(value)));
        };
        line(None, "repositoryformatversion", if extended { "1" } else { "0" });
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
        if let Some(remote) = promisor {
            // Without a URL nothing can be fetched; git still knows that objects lack on purpose.
            line(Some("[extensions]\n"), "partialclone", remote);
            line(Some(&format!("[remote {}]\n", quoted(remote))), "promisor", "true");
        }
        for (driver, key, value) in self.filters() {
            line(Some(&format!("[filter {}]\n", quoted(driver))), key, value);
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
                    "remote" => self.is_name_of_remote(value),
                    _ => false,
                };
                plain.then_some((branch, key, &**value))
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// Whether `name` is a remote's name and not its URL or path.
    fn is_name_of_remote(&self, name: &str) -> bool {
        let is_known = || self.values.contains_key(&format!("remote.{name}.fetch"));
        !name.contains([':', '/', '@', '\\']) || (!name.contains("://") && is_known())
    }

    /// Whether objects may lack, since a remote has them.
    pub(in crate::workspace) fn is_partial(&self) -> bool {
        self.promisor().is_some()
    }

    /// The remote that has the objects which a partial clone lacks; a name of our own for one that
    /// is known by its URL.
    fn promisor(&self) -> Option<&str> {
        let named = self.get("extensions.partialclone").filter(|name| !name.is_empty());
        let marked = self.values.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("remote.")?.strip_suffix(".promisor")?;
            is_true(Some(value)).then_some(name)
        });
        let name = named.or_else(|| marked.min())?;
        Some(if self.is_name_of_remote(name) { name } else { "promisor" })
    }

    /// What is set for filters. No command of the user's goes along: those of LFS are a text of
    /// ours, and if the user's git has no LFS, the container's is kept from using its own. Of
    /// others it is known that git must not do without them, so that nothing is committed in the
    /// clear that should have been encrypted.
    fn filters(&self) -> Vec<(&str, &'static str, &'static str)> {
        let has = |key: &str| self.get(key).is_some_and(|command| !command.is_empty());
        let lfs = if has("filter.lfs.clean") || has("filter.lfs.process") { LFS } else { NO_LFS };
        let lfs = lfs.iter().map(|(key, value)| ("lfs", *key, *value));
        let mut others: Vec<&str> = self
            .values
            .iter()
            .filter_map(|(key, value)| {
                let driver = key.strip_prefix("filter.")?.strip_suffix(".required")?;
                (is_true(Some(value)) && driver != "lfs").then_some(driver)
            })
            .collect();
        others.sort_unstable();
        lfs.chain(others.into_iter().map(|driver| (driver, "required", "true"))).collect()
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
            &b"extensions.refstorage\nunheardof\0"[..],
            b"extensions.unheardof\ntrue\0",
            b"core.repositoryformatversion\n2\0",
            b"core.bare\ntrue\0",
        ] {
            assert!(GitConfig::parse(listing).odd(false).is_some(), "{listing:?}");
        }
        for listing in
            [&b""[..], b"extensions.objectformat\nsha256\0extensions.worktreeconfig\ntrue\0"]
        {
            assert_eq!(GitConfig::parse(listing).odd(false), None);
        }
        assert_eq!(GitConfig::parse(b"core.bare\ntrue\0").odd(true), None);
    }

    #[test]
    fn the_remote_of_a_partial_clone_has_a_name_and_no_url() {
        let text = GitConfig::parse(b"extensions.partialclone\norigin\0").made();
        assert!(text.contains("repositoryformatversion = \"1\""), "{text}");
        assert!(text.contains("partialclone = \"origin\""), "{text}");
        assert!(text.contains("[remote \"origin\"]\n\tpromisor = \"true\"\n"), "{text}");
        let url = b"remote.https://u:secret@h/r.promisor\ntrue\0";
        let text = GitConfig::parse(url).made();
        assert!(text.contains("partialclone = \"promisor\""), "{text}");
        assert!(!text.contains("secret"), "{text}");
        let text = GitConfig::parse(b"remote.origin.promisor\nfalse\0").made();
        assert!(!text.contains("promisor"), "{text}");
    }

    #[test]
    fn filters_are_of_our_own_text() {
        let text = GitConfig::parse(
            b"filter.lfs.clean\nevil\0filter.lfs.process\nevil\0filter.lfs.required\nfalse\0\
              filter.git-crypt.clean\nevil\0filter.git-crypt.required\ntrue\0\
              filter.loose.clean\nevil\0",
        )
        .made();
        assert!(!text.contains("evil") && !text.contains("loose"), "{text}");
        assert!(text.contains("clean = \"git-lfs clean -- %f\""), "{text}");
        assert!(text.contains("[filter \"git-crypt\"]\n\trequired = \"true\"\n"), "{text}");
        let text = GitConfig::parse(b"").made();
        assert!(text.contains("[filter \"lfs\"]\n\tprocess = \"\"\n"), "{text}");
    }
}
