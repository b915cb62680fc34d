//! The real machine, in parts: network by netlink, disks, inventory, kernel modules.
//!
//! Each part does what it is told and reads what is there; none decides.
//! What the glue in this file expects of the parts:
//!
//! - `network::Network::new(lease)` opens sockets and starts nothing; `run(&self)` (async, for ever) sets up every
//!   ethernet, keeps DHCP leases, takes `lease` over; `observe(&self)`, `apply(&self, step)` block.
//! - `inventory::read() -> Inventory`, `inventory::identity() -> Identity`.
//! - `disks::observe() -> Result<Vec<observed::Disk>, MachineError>`.
//! - `storage::apply(step, progress)`, `storage::wipe(disk, progress)`.
//! - `modules::load(name)` before anything that needs a driver: it is quick where the module is there already.

pub mod dhcp;
pub mod disks;
pub mod gpt;
pub mod inventory;
pub mod modules;
pub mod netlink;
pub mod network;
pub mod resolv;
pub mod signatures;
pub mod smbios;
pub mod sockopt;
pub mod storage;
pub mod sysfs;
pub mod text;
