//! Settling on a version of the engine's API.

/// The newest version of the API that we were written for. An engine that offers a newer one is
/// asked for this.
const API_NEWEST: (usize, usize) = (1, 48);

/// The oldest one that has everything we ask for; Docker 20.10 has it.
pub(super) const API_OLDEST: (usize, usize) = (1, 41);

/// The version of the API to speak with an engine that offers `offered` as its newest.
pub(super) fn settle(offered: &str) -> Option<(usize, usize)> {
    let (major, minor) = offered.split_once('.')?;
    let offered = (major.parse().ok()?, minor.parse().ok()?);
    (offered >= API_OLDEST).then(|| offered.min(API_NEWEST))
}

/// Puts the version before the path of a request that has none.
pub(super) fn versioned(request: bollard::BollardRequest, prefix: &str) -> bollard::BollardRequest {
    use hyper::http::uri::{PathAndQuery, Uri};
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if !path.starts_with("/v1.") {
        let versioned = format!("{prefix}{path}");
        let mut uri = head.uri.clone().into_parts();
        if let Ok(path) = PathAndQuery::try_from(versioned) {
            uri.path_and_query = Some(path);
            if let Ok(uri) = Uri::from_parts(uri) {
                head.uri = uri;
            }
        }
    }
    hyper::Request::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_older_of_both_and_old_engines_are_refused() {
        assert_eq!(settle("1.41"), Some((1, 41)));
        assert_eq!(settle("1.45"), Some((1, 45)));
        assert_eq!(settle("1.99"), Some(API_NEWEST));
        assert_eq!(settle("1.40"), None);
        assert_eq!(settle(""), None);
        assert_eq!(settle("nonsense"), None);
    }
}
