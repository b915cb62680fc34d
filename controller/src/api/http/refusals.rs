//! What somebody known asked for and was refused goes into the audit log as well: attempts have authors.
//!
//! A script that goes wrong must not fill the disk: beyond a number of entries its refusals are counted, and the next
//! entry says how many were left out. Used by the operator API and the IAL.

use std::collections::HashMap;
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
    counted: Arc<Mutex<Counted>>,
}

struct Counted {
    written: Buckets<String>,
    left_out: HashMap<String, u64>,
}

impl Counted {
    /// How many were left out before this one, which is to be written; `None` where it is left out too.
    fn take(&mut self, who: &str, now: Instant) -> Option<u64> {
        if !self.written.has(who.to_owned(), now) {
            *self.left_out.entry(who.to_owned()).or_default() += 1;
            return None;
        }
        self.written.take(who.to_owned(), now);
        Some(self.left_out.remove(who).unwrap_or_default())
    }
}

impl Refusals {
    /// Of requests that go to this fleet.
    pub fn new(fleet: Fleet) -> Self {
        let counted = Counted { written: Buckets::new(WRITTEN, ONE_MORE), left_out: HashMap::new() };
        Self { fleet, counted: Arc::new(Mutex::new(counted)) }
    }

    /// Writes that `author` asked for `what` and was refused, if there have not been too many of these.
    pub async fn note(&self, author: Author, what: &str, why: &str) {
        let left_out = self.counted.lock().unwrap_or_else(PoisonError::into_inner).take(&author.who, Instant::now());
        let Some(left_out) = left_out else { return };
        let (who, what) = (author.who.clone(), what.to_owned());
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
        let mut counted = Counted { written: Buckets::new(WRITTEN, ONE_MORE), left_out: HashMap::new() };
        let mut now = Instant::now();
        for _ in 0..WRITTEN {
            assert_eq!(counted.take("token:ci", now), Some(0));
        }
        for _ in 0..17 {
            assert_eq!(counted.take("token:ci", now), None);
        }
        assert_eq!(counted.take("token:olga", now), Some(0), "others are not kept from it");
        now += ONE_MORE;
        assert_eq!(counted.take("token:ci", now), Some(17));
        assert_eq!(counted.take("token:ci", now), None);
    }
}
