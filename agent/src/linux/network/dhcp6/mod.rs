//! DHCPv6: keeps an address for a link, or only learns resolvers and the like (RFC 8415).
//!
//! Our own and minimal, because the size of the agent counts: messages as bytes, the client as a machine without sockets
//! and clock, and the socket. `network::keeper` drives them. Routes come from router advertisements and not from here.

pub mod client;
pub mod message;
pub mod socket;

pub use client::{Action, Client, Lease};
pub use message::Identity;
pub use socket::Socket;
