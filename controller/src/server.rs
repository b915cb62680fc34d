//! What `muster serve` runs.
