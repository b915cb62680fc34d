//! Opening ports: both IP versions on one socket where the computer has both, and errors that name the key and the remedy.

use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// A reconnect of all agents at once arrives faster than it is worked on; the kernel keeps what fits.
/// More than `net.core.rmem_max` is cut to it, silently.
const UDP_BUFFER: usize = 8 << 20;

/// Why a port is not open.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else has it.
    #[error(
        "{key}: {address}/{protocol} is in use by another program; stop that one (is it another controller?), or choose \
         another port in muster.toml, like {key} = \"[::]:{}\"", address.port().saturating_add(1000)
    )]
    InUse {
        /// The configuration's key.
        key: &'static str,
        /// What was tried.
        address: SocketAddr,
        /// `tcp` or `udp`.
        protocol: &'static str,
    },
    /// Not for this user.
    #[error(
        "{key}: this user may not listen on {address}/{protocol}; start as root, or choose a port above 1023 in muster.toml"
    )]
    Denied {
        /// The configuration's key.
        key: &'static str,
        /// What was tried.
        address: SocketAddr,
        /// `tcp` or `udp`.
        protocol: &'static str,
    },
    /// DHCP, on an interface that is not there or not ours to use.
    #[error(
        "dhcp.interfaces: cannot serve DHCP on {interface:?}, port {port}/udp; is it one of this computer's interfaces, and does \
         the controller run as root, or with CAP_NET_RAW and CAP_NET_BIND_SERVICE?"
    )]
    Interface {
        /// Its name.
        interface: String,
        /// What was tried there.
        port: u16,
        /// What the kernel says.
        #[source]
        cause: Error,
    },
    /// Something else.
    #[error("{key}: cannot listen on {address}/{protocol}; is that address one of this computer's?")]
    Other {
        /// The configuration's key.
        key: &'static str,
        /// What was tried.
        address: SocketAddr,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// What the kernel says.
        #[source]
        cause: Error,
    },
}

/// Opens a TCP port, not blocking.
pub fn tcp(key: &'static str, address: SocketAddr) -> Result<TcpListener, PortError> {
    let socket = open(address, Type::STREAM, Protocol::TCP).map_err(|e| explain(key, address, "tcp", e))?;
    Ok(socket.into())
}

/// Opens a UDP port, not blocking.
pub fn udp(key: &'static str, address: SocketAddr) -> Result<UdpSocket, PortError> {
    let socket = open(address, Type::DGRAM, Protocol::UDP).map_err(|e| explain(key, address, "udp", e))?;
    Ok(socket.into())
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket, Error> {
    match bind(address, kind, protocol) {
        Err(e) if address.is_ipv6() && address.ip().is_unspecified() && has_no_ipv6(&e) => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), kind, protocol)
        }
        other => other,
    }
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // `[::]` means everybody, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if kind == Type::STREAM {
        // Connections of the process before us may still be dying on this port.
        socket.set_reuse_address(true)?;
    } else {
        // Best effort: the kernel's limit may be lower.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
        let _ = socket.set_send_buffer_size(UDP_BUFFER);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// A kernel without IPv6 has no such family; one with IPv6 switched off has no such address.
fn has_no_ipv6(e: &Error) -> bool {
    let code = e.raw_os_error();
    code == Some(Errno::AFNOSUPPORT.raw_os_error()) || code == Some(Errno::ADDRNOTAVAIL.raw_os_error())
}

fn explain(key: &'static str, address: SocketAddr, protocol: &'static str, cause: Error) -> PortError {
    match cause.kind() {
        ErrorKind::AddrInUse => PortError::InUse { key, address, protocol },
        ErrorKind::PermissionDenied => PortError::Denied { key, address, protocol },
        _ => PortError::Other { key, address, protocol, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn a_port_in_use_names_the_key_and_the_remedy() {
        let taken = tcp("listen.boot", (Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = taken.local_addr().expect("bound");
        let text = tcp("listen.boot", address).expect_err("taken").to_string();
        assert!(text.starts_with(&format!("listen.boot: {address}/tcp is in use")), "{text}");
        assert!(text.contains("choose another port in muster.toml, like listen.boot = \"[::]:"), "{text}");
    }

    #[test]
    fn any_address_takes_ipv4_whether_or_not_there_is_ipv6() {
        let listener = tcp("listen.boot", (Ipv6Addr::UNSPECIFIED, 0).into()).expect("listens");
        let port = listener.local_addr().expect("bound").port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("IPv4 reaches it");
    }
}
