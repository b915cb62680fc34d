//! How many requests without good credentials are answered in full from one source. Used by the operator API and the IAL.
//!
//! Never asked before credentials were looked at: those that are good work, whatever else comes from their address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sessions::limit::Buckets;

/// At once.
pub const FAILURES: u32 = 60;

/// After this time one more is.
const ONE_MORE: Duration = Duration::from_secs(RETRY_AFTER_S);

/// What those are told to wait who sent too many.
pub const RETRY_AFTER_S: u64 = 1;

/// Clones count together.
#[derive(Debug, Clone)]
pub struct Failures(Arc<Mutex<Buckets<IpAddr>>>);

impl Default for Failures {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Buckets::new(FAILURES, ONE_MORE))))
    }
}

impl Failures {
    /// Counts one more, and answers whether the source has had enough of them.
    pub fn is_too_much(&self, from: Option<SocketAddr>) -> bool {
        let source = from.map_or(Ipv6Addr::UNSPECIFIED.into(), |from| from.ip());
        let (mut failures, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        failures.draw(source, now).is_none()
    }
}
