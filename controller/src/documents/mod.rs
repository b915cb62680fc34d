//! Operators' texts (netplan, Butane) parsed into desired states.
