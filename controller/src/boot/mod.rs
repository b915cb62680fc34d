//! HTTP for boot media: scripts, kernel, initramfs.
