//! What a machine that boots gets to see: the right script, whole files and parts of them, and clear refusals.

use axum::body::{Body, to_bytes};
use http::Request;
use muster_ipxe::param::BootUrl;
use muster_protocol::enroll::{Refusal as Refused, SiteCredential, Ticket, Tpm};
use muster_protocol::handed::Handed;
use muster_protocol::hello::{Progress, Times};
use muster_protocol::{Digest, Mac, desired};
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::fleet::enrollment::{self, Seen};
use crate::fleet::machine;
use crate::fleet::record::TicketBound;
use crate::fleet::ticket::Grant;
use crate::store::MemoryStore;

const ASK: &str = "/boot/script?uuid=01010101-0101-0101-0101-010101010101&serial=S-1&macs=52-54-00-12-34-56,,&location=ber1&platform=efi&ipxe=1.21.1";

struct World {
    fleet: Fleet,
    pki: Arc<Pki>,
    router: Router,
    over_https: Router,
    images: std::path::PathBuf,
    _data: tempfile::TempDir,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().expect("visible")).unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

fn world_with(change: impl FnOnce(&mut config::Boot)) -> World {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut boot = Config::with_data(data.path().into()).boot;
    change(&mut boot);
    let (fleet, _) = Fleet::start(MemoryStore::new()).expect("starts");
    let images = boot.images.clone();
    let pki = Arc::new(Pki::open(data.path()).expect("a CA"));
    let settings = Settings { fleet: fleet.clone(), pki: pki.clone(), boot, agents_port: 8443 };
    let (router, over_https) = (plain(settings.clone()), secure(settings));
    World { fleet, pki, router, over_https, images, _data: data }
}

fn world() -> World {
    let world = world_with(|_| ());
    std::fs::create_dir_all(&world.images).expect("made");
    std::fs::write(world.images.join(KERNEL), b"0123456789").expect("written");
    std::fs::write(world.images.join(INITRAMFS), vec![7; 200_000]).expect("written");
    world
}

impl World {
    async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).expect("a request");
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([198, 51, 100, 9], 1234))));
        request.extensions_mut().insert(LocalAddress(IpAddr::from([198, 51, 100, 1])));
        let response = self.router.clone().oneshot(request).await.expect("always answers");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.expect("whole").to_vec();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[]).await
    }

    fn tickets(&self) -> usize {
        self.fleet.state().tickets.len()
    }
}

fn parameter<'a>(script: &'a str, name: &str) -> &'a str {
    let (_, rest) = script.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in {script}"));
    rest.split_whitespace().next().expect("a value")
}

#[tokio::test]
async fn the_first_script_is_the_same_for_everyone_and_passes_the_location_on() {
    let world = world();
    let reply = world.get("/boot.ipxe").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "text/plain"));
    assert!(reply.text().starts_with("#!ipxe\n"));
    assert!(world.get("/boot.ipxe?location=ber1").await.text().contains("set location ber1\n"));
    for junk in
        ["/boot.ipxe?location=Ber%201", "/boot.ipxe?location=${ip}", "/boot.ipxe?shell=1", "/boot.ipxe?a=b&location=x"]
    {
        assert_eq!(world.get(junk.replace("${ip}", "$%7Bip%7D").as_str()).await.status, 400, "{junk}");
    }
    assert_eq!(world.tickets(), 0);
}

#[tokio::test]
async fn a_machines_script_carries_a_ticket_that_enrolls_it_and_no_other() {
    let world = world();
    let script = world.request("GET", ASK, &[("host", "192.0.2.5:8080")]).await;
    assert_eq!((script.status, script.header("cache-control")), (200, "no-store"));
    let script = script.text();
    assert_eq!(parameter(&script, "muster.controller"), "192.0.2.5:8443");
    assert_eq!(parameter(&script, "muster.ca"), world.pki.fingerprint().to_string());
    let ticket: Ticket = parameter(&script, "muster.ticket").parse().expect("a ticket");

    let state = world.fleet.state();
    let stored = state.tickets.get(&ticket.digest()).expect("stored by its digest");
    assert_eq!(stored.location, "ber1");
    let mac: Mac = "52:54:00:12:34:56".parse().expect("a MAC");
    assert_eq!(stored.bound, TicketBound::Machine { uuid: Some([1; 16]), macs: vec![mac] });

    let enroll = |ticket: Ticket, mac: Mac| {
        let identity = Identity { uuid: Some([1; 16]), macs: vec![mac], ..Identity::default() };
        world.fleet.change(Author::controller(), move |draft| {
            enrollment::enroll(draft, &ticket, identity, Seen::default(), ticket.digest())
        })
    };
    assert!(enroll(ticket.clone(), Mac::from_bytes([2, 0, 0, 0, 0, 1])).await.is_err());
    assert!(enroll(ticket, mac).await.is_ok());
}

#[tokio::test]
async fn every_request_gets_a_ticket_of_its_own() {
    let world = world();
    let (first, second) = (world.get(ASK).await.text(), world.get(ASK).await.text());
    assert_ne!(parameter(&first, "muster.ticket"), parameter(&second, "muster.ticket"));
    assert_eq!(world.tickets(), 2);
}

#[tokio::test]
async fn the_agent_dials_where_the_request_was_sent_unless_controllers_are_configured() {
    let world = world();
    for (host, controller) in [
        ("[2001:db8::1]:8080", "[2001:db8::1]:8443"),
        ("boot.example:8080", "boot.example:8443"),
        ("boot.example", "boot.example:8443"),
        ("not a host", "198.51.100.1:8443"),
        ("", "198.51.100.1:8443"),
    ] {
        let script = world.request("GET", ASK, &[("host", host)]).await.text();
        assert_eq!(parameter(&script, "muster.controller"), controller, "{host}");
    }
    let world = world_with(|boot| {
        let at = |text| Endpoint::parse("controllers", text, 8443).expect("an address");
        boot.controllers = vec![at("192.0.2.1"), at("[2001:db8::2]:443")];
        std::fs::create_dir_all(&boot.images).expect("made");
        std::fs::write(boot.images.join(KERNEL), b"k").expect("written");
        std::fs::write(boot.images.join(INITRAMFS), b"i").expect("written");
    });
    let script = world.request("GET", ASK, &[("host", "192.0.2.5:8080")]).await.text();
    assert_eq!(parameter(&script, "muster.controller"), "192.0.2.1:8443,[2001:db8::2]:443");
}

#[tokio::test]
async fn without_an_image_the_screen_says_how_to_build_one_and_no_ticket_is_made() {
    let world = world_with(|_| ());
    let reply = world.get(ASK).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("muster image build"));
    assert_eq!(world.tickets(), 0);
    let kernel = world.get("/boot/kernel").await;
    assert_eq!((kernel.status, kernel.text().contains("muster image build")), (404, true));
}

#[tokio::test]
async fn a_rejected_machine_waits_and_the_box_of_a_retired_one_may_join_anew() {
    let world = world();
    world.get(ASK).await;
    let digest = world.fleet.state().tickets.iter().next().expect("one").digest;
    world
        .fleet
        .change(Author::controller(), move |draft| {
            draft.delete::<fleet::record::Ticket>(&digest);
            let bearer = ticket::issue(draft, Grant::bearer("ber1", 60_000))?;
            let mac = "52:54:00:12:34:56".parse().expect("a MAC");
            let identity = Identity { uuid: Some([1; 16]), macs: vec![mac], ..Identity::default() };
            let id = enrollment::enroll(draft, &bearer, identity, Seen::default(), bearer.digest())?.machine;
            machine::reject(draft, id)
        })
        .await
        .expect("rejected");
    assert!(world.get(ASK).await.text().contains("rejected by an operator"));
    let id = world.fleet.state().machines.iter().next().expect("one").id;
    world.fleet.change(Author::controller(), move |draft| machine::retire(draft, id)).await.expect("retired");
    assert_eq!(world.tickets(), 0);
    assert!(world.get(ASK).await.text().contains("muster.ticket="));
    assert_eq!(world.tickets(), 1);
}

/// The request of a machine with this MAC, from an ISO with this credential where there is one.
fn ask_from(mac: u8, credential: Option<SiteCredential>) -> String {
    let credential = credential.map(|credential| credential.to_string()).unwrap_or_default();
    format!("/boot/script?macs=52-54-00-12-34-{mac:02x}&location=muc1&credential={credential}")
}

impl World {
    async fn iso(&self, credential: SiteCredential) -> String {
        let add = move |draft: &mut fleet::Draft| Ok(iso::tests::noted(draft, credential.digest()));
        self.fleet.change(Author::controller(), add).await.expect("added").id
    }
}

impl World {
    /// A machine of the fleet with this MAC.
    async fn member(&self, mac: u8) {
        let join = move |draft: &mut fleet::Draft| {
            let bearer = ticket::issue(draft, Grant::bearer("ber1", 60_000))?;
            let macs = vec![Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, mac])];
            let identity = Identity { macs, ..Identity::default() };
            let id = enrollment::enroll(draft, &bearer, identity, Seen::default(), bearer.digest())?.machine;
            machine::approve(draft, id)
        };
        self.fleet.change(Author::controller(), join).await.expect("approved");
    }
}

#[tokio::test]
async fn what_an_iso_was_built_for_counts_and_not_what_the_request_claims() {
    let world = world();
    let credential = SiteCredential::from_bytes([7; 32]);
    let id = world.iso(credential).await;
    world.get(&ask_from(1, Some(credential))).await;
    let state = world.fleet.state();
    let ticket = state.tickets.iter().next().expect("one");
    assert_eq!((ticket.location.as_str(), ticket.iso.as_str()), ("ber1", id.as_str()));
}

#[tokio::test]
async fn over_https_nobody_is_started_who_shows_no_known_iso_whatever_machine_he_says_that_he_is() {
    let mut world = world();
    let credential = SiteCredential::from_bytes([7; 32]);
    world.iso(credential).await;
    world.member(2).await;
    world.router = world.over_https.clone();
    for mac in [1, 2] {
        let nobody = world.get(&ask_from(mac, None)).await.text();
        assert!(nobody.contains("must be started from its site's ISO"), "{nobody}");
        let unknown = world.get(&ask_from(mac, Some(SiteCredential::from_bytes([8; 32])))).await.text();
        assert!(unknown.contains("this boot medium was revoked"), "{unknown}");
    }
    assert_eq!(world.tickets(), 0);
    assert!(world.get(&ask_from(1, Some(credential))).await.text().contains("muster.ticket="));
    assert_eq!(world.get("/boot/kernel").await.text(), "0123456789");
}

#[tokio::test]
async fn a_revoked_or_unknown_iso_starts_nobody_who_is_not_in() {
    let world = world();
    let credential = SiteCredential::from_bytes([7; 32]);
    let id = world.iso(credential).await;
    let unknown = world.get(&ask_from(1, Some(SiteCredential::from_bytes([8; 32])))).await.text();
    assert!(unknown.contains("revoked") && !unknown.contains("muster.ticket"), "{unknown}");
    world.member(2).await;
    let revoked = id.clone();
    world.fleet.change(Author::controller(), move |draft| iso::revoke(draft, &id)).await.expect("revoked");
    assert!(world.get(&ask_from(1, Some(credential))).await.text().contains("this boot medium was revoked"));
    assert_eq!(world.tickets(), 0);
    let script = world.get(&ask_from(2, Some(credential))).await.text();
    assert!(script.contains("muster.ticket="), "who is in starts from it as before: {script}");
    let state = world.fleet.state();
    let ticket = state.tickets.iter().find(|ticket| !ticket.iso.is_empty()).expect("it says what it came from");
    assert_eq!((ticket.iso.as_str(), ticket.location.as_str()), (revoked.as_str(), ""), "and moves nobody");
}

#[tokio::test]
async fn who_asks_with_the_mac_of_a_machine_that_is_in_and_is_another_is_refused() {
    let wants = |is_asked_for: bool| {
        world_with(move |boot| {
            boot.require_credential = is_asked_for;
            std::fs::create_dir_all(&boot.images).expect("made");
            std::fs::write(boot.images.join(KERNEL), b"k").expect("written");
            std::fs::write(boot.images.join(INITRAMFS), b"i").expect("written");
        })
    };
    for (is_asked_for, credential) in [(false, Some(SiteCredential::from_bytes([8; 32]))), (true, None)] {
        let world = wants(is_asked_for);
        let mac = Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, 2]);
        let a_box = move |serial: &str| Identity {
            system_serial: serial.into(),
            board_serial: serial.into(),
            macs: vec![mac],
            // A boot program cannot ask a TPM, and a machine that has one is known to it all the same.
            tpm: Tpm::Claimed { key: Digest::of(serial.as_bytes()) },
            ..Identity::default()
        };
        let member = a_box("BRD-1");
        let member = move |draft: &mut fleet::Draft| {
            let bearer = ticket::issue(draft, Grant::bearer("ber1", 60_000))?;
            let id = enrollment::enroll(draft, &bearer, member, Seen::default(), bearer.digest())?.machine;
            machine::approve(draft, id)
        };
        let member = world.fleet.change(Author::controller(), member).await.expect("approved");
        for serial in ["BRD-1", "BRD-2"] {
            let script = world.get(&ask_from(2, credential)).await.text();
            let ticket: Ticket = parameter(&script, "muster.ticket").parse().expect("a ticket");
            let (key, identity) = (Digest::of(serial.as_bytes()), a_box(serial));
            let enroll =
                move |draft: &mut fleet::Draft| enrollment::enroll(draft, &ticket, identity, Seen::default(), key);
            let enrolled = world.fleet.change(Author::controller(), enroll).await;
            match serial {
                "BRD-1" => assert_eq!(enrolled.expect("who is in stays in").machine, member.id),
                _ => assert_eq!(enrolled, Err(Refused::NoMedium.into())),
            }
        }
        assert_eq!(world.fleet.state().machines.len(), 1);
    }
}

#[tokio::test]
async fn where_a_credential_is_asked_for_nobody_joins_without_one() {
    let world = world_with(|boot| {
        boot.require_credential = true;
        std::fs::create_dir_all(&boot.images).expect("made");
        std::fs::write(boot.images.join(KERNEL), b"k").expect("written");
        std::fs::write(boot.images.join(INITRAMFS), b"i").expect("written");
    });
    let credential = SiteCredential::from_bytes([7; 32]);
    world.iso(credential).await;
    assert!(world.get(&ask_from(1, None)).await.text().contains("must be started from its site's ISO"));
    assert!(world.get(&ask_from(1, Some(credential))).await.text().contains("muster.ticket="));
}

#[tokio::test]
async fn junk_is_refused_in_words_and_nothing_is_stored() {
    let world = world();
    for (query, word) in [
        ("", "macs"),
        ("?macs=", "macs"),
        ("?macs=nonsense", "macs"),
        ("?macs=525400123456&uuid=7", "uuid"),
        ("?macs=525400123456&location=..%2F..", "location"),
        ("?macs=525400123456&credential=secret", "credential"),
        ("?macs=525400123456&x=y", "no parameter"),
    ] {
        let reply = world.get(&format!("/boot/script{query}")).await;
        assert_eq!((reply.status, reply.header("content-type")), (400, "text/plain"), "{query}");
        assert!(reply.text().contains(word), "{query}: {}", reply.text());
    }
    assert_eq!(world.tickets(), 0);
    assert_eq!(world.request("HEAD", ASK, &[]).await.status, 405);
    assert_eq!(world.request("POST", ASK, &[]).await.status, 405);
    assert_eq!(world.get("/api/v1/machines").await.status, 404);
    assert_eq!(world.get("/boot/kernel/../../etc/passwd").await.status, 404);
    assert_eq!(world.tickets(), 0);
}

#[tokio::test]
async fn a_source_that_asks_without_end_has_to_wait() {
    let world = world();
    let mut scripts = 0;
    while world.get(ASK).await.text().contains("muster.ticket") {
        scripts += 1;
        assert!(scripts < 10_000, "scripts are given without end");
    }
    assert!(scripts >= STARTS, "{scripts}");
}

#[tokio::test]
async fn strangers_who_ask_without_end_keep_no_machine_beside_them_from_starting() {
    let world = world();
    let credential = SiteCredential::from_bytes([7; 32]);
    world.iso(credential).await;
    world.member(2).await;
    let all = async |ask: &str| while world.get(ask).await.text().contains("muster.ticket") {};
    all(&ask_from(1, None)).await;
    assert!(world.get(&ask_from(3, None)).await.text().contains("cannot start this machine now"));
    assert!(world.get(&ask_from(2, None)).await.text().contains("muster.ticket"), "a machine of the fleet");
    // Whoever has seen its MAC can say that he is it.
    all(&ask_from(2, None)).await;
    for mac in [2, 3] {
        let vouched = world.get(&ask_from(mac, Some(credential))).await.text();
        assert!(vouched.contains("muster.ticket"), "whoever comes from an ISO: {vouched}");
    }
}

impl World {
    /// Has the machine with this MAC confirm a network with this name in it.
    async fn confirm(&self, mac: u8, hostname: &'static str) {
        let mac = Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, mac]);
        let confirm = move |draft: &mut fleet::Draft| {
            let is_it = |machine: &&fleet::record::Machine| machine.identity.macs.contains(&mac);
            let id = draft.state().machines.iter().find(is_it).expect("there").id;
            let network = desired::Network { hostname: Some(hostname.into()), ..desired::Network::default() };
            let wanted = desired::Desired { network: Some(network), storage: None };
            want(draft, id, wanted)?;
            keep(draft, id)
        };
        self.fleet.change(Author::controller(), confirm).await.expect("confirmed");
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut fleet::Draft, MachineId) -> Result<(), fleet::Refusal> + Send + 'static,
    ) {
        let changed = self.fleet.change(Author::controller(), |draft| {
            let id = draft.state().machines.iter().next().expect("there").id;
            change(draft, id)
        });
        changed.await.expect("changed");
    }
}

fn want(draft: &mut fleet::Draft, id: MachineId, wanted: desired::Desired) -> Result<(), fleet::Refusal> {
    let wanted = desired::check(wanted).expect("nothing is wrong with it");
    machine::set_desired(draft, id, wanted, None, None).map(drop)
}

fn keep(draft: &mut fleet::Draft, id: MachineId) -> Result<(), fleet::Refusal> {
    let fleet::record::DesiredState { generation, digest, .. } = draft.need(&id)?;
    machine::confirm(draft, id, generation, digest, Times::default())?;
    machine::progress(draft, id, &Progress::Confirmed { generation })
}

#[tokio::test]
async fn a_machine_starts_from_its_disk_once_its_image_is_there_and_the_agent_where_it_is_wanted_back() {
    let world = world();
    world.member(2).await;
    let installed = |boot| {
        let select = desired::DiskSelect::Id("serial:D1".parse().expect("a disk"));
        let digest = Digest::of(b"image");
        let image = desired::Image { select, digest, table: desired::Table::Keep, seed: None, boot };
        let storage = desired::Storage { images: vec![image], ..desired::Storage::default() };
        desired::Desired { network: None, storage: Some(storage) }
    };
    let starts = async || world.get(&ask_from(2, None)).await.text();
    world.change(move |draft, id| want(draft, id, installed(desired::Boot::Disk))).await;
    assert!(starts().await.contains("muster.ticket"), "the image is not there yet");
    world.change(keep).await;
    assert_eq!(starts().await, script::from_disk());
    assert!(world.get(&ask_from(3, None)).await.text().contains("muster.ticket"), "another machine");
    world.change(|draft, id| machine::maintain(draft, id, fleet::record::Maintenance::On).map(drop)).await;
    assert!(starts().await.contains("muster.ticket"), "somebody wants it back");
    world.change(|draft, id| machine::maintain(draft, id, fleet::record::Maintenance::Off).map(drop)).await;
    assert_eq!(starts().await, script::from_disk());
    world.change(move |draft, id| want(draft, id, installed(desired::Boot::Agent))).await;
    assert!(starts().await.contains("muster.ticket"), "something else is desired by now");
}

#[tokio::test]
async fn a_leased_machine_starts_its_locations_boot_target_until_the_lease_ends() {
    use crate::fleet::record::{Lease, LeaseState, Location, Seat};

    let world = world();
    world.member(2).await;
    let starts = async || world.get(&ask_from(2, None)).await.text();
    let target: BootUrl = "http://192.0.2.9/cycle.ipxe".to_owned().try_into().expect("a URL");
    let boot_target = Some(target.clone());
    let lease = |state| Lease {
        id: "srv-1".into(),
        hub: "acme".into(),
        cycle_server: String::new(),
        hostname: String::new(),
        model: String::new(),
        location: "ber1".into(),
        zone: String::new(),
        created_unix_ms: 0,
        tried: Vec::new(),
        state,
    };
    world
        .change(move |draft, id| {
            draft.put(Location { code: "ber1".into(), boot_target, ..Location::default() });
            let mac = Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, 2]);
            let seat = Seat { machine: id, uuid: None, mac, addresses: Vec::new() };
            draft.put(lease(LeaseState::Ready { seat }));
            let machine = draft.need(&id)?;
            let held = Lifecycle::Leased { lease: "srv-1".into() };
            machine::move_to(draft, machine, held, "machine.leased", "is leased").map(drop)
        })
        .await;
    let before = world.tickets();
    assert_eq!(starts().await, script::hand_over(&target, None), "it has no address: DHCP's word");
    assert_eq!(world.tickets(), before, "nobody is to enroll by that");
    world
        .change(move |draft, id| {
            draft.put(lease(LeaseState::Ending { machine: id }));
            Ok(())
        })
        .await;
    assert!(starts().await.contains("muster.ticket"), "it is to be wiped");
}

/// The file in a cpio archive of one file.
fn unpacked(archive: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        let digits = std::str::from_utf8(&archive[at..at + 8]).expect("digits");
        usize::from_str_radix(digits, 16).expect("a number")
    };
    let name = format!("{}\0", muster_protocol::handed::PATH);
    let at = archive.windows(name.len()).position(|part| part == name.as_bytes()).expect("it is in it");
    let (header, data) = (at - 110, (at + name.len()).next_multiple_of(4));
    archive[data..data + number(header + 54)].to_vec()
}

#[tokio::test]
async fn a_machine_is_handed_its_own_network_with_the_ticket_of_its_script_and_nobody_else_is() {
    let world = world();
    world.member(2).await;
    world.member(3).await;
    let script = world.get(&ask_from(2, None)).await.text();
    assert!(!script.contains("/boot/network"), "nothing was confirmed: {script}");
    let without = format!("/boot/network?ticket={}", parameter(&script, "muster.ticket"));
    world.confirm(2, "two").await;
    world.confirm(3, "three").await;
    assert_eq!(world.get(&without).await.status, 404, "the script was made before");

    let script = world.get(&ask_from(2, None)).await.text();
    let ticket = parameter(&script, "muster.ticket");
    let path = format!("/boot/network?ticket={ticket}");
    assert!(script.contains(&format!(" {path} && ")), "{script}");
    // Asking for it does not use the ticket up: the machine has to enroll with it.
    for _ in 0..2 {
        let reply = world.get(&path).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"));
        assert!(reply.body.len().is_multiple_of(4), "another initramfs may follow");
        let (generation, network) = Handed::from_bytes(&unpacked(&reply.body)).expect("reads");
        assert_eq!((generation.0, network.hostname.as_deref()), (1, Some("two")));
    }
    let stranger = world.get(&ask_from(1, None)).await.text();
    assert!(!stranger.contains("/boot/network"), "{stranger}");
    let stranger = format!("/boot/network?ticket={}", parameter(&stranger, "muster.ticket"));
    let guessed = format!("/boot/network?ticket={}", "5e".repeat(32));
    for (path, status, says) in [
        (stranger.as_str(), 404, "no network is handed out with this ticket"),
        (&guessed, 403, "ticket"),
        ("/boot/network?ticket=secret", 400, "64 hex digits"),
        ("/boot/network?ticket=", 400, "64 hex digits"),
        ("/boot/network", 400, "64 hex digits"),
        (&format!("{path}&x=y"), 400, "64 hex digits"),
    ] {
        let reply = world.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (status, "text/plain"), "{path}");
        assert!(reply.text().contains(says) && !reply.text().contains("secret"), "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_ticket_that_was_used_hands_out_nothing_any_more() {
    let world = world();
    world.member(2).await;
    world.confirm(2, "two").await;
    let script = world.get(&ask_from(2, None)).await.text();
    let ticket: Ticket = parameter(&script, "muster.ticket").parse().expect("a ticket");
    let path = format!("/boot/network?ticket={ticket}");
    let macs = vec![Mac::from_bytes([0x52, 0x54, 0, 0x12, 0x34, 2])];
    let identity = Identity { macs, ..Identity::default() };
    let enroll =
        move |draft: &mut fleet::Draft| enrollment::enroll(draft, &ticket, identity, Seen::default(), ticket.digest());
    world.fleet.change(Author::controller(), enroll).await.expect("enrolled");
    assert_eq!(world.get(&path).await.status, 403);
}

#[tokio::test]
async fn files_are_served_whole_and_in_parts() {
    let world = world();
    let whole = world.get("/boot/kernel").await;
    let tag = whole.header("etag").to_owned();
    assert_eq!((whole.status, whole.header("content-length"), whole.body.as_slice()), (200, "10", &b"0123456789"[..]));
    assert_eq!(tag, format!("\"{}\"", Digest::of(b"0123456789")));
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let large = world.get("/boot/initramfs").await;
    assert_eq!((large.body.len(), large.header("content-length")), (200_000, "200000"));

    let head = world.request("HEAD", "/boot/kernel", &[]).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "10", 0));

    let part = world.request("GET", "/boot/kernel", &[("range", "bytes=3-5")]).await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"345"[..]));
    assert_eq!((part.header("content-range"), part.header("content-length")), ("bytes 3-5/10", "3"));

    let same = world.request("GET", "/boot/kernel", &[("range", "bytes=8-"), ("if-range", &tag)]).await;
    assert_eq!((same.status, same.body.as_slice()), (206, &b"89"[..]));
    let other = world.request("GET", "/boot/kernel", &[("range", "bytes=8-"), ("if-range", "\"old\"")]).await;
    assert_eq!((other.status, other.body.len()), (200, 10));
    let known = world.request("GET", "/boot/kernel", &[("if-none-match", &tag)]).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let beyond = world.request("GET", "/boot/kernel", &[("range", "bytes=10-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */10"));
}

#[tokio::test]
async fn a_new_image_has_a_new_tag_at_once() {
    let world = world();
    let before = world.get("/boot/kernel").await.header("etag").to_owned();
    let file = world.images.join(KERNEL);
    crate::files::replace(&file, b"abcdefghij", crate::files::PUBLIC).expect("replaced");
    let after = world.get("/boot/kernel").await;
    assert_ne!(after.header("etag"), before);
    assert_eq!(after.body, b"abcdefghij");
}
