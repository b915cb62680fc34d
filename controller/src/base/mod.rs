//! What everything else stands on and what knows nothing of it: files, words, what is counted, and who is one source.

pub mod files;
pub mod metrics;
pub mod source;
pub mod words;
