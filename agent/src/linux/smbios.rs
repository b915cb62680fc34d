//! SMBIOS tables (DMTF DSP0134) out of /sys/firmware/dmi.
