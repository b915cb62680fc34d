//! Every kind of boot script, byte for byte.
//!
//! The golden files are what was booted by hand and by the QEMU tests with both iPXE versions.
//! `MUSTER_BLESS=1 cargo test -p muster-ipxe --test scripts` rewrites them; look at the difference before committing.

use std::fs;
use std::path::Path;

use muster_ipxe::param::{AGENTS_PORT, BOOT_PORT, BootUrl, Endpoint, Location, Site};
use muster_ipxe::script::{self, Machine, Network, Scheme, Static, Wait};
use muster_protocol::Digest;
use muster_protocol::enroll::{SiteCredential, Ticket};

fn assert_golden(name: &str, script: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("MUSTER_BLESS").is_some() {
        fs::write(&path, script).expect("the golden file can be written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(script, golden, "{name} changed; if that is meant, set MUSTER_BLESS=1 and look at the difference");
}

/// What holds for every script whatever it is for.
fn assert_well_formed(script: &str) {
    assert!(script.starts_with("#!ipxe\n"), "iPXE knows scripts by their first line");
    assert!(script.ends_with('\n') && script.is_ascii() && !script.contains('\r'));
    let commands: Vec<_> = script.lines().filter(|l| !l.starts_with(['#', ':'])).collect();
    assert!(commands.iter().all(|l| l.split(' ').all(|word| word != "shell")), "never a shell");
    let last = commands.last().expect("a command");
    assert!(last.starts_with("exit ") || *last == "reboot", "a script ends on purpose: {last}");
    let words: Vec<_> = script.split_whitespace().collect();
    for pair in words.windows(2).filter(|pair| pair[0] == "goto") {
        assert!(script.contains(&format!("\n:{}\n", pair[1])), "no label {}", pair[1]);
    }
}

fn check(name: &str, script: &str) {
    assert_well_formed(script);
    assert_golden(name, script);
}

#[test]
fn the_site_script_tries_every_nic_and_every_controller_for_ever() {
    let site = |controllers: &[&str]| Site::new("ber1", controllers, BOOT_PORT).expect("valid");
    let credential = SiteCredential::from_bytes([0x5c; 32]);
    let two = site(&["192.0.2.7", "boot.example:80"]);
    check("site.ipxe", &script::site(&two, Some(&credential), Scheme::Http));
    check("site-https.ipxe", &script::site(&two, Some(&credential), Scheme::Https { port: 8443 }));
    check("site-ipv6.ipxe", &script::site(&site(&["[2001:db8::7]:8080"]), None, Scheme::Http));
}

#[test]
fn the_dispatch_script_asks_with_everything_that_names_a_machine() {
    check("dispatch.ipxe", &script::dispatch(None));
    let location = Location::try_from("ber1".to_owned()).expect("valid");
    check("dispatch-location.ipxe", &script::dispatch(Some(&location)));
}

#[test]
fn the_machine_script_starts_the_agent() {
    let controllers =
        ["192.0.2.7:8443", "[2001:db8::7]:8443"].map(|e| Endpoint::try_from(e.to_owned()).expect("valid"));
    let ticket = Ticket::from_bytes([0xab; 32]);
    let machine = |network| {
        let ca = Digest::of(b"the CA's certificate");
        script::machine(&Machine {
            controllers: &controllers,
            ca,
            ticket: &ticket,
            time_unix_s: 1_795_244_400,
            network,
        })
    };
    check("machine.ipxe", &machine(Network::AsItBoots));
    check("machine-handed.ipxe", &machine(Network::Handed));
}

#[test]
fn a_sealed_mediums_script_starts_what_lies_beside_it_and_names_nobody_on_the_network() {
    let site = Site::new("ber1", &["192.0.2.7", "[2001:db8::7]:9"], AGENTS_PORT).expect("valid");
    let credential = SiteCredential::from_bytes([0x5c; 32]);
    let arguments = script::sealed_arguments(&site, Digest::of(b"the CA's certificate"), &credential);
    let script = script::sealed(&site, &credential, &arguments);
    assert!(!script.contains("http") && !script.contains("dhcp"));
    check("sealed.ipxe", &script);
}

#[test]
fn the_kernels_command_line_fits_with_the_most_controllers_and_the_longest_lease() {
    let longest = Endpoint::try_from("[2001:db8:1111:2222:3333:4444:5555:6666]:65535".to_owned()).expect("valid");
    let script = script::machine(&Machine {
        controllers: &vec![longest; 40],
        ca: Digest::of(b""),
        ticket: &Ticket::from_bytes([0; 32]),
        time_unix_s: u64::MAX,
        network: Network::Handed,
    });
    let line = script.lines().find(|l| l.starts_with("kernel ")).expect("a kernel line");
    let arguments = line.split_once("/boot/kernel ").expect("arguments").1.trim_end_matches(" || goto failed");
    let lease = "52:54:00:12:34:56,255.255.255.255,255.255.255.255,255.255.255.255,255.255.255.255,255.255.255.255";
    let expanded =
        arguments.split("muster.lease=").next().expect("a lease").len() + "muster.lease=".len() + lease.len();
    assert!(expanded < 2048, "{expanded} bytes, and the kernel's limit is 2048");
}

#[test]
fn a_machine_that_is_not_started_is_told_why_and_asks_again() {
    for (name, why) in
        [("wait-rejected.ipxe", Wait::Rejected), ("wait-no-image.ipxe", Wait::NoImage), ("wait-busy.ipxe", Wait::Busy)]
    {
        let script = script::wait(why);
        assert!(script.contains("\nsleep "), "a script that is asked for without a pause is an attack");
        check(name, &script);
    }
}

#[test]
fn a_machine_that_has_its_system_starts_from_its_disk() {
    check("from-disk.ipxe", &script::from_disk());
}

#[test]
fn a_machine_is_handed_over_to_a_boot_target() {
    let target = BootUrl::try_from("http://192.0.2.9/cycle.ipxe?token=a%20b".to_owned()).expect("valid");
    check("hand-over.ipxe", &script::hand_over(&target, None));
    let network = Static {
        mac: "52:54:00:12:34:56".parse().expect("a MAC"),
        address: "203.0.113.2/28".parse().expect("an address"),
        gateway: "203.0.113.1".parse().ok(),
        nameserver: "192.0.2.53".parse().ok(),
    };
    check("hand-over-static.ipxe", &script::hand_over(&target, Some(&network)));
    let alone = script::hand_over(&target, Some(&Static { gateway: None, nameserver: None, ..network }));
    assert_well_formed(&alone);
    assert!(!alone.contains("None") && !alone.contains("/gateway 2"), "{alone}");
}
