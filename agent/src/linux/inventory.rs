//! What this machine is made of, out of /proc, /sys and SMBIOS.
