//! Codex's own device login in a container: its command line, and its words for the user.

use crate::codex::command::{CODEX_HOME, ENVIRONMENT};
use crate::keeper::wire::{HOME, SpawnRequest};

/// Variables through which programs learn of a proxy to the internet.
pub const PROXIES: [&str; 8] = [
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "all_proxy",
    "no_proxy",
];

/// Characters of one line of Codex's that are shown; the rest is cut.
const MAX_LINE: usize = 500;

/// Starts `codex login --device-auth`. Codex shall keep what it gets in a file, whatever its
/// configuration says. `issuer` is another login server than the default, as tests have.
pub fn login_request(
    issuer: Option<&str>,
    proxies: Vec<(String, String)>,
    nonce: String,
) -> SpawnRequest {
    let store = "cli_auth_credentials_store=\"file\"";
    let mut argv: Vec<String> =
        ["codex", "-c", store, "login", "--device-auth"].map(str::to_owned).into();
    if let Some(issuer) = issuer {
        argv.push(format!("--experimental_issuer={issuer}"));
    }
    SpawnRequest { env: environment(proxies), ..request(argv, nonce) }
}

/// Gives what the login left, on stdout.
pub fn read_request(nonce: String) -> SpawnRequest {
    request(vec!["cat".to_owned(), format!("{CODEX_HOME}/auth.json")], nonce)
}

fn request(argv: Vec<String>, nonce: String) -> SpawnRequest {
    let env = environment(Vec::new());
    SpawnRequest { argv, env, files: Vec::new(), cwd: HOME.to_owned(), stdin: String::new(), nonce }
}

fn environment(more: Vec<(String, String)>) -> Vec<(String, String)> {
    let ours = ENVIRONMENT.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ours.chain(more).collect()
}

/// Bytes of a program as lines that a terminal can show: without colours, other control characters
/// and those that are not seen or turn the order of others, each cut at 500 characters. Holds one line.
#[derive(Debug, Default)]
pub struct Lines {
    open: Vec<u8>,
}

impl Lines {
    /// Takes what came; `show` gets each line that is whole.
    pub fn feed(&mut self, bytes: &[u8], mut show: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' {
                show(&plain(&self.open));
                self.open.clear();
            } else if self.open.len() < 16 * MAX_LINE {
                self.open.push(*byte);
            }
        }
    }

    /// The last line, if it had no end.
    pub fn finish(&mut self, mut show: impl FnMut(&str)) {
        if !self.open.is_empty() {
            show(&plain(&self.open));
            self.open.clear();
        }
    }
}

fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut chars = text.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A sequence for the terminal ends with a letter.
            if chars.next() == Some('[') {
                chars.by_ref().find(|c| ('@'..='~').contains(c));
            }
        } else if !c.is_control() && !is_unseen(c) && plain.len() < MAX_LINE {
            plain.push(c);
        }
    }
    plain
}

/// Whether it is not seen itself, or turns the order of what is: an address would read as another.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_line_by_line_without_control_characters() {
        let (mut lines, mut shown) = (Lines::default(), Vec::new());
        for part in
            ["Enter \u{1b}[94mAB", "CD-EF\u{1b}[0m\n\nx\u{7}\r\n", "\u{1b}]0;title\n", "end"]
        {
            lines.feed(part.as_bytes(), |line| shown.push(line.to_owned()));
        }
        lines.finish(|line| shown.push(line.to_owned()));
        assert_eq!(shown, ["Enter ABCD-EF", "", "x", "0;title", "end"]);
        let turned = "https://a\u{202e}moc.live\u{2066}\u{200b}\u{9b}31m/\n";
        lines.feed(turned.as_bytes(), |line| assert_eq!(line, "https://amoc.live31m/"));
        lines.feed(&vec![b'a'; 1 << 20], |_| {});
        lines.finish(|line| assert_eq!(line.len(), MAX_LINE));
    }

    #[test]
    fn the_login_is_kept_in_a_file_and_names_another_issuer_only_if_asked() {
        let proxy = ("HTTPS_PROXY".to_owned(), "http://p".to_owned());
        let request = login_request(None, vec![proxy.clone()], "n".into());
        let line = request.argv.join(" ");
        assert_eq!(line, "codex -c cli_auth_credentials_store=\"file\" login --device-auth");
        assert!(request.env.contains(&proxy));
        let other = login_request(Some("http://i"), Vec::new(), "n".into());
        assert_eq!(other.argv.last().unwrap(), "--experimental_issuer=http://i");
    }
}
