//! Bridges in netplan's words: a switch inside the machine.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// netplan's `bridges:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// netplan's `interfaces`: ids of ethernets, bonds and VLANs; at most 128.
    pub ports: Vec<String>,
    /// What the document says; the rest is at its [default](BridgeOption::default_value).
    pub options: BTreeMap<BridgeOption, u32>,
    /// netplan's `path-cost` and `port-priority`, by the port's id.
    pub costs: BTreeMap<String, PortCost>,
}

impl Bridge {
    /// The value of an option, said or not.
    pub fn option(&self, option: BridgeOption) -> u32 {
        self.options.get(&option).copied().unwrap_or(option.default_value())
    }
}

/// What spanning tree reckons with at a port. `None` leaves it as the kernel set it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCost {
    /// netplan's `path-cost`, 1 to 65,535; the kernel sets it by the port's speed.
    pub path_cost: Option<u32>,
    /// netplan's `port-priority`, 0 to 63; the kernel sets 32.
    pub priority: Option<u32>,
}

/// What can be said of a bridge by a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BridgeOption {
    /// `stp`: off, on.
    Stp,
    /// `forward-delay`, in hundredths of a second: a port listens, and then learns, for so long before it forwards.
    ForwardDelay,
    /// `hello-time`, in hundredths of a second.
    HelloTime,
    /// `max-age`, in hundredths of a second.
    MaxAge,
    /// `ageing-time`, in hundredths of a second.
    AgeingTime,
    /// `priority`.
    Priority,
}

impl BridgeOption {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Stp, Self::ForwardDelay, Self::HelloTime, Self::MaxAge, Self::AgeingTime, Self::Priority];

    /// netplan's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stp => "stp",
            Self::ForwardDelay => "forward-delay",
            Self::HelloTime => "hello-time",
            Self::MaxAge => "max-age",
            Self::AgeingTime => "ageing-time",
            Self::Priority => "priority",
        }
    }

    /// What it can be (net/bridge/br_private_stp.h); with spanning tree on, `forward-delay` is 2 s at least.
    pub fn range(self) -> RangeInclusive<u32> {
        match self {
            Self::Stp => 0..=1,
            Self::ForwardDelay => 0..=3_000,
            Self::HelloTime => 100..=1_000,
            Self::MaxAge => 600..=4_000,
            Self::AgeingTime => 0..=100_000_000,
            Self::Priority => 0..=65_535,
        }
    }

    /// What it is where the document is silent: netplan's default for `stp`, the kernel's for the rest.
    pub fn default_value(self) -> u32 {
        match self {
            Self::Stp => 1,
            Self::ForwardDelay => 1_500,
            Self::HelloTime => 200,
            Self::MaxAge => 2_000,
            Self::AgeingTime => 30_000,
            Self::Priority => 32_768,
        }
    }
}
