//! Names of hosts, as DNS has them.

use std::fmt;

/// Bytes of a name at most, and of one label.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host's name in lower case, without the dot at the end, of ASCII letters, digits, `-` and `_`.
/// Never an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

/// Why something is no host name; the rest of a sentence that begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// An address in any of the ways that programs read one.
    #[error("is an address; only names are allowed")]
    Address,
    /// Over 253 bytes, or a label over 63.
    #[error("is too long for a host name")]
    TooLong,
    /// Two dots in a row, or one in front.
    #[error("has an empty label between dots")]
    EmptyLabel,
    /// Letters of other scripts.
    #[error("is not ASCII; write it in its ASCII form, which begins with xn--")]
    NotAscii,
    /// Anything else that no name has.
    #[error("has characters that no host name has")]
    Characters,
}

impl HostName {
    /// Reads a name in any case, with or without a dot at its end.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.starts_with('[') || text.parse::<std::net::IpAddr>().is_ok() {
            return Err(NameError::Address);
        }
        if !text.is_ascii() {
            return Err(NameError::NotAscii);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        for label in text.split('.') {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if label.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            if label.len() > MAX_LABEL {
                return Err(NameError::TooLong);
            }
            if !label.bytes().all(good) || label.starts_with('-') || label.ends_with('-') {
                return Err(NameError::Characters);
            }
        }
        if ends_in_a_number(text) {
            return Err(NameError::Address);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a resolver might read it as an IPv4 address: `127.1`, `2130706433`, `0x7f.1`.
fn ends_in_a_number(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let hex = hex.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_compared_in_one_form() {
        for text in ["crates.example", "CRATES.example", "Crates.EXAMPLE."] {
            assert_eq!(HostName::parse(text).unwrap().as_str(), "crates.example");
        }
        for text in ["a", "a_b.c-d.e1", "xn--bcher-kva.example", "1.example", "0xg"] {
            HostName::parse(text).unwrap();
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a..", NameError::EmptyLabel),
            ("127.0.0.1", NameError::Address),
            ("127.1", NameError::Address),
            ("2130706433", NameError::Address),
            ("0x7f000001", NameError::Address),
            ("0x", NameError::Address),
            ("a.0X7f", NameError::Address),
            ("0177.0.0.1", NameError::Address),
            ("127.0.0.1.", NameError::Address),
            ("::1", NameError::Address),
            ("[::1]", NameError::Address),
            ("bücher.example", NameError::NotAscii),
            ("a b", NameError::Characters),
            ("a\r\nb", NameError::Characters),
            ("a@b", NameError::Characters),
            ("a%2eb", NameError::Characters),
            ("-a.b", NameError::Characters),
            ("a-.b", NameError::Characters),
            ("*", NameError::Characters),
            (&"a".repeat(64), NameError::TooLong),
            (&"a.".repeat(200), NameError::TooLong),
        ] {
            assert_eq!(HostName::parse(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_address_is_a_name(bits: u128, v4: u32) {
            for address in [IpAddr::from(bits.to_be_bytes()), IpAddr::V4(Ipv4Addr::from(v4))] {
                prop_assert!(HostName::parse(&address.to_string()).is_err());
            }
            prop_assert!(HostName::parse(&v4.to_string()).is_err());
            let hex = format!("0x{v4:x}");
            prop_assert!(HostName::parse(&hex).is_err());
        }

        #[test]
        fn what_is_read_is_read_the_same_again(text in any::<String>()) {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert_eq!(HostName::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.as_str().len() <= MAX_NAME);
            }
        }
    }
}
