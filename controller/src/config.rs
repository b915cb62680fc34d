//! `muster.toml`.
