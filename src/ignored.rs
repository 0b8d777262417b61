//! Which paths of a tree git ignores; used by the host when it sends and by the keeper when it
//! collects.
