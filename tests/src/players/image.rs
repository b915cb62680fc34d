//! A stand-in for Cycle's image: a server that gives it to machines that Cycle knows by now and to no other, and a small Linux
//! that takes an address by DHCP, asks for its metadata, and calls home with all it was told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::guest::Guest;

/// Where it serves.
pub const PORT: u16 = 8090;

/// What it asks by DHCP, of everything that it hears of.
const DHCP: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
busybox ifconfig "$interface" "$ip" netmask "$subnet" up
echo "dhcp: ip=$ip mask=$subnet router=$router dns=$dns hostname=$hostname lease=$lease" >/tmp/said
"#;

/// What it does; `HOME` is its server, `METADATA` the service that it asks.
const MAIN: &str = r#"
echo "stand-in: started"
busybox cp /dhcp /tmp/dhcp && busybox chmod 755 /tmp/dhcp
busybox ip link set eth0 up
busybox udhcpc -i eth0 -f -q -n -t 20 -s /tmp/dhcp
for path in PATHS; do
    echo "$path: $(busybox wget -q -O - "METADATA/$path")" >>/tmp/said
done
busybox wget -q -O - --post-file /tmp/said "HOME/home" && echo "stand-in: called home"
"#;

/// See the module. It serves for as long as the process lives.
#[derive(Clone)]
pub struct Image {
    heard: Arc<Mutex<Heard>>,
    files: Arc<[Vec<u8>; 3]>,
}

/// What machines wanted of it.
#[derive(Debug, Default, Clone)]
pub struct Heard {
    /// Whether Cycle has told it that the machine may come.
    pub is_authorized: bool,
    /// Where those asked from that were not given it.
    pub denied: Vec<SocketAddr>,
    /// Where those asked from that were.
    pub given: Vec<SocketAddr>,
    /// What machines said that called home.
    pub calls: Vec<String>,
}

impl Image {
    /// Makes it in `folder`, to be served at this address; what it starts asks for each of `paths` at `metadata`.
    /// Packages that are not there yet are fetched, so this is for before a namespace is entered.
    pub fn make(folder: &Path, address: Ipv4Addr, metadata: &str, paths: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let home = format!("http://{address}:{PORT}");
        let main = MAIN.replace("PATHS", &paths.join(" ")).replace("METADATA", metadata).replace("HOME", &home);
        let [main_file, dhcp_file] = ["main", "dhcp"].map(|name| folder.join(name));
        std::fs::write(&main_file, main)?;
        std::fs::write(&dhcp_file, DHCP)?;
        let guest = Guest {
            programs: &[],
            arguments: "",
            commands: &["busybox"],
            modules: &["virtio_pci", "virtio_net"],
            memory_mib: 256,
            files: &[(Path::new("main"), &main_file), (Path::new("dhcp"), &dhcp_file)],
            nic: "virtio-net-pci",
        };
        let [kernel, initramfs] = guest.build(folder)?;
        let script = format!(
            "#!ipxe\nkernel {home}/kernel initrd=initramfs console=ttyS0 rdinit=/guest loglevel=1 panic=0\n\
             initrd --name initramfs {home}/initramfs\nboot\n"
        );
        let files = Arc::new([script.into_bytes(), std::fs::read(kernel)?, std::fs::read(initramfs)?]);
        Ok(Self { heard: Arc::default(), files })
    }

    /// Serves it at this address.
    pub fn serve(&self, address: Ipv4Addr) -> Result<()> {
        let listener = TcpListener::bind((address, PORT)).context("listening for machines")?;
        let server = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // Who breaks off is no news.
                std::thread::spawn(move || server.converse(&stream));
            }
        });
        Ok(())
    }

    /// What a location's boot target is to be.
    pub fn url(address: Ipv4Addr) -> String {
        format!("http://{address}:{PORT}/cycle.ipxe")
    }

    /// Cycle has read that the server is provisioned.
    pub fn authorize(&self) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).is_authorized = true;
    }

    /// Everything so far.
    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn converse(&self, stream: &TcpStream) -> Result<()> {
        let from = stream.peer_addr()?;
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim().to_ascii_lowercase().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse::<u64>()?.min(1 << 20),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = String::new();
        reader.take(length).read_to_string(&mut body)?;
        let path = first.split_whitespace().nth(1).unwrap_or_default();
        let (status, bytes) = self.answer(path, body, from);
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len())?;
        if !first.starts_with("HEAD") {
            stream.write_all(bytes)?;
        }
        Ok(())
    }

    fn answer(&self, path: &str, body: String, from: SocketAddr) -> (&'static str, &[u8]) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let [script, kernel, initramfs] = &*self.files;
        match path {
            "/home" => {
                heard.calls.push(body);
                ("200 OK", b"welcome\n")
            }
            _ if !heard.is_authorized => {
                heard.denied.push(from);
                ("403 Forbidden", b"permission denied\n")
            }
            "/cycle.ipxe" => {
                heard.given.push(from);
                ("200 OK", script)
            }
            "/kernel" => ("200 OK", kernel),
            "/initramfs" => ("200 OK", initramfs),
            _ => ("404 Not Found", b""),
        }
    }
}
