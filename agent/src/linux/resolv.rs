//! /etc/resolv.conf, made of what is configured and what leases brought.
