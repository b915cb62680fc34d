//! What everything else stands on and what knows nothing of it: files, words, the time, what is counted, and who is one source.

pub mod clock;
pub mod disk_image;
pub mod files;
pub mod metrics;
pub mod source;
pub mod words;
