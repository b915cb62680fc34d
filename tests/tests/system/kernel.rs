//! The agent's kernel tests, in the kernel that machines run: hosts may lack what it has.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_tests::guest::{Ended, Guest};
use muster_tests::slot::Slot;
use muster_tests::{artifacts, scratch};

/// A minute on a processor of its own.
const DEADLINE: Duration = Duration::from_secs(600);

/// Everything in `agent/tests/signatures/layers.rs`.
#[test]
fn what_the_kernel_of_machines_stacks_on_disks_is_read_as_its_tools_tell_it() -> Result<()> {
    let programs = artifacts::test_programs("signatures")?;
    ensure!(!programs.is_empty(), "agent/tests/signatures/main.rs is there");
    let _slot = Slot::take()?;
    let guest = Guest {
        programs: &programs,
        // Arrays and groups are the whole kernel's.
        arguments: "layers:: --include-ignored --test-threads=1",
        commands: &[
            "mdadm",
            "lvm",
            "dmsetup",
            "cryptsetup",
            "losetup",
            "mke2fs",
            "mkswap",
            "mount",
            "umount",
            "dd",
            "mkdir",
            "rm",
        ],
        // What others ask for when they are loaded comes first.
        modules: &[
            "crc32c_generic",
            "ecb",
            "xts",
            "af_alg",
            "algif_skcipher",
            "loop",
            "raid0",
            "raid1",
            "raid10",
            "raid456",
            "dm-mod",
            "dm-crypt",
            "dm-snapshot",
            "dm-thin-pool",
            "dm-raid",
            "ext4",
            "8139cp",
        ],
        files: &[],
        memory_mib: 1024,
        nic: "rtl8139",
    };
    for ended in guest.run(&scratch::scratch("layers-kernel")?, DEADLINE)? {
        check(&ended).with_context(|| ended.output.join("\n"))?;
    }
    Ok(())
}

/// Everything in `agent/tests/network_kernel*.rs`, what the host's kernel cannot run included.
#[test]
fn the_kernel_of_machines_does_what_the_agent_asks_of_it() -> Result<()> {
    let programs = artifacts::test_programs("network_kernel*")?;
    ensure!(!programs.is_empty(), "agent/tests/network_kernel.rs is there");
    let _slot = Slot::take()?;
    let guest = Guest {
        programs: &programs,
        arguments: "--include-ignored --test-threads=6",
        commands: &["ip", "bridge", "dnsmasq", "ethtool"],
        modules: &["8021q", "bonding", "bridge", "veth", "dummy", "macvlan", "vrf", "8139cp"],
        memory_mib: 512,
        files: &[],
        // It knows magic packets.
        nic: "rtl8139",
    };
    for ended in guest.run(&scratch::scratch("kernel")?, DEADLINE)? {
        check(&ended).with_context(|| ended.output.join("\n"))?;
    }
    Ok(())
}

/// Everything in `agent/tests/tools_kernel/` but what takes too long: the tools image of the image that machines boot.
#[test]
fn the_kernel_of_machines_mounts_the_tools_and_runs_them() -> Result<()> {
    with_tools("tools-kernel", "--include-ignored --skip at_every_flush --test-threads=1", DEADLINE)
}

/// See `agent/tests/tools_kernel/cuts.rs`.
#[test]
#[ignore = "minutes: make cuts-test"]
fn arrays_encryption_and_volumes_are_cut_at_every_flush() -> Result<()> {
    with_tools("cuts-kernel", "at_every_flush --include-ignored --nocapture", DEADLINE * 6)
}

fn with_tools(name: &str, arguments: &str, deadline: Duration) -> Result<()> {
    let programs = artifacts::test_programs("tools_kernel")?;
    let tools = artifacts::tools()?;
    let _slot = Slot::take()?;
    let guest = Guest {
        programs: &programs,
        arguments,
        commands: &["losetup", "dmsetup"],
        // What the initramfs has, as far as it is needed here, and what logs writes.
        modules: &["loop", "squashfs", "crc32c_generic", "ext4", "libcrc32c", "dm-log-writes", "8139cp"],
        memory_mib: 1024,
        files: &[(Path::new("tools.image"), &tools)],
        nic: "rtl8139",
    };
    for ended in guest.run(&scratch::scratch(name)?, deadline)? {
        println!("{}", ended.output.join("\n"));
        check(&ended).with_context(|| ended.output.join("\n"))?;
    }
    Ok(())
}

/// Of this program there were tests, all were run, and all passed.
fn check(ended: &Ended) -> Result<()> {
    let Ended { program, status, output } = ended;
    let summary = output.iter().rev().find_map(|line| line.strip_prefix("test result: "));
    let summary = summary.with_context(|| format!("{program} has no summary"))?;
    let count = |what: &str| -> Result<u32> {
        let (before, _) = summary.split_once(what).with_context(|| format!("no {what:?} in {summary:?}"))?;
        Ok(before.split_whitespace().last().unwrap_or_default().parse()?)
    };
    ensure!(*status == 0 && summary.starts_with("ok."), "{program} ended with {status}: {summary}");
    ensure!(count(" passed")? > 0 && count(" failed")? == 0 && count(" ignored")? == 0, "{program}: {summary}");
    Ok(())
}
