//! What everything else stands on and what knows nothing of it: files, words, the time, what is counted, who is one source,
//! and what switches a machine from outside.

pub mod clock;
pub mod disk_image;
pub mod files;
pub mod metrics;
pub mod power;
pub mod source;
pub mod words;
