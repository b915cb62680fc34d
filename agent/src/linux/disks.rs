//! What the disks carry now.
