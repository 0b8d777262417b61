//! x

pub mod owner;
pub mod sweep;
