//! `muster image` and `muster iso`: what machines boot, made on this host from Debian's packages.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use muster_ipxe::image::{self, ImageSpec, Manifest};
use muster_ipxe::iso::{self, IsoSpec};
use muster_ipxe::packages::Freshness;
use muster_ipxe::param::Site;
use serde_json::{Value, json};

use super::Failure;
use super::client::Target;
use super::output::{Column, Output, Progress, bytes, text};
use crate::config::Config;
use crate::files;

/// The kernel and the initramfs that machines boot
#[derive(Subcommand)]
pub(super) enum Image {
    /// Make them from the agent and a Debian kernel
    ///
    /// Packages are fetched with apt and kept; a second build needs no network. The same inputs give the same bytes.
    Build {
        /// The agent, a static program; found beside this one
        #[arg(long, value_name = "FILE")]
        agent: Option<PathBuf>,
        /// Where to put them; where the controller looks for them by default
        #[arg(long, short, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Where packages are kept
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
        /// A folder like /lib/firmware, for drivers that need files from it
        #[arg(long, value_name = "DIR")]
        firmware: Option<PathBuf>,
        /// Fetch the newest packages
        #[arg(long)]
        latest: bool,
    },
    /// The image that the controller serves
    List {
        /// Where they are; where the controller looks for them by default
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
}

impl Image {
    pub fn run(self, target: &Target) -> Result<(), Failure> {
        match self {
            Self::Build { agent, output, cache, firmware, latest } => {
                let spec = ImageSpec {
                    agent: agent.map_or_else(find_agent, Ok)?,
                    cache: cache.unwrap_or_else(default_cache),
                    out: output.map_or_else(|| images(target), Ok)?,
                    firmware,
                    freshness: freshness(latest),
                };
                let mut progress = Progress::default();
                let built = image::build(&spec, &mut |now| progress.at(&format!("{:>3} %  {}", now.percent, now.step)));
                progress.done();
                let manifest = built.map_err(|e| Failure::chain(&e))?;
                println!("{}", describe(&spec.out, &manifest));
                Ok(())
            }
            Self::List { images: folder, output } => {
                let folder = folder.map_or_else(|| images(target), Ok)?;
                let manifest = image::read(&folder).map_err(|e| Failure::chain(&e))?;
                let value = serde_json::to_value(&manifest).map_err(Failure::failed)?;
                output.one(&value, |_| describe(&folder, &manifest));
                Ok(())
            }
        }
    }
}

fn describe(folder: &Path, manifest: &Manifest) -> String {
    format!(
        "{}: kernel {} {}, initramfs {} with {} drivers, agent {}",
        folder.display(),
        manifest.kernel_release,
        bytes(manifest.kernel.bytes),
        bytes(manifest.initramfs.bytes),
        manifest.modules.len(),
        bytes(manifest.agent.bytes),
    )
}

/// Boot media for sites
#[derive(Subcommand)]
pub(super) enum Iso {
    /// Make the boot medium of a site: for CD and USB, BIOS and UEFI
    Build {
        /// Code of the location where it will be used
        #[arg(long)]
        location: String,
        /// The file to write
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// How machines there reach a controller: HOST or HOST:PORT of its boot listener; may be given more than once,
        /// is this host's address otherwise
        #[arg(long = "controller", value_name = "HOST[:PORT]")]
        controllers: Vec<String>,
        /// Where packages are kept
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
        /// Fetch the newest packages
        #[arg(long)]
        latest: bool,
    },
    /// The media that were made on this host
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Iso {
    pub fn run(self, target: &Target) -> Result<(), Failure> {
        match self {
            Self::Build { location, output, controllers, cache, latest } => {
                let controllers = if controllers.is_empty() { own_controllers(target)? } else { controllers };
                let site = Site::new(&location, &controllers).map_err(|e| Failure::Usage(format!("--{e}")))?;
                let spec = IsoSpec {
                    site,
                    cache: cache.unwrap_or_else(default_cache),
                    out: output,
                    freshness: freshness(latest),
                };
                let mut progress = Progress::default();
                let built = iso::build(&spec, &mut |now| progress.at(&format!("{:>3} %  {}", now.percent, now.step)));
                progress.done();
                let manifest = built.map_err(|e| Failure::chain(&e))?;
                println!(
                    "{}: {}, for location {location}, asks {}",
                    spec.out.display(),
                    bytes(manifest.iso.bytes),
                    controllers.join(", ")
                );
                remember(target, &location, &controllers, &spec.out, manifest.iso.bytes, &manifest.iso.sha256)
            }
            Self::List { output } => {
                const COLUMNS: [Column; 4] = [
                    ("FILE", |i| text(i, "file")),
                    ("LOCATION", |i| text(i, "location")),
                    ("CONTROLLERS", |i| text(i, "controllers")),
                    ("SIZE", |i| bytes(i["bytes"].as_u64().unwrap_or_default())),
                ];
                output.list(remembered(target), &COLUMNS);
                Ok(())
            }
        }
    }
}

/// Where the record of a medium lies: one file each, named by the medium's digest.
fn records(target: &Target) -> PathBuf {
    target.data().join("isos")
}

fn remember(
    target: &Target,
    location: &str,
    controllers: &[String],
    file: &Path,
    bytes: u64,
    sha256: &str,
) -> Result<(), Failure> {
    let folder = records(target);
    let made_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let record = json!({
        "file": std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
        "location": location, "controllers": controllers, "bytes": bytes, "sha256": sha256, "made_unix_s": made_unix_s,
    });
    std::fs::create_dir_all(&folder)
        .and_then(|()| {
            files::replace(&folder.join(format!("{sha256}.json")), record.to_string().as_bytes(), files::PUBLIC)
        })
        .map_err(|e| Failure::failed(format!("the medium is made, but its record in {} is not: {e}", folder.display())))
}

fn remembered(target: &Target) -> Vec<Value> {
    let entries = std::fs::read_dir(records(target)).into_iter().flatten().flatten();
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok();
    let mut media: Vec<Value> = entries.filter_map(|entry| read(entry.path())).collect();
    media.sort_by_key(|medium| medium["made_unix_s"].as_u64());
    media
}

fn freshness(latest: bool) -> Freshness {
    if latest { Freshness::Latest } else { Freshness::Cached }
}

fn config(target: &Target) -> Result<Config, Failure> {
    Config::load(None, target.data.clone()).map_err(|e| Failure::chain(&e))
}

fn images(target: &Target) -> Result<PathBuf, Failure> {
    Ok(config(target)?.boot.images)
}

/// The agent that was built or installed with this program.
fn find_agent() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::failed)?;
    let here = own.parent().unwrap_or(Path::new("."));
    let places = [
        here.join("muster-agent"),
        here.join("../x86_64-unknown-linux-musl/agent/muster-agent"),
        PathBuf::from("/usr/lib/muster/muster-agent"),
    ];
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| {
        let looked = places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        Failure::failed(format!("there is no agent at {looked}; make one with `make build`, or name it with --agent"))
    })
}

/// Packages belong to the host, not to one controller's data.
fn default_cache() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match home {
        Some(home) if !rustix::process::geteuid().is_root() => home.join(".cache/muster"),
        _ => PathBuf::from("/var/cache/muster"),
    }
}

/// This host as machines reach it: the address that its default route leaves from, and the boot listener's port.
fn own_controllers(target: &Target) -> Result<Vec<String>, Failure> {
    let port = config(target)?.listen.boot.first().map(|address| address.port());
    let port =
        port.ok_or_else(|| Failure::failed("this host's controller has no boot listener; name one with --controller"))?;
    // Connecting a UDP socket sends nothing; it only asks the kernel which way it would send.
    let toward = |any: &str, far: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    // Addresses for documentation (RFC 5737, RFC 3849): routed by default routes alone.
    let found = toward("0.0.0.0:0", "192.0.2.1:9").or_else(|| toward("[::]:0", "[2001:db8::1]:9"));
    match found {
        Some(IpAddr::V4(ip)) => Ok(vec![format!("{ip}:{port}")]),
        Some(IpAddr::V6(ip)) => Ok(vec![format!("[{ip}]:{port}")]),
        None => Err(Failure::failed(
            "this host has no default route to tell its address by; name it with --controller HOST",
        )),
    }
}
