//! The sockets of the DHCP server, one for each interface.

use std::io::Error;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::packet::{Kind, Request};
use crate::config;
use crate::fleet::Fleet;
use crate::fleet::location::reservation;
use crate::sessions::limit;

/// More than any client sends (RFC 2131, section 2: 576 bytes are what everybody takes).
const LARGEST: usize = 2048;

/// A socket on one interface, which nobody serves yet.
pub struct Open {
    socket: std::net::UdpSocket,
    interface: String,
}

/// Opens the port on one interface. Others on this computer may have the same port open, each hears broadcasts.
pub fn open(interface: &str, port: u16) -> Result<Open, Error> {
    let socket = bound(interface, port)?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    Ok(Open { socket: socket.into(), interface: interface.to_owned() })
}

fn bound(interface: &str, port: u16) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    Ok(socket)
}

/// Our address on an interface, as seen from `toward`: what the kernel would send from.
fn own_address(interface: &str, toward: Ipv4Addr) -> Result<Ipv4Addr, Error> {
    let socket = bound(interface, 0)?;
    socket.connect(&SockAddr::from(SocketAddrV4::new(toward, 67)))?;
    let own = socket.local_addr()?.as_socket_ipv4().map(|own| *own.ip());
    own.filter(|own| !own.is_unspecified()).ok_or_else(|| Error::other("the interface has no IPv4 address"))
}

/// Serves one interface until `stop` says so.
pub async fn serve(open: Open, fleet: Fleet, config: config::Dhcp, mut stop: watch::Receiver<bool>) {
    let Open { socket, interface } = open;
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(interface, %error, "no DHCP here"),
    };
    let mut buffer = vec![0; LARGEST];
    let mut failures = limit::failures();
    loop {
        // Both arms are cancel-safe: a datagram that was not taken stays with the kernel.
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                // Such as an interface that is down for a while.
                tracing::warn!(interface, %error, "DHCP cannot receive");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Some(request) = Request::decode(&buffer[..length]) else { continue };
        match told(&interface, &fleet, &config, &request) {
            Ok(None) => {}
            Ok(Some((kind, bytes, to))) => {
                let sent = socket.send_to(&bytes, SocketAddr::V4(to)).await;
                let (mac, error) = (request.mac, sent.err().map(tracing::field::display));
                // Renewals come every few minutes, of every machine.
                tracing::debug!(interface, %mac, ?kind, %to, error, "DHCP");
            }
            Err(problem) => {
                if let Some(left_out) = failures.draw(from.ip(), Instant::now()) {
                    tracing::warn!(interface, %from, mac = %request.mac, %problem, left_out, "DHCP is not answered");
                }
            }
        }
    }
}

type Told = (Kind, Vec<u8>, SocketAddrV4);

fn told(interface: &str, fleet: &Fleet, config: &config::Dhcp, request: &Request) -> Result<Option<Told>, Error> {
    let state = fleet.state();
    // Most that is heard is of others: they cost nothing more.
    let Some(reserved) = reservation::of_mac(&state, request.mac).next() else { return Ok(None) };
    if request.kind == Kind::Decline {
        return Err(Error::other(format!("the machine finds {} used by somebody else", reserved.address)));
    }
    let toward = if request.relay.is_unspecified() { reserved.address } else { request.relay };
    let answer = super::answer(&state, config, request, own_address(interface, toward)?);
    Ok(answer.map(|(reply, to)| (reply.kind, reply.encode(request), to)))
}
