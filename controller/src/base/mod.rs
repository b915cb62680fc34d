//! What everything else stands on and what knows nothing of it: files, and what is counted.

pub mod files;
pub mod metrics;
