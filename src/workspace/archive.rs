//! The tar archives that come and go: read without trust, written as every tar program reads them.

pub(super) mod read;
pub(super) mod write;
