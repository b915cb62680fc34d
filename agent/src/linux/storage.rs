//! Storage steps on the real machine: tables, filesystems, mounts, wiping.
