//! Cycle's part: a server is provisioned, restarted and decommissioned on a real machine, and its disks are looked at
//! from outside before and after.

use anyhow::{Context, Result, ensure};
use muster_tests::cycle::{self, Cycle};
use muster_tests::lab::{self, BOOT, Lab, SOON, WIPE, text};
use muster_tests::qemu::{Boot, Firmware, Machine};
use muster_tests::{disks, eventually};
use serde_json::json;

#[test]
fn cycle_provisions_restarts_and_decommissions_a_machine_and_nothing_of_it_is_left_on_its_disks() -> Result<()> {
    let lab = Lab::open("cycle", &[])?;
    let spec = lab::machine(Firmware::Bios, Boot::Cd(lab.iso()?))?;
    let folder = lab.folder.join("machine");
    let _machine = Machine::start(&spec, &folder)?;
    let approved = lab.admit()?;
    lab.controller.muster(&["subnet", "add", "10.0.2.0/24", "--location", lab::LOCATION, "--gateway", "10.0.2.2"])?;
    let credential = lab.controller.muster_json(&["ial", "credential", "create", "cycle"])?;
    let cycle = Cycle::new(lab.controller.anonymous()?, text(&credential, "/key")?, text(&credential, "/secret")?);

    // What Cycle asks every six hours.
    ensure!(cycle.verify()?, "the credential is good");
    let locations = cycle.locations()?;
    ensure!(locations.iter().any(|l| l["provider"]["location_id"] == lab::LOCATION), "our location: {locations:?}");
    let models = cycle.models()?;
    let model = models.first().context("one machine is one model")?;
    ensure!(model["specs"]["cpu"]["cores"] == json!(2), "the model is what the machine is: {model}");

    // Provision: again and again the same server, ready once the machine really is.
    let configuration = cycle.configure(lab::LOCATION)?;
    let server = cycle.provision(model, lab::LOCATION, &configuration, 1)?;
    let repeated = cycle.provision(model, lab::LOCATION, &configuration, 1)?;
    ensure!(repeated.id == server.id, "the same request asks for the same server");
    let identity = eventually(BOOT, "the server is provisioned", || {
        cycle.provision_status(&server)?.context("it is not provisioned yet")
    })?;
    ensure!(identity.uuid == spec.uuid, "the UUID is the machine's: {identity:?}");
    ensure!(identity.mac_addr == spec.nics[0].mac.to_string(), "the MAC is its first NIC's: {identity:?}");
    let leased = lab.machine()?;
    ensure!(leased["lifecycle"] == "leased" && leased["presence"]["state"] == "online", "it is leased: {leased}");
    ensure!(!identity.initial_ips.is_empty(), "it has an address: {identity:?}");
    lab.until(SOON, "the inventory shows the addresses that Cycle was told", |m| {
        let addresses = m["addresses"].to_string();
        identity.initial_ips.iter().all(|ip| addresses.contains(&format!("\"{ip}/")))
    })?;

    // The status under both names and by both verbs.
    let request = cycle.status_request(&server);
    for (method, name) in [("GET", "provision-status"), ("GET", "provision-check"), ("POST", "provision-check")] {
        let data = cycle.call(method, &format!("/v1/infrastructure/server/{name}"), &request)?;
        ensure!(cycle::identity(&data)?.as_ref() == Some(&identity), "{method} {name} says the same: {data}");
    }

    // The disks, from outside. What the machine has in its memory is on the disk only once it was synced.
    let (image, partition, fields) = eventually(SOON, "a disk carries a GPT with an ext4", || {
        for disk in &spec.disks {
            let image = disk.path(&folder);
            if let Ok(found) = disks::partitions(&image)
                && let Some(partition) = found.into_iter().next()
            {
                let fields = disks::ext4(&image, &partition)?;
                return Ok((image, partition, fields));
            }
        }
        anyhow::bail!("none does")
    })?;
    ensure!(partition.kind == "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux filesystem data: {partition:?}");
    ensure!(fields.contains_key("Filesystem UUID"), "{}: {fields:?}", image.display());

    // One more address, and back.
    let address = cycle.allocate(&server, "ipv4", 7)?;
    ensure!(cycle.allocate(&server, "ipv4", 7)? == address, "the same pool is the same address");
    ensure!(!identity.initial_ips.iter().any(|ip| address["cidr"].as_str().unwrap_or("").starts_with(ip)), "{address}");
    cycle.release(&server, "ipv4", 7, &address)?;
    cycle.release(&server, "ipv4", 7, &address)?;

    // Restart: a new boot, and the server is still Cycle's.
    let boot = text(&leased, "/presence/boot")?;
    cycle.restart(&server)?;
    let restarted = lab.until_online(Some(boot))?;
    ensure!(restarted["lifecycle"] == "leased", "it is still leased: {restarted}");
    eventually(BOOT, "the restarted server is as it was", || {
        let again = cycle.provision_status(&server)?.context("it is not provisioned")?;
        ensure!(again == identity, "another identity: {again:?}");
        Ok(())
    })?;

    // Decommission, twice: every byte is zero, the machine is available again.
    for disk in &spec.disks {
        ensure!(disk.path(&folder).exists(), "the images are there");
    }
    ensure!(disks::first_data(&image)?.is_some(), "there is something to wipe");
    cycle.decommission(&server)?;
    cycle.decommission(&server)?;
    let free = lab.until(WIPE, "the machine is available again", |m| {
        m["lifecycle"] == "available" && m["presence"]["state"] == "online"
    })?;
    ensure!(free["id"] == approved["id"], "it is the same machine: {free}");
    for disk in &spec.disks {
        let left = disks::first_data(&disk.path(&folder))?;
        ensure!(left.is_none(), "{} carries data at byte {left:?}", disk.serial);
    }

    // And once more: what was given back can be had again.
    let next = cycle.provision(model, lab::LOCATION, &configuration, 2)?;
    ensure!(next.id != server.id, "another server");
    eventually(BOOT, "the next server is provisioned", || {
        cycle.provision_status(&next)?.context("it is not provisioned yet")
    })?;
    Ok(())
}
