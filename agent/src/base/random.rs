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
