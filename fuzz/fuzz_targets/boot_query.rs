//! The query of a boot script: what anybody on the boot network may send.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_controller::boot::Asker;

const SEEDS: [&str; 4] = [
    "uuid=4c4c4544-0042-3510-8052-b4c04f4e3132&serial=LAB-1&macs=52:54:00:12:34:56,&location=ber1&platform=efi&ipxe=1.21",
    "uuid=&serial=%FFFFFFFFFFFFC3%20x&macs=52-54-00-12-34-56,525400123457&platform=pcbios",
    "serialhex=4c4142c32d31&macs=525400123456&credential=5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e",
    "macs=80:00:02:08:fe:80:00:00:00:00:00:00:00:11:22:33:44:55:66:77,52:54:00:12:34:56",
];

fuzz_target!(init: muster_fuzz::plant("boot_query", SEEDS.map(|seed| seed.as_bytes().to_vec())), |query: &str| {
    match Asker::read(query) {
        Ok(asker) => {
            assert!((1..=64).contains(&asker.macs.len()));
            assert!(asker.macs.is_sorted() && asker.macs.iter().all(|mac| mac.as_bytes()[0] & 1 == 0));
            assert!(asker.uuid.is_none_or(|uuid| uuid != [0; 16] && uuid != [0xff; 16]));
            for text in [&asker.serial, &asker.platform, &asker.ipxe] {
                assert!(text.chars().count() <= 64 && !text.contains(char::is_control), "{text:?}");
            }
            let _ = asker.bound();
        }
        // It goes into a log and onto a screen.
        Err(problem) => assert!(problem.len() < 1024 && !problem.contains(char::is_control), "{problem:?}"),
    }
});
