//! The operator API as its callers see it.

mod access;
mod audit;
mod ca;
mod change;
mod desired;
mod feed;
mod input;
mod join;
mod keys;
mod lab;
mod lease;
mod read;
mod rollout;
