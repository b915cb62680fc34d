//! The real machine, in parts: network by netlink, disks, inventory, kernel modules.
//!
//! Each part does what it is told and reads what is there; none decides.
//! What the glue in this file expects of the parts:
//!
//! - `network::Network::new(lease)` opens sockets and starts nothing; `bring_up(&self)` returns at once, and from then on a
//!   thread of its own sets up every ethernet, takes `lease` over and keeps DHCP leases; `observe(&self)` and
//!   `apply(&self, step)` block.
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
