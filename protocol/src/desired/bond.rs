//! Bonds in netplan's words: several NICs as one link.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// netplan's `bonds:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// netplan's `interfaces`: ids of ethernets; at most 64.
    pub ports: Vec<String>,
    /// netplan's `mode`.
    pub mode: BondMode,
    /// netplan's `primary`, one of the ports; only where the mode prefers one.
    pub primary: Option<String>,
    /// netplan's `arp-ip-targets`, at most 16.
    pub arp_ip_targets: Vec<Ipv4Addr>,
    /// All else that the document says; the rest is at its [default](BondOption::default_in).
    pub options: BTreeMap<BondOption, u32>,
}

impl Bond {
    /// The value of an option, said or not.
    pub fn option(&self, option: BondOption) -> u32 {
        self.options.get(&option).copied().unwrap_or_else(|| option.default_in(self))
    }
}

/// How a bond's ports share the work. The numbers are the kernel's (linux/if_bonding.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BondMode {
    /// `balance-rr`: one packet each, in turn. netplan's default.
    #[default]
    BalanceRr,
    /// `active-backup`: one works, the others wait.
    ActiveBackup,
    /// `balance-xor`: by a hash of the packet.
    BalanceXor,
    /// `broadcast`: everything by all.
    Broadcast,
    /// `802.3ad`: LACP, with a switch that speaks it.
    Lacp,
    /// `balance-tlb`: outgoing by load.
    BalanceTlb,
    /// `balance-alb`: both ways by load.
    BalanceAlb,
}

impl BondMode {
    /// All of them, by the kernel's number.
    pub const ALL: [Self; 7] = [
        Self::BalanceRr,
        Self::ActiveBackup,
        Self::BalanceXor,
        Self::Broadcast,
        Self::Lacp,
        Self::BalanceTlb,
        Self::BalanceAlb,
    ];

    /// netplan's and the kernel's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::BalanceRr => "balance-rr",
            Self::ActiveBackup => "active-backup",
            Self::BalanceXor => "balance-xor",
            Self::Broadcast => "broadcast",
            Self::Lacp => "802.3ad",
            Self::BalanceTlb => "balance-tlb",
            Self::BalanceAlb => "balance-alb",
        }
    }

    /// Whether one port is in use as long as it works, and which may be said.
    pub fn has_primary(self) -> bool {
        matches!(self, Self::ActiveBackup | Self::BalanceTlb | Self::BalanceAlb)
    }

    /// Whether ports can be watched by ARP (drivers/net/bonding/bond_main.c, bond_mode_uses_arp).
    pub fn may_watch_by_arp(self) -> bool {
        !matches!(self, Self::Lacp | Self::BalanceTlb | Self::BalanceAlb)
    }
}

/// What can be said of a bond by a number. Words are numbered as the kernel numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BondOption {
    /// `mii-monitor-interval`, ms; 0 looks at no carrier.
    MiiMonitorInterval,
    /// `up-delay`, ms, a multiple of the interval.
    UpDelay,
    /// `down-delay`, ms, a multiple of the interval.
    DownDelay,
    /// `lacp-rate`: slow, fast.
    LacpRate,
    /// `ad-select`: stable, bandwidth, count.
    AdSelect,
    /// `min-links`.
    MinLinks,
    /// `transmit-hash-policy`: layer2, layer3+4, layer2+3, encap2+3, encap3+4.
    TransmitHashPolicy,
    /// `all-members-active`: off, on.
    AllMembersActive,
    /// `arp-interval`, ms; 0 asks nobody.
    ArpInterval,
    /// `arp-validate`: none, active, backup, all.
    ArpValidate,
    /// `arp-all-targets`: any, all.
    ArpAllTargets,
    /// `fail-over-mac-policy`: none, active, follow.
    FailOverMac,
    /// `gratuitous-arp`: how often.
    GratuitousArp,
    /// `primary-reselect-policy`: always, better, failure.
    PrimaryReselect,
    /// `resend-igmp`: how often.
    ResendIgmp,
    /// `learn-packet-interval`, s.
    LearnPacketInterval,
    /// `packets-per-member`; 0 is by chance.
    PacketsPerMember,
}

impl BondOption {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::MiiMonitorInterval,
        Self::UpDelay,
        Self::DownDelay,
        Self::LacpRate,
        Self::AdSelect,
        Self::MinLinks,
        Self::TransmitHashPolicy,
        Self::AllMembersActive,
        Self::ArpInterval,
        Self::ArpValidate,
        Self::ArpAllTargets,
        Self::FailOverMac,
        Self::GratuitousArp,
        Self::PrimaryReselect,
        Self::ResendIgmp,
        Self::LearnPacketInterval,
        Self::PacketsPerMember,
    ];

    /// netplan's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::MiiMonitorInterval => "mii-monitor-interval",
            Self::UpDelay => "up-delay",
            Self::DownDelay => "down-delay",
            Self::LacpRate => "lacp-rate",
            Self::AdSelect => "ad-select",
            Self::MinLinks => "min-links",
            Self::TransmitHashPolicy => "transmit-hash-policy",
            Self::AllMembersActive => "all-members-active",
            Self::ArpInterval => "arp-interval",
            Self::ArpValidate => "arp-validate",
            Self::ArpAllTargets => "arp-all-targets",
            Self::FailOverMac => "fail-over-mac-policy",
            Self::GratuitousArp => "gratuitous-arp",
            Self::PrimaryReselect => "primary-reselect-policy",
            Self::ResendIgmp => "resend-igmp",
            Self::LearnPacketInterval => "learn-packet-interval",
            Self::PacketsPerMember => "packets-per-member",
        }
    }

    /// What it can be (drivers/net/bonding/bond_options.c).
    pub fn range(self) -> RangeInclusive<u32> {
        match self {
            Self::MiiMonitorInterval | Self::UpDelay | Self::DownDelay | Self::ArpInterval | Self::MinLinks => {
                0..=i32::MAX.cast_unsigned()
            }
            Self::LacpRate | Self::AllMembersActive | Self::ArpAllTargets => 0..=1,
            Self::AdSelect | Self::FailOverMac | Self::PrimaryReselect => 0..=2,
            Self::ArpValidate => 0..=3,
            Self::TransmitHashPolicy => 0..=4,
            Self::GratuitousArp | Self::ResendIgmp => 0..=255,
            Self::LearnPacketInterval => 1..=i32::MAX.cast_unsigned(),
            Self::PacketsPerMember => 0..=65_535,
        }
    }

    /// Whether the kernel knows it in this mode.
    pub fn is_of(self, mode: BondMode) -> bool {
        match self {
            Self::LacpRate => mode == BondMode::Lacp,
            Self::PacketsPerMember => mode == BondMode::BalanceRr,
            Self::PrimaryReselect => mode.has_primary(),
            Self::ArpInterval | Self::ArpAllTargets => mode.may_watch_by_arp(),
            // Others than active-backup take it since Linux 3.15, all that watch by ARP.
            Self::ArpValidate => mode.may_watch_by_arp(),
            _ => true,
        }
    }

    /// What it is where the document is silent: the kernel's default, but that ports without a watch would never be left
    /// when they lose their carrier, so it is looked at each 100 ms where ARP is not used.
    pub fn default_in(self, bond: &Bond) -> u32 {
        match self {
            Self::MiiMonitorInterval if bond.options.get(&Self::ArpInterval).is_none_or(|ms| *ms == 0) => 100,
            Self::GratuitousArp | Self::ResendIgmp | Self::LearnPacketInterval | Self::PacketsPerMember => 1,
            _ => 0,
        }
    }
}
