//! Secrets out of texts: what a provider says may repeat a key, and errors go into records.

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// `text` without anything that looks like a credential: API keys (`sk-…`, `sess-…`), JSON web
/// tokens, and what follows `Bearer`. A key that the provider itself has masked in part
/// (`sk-abc***xyz`) goes too.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_bearer = false;
    while !rest.is_empty() {
        let end = rest.find(is_delimiter).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if !word.is_empty() {
            // What was redacted once stays as it is.
            let bearer = after_bearer && word.len() >= 8 && word != "redacted";
            if bearer || looks_secret(word) {
                out.push_str(REDACTED);
            } else {
                out.push_str(word);
            }
            after_bearer = word.eq_ignore_ascii_case("bearer");
        }
        let width = tail.chars().next().map_or(0, char::len_utf8);
        out.push_str(&tail[..width]);
        rest = &tail[width..];
    }
    out
}

fn is_delimiter(c: char) -> bool {
    !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*' | '/' | '+' | '=' | '~'))
}

fn looks_secret(word: &str) -> bool {
    // `=` and `/` belong to the alphabets of tokens, but also end the name before one.
    word.split(['=', '/']).any(|part| {
        let key = ["sk-", "sess-"].iter().any(|p| part.starts_with(p)) && part.len() >= 8;
        let token = part.starts_with("eyJ") && part.len() >= 24 && part.contains('.');
        key || token
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_and_tokens_go_and_words_stay() {
        for (text, want) in [
            ("Incorrect API key provided: sk-abcd1234.", "Incorrect API key provided: [redacted]"),
            ("key=sk-proj-****7890 is bad", "[redacted] is bad"),
            ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer [redacted]"),
            ("{\"token\":\"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx\"}", "{\"token\":\"[redacted]\"}"),
            ("the task is a risk-free sk- thing", "the task is a risk-free sk- thing"),
        ] {
            assert_eq!(redact(text), want);
        }
    }

    proptest! {
        #[test]
        fn no_key_survives(before in ".{0,20}", key in "sk-[A-Za-z0-9_-]{12,40}", after in ".{0,20}") {
            let text = format!("{before} {key} {after}");
            prop_assert!(!redact(&text).contains(&key));
        }

        #[test]
        fn no_token_survives_and_what_is_redacted_stays_so(
            before in "(.{0,20}[^A-Za-z0-9_.*/+=~-])?",
            token in "eyJ[A-Za-z0-9_-]{20,40}\\.[A-Za-z0-9_-]{5,40}\\.[A-Za-z0-9_-]{5,40}",
            bearer in "[A-Za-z0-9_.-]{8,60}",
            after in "(\\PC{0}|[ \"',;)].{0,20})",
        ) {
            let text = format!("{before}{token} Bearer {bearer}{after}");
            let redacted = redact(&text);
            prop_assert!(!redacted.contains(&token), "{redacted}");
            let said = redacted.split_once("Bearer ").unwrap().1;
            prop_assert!(said.starts_with(REDACTED), "{redacted}");
            prop_assert_eq!(redact(&redacted), redacted);
        }

        #[test]
        fn any_text_is_taken(text in "\\PC{0,200}") {
            redact(&text);
        }
    }
}
