//! Whether an image fits this program.

use super::label;
use crate::engine::ImageFacts;
use crate::keeper::wire;

/// What an image that fits holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVersions {
    /// The protocol of its keeper.
    pub protocol: u32,
    /// The version of Codex in it.
    pub codex: String,
}

/// Why an image does not fit. The sentences name the command that builds one that does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It carries no label of ours, or one that cannot be read.
    #[error(
        "the image was not built for this program (it has no label {label}); build it with \
         `mcp-codex-orchestrator image build`"
    )]
    Foreign {
        /// The label that is missing.
        label: &'static str,
    },
    /// Its keeper speaks another protocol.
    #[error(
        "the image speaks version {image} of the keeper's protocol and this program speaks \
         version {host}; rebuild the image with `mcp-codex-orchestrator image build`"
    )]
    Protocol {
        /// The image's version, as its label says.
        image: String,
        /// Ours.
        host: u32,
    },
}

/// Compares the labels of an image with what this program needs.
///
/// # Errors
///
/// When it was built for another program or for another version of the protocol.
pub fn check_image(facts: &ImageFacts) -> Result<ImageVersions, ImageError> {
    let text = |label: &'static str| {
        facts
            .labels
            .get(label)
            .filter(|value| !value.is_empty())
            .ok_or(ImageError::Foreign { label })
    };
    let image = text(label::PROTOCOL)?;
    if image.parse() != Ok(wire::PROTOCOL) {
        return Err(ImageError::Protocol { image: image.clone(), host: wire::PROTOCOL });
    }
    Ok(ImageVersions { protocol: wire::PROTOCOL, codex: text(label::CODEX)?.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(labels: &[(&str, &str)]) -> ImageFacts {
        let labels =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ImageFacts { id: "sha256:0".into(), labels }
    }

    #[test]
    fn an_image_of_ours_fits() {
        let protocol = wire::PROTOCOL.to_string();
        let facts = facts(&[(label::PROTOCOL, &protocol), (label::CODEX, "0.169.0")]);
        assert_eq!(
            check_image(&facts),
            Ok(ImageVersions { protocol: wire::PROTOCOL, codex: "0.169.0".into() })
        );
    }

    #[test]
    fn any_other_image_is_refused_with_the_command_that_rebuilds_it() {
        let ours = wire::PROTOCOL.to_string();
        for labels in [
            vec![],
            vec![(label::CODEX, "0.169.0")],
            vec![(label::PROTOCOL, "0"), (label::CODEX, "0.169.0")],
            vec![(label::PROTOCOL, "99"), (label::CODEX, "0.169.0")],
            vec![(label::PROTOCOL, "one"), (label::CODEX, "0.169.0")],
            vec![(label::PROTOCOL, ours.as_str())],
            vec![(label::PROTOCOL, ours.as_str()), (label::CODEX, "")],
        ] {
            let sentence = check_image(&facts(&labels)).unwrap_err().to_string();
            assert!(sentence.contains("`mcp-codex-orchestrator image build`"), "{sentence}");
        }
        let outdated = check_image(&facts(&[(label::PROTOCOL, "0")])).unwrap_err().to_string();
        assert!(outdated.contains("version 0") && outdated.contains(&format!("version {ours}")));
    }
}
