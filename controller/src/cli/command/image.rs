//! `muster image` and `muster iso`: what machines boot, built on this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use muster_ipxe::image::{self, ImageSpec, Manifest};
use muster_ipxe::iso::{self, IsoManifest, IsoSpec};
use muster_ipxe::packages::Freshness;
use muster_ipxe::param::{BOOT_PORT, Site};
use muster_protocol::Digest;
use serde_json::{Value, json};

use crate::cli::client::escape;
use crate::cli::connect::{Connect, DataDir};
use crate::cli::error::CliError;
use crate::cli::follow::Progress;
use crate::cli::show::{Column, Show, bytes, joined, lines, print, text};
use crate::config::Config;

/// `muster image`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build the boot image: a Debian kernel and an initramfs with the agent and drivers
    Build(BuildImage),
    /// Show the boot image that this host's controller hands out
    #[command(visible_alias = "ls")]
    List(ListImages),
}

/// `muster iso`
#[derive(Debug, Subcommand)]
pub enum IsoCommand {
    /// Build a site's boot medium: for CD and USB, BIOS and UEFI
    Build(BuildIso),
    /// List boot media that were built on this host
    #[command(visible_alias = "ls")]
    List(ListIsos),
}

/// Where packages come from.
#[derive(Debug, Args)]
struct Fetch {
    /// Where fetched packages are kept; /var/cache/muster as root
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Fetch the newest packages, even where older ones are there
    #[arg(long)]
    latest: bool,
}

/// Build the boot image: a Debian kernel and an initramfs with the agent and drivers
///
/// The same agent, packages and firmware give the same bytes. An image that was made of this agent by this program is
/// left as it is.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster image build --agent target/x86_64-unknown-linux-musl/agent/muster-agent")]
pub struct BuildImage {
    /// The agent, a static program for x86-64; by default muster-agent beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Folder for kernel and initramfs; by default where this host's controller takes them from
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Take firmware that drivers name from a folder like /lib/firmware
    #[arg(long, value_name = "DIR")]
    firmware: Option<PathBuf>,
    /// Build even where nothing has changed
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    fetch: Fetch,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, Args)]
pub struct ListImages {
    /// Folders to look in; by default where this host's controller takes its image from
    folders: Vec<PathBuf>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    data: DataDir,
}

/// Build a site's boot medium: for CD and USB, BIOS and UEFI
///
/// The medium knows its location and where the controller is; everything else comes from the controller at each boot, so
/// it stays good when the controller changes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster iso build --location ber1 -o ber1.iso
  muster iso build --location ber1 --controller muster.example -o ber1.iso
  dd if=ber1.iso of=/dev/DISK bs=4M conv=fsync        write it to a stick")]
pub struct BuildIso {
    /// Code of the location whose machines boot from it
    #[arg(long, value_name = "CODE")]
    location: String,
    /// The file to write; by default isos/CODE.iso in the data directory
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where machines reach the controller's boot port, HOST or HOST:PORT; may be given more than once. By default this
    /// host's own addresses
    #[arg(long = "controller", alias = "url", value_name = "HOST[:PORT]")]
    controllers: Vec<String>,
    #[command(flatten)]
    fetch: Fetch,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, Args)]
pub struct ListIsos {
    /// Folder to look in; by default isos in the data directory
    folder: Option<PathBuf>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    data: DataDir,
}

impl Fetch {
    fn cache(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| {
            let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
            match rustix::process::geteuid().is_root() {
                true => "/var/cache/muster".into(),
                // XDG base directory specification: XDG_CACHE_HOME, else ~/.cache.
                false => absolute("XDG_CACHE_HOME")
                    .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
                    .map_or_else(|| "muster-cache".into(), |folder| folder.join("muster")),
            }
        })
    }

    fn freshness(&self) -> Freshness {
        if self.latest { Freshness::Latest } else { Freshness::Cached }
    }
}

/// What this host's controller runs with.
fn config(data: &DataDir) -> Result<Config, CliError> {
    Ok(Config::load(None, data.data.clone())?)
}

impl ImageCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Build(build) => build.run(),
            Self::List(ListImages { folders, show, data }) => {
                let folders = if folders.is_empty() { vec![config(&data)?.boot.images] } else { folders };
                let images = folders.iter().map(|folder| Ok(image_view(folder, &image::read(folder)?)));
                show.list(&images.collect::<Result<Vec<_>, CliError>>()?, IMAGES);
                Ok(())
            }
        }
    }
}

const IMAGES: &[Column] = &[
    Column("folder", |i| text(i, "/folder")),
    Column("kernel", |i| text(i, "/kernel_release")),
    Column("kernel size", |i| size(i, "/kernel/bytes")),
    Column("initramfs size", |i| size(i, "/initramfs/bytes")),
    Column("in memory", |i| size(i, "/unpacked/bytes")),
    Column("agent size", |i| size(i, "/agent/bytes")),
    Column("modules", |i| i["modules"].as_array().map(|modules| modules.len().to_string()).unwrap_or_default()),
    Column("agent", |i| text(i, "/agent/sha256").chars().take(12).collect()),
];

fn size(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_u64).map(bytes).unwrap_or_default()
}

fn image_view(folder: &Path, manifest: &Manifest) -> Value {
    let mut view = json!(manifest);
    view["folder"] = folder.display().to_string().into();
    view
}

impl BuildImage {
    fn run(self) -> Result<(), CliError> {
        let out = match &self.output {
            Some(out) => out.clone(),
            None => config(&self.data)?.boot.images,
        };
        let agent = self.agent.clone().unwrap_or_else(|| beside_this_program("muster-agent"));
        if let Some(manifest) = self.still_good(&out, &agent) {
            print(&format!("nothing has changed\n{}", lines(&image_view(&out, &manifest), IMAGES)));
            return Ok(());
        }
        let spec = ImageSpec {
            agent,
            cache: self.fetch.cache(),
            out: out.clone(),
            firmware: self.firmware,
            freshness: self.fetch.freshness(),
        };
        let mut progress = Progress::new();
        let built = image::build(&spec, &mut |at| progress.show(at.percent.into(), at.step));
        progress.clear();
        print(&lines(&image_view(&out, &built?), IMAGES));
        Ok(())
    }

    /// The image that is there, if it was made of this agent and by nothing older than this program.
    fn still_good(&self, out: &Path, agent: &Path) -> Option<Manifest> {
        if self.force || self.fetch.latest || self.firmware.is_some() {
            return None;
        }
        let manifest = image::read(out).ok().filter(|manifest| manifest.firmware.is_empty())?;
        let same_agent = Digest::of(&std::fs::read(agent).ok()?).to_string() == manifest.agent.sha256;
        let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let program = changed(&std::env::current_exe().ok()?)?;
        (same_agent && changed(&out.join(image::MANIFEST))? >= program).then_some(manifest)
    }
}

fn beside_this_program(name: &str) -> PathBuf {
    std::env::current_exe().map_or_else(|_| name.into(), |program| program.with_file_name(name))
}

impl IsoCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Build(build) => build.run(),
            Self::List(ListIsos { folder, show, data }) => {
                let folder = folder.unwrap_or_else(|| data.path().join("isos"));
                let found = match iso::list(&folder) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                    other => other.map_err(|cause| CliError::File { verb: "read", path: folder, cause })?,
                };
                let isos: Vec<Value> = found.iter().map(|(path, manifest)| iso_view(path, manifest)).collect();
                show.list(&isos, ISOS);
                Ok(())
            }
        }
    }
}

const ISOS: &[Column] = &[
    Column("file", |i| text(i, "/file")),
    Column("location", |i| text(i, "/site/location")),
    Column("controllers", |i| joined(i, "/site/controllers")),
    Column("size", |i| size(i, "/iso/bytes")),
    Column("sha256", |i| text(i, "/iso/sha256").chars().take(12).collect()),
];

fn iso_view(path: &Path, manifest: &IsoManifest) -> Value {
    let mut view = json!(manifest);
    view["file"] = path.display().to_string().into();
    view
}

impl BuildIso {
    fn run(self) -> Result<(), CliError> {
        let controllers = match self.controllers.as_slice() {
            [] => self.own_controllers()?,
            given => given.iter().map(|text| host_and_port(text)).collect::<Result<_, _>>()?,
        };
        let site = Site::new(&self.location, &controllers)?;
        self.check_location()?;
        let out = match &self.output {
            Some(out) => out.clone(),
            None => {
                let folder = self.data.path().join("isos");
                let failed = |cause| CliError::File { verb: "write", path: folder.clone(), cause };
                std::fs::create_dir_all(&folder).map_err(failed)?;
                folder.join(format!("{}.iso", self.location))
            }
        };
        let spec = IsoSpec { site, cache: self.fetch.cache(), out: out.clone(), freshness: self.fetch.freshness() };
        let mut progress = Progress::new();
        let built = iso::build(&spec, &mut |at| progress.show(at.percent.into(), at.step));
        progress.clear();
        print(&lines(&iso_view(&out, &built?), ISOS));
        Ok(())
    }

    /// This host's addresses, with the port on which its controller serves boot media.
    fn own_controllers(&self) -> Result<Vec<String>, CliError> {
        let port = config(&self.data)?.listen.boot.first().map_or(BOOT_PORT, |address| address.port());
        let own: Vec<String> = own_addresses()
            .into_iter()
            .map(|address| match address {
                IpAddr::V4(address) => format!("{address}:{port}"),
                IpAddr::V6(address) => format!("[{address}]:{port}"),
            })
            .collect();
        if own.is_empty() {
            let problem = "this host has no address that machines could reach; name the controller with --controller";
            return Err(CliError::Usage(problem.into()));
        }
        Ok(own)
    }

    /// A medium for a location that nobody declared is most likely a typing error.
    fn check_location(&self) -> Result<(), CliError> {
        let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let connect = Connect {
            url: given("MUSTER_URL"),
            token: given("MUSTER_TOKEN"),
            ca: given("MUSTER_CA").map(PathBuf::from),
            data: self.data.clone(),
        };
        let code = &self.location;
        let answer = connect.client().and_then(|client| client.get(&format!("/locations/{}", escape(code))));
        match answer {
            Ok(_) => Ok(()),
            Err(CliError::Refused { code: word, .. }) if word == "not-found" => Err(CliError::Failed(format!(
                "there is no location {code:?}; make it first: muster location add {code}"
            ))),
            Err(error) => {
                eprintln!("cannot ask the controller whether there is a location {code:?}: {error}");
                Ok(())
            }
        }
    }
}

/// `HOST`, `HOST:PORT`, or an HTTP URL of one.
fn host_and_port(text: &str) -> Result<String, CliError> {
    match text.split_once("://") {
        None => Ok(text.to_owned()),
        Some(("http", rest)) => Ok(rest.trim_end_matches('/').to_owned()),
        Some(_) => {
            let problem = format!("--controller must be HOST, HOST:PORT or an http:// URL, and is {text:?}");
            Err(CliError::Usage(problem))
        }
    }
}

/// The addresses from which this host would speak to the rest of the world, IPv4 first.
/// Connecting a UDP socket sends nothing; the addresses are those of documentation (RFC 5737, RFC 3849).
fn own_addresses() -> Vec<IpAddr> {
    let towards = |from: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
    };
    let v4 = towards(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = towards(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    v4.into_iter().chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_named_by_host_or_by_url() {
        let read = |text| host_and_port(text).map_err(|error| error.to_string());
        assert_eq!(read("muster.example").as_deref(), Ok("muster.example"));
        assert_eq!(read("http://10.0.2.2:8080/").as_deref(), Ok("10.0.2.2:8080"));
        assert!(read("gopher://x").is_err_and(|error| error.contains("gopher://x")));
    }
}
