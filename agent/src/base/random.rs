//! Random bytes out of the kernel.

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` bytes nobody can guess. Waits, in the first second of a boot, until the kernel has gathered them.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    while at < N {
        // Interrupted by a signal: ask again. Anything else cannot happen on Linux since 3.17.
        at += getrandom(&mut out[at..], GetRandomFlags::empty()).unwrap_or(0);
    }
    out
}

/// A version 4 UUID (RFC 9562).
pub fn uuid() -> [u8; 16] {
    let mut uuid: [u8; 16] = bytes();
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
