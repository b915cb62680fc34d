//! Cycle's Infrastructure Abstraction Layer under `/v1`.
