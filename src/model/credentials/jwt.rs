//! What a JSON web token says of itself. Nothing is verified: the provider does that; here it only
//! tells when to refresh and whom to show.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// The claims that are of use; a token that is none has none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// Unix seconds after which the token is not taken.
    pub(super) expires: Option<i64>,
    /// Unix seconds at which it was made, by the clock of who made it.
    pub(super) issued: Option<i64>,
    pub(super) email: Option<String>,
    pub(super) account: Option<String>,
    pub(super) plan: Option<String>,
}

impl Claims {
    pub(super) fn of(token: &str) -> Self {
        let payload = token.split('.').nth(1).unwrap_or_default();
        let decoded = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).unwrap_or_default();
        let claims: Value = serde_json::from_slice(&decoded).unwrap_or_default();
        let seconds = |name: &str| {
            let value = &claims[name];
            value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
        };
        let auth = &claims["https://api.openai.com/auth"];
        let profile = &claims["https://api.openai.com/profile"];
        Self {
            expires: seconds("exp"),
            issued: seconds("iat"),
            email: shown(&claims["email"]).or_else(|| shown(&profile["email"])),
            account: shown(&auth["chatgpt_account_id"]),
            plan: shown(&auth["chatgpt_plan_type"]),
        }
    }
}

/// A text that can be printed: short, and without anything a terminal would act on.
fn shown(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_and_what_is_none_says_nothing() {
        let payload = serde_json::json!({
            "exp": 2_000_000_000_i64, "iat": 1.5, "email": "me\u{1b}[31m@example.org",
            "https://api.openai.com/auth": {"chatgpt_account_id": "a", "chatgpt_plan_type": 3},
        });
        let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(payload.to_string()));
        let claims = Claims::of(&token);
        assert_eq!((claims.expires, claims.issued), (Some(2_000_000_000), Some(1)));
        assert_eq!(claims.email.as_deref(), Some("me[31m@example.org"));
        assert_eq!((claims.account.as_deref(), claims.plan), (Some("a"), None));
        for none in ["", "opaque", "a.b.c", "..", "e30.bnVsbA.x", "e30.WzFd.x"] {
            assert_eq!(Claims::of(none), Claims::default(), "{none}");
        }
    }
}
