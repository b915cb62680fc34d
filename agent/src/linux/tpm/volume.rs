//! The key of an encrypted volume that the machine's own TPM derives: the same each time it is asked, and stored nowhere.
//!
//! The TPM derives an HMAC key from the seed of its owner hierarchy, is told the volume's UUID, and forgets the key again.
//! Another TPM makes another key, and so does this one after it was cleared (TPM2_Clear gives it a new seed): the volume is
//! lost then. Whoever runs as root on this machine can have it derived too: it guards disks that leave their machine.

use muster_protocol::DiskKey;

use super::wire;
use super::{Exchange, TpmError};

/// What is told to the TPM beside the UUID: for another purpose it is another text, and so another key.
const PURPOSE: &[u8] = b"muster: key of an encrypted volume, 1:";

/// Has it derived. Leaves nothing behind in the TPM.
pub fn derive(exchange: Exchange<'_>, uuid: &[u8; 16]) -> Result<DiskKey, TpmError> {
    let answer = exchange(&wire::create_mac())?;
    let handle = wire::created(&answer)?.handle;
    let answer = exchange(&wire::mac(handle, &[PURPOSE, uuid].concat()));
    let _ = exchange(&wire::flush(handle));
    let mut answer = answer?;
    let key = wire::maced(&answer).map(DiskKey::new);
    answer.fill(0);
    std::hint::black_box(&answer);
    key
}
