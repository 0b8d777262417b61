//! The way to the model: who pays for it, what may go over it, and a model of our own for tests.
//!
//! ```text
//!  Codex ──http──> keeper ──stream──> gateway ──https──> provider
//!  (container)                        (host; checks, adds the credential)
//! ```
//!
//! [`gateway`] is the only place that knows a credential of ours; [`credentials`] finds it.
//! [`scripted`] stands in for a provider in the demo, the tests and the benchmarks; nothing of it
//! runs unless one of those starts it.

pub mod credentials;
pub mod gateway;
pub mod redact;
pub mod scripted;

pub use self::credentials::{Credential, CredentialError, LoginError};
pub use self::gateway::{Gateway, GatewayError, Limits, Traffic, TrafficReport};
pub use self::redact::redact;
