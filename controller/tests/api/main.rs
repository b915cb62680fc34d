//! The operator API as its callers see it.

mod access;
mod change;
mod desired;
mod feed;
mod input;
mod lab;
mod lease;
mod read;
