//! x

pub mod call;
pub mod progress;
pub mod result;
pub mod status;
