//! DHCPv4: keeps a lease for a link (RFC 2131).
//!
//! Our own and minimal, because the size of the agent counts: messages as bytes, the client as a machine without sockets
//! and clock, and the sockets. `network::keeper` drives them.

pub mod client;
pub mod message;
pub mod socket;

pub use client::{Action, Client, Lease, Listening};
pub use socket::Socket;
