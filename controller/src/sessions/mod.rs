//! QUIC: enrollment, sessions, and who is online.
