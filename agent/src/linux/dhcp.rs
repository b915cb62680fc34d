//! DHCPv4: keeps a lease for a link.
