//! An enrollment request, and on its own the certificate signing request in it (PKCS #10, DER).
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_controller::pki::{AgentCertificate, AgentRequest};
use muster_fuzz::{enrollment, plant, signing_request, value};
use muster_protocol::enroll::Request;
use muster_protocol::{bounded, frame};

fuzz_target!(init: plant("enrollment", [value(&enrollment()), signing_request()]), |data: &[u8]| {
    if let Ok(request) = frame::decode::<Request>(data) {
        assert!(request.csr.len() <= bounded::CSR_BYTES && request.identity.macs.len() <= bounded::NICS);
        let _ = request.identity.check();
        read(&request.csr);
    }
    read(data);
    // What a verified certificate is read with must not rely on that.
    let _ = AgentCertificate::read(data);
});

fn read(csr: &[u8]) {
    if let Ok(request) = AgentRequest::read(csr) {
        // The key is known by this from here on.
        assert_eq!(request.digest(), AgentRequest::read(csr).expect("it was read").digest());
    }
}
