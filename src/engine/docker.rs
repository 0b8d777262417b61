//! Docker over its API. The only user of `bollard`.
