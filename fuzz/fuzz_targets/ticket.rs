//! The ticket's text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_protocol::enroll::Ticket;

fuzz_target!(init: muster_fuzz::plant("ticket", ["7f".repeat(32).into_bytes(), "7F".repeat(32).into_bytes()]), |text: &str| {
    match text.parse::<Ticket>() {
        Ok(ticket) => {
            let written = ticket.to_string();
            assert_eq!(written.len(), 64);
            assert!(written.eq_ignore_ascii_case(text), "it was read as another");
            assert_eq!(written.parse::<Ticket>().expect("what was written is read"), ticket);
        }
        // A text that is almost a ticket is somebody's secret: nothing of it is in what is said of it.
        Err(e) => assert_eq!(e, "".parse::<Ticket>().expect_err("nothing is no ticket")),
    }
});
