//! What everything else stands on and what knows nothing of it: files, words, and what is counted.

pub mod files;
pub mod metrics;
pub mod words;
