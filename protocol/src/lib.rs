//! What agent and controller say to each other.
//!
//! Both programs and every simulated peer use these types.
//! There is no I/O, no clock and no randomness here: bytes in, values out, and the other way round.
//!
//! Files are named by the direction of speech: [`to_agent`] is what a controller asks of an agent, [`to_controller`]
//! what an agent tells a controller, [`enroll`] the one conversation before there is a certificate.
//! [`desired`] and [`observed`] are the two descriptions of a machine that everything else is about; [`handed`] is what of
//! them a boot script carries, [`tools`] what of an image is fetched later, and [`disk`] what is written to a disk.

pub mod bounded;
pub mod carried;
pub mod desired;
pub mod drift;
pub mod enroll;
pub mod frame;
pub mod hello;
pub mod ids;
pub mod inventory;
pub mod observed;
pub mod outcome;
pub mod to_agent;
pub mod to_controller;

pub use carried::{disk, handed, secret, tools};
pub use ids::{BootId, Digest, DiskId, Generation, Mac, MachineId, OperationId, VlanTag};
pub use secret::DiskKey;

/// The one protocol version that exists; see [`hello::version`] for the policy.
pub use hello::version;

/// ALPN of sessions: mutual TLS, the agent shows the certificate it was enrolled with.
pub const ALPN_SESSION: &[u8] = b"muster/1";

/// ALPN of enrollment: the agent has no certificate yet and shows by whose leave it comes.
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
    /// In place of a ticket, on a sealed ISO: the site credential, 64 lower-case hex digits.
    pub const SITE: &str = "muster.site";
    /// The controller's time when it wrote the script, in seconds since 1970 UTC.
    pub const TIME: &str = "muster.time";
    /// The lease that iPXE holds: `mac,address,netmask,gateway,dns,dhcp-server`, each part possibly empty.
    pub const LEASE: &str = "muster.lease";
}

/// Codes with which either side closes a QUIC connection (RFC 9000, application close).
///
/// The reason beside the code is text for people; programs look at the code alone and treat an unknown one as
/// [`close::DONE`]: dial again as after any loss.
pub mod close {
    /// Nothing is wrong: the conversation is over, or the program is ending.
    pub const DONE: u32 = 0;
    /// The peer sent what is not the protocol: garbage, an oversized frame, leftovers, a missing hello.
    pub const PROTOCOL: u32 = 1;
    /// A newer session of the same machine has taken this one's place.
    pub const REPLACED: u32 = 2;
    /// The certificate is missing, superseded, or of a machine that is not in the fleet any more.
    /// Dialing again with it is no use.
    pub const UNAUTHORIZED: u32 = 3;
    /// What the welcome said has changed (the machine was approved, or is to do something else about drift): dial again at once and say hello.
    pub const CHANGED: u32 = 4;
    /// Too much at once: dial again later.
    pub const BUSY: u32 = 5;
}
