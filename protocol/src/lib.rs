//! What agent and controller say to each other.
//!
//! Both programs and every simulated peer use these types.
//! There is no I/O, no clock and no randomness here: bytes in, values out, and the other way round.
//!
//! Files are named by the direction of speech: [`to_agent`] is what a controller asks of an agent, [`to_controller`]
//! what an agent tells a controller, [`enroll`] the one conversation before there is a certificate.
//! [`desired`] and [`observed`] are the two descriptions of a machine that everything else is about.

pub mod desired;
pub mod enroll;
pub mod frame;
pub mod hello;
pub mod ids;
pub mod inventory;
pub mod observed;
pub mod to_agent;
pub mod to_controller;

pub use ids::{BootId, Digest, DiskId, Generation, Mac, MachineId, OperationId, VlanTag};

/// The one protocol version that exists; see [`hello::version`] for the policy.
pub use hello::version;

/// ALPN of sessions: mutual TLS, the agent shows the certificate it was enrolled with.
pub const ALPN_SESSION: &[u8] = b"muster/1";

/// ALPN of enrollment: the agent has no certificate yet and shows a boot ticket.
pub const ALPN_ENROLL: &[u8] = b"muster-enroll/1";

/// The DNS name in every controller certificate.
/// Agents reach controllers by address, so the name says which role the peer has and not where it lives.
pub const CONTROLLER_NAME: &str = "controller.muster.internal";

/// Names of the kernel command-line parameters through which a boot script hands its values to the agent.
pub mod cmdline {
    /// `host:port[,host:port…]` of the controllers' UDP listeners, IPv6 addresses in brackets.
    pub const CONTROLLER: &str = "muster.controller";
    /// SHA-256 of the controller CA's certificate in DER, 64 lower-case hex digits.
    pub const CA: &str = "muster.ca";
    /// The boot ticket, 64 lower-case hex digits.
    pub const TICKET: &str = "muster.ticket";
    /// The controller's time when it wrote the script, in seconds since 1970 UTC.
    pub const TIME: &str = "muster.time";
    /// The lease that iPXE holds: `mac,address,netmask,gateway,dns,dhcp-server`, each part possibly empty.
    pub const LEASE: &str = "muster.lease";
}
