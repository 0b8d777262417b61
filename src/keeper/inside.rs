//! The side in the container.
