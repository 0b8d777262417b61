//! What went over the gateway for one run.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Refusals kept of one run; more are only counted.
const MAX_DENIED: usize = 100;

/// The traffic of one run; shared by its connections.
#[derive(Debug)]
pub struct Traffic {
    times: Mutex<Times>,
    denied: Mutex<Vec<String>>,
    denied_total: AtomicU32,
    requests: AtomicU32,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    /// KiB of request bodies that may be held at once, so that many connections together cost no
    /// more than one body of full size.
    pub(super) bodies: Semaphore,
}

#[derive(Debug, Default)]
struct Times {
    first_request: Option<Instant>,
    last_response: Option<Instant>,
}

/// [`Traffic`] at one moment.
#[derive(Clone, Debug, Default)]
pub struct TrafficReport {
    /// When the first request that passed had arrived whole.
    pub first_request: Option<Instant>,
    /// When the last byte of the last response so far went out.
    pub last_response: Option<Instant>,
    /// Requests that passed.
    pub requests: u32,
    /// What was refused, one sentence each, the first hundred.
    pub denied: Vec<String>,
    /// How many were refused.
    pub denied_total: u32,
    /// Bytes of bodies that went to the provider.
    pub bytes_up: u64,
    /// Bytes of bodies that came from the provider.
    pub bytes_down: u64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            times: Mutex::default(),
            denied: Mutex::default(),
            denied_total: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            bodies: Semaphore::new(super::MAX_BODY_KIB as usize),
        }
    }
}

impl Traffic {
    /// What went over so far.
    pub fn report(&self) -> TrafficReport {
        let (first_request, last_response) = {
            let times = self.times.lock();
            (times.first_request, times.last_response)
        };
        TrafficReport {
            first_request,
            last_response,
            requests: self.requests.load(Ordering::Relaxed),
            denied: self.denied.lock().clone(),
            denied_total: self.denied_total.load(Ordering::Relaxed),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
        }
    }

    pub(super) fn passed(&self, body: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes_up.fetch_add(body as u64, Ordering::Relaxed);
        self.times.lock().first_request.get_or_insert_with(Instant::now);
    }

    pub(super) fn refused(&self, what: &str) {
        self.denied_total.fetch_add(1, Ordering::Relaxed);
        let mut denied = self.denied.lock();
        if denied.len() < MAX_DENIED {
            denied.push(what.to_owned());
        }
    }

    pub(super) fn came_back(&self, bytes: usize) {
        self.bytes_down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.times.lock().last_response = Some(Instant::now());
    }
}
