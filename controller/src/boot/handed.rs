//! The network that a machine is handed with its boot script, as one more archive for its initramfs.
//!
//! Whoever asks shows the ticket of that script, so nobody learns by it what the script would not have led to.
//! The ticket stays good: the machine has yet to enroll with it.

use http::StatusCode;
use muster_ipxe::image::handed_archive;
use muster_protocol::enroll::Ticket;
use muster_protocol::handed::Handed;

use crate::fleet::operation::confirmed;
use crate::fleet::{State, ticket};

/// The archive for whoever shows the ticket in this query.
///
/// Errors: a status, and what is wrong, in words.
pub fn archive(state: &State, query: &str, now_unix_ms: u64) -> Result<Vec<u8>, (StatusCode, String)> {
    let secret = query.strip_prefix("ticket=").map(str::parse::<Ticket>);
    let Some(Ok(secret)) = secret else {
        let needs = "the only parameter here is ticket, the 64 hex digits in a boot script";
        return Err((StatusCode::BAD_REQUEST, needs.to_owned()));
    };
    let hands =
        ticket::hands(state, &secret, now_unix_ms).map_err(|refusal| (StatusCode::FORBIDDEN, refusal.to_string()))?;
    let none = || (StatusCode::NOT_FOUND, "no network is handed out with this ticket".to_owned());
    let (generation, network) = hands.and_then(|machine| confirmed::network(state, machine)).ok_or_else(none)?;
    let handed = Handed::V1 { generation, network: network.clone() };
    let bytes = handed.to_bytes().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(handed_archive(bytes))
}
