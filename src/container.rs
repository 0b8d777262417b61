//! A container of ours: what it is started from, what must be in force in it, and its states.
//!
//! ```text
//!            ┌────────── reset, proved clean ──────────┐
//!            ▼                                         │
//! Starting ─> Idle ──── checkout ───> Leased ──> Resetting
//!    │         │                        │            │
//!    └─────────┴─────────> Dying <──────┴────────────┘
//! ```
//!
//! `Idle` means armed: the keeper answers, what is in force was compared with what was asked for,
//! and a fingerprint was taken. `Dying` has no way out: a container that was given up is never used
//! again, whatever it says later.

mod image;
mod posture;
mod spec;

pub use self::image::{ImageError, ImageVersions, check_image};
pub use self::posture::{PostureError, check_posture};
pub use self::spec::{HOME, MIN_MEMORY, spec};

/// Where the keeper is in the image.
pub const KEEPER: &str = "/usr/local/bin/codex-keeper";

/// Names of the labels that every container of ours carries.
pub mod label {
    /// Identity of the orchestrator that started it.
    pub const OWNER: &str = "mcp-codex-orchestrator.owner";
    /// When it was started, RFC 3339.
    pub const STARTED: &str = "mcp-codex-orchestrator.started";
    /// Version of the protocol its keeper speaks.
    pub const PROTOCOL: &str = "mcp-codex-orchestrator.protocol";
    /// Name of the profile it was started from.
    pub const PROFILE: &str = "mcp-codex-orchestrator.profile";
    /// On the image: version of Codex in it.
    pub const CODEX: &str = "mcp-codex-orchestrator.codex";
}

/// Where a container is in its life. The edges are drawn in the [module's text](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// From the request that creates it until it is armed.
    Starting,
    /// Armed and clean; may be leased.
    Idle,
    /// One job has it.
    Leased,
    /// Being emptied after a job.
    Resetting,
    /// Given up; being removed.
    Dying,
}

/// An edge that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a container cannot go from {from:?} to {to:?}")]
pub struct StateError {
    /// Where it is.
    pub from: ContainerState,
    /// Where it was to go.
    pub to: ContainerState,
}

impl ContainerState {
    /// The state after the step to `to`.
    ///
    /// # Errors
    ///
    /// When there is no such edge. From [`Dying`](ContainerState::Dying) there is none but to
    /// itself, so that giving up twice is no error.
    pub fn step(self, to: ContainerState) -> Result<ContainerState, StateError> {
        use ContainerState::{Dying, Idle, Leased, Resetting, Starting};
        match (self, to) {
            (Starting | Resetting, Idle) | (Idle, Leased) | (Leased, Resetting) | (_, Dying) => {
                Ok(to)
            }
            (from, to) => Err(StateError { from, to }),
        }
    }
}

#[cfg(test)]
pub(crate) use self::spec::tests::config as tests_config;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ContainerState::{self, Dying, Idle, Leased, Resetting, Starting};

    fn any_state() -> impl Strategy<Value = ContainerState> {
        prop_oneof![Just(Starting), Just(Idle), Just(Leased), Just(Resetting), Just(Dying)]
    }

    proptest! {
        #[test]
        fn whatever_is_asked_a_container_is_leased_only_when_idle_and_idle_only_when_proved(
            asked in proptest::collection::vec(any_state(), 0..40)
        ) {
            let mut state = Starting;
            for to in asked {
                let Ok(next) = state.step(to) else { continue };
                prop_assert_eq!(next, to);
                prop_assert!(state != Dying || next == Dying);
                prop_assert!(next != Leased || state == Idle);
                prop_assert!(next != Idle || matches!(state, Starting | Resetting));
                prop_assert!(next != Resetting || state == Leased);
                prop_assert!(next != Starting);
                state = next;
            }
        }
    }
}
