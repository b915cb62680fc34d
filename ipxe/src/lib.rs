//! From power-on to the agent's first instruction: boot scripts, the boot image, the site's boot medium.
//!
//! The controller's HTTP listener takes its scripts from [`script`]; its command line builds images with `image` and
//! media with `iso`.
//! There is no kernel and no iPXE in here: those come from Debian's packages, on the host that builds.

pub mod param;
pub mod script;
