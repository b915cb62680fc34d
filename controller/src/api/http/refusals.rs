//! What somebody known asked for and was refused goes into the audit log as well: attempts have authors.
//!
//! A script that goes wrong must not fill the disk: beyond a number of entries its refusals are counted, and the next
//! entry says how many were left out. Used by the operator API and the IAL.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fleet::{Author, Fleet};
use crate::sessions::limit::Buckets;

/// Refusals of one author that are written at once.
pub const WRITTEN: u32 = 60;

/// After this time one more is.
pub const ONE_MORE: Duration = Duration::from_secs(60);

/// Clones count together.
#[derive(Clone)]
pub struct Refusals {
    fleet: Fleet,
    counted: Arc<Mutex<Buckets<String>>>,
}

impl Refusals {
    /// Of requests that go to this fleet.
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet, counted: Arc::new(Mutex::new(Buckets::new(WRITTEN, ONE_MORE))) }
    }

    /// Writes that `author` asked for `what` and was refused, if there have not been too many of these.
    pub async fn note(&self, author: Author, what: &str, why: &str) {
        let who = author.who.clone();
        let left_out = self.counted.lock().unwrap_or_else(PoisonError::into_inner).draw(who.clone(), Instant::now());
        let Some(left_out) = left_out else { return };
        let what = what.to_owned();
        let why = match left_out {
            0 => why.to_owned(),
            count => format!("{why} ({count} more before this one were left out)"),
        };
        let noted = self.fleet.change(author, move |draft| {
            draft.audit_refused("request.refused", what, why);
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::warn!(who, %error, "a refused request is not in the audit log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_goes_wrong_is_written_so_often_and_counted_beyond() {
        let mut counted = Buckets::<String>::new(WRITTEN, ONE_MORE);
        let mut now = Instant::now();
        for _ in 0..WRITTEN {
            assert_eq!(counted.draw("token:ci".into(), now), Some(0));
        }
        for _ in 0..17 {
            assert_eq!(counted.draw("token:ci".into(), now), None);
        }
        assert_eq!(counted.draw("token:olga".into(), now), Some(0), "others are not kept from it");
        now += ONE_MORE;
        assert_eq!(counted.draw("token:ci".into(), now), Some(17));
        assert_eq!(counted.draw("token:ci".into(), now), None);
    }
}
