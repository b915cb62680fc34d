//! Cycle's part: a server is provisioned, restarted and decommissioned on a real machine, and its disks are looked at
//! from outside before and after; another one starts Cycle's image, is restarted by its BMC, and comes back.
//!
//! ```text
//! machine ── NIC 1 ── 10.77.0.0/24 ── tap `wire`, 10.77.0.1: the controller, its DHCP and metadata, Cycle's image
//!         ├─ NIC 2 ── QEMU's own network
//!         └─ KCS ──── a BMC, which is 10.77.0.9 on the controller's side
//! ```
//!
//! Somebody else's DHCP server is on the wire until the machine is known; from then on the controller's is alone.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use muster_protocol::VlanTag;
use muster_tests::cycle::{self, Cycle};
use muster_tests::image::Image;
use muster_tests::lab::{self, BOOT, Lab, SOON, WIPE, text};
use muster_tests::qemu::{Bmc, Boot, Firmware, Machine};
use muster_tests::slot::Slot;
use muster_tests::switch::{Port, Switch, Tap};
use muster_tests::{bmc, disks, eventually, namespace, scratch, site};
use serde_json::json;

const WIRE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

const BMC: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const BMC_MAC: &str = "02:00:5e:00:77:09";

const METADATA: &str = "10.77.0.1:8091";

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGEga2V5IG9mIG5vYm9keSB0aGF0IG9wZW5zIG5vbmUh ops@example.net";

#[test]
fn nothing_is_left_of_a_server_of_cycles_on_its_machine_and_the_next_one_starts_cycles_own_image() -> Result<()> {
    let slot = Slot::take()?;
    let metadata = format!("http://{METADATA}");
    let paths =
        ["nocloud/meta-data", "nocloud/user-data", "latest/meta-data/local-ipv4", "openstack/latest/network_data.json"];
    let cycles_own = Image::make(&scratch::scratch("cycle-image")?, WIRE, &metadata, &paths)?;
    namespace::enter()?;
    let folder = scratch::scratch("cycle")?;
    let untagged = VlanTag::try_from(1)?;
    let tap = Tap { name: "wire".into(), vlan: untagged, addresses: vec![format!("{WIRE}/24")] };
    let switch = Switch::start(&[Port { untagged, tagged: vec![] }], &[tap])?;
    let elsewhere = "--interface=wire --dhcp-range=10.77.0.100,10.77.0.200,255.255.255.0,2m";
    let elsewhere = site::serve_dhcp(elsewhere, &folder)?;
    let more = format!("[dhcp]\ninterfaces = \"wire\"\n[listen]\nmetadata = {METADATA:?}\n");
    let lab = Lab::configured(&folder, &more, slot)?;
    let _bmc = bmc::start(&folder.join("bmc"), BMC, BMC_MAC)?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Cd(lab.iso_for(&WIRE.to_string())?))?;
    (spec.nics[0].net, spec.bmc) = (switch.net(0), Bmc::OnLan);
    let folder = lab.folder.join("machine");
    let machine = Machine::start(&spec, &folder)?;
    let approved = lab.admit()?;
    lab.until(SOON, "the agent has asked the BMC where it is", |m| {
        m["inventory"]["bmc"] == json!({ "address": BMC.to_string(), "mac": BMC_MAC })
    })?;
    // Its addresses are the controller's to tell from now on.
    drop(elsewhere);
    lab.controller.muster(&[
        "subnet",
        "add",
        "10.77.0.0/24",
        "--location",
        lab::LOCATION,
        "--gateway",
        "10.77.0.1",
        "--nameserver",
        "10.77.0.1",
        "--reserve",
        "10.77.0.100-10.77.0.200",
    ])?;
    let credential = lab.controller.muster_json(&["ial", "credential", "create", "cycle"])?;
    let cycle = Cycle::new(lab.controller.anonymous()?, text(&credential, "/key")?, text(&credential, "/secret")?);

    // What Cycle asks every six hours.
    ensure!(cycle.verify()?, "the credential is good");
    let locations = cycle.locations()?;
    ensure!(locations.iter().any(|l| l["provider"]["location_id"] == lab::LOCATION), "our location: {locations:?}");
    let models = cycle.models()?;
    let model = models.first().context("one machine is one model")?;
    ensure!(model["specs"]["cpu"]["cores"] == json!(spec.cpus), "the model is what the machine is: {model}");

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

    // And once more, with an image of Cycle's own: what was given back can be had again.
    let image = cycles_own;
    image.serve(WIRE)?;
    let user_data = lab.folder.join("user-data");
    std::fs::write(&user_data, "#cloud-config\nfinal_message: there\n")?;
    let file = user_data.to_str().context("the path is UTF-8")?;
    lab.controller.muster(&["location", "set", lab::LOCATION, "--boot-target", &Image::url(WIRE)])?;
    lab.controller.muster(&["location", "metadata", lab::LOCATION, "--user-data", file, "--ssh-key", KEY])?;
    let next = cycle.provision(model, lab::LOCATION, &configuration, 2)?;
    ensure!(next.id != server.id, "another server");

    // It goes there by itself, is not let in before Cycle has read of it, and asks again.
    let denied = eventually(BOOT, "the machine asks for Cycle's image", || {
        image.heard().denied.first().copied().context("it has not asked yet")
    })?;
    eventually(SOON, "the machine says so", || {
        let screen = machine.text_screen()?;
        ensure!(screen.contains("asking the controller again in 10 seconds"), "{screen}");
        Ok(())
    })?;
    let identity = cycle.provision_status(&next)?.context("it is provisioned by then")?;
    ensure!(identity.initial_ips == [denied.ip().to_string()], "Cycle knows whence it asks: {identity:?}, {denied}");
    let export = lab.controller.muster(&["dhcp", "export", "--format", "dnsmasq", "--location", lab::LOCATION])?;
    let host = format!("dhcp-host=52:54:00:4c:41:01,{},srv-2\n", denied.ip());
    ensure!(export.ends_with(&host), "what another DHCP server would say: {export}");
    image.authorize();
    let said = eventually(BOOT, "Cycle's image calls home", || {
        image.heard().calls.into_iter().next().context("it has not called yet")
    })?;
    let own = denied.ip();
    let dhcp = format!(
        "dhcp: ip={own} mask=255.255.255.0 router=10.77.0.1 dns=10.77.0.1 hostname=srv-2.lab.example.net lease=600"
    );
    for expected in [
        dhcp.as_str(),
        &format!("\"instance-id\": \"{}\"", next.id),
        KEY,
        "final_message: there",
        &format!("local-ipv4: {own}"),
        "\"ethernet_mac_address\": \"52:54:00:4c:41:01\"",
    ] {
        ensure!(said.contains(expected), "{expected} is not in {said}");
    }
    // Nobody else is told, be he on this very host.
    let stranger = muster_tests::http::Http::plain(&metadata).send("GET", "/nocloud/user-data", &[], None)?;
    ensure!(stranger.status == 404, "{}", stranger.text());
    ensure!(lab.machine()?["presence"]["state"] == "offline", "no agent is there");

    // Nobody can restart it, and Cycle hears that; once its BMC is named, the controller can.
    let name = text(&approved, "/name")?;
    let refused = cycle.restart(&next).err().context("nothing is there that could restart it")?;
    ensure!(format!("{refused:#}").contains("BMC"), "{refused:#}");
    let password = lab.folder.join("bmc-password");
    std::fs::write(&password, format!("{}\n", bmc::PASSWORD))?;
    let password = password.to_str().context("the path is UTF-8")?;
    let address = BMC.to_string();
    lab.controller.muster(&[
        "machine",
        "bmc",
        "set",
        name,
        "--ipmi",
        &address,
        "--user",
        bmc::USER,
        "--password-file",
        password,
    ])?;
    cycle.restart(&next)?;
    eventually(BOOT, "Cycle's image calls home from another boot", || {
        ensure!(image.heard().calls.len() > 1, "it has not called again");
        Ok(())
    })?;

    // The lease ends, its BMC restarts the machine, and the agent is back to wipe what was left.
    cycle.decommission(&next)?;
    lab.until(BOOT, "the agent is back", |m| m["lifecycle"] != "leased" && m["presence"]["state"] == "online")?;
    Ok(())
}
