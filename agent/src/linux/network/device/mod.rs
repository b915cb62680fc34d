//! What can be said of a link but not by route netlink: switches in /proc, wake-on-LAN, a question to routers.

mod solicit;
pub(super) mod sysctl;
pub(super) mod wake;
