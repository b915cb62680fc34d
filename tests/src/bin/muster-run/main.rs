//! `make run`: the whole path once, on real programs and a virtual machine, with somebody watching.
//!
//! A controller on its defaults, a site ISO, a machine that boots from it, and Cycle's part through all ten endpoints.
//! Then everything stays up until Ctrl-C; with `--once` it ends, successfully only if every step held.

mod steps;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use muster_tests::controller::PORT;
use muster_tests::cycle::{Cycle, Server};
use muster_tests::lab::{self, BOOT, LOCATION, Lab, WIPE, text};
use muster_tests::qemu::{Boot, Disk, Firmware, Machine};
use muster_tests::slot::Slot;
use muster_tests::{disks, eventually, scratch};
use serde_json::Value;
use steps::Steps;

/// Steps that [`play`] does.
const STEPS: usize = 18;

fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--once" => true,
        other => {
            eprintln!("muster-run: unknown arguments {other:?}; it takes --once or nothing");
            return ExitCode::from(2);
        }
    };
    let mut steps = Steps::new(STEPS);
    let stage = match play(&mut steps) {
        Ok(stage) => stage,
        Err(_) => {
            // The step that failed has said why.
            println!("\nNot everything held. Logs, console and disks: {}", folder().display());
            return ExitCode::FAILURE;
        }
    };
    println!("\nEvery step held, in {} s.", steps.seconds());
    if !once && let Err(error) = stay(&stage) {
        eprintln!("muster-run: {error:#}");
        return ExitCode::FAILURE;
    }
    if steps.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What stays up. Dropped in this order: the machine before its controller.
struct Stage {
    machine: Machine,
    name: String,
    lab: Lab,
}

fn folder() -> std::path::PathBuf {
    scratch::build().join("tests").join("run")
}

fn play(steps: &mut Steps) -> Result<Stage> {
    let lab = steps.step("a controller starts on its embedded database, with one location", || {
        let lab = Lab::open_here(&scratch::scratch("run")?, &[], Slot::take()?)?;
        let said = format!("https://127.0.0.1:{PORT}, data in {}", lab.controller.data().display());
        Ok((lab, said))
    })?;
    let muster = |arguments: &[&str]| lab.controller.muster(arguments);
    let iso = steps.step("a site ISO is built, for CD and USB, BIOS and UEFI", || {
        let iso = lab.iso()?;
        let size = iso.metadata()?.len();
        Ok((iso.clone(), format!("{}, {} KiB", iso.display(), size >> 10)))
    })?;
    let spec = lab::machine(Firmware::Bios, Boot::Cd(iso))?;
    let machine_folder = lab.folder.join("machine");
    let machine = steps.step("a machine with two disks and two NICs boots from it and comes online", || {
        let machine = Machine::start(&spec, &machine_folder)?;
        let online = lab.until_online(None)?;
        let said =
            format!("{}, waiting for approval with claim code {}", text(&online, "/name")?, text(&online, "/claim")?);
        Ok((machine, said))
    })?;
    steps.step("its inventory is what the virtual hardware really has", || {
        let found = lab.until_inventoried(&spec)?;
        Ok(((), summary(&found["inventory"])))
    })?;
    let name = steps.step("an operator approves it", || {
        let name = text(&lab.admit()?, "/name")?.to_owned();
        Ok((name.clone(), format!("muster machine approve {name}")))
    })?;
    let (cycle, credential) = steps.step("the location gets a subnet, Cycle gets a credential", || {
        muster(&["subnet", "add", "10.0.2.0/24", "--location", LOCATION, "--gateway", "10.0.2.2"])?;
        let credential = lab.controller.muster_json(&["ial", "credential", "create", "cycle"])?;
        let (key, secret) = (text(&credential, "/key")?, text(&credential, "/secret")?);
        let cycle = Cycle::new(lab.controller.anonymous()?, key, secret);
        let said = format!("API key {key}");
        Ok(((cycle, credential), said))
    })?;
    steps.step("muster ial check finds nothing wrong in what it may try without leasing anything", || {
        let (key, secret) = (text(&credential, "/key")?, text(&credential, "/secret")?);
        let url = format!("https://127.0.0.1:{PORT}");
        let report = lab.controller.muster_json(&["ial", "check", &url, "--key", key, "--secret", secret])?;
        Ok(((), format!("{} cases passed", report["passed"])))
    })?;
    play_cycle(steps, &lab, &cycle, &spec.disks, &machine_folder)?;
    Ok(Stage { machine, name, lab })
}

/// The ten endpoints, in the order in which Cycle calls them.
fn play_cycle(steps: &mut Steps, lab: &Lab, cycle: &Cycle, plugged: &[Disk], folder: &std::path::Path) -> Result<()> {
    steps.step("IAL auth/verify", || {
        ensure!(cycle.verify()?, "the credential is refused");
        Ok(((), "valid"))
    })?;
    steps.step("IAL provider/locations", || {
        let locations = cycle.locations()?;
        ensure!(!locations.is_empty(), "there is none");
        Ok(((), names(&locations)))
    })?;
    let model = steps.step("IAL provider/server-models", || {
        let models = cycle.models()?;
        Ok((models.first().context("there is none")?.clone(), names(&models)))
    })?;
    let configuration = steps.step("IAL location/configure", || {
        let latest = cycle.configure(LOCATION)?;
        Ok((latest.clone(), format!("configured: {latest}")))
    })?;
    let server: Server = steps.step("IAL server/provision", || {
        let server = cycle.provision(&model, LOCATION, &configuration, 1)?;
        Ok((server.clone(), format!("server {}", server.id)))
    })?;
    steps.step("IAL server/provision-status, until it is provisioned", || {
        let identity = eventually(BOOT, "the server is provisioned", || {
            cycle.provision_status(&server)?.context("it is not provisioned yet")
        })?;
        let used = plugged.iter().find_map(|disk| {
            let partition = disks::partitions(&disk.path(folder)).ok()?.into_iter().next()?;
            Some(format!("disk {} has a GPT with {:?}", disk.serial, partition.name))
        });
        let used = used.context("no disk was prepared")?;
        Ok(((), format!("{} {} {}; {used}", identity.uuid, identity.mac_addr, identity.initial_ips.join(" "))))
    })?;
    let address = steps.step("IAL ip/allocate", || {
        let address = cycle.allocate(&server, "ipv4", 7)?;
        Ok((address.clone(), format!("{} by way of {}", address["cidr"], address["gateway"])))
    })?;
    steps.step("IAL ip/release", || {
        cycle.release(&server, "ipv4", 7, &address)?;
        Ok(((), format!("{} is free again", address["cidr"])))
    })?;
    let boot = text(&lab.machine()?, "/presence/boot")?.to_owned();
    steps.step("IAL server/restart: the machine is back with a new boot", || {
        cycle.restart(&server)?;
        let again = lab.until_online(Some(&boot))?;
        Ok(((), format!("boot {boot} was followed by {}", text(&again, "/presence/boot")?)))
    })?;
    steps.step("IAL server/decommission: its disks are wiped, it is available again", || {
        cycle.decommission(&server)?;
        lab.until(WIPE, "the machine is available", |m| {
            m["lifecycle"] == "available" && m["presence"]["state"] == "online"
        })?;
        for disk in plugged {
            if let Some(at) = disks::first_data(&disk.path(folder))? {
                bail!("disk {} carries data at byte {at}", disk.serial);
            }
        }
        Ok(((), "every byte of both disks is zero, seen from outside"))
    })?;
    steps.step("the operator sees all of it in the audit log", || {
        let audit = lab.controller.muster(&["audit"])?;
        Ok(((), format!("muster audit: {} lines", audit.lines().count())))
    })
}

/// Keeps everything up until Ctrl-C, or until the machine goes by itself.
fn stay(stage: &Stage) -> Result<()> {
    let Stage { name, lab, machine } = stage;
    let data = lab.controller.data();
    let muster = muster_tests::artifacts::muster()?;
    println!(
        "\nController and machine stay up until Ctrl-C.\n\n  \
         https://127.0.0.1:{PORT}/   certificate authority: {}\n\n  \
         export MUSTER_DATA={} PATH={}:$PATH\n  \
         muster machine show {name}\n  muster power reboot {name}\n  muster events --follow\n\n  \
         the machine's console: {}\n",
        data.join("ca.crt").display(),
        data.display(),
        muster.parent().context("a program lies in a folder")?.display(),
        machine.console.path().display(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::signal::ctrl_c())?;
    println!("\nstopping");
    Ok(())
}

fn summary(inventory: &Value) -> String {
    let all = |list: &str, key: &str| {
        let entries = inventory[list].as_array().into_iter().flatten();
        entries.filter_map(|entry| entry[key].as_str().map(str::to_owned)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "{} cores, {} MiB, disks {}, NICs {}",
        inventory["cpu"]["cores"],
        inventory["memory"]["total_bytes"].as_u64().unwrap_or_default() >> 20,
        all("disks", "serial"),
        all("nics", "mac")
    )
}

fn names(list: &[Value]) -> String {
    list.iter().filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect::<Vec<_>>().join(", ")
}
