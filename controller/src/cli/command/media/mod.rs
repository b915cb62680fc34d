//! `muster image` and `muster iso`: what machines boot, made on this host from Debian's packages.

mod disk_image;

use std::error::Error;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, value_parser};
use muster_ipxe::image::{self, ImageSpec, Manifest};
use muster_ipxe::iso::{self, IsoSpec, Kind, Vouched};
use muster_ipxe::packages::Freshness;
use muster_ipxe::param::{AGENTS_PORT, BOOT_PORT, Site};
use muster_protocol::enroll::SiteCredential;
use serde_json::{Value, json};

use crate::cli::ask;
use crate::cli::client::{Client, escape};
use crate::cli::connect::{Connect, DataDir};
use crate::cli::error::CliError;
use crate::cli::follow::Progress;
use crate::cli::several::Several;
use crate::cli::show::{Column, Show, age, bytes, joined, print, text};
use crate::config::Config;
pub use disk_image::DiskImageCommand;

/// `muster image`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make kernel, initramfs and tools from the agent, a Debian kernel and Debian's storage programs
    ///
    /// Packages are fetched with apt and kept; a second build needs no network. The same inputs give the same bytes.
    /// Machines boot kernel and initramfs, and fetch the tools from the controller when a plan needs them.
    /// Tools of the images before stay for machines that booted those, the last four.
    Build(ImageBuild),
    /// Show the image that the controller serves
    #[command(visible_alias = "ls")]
    List(ImageList),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster image build                      where the controller looks for it")]
pub struct ImageBuild {
    /// The agent, a static program; found beside this one
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Where to put the image; where the controller looks for it by default
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// A folder like /lib/firmware, for drivers that need files from it
    #[arg(long, value_name = "DIR")]
    firmware: Option<PathBuf>,
    #[command(flatten)]
    packages: PackageArgs,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, Args)]
pub struct ImageList {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    data: DataDir,
}

/// Where packages come from.
#[derive(Debug, Args)]
pub struct PackageArgs {
    /// Where fetched packages are kept
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Fetch the newest packages
    #[arg(long)]
    latest: bool,
}

impl PackageArgs {
    fn cache(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(muster_ipxe::packages::default_cache)
    }

    fn freshness(&self) -> Freshness {
        if self.latest { Freshness::Latest } else { Freshness::Cached }
    }
}

impl ImageCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Build(build) => build.run(),
            Self::List(ImageList { show, data }) => {
                let folder = Config::load(None, data.given())?.boot.images;
                let manifest = image::read(&folder).map_err(|e| failed(&e))?;
                show.one(&json!(manifest), |_| describe(&folder, &manifest));
                Ok(())
            }
        }
    }
}

impl ImageBuild {
    fn run(self) -> Result<(), CliError> {
        let out = match self.output {
            Some(folder) => folder,
            None => Config::load(None, self.data.given())?.boot.images,
        };
        let spec = ImageSpec {
            agent: self.agent.map_or_else(find_agent, Ok)?,
            cache: self.packages.cache(),
            out,
            firmware: self.firmware,
            freshness: self.packages.freshness(),
        };
        let mut progress = Progress::new();
        let built = image::build(&spec, &mut |now| progress.show(now.percent.into(), now.step));
        progress.clear();
        print(&describe(&spec.out, &built.map_err(|e| failed(&e))?));
        Ok(())
    }
}

fn describe(folder: &Path, manifest: &Manifest) -> String {
    let Manifest { kernel, initramfs, agent, tools, .. } = manifest;
    let packages = manifest.packages.iter().chain(&tools.packages);
    format!(
        "{}: kernel {} {}, initramfs {} with {} drivers, agent {}\n\
         tools, fetched when a plan needs them: {} ({} unpacked), {} drivers and {}\n\
         packages: {}\n",
        folder.display(),
        manifest.kernel_release,
        bytes(kernel.bytes),
        bytes(initramfs.bytes),
        manifest.modules.len(),
        bytes(agent.bytes),
        bytes(tools.image.bytes),
        bytes(tools.unpacked_bytes),
        tools.modules.len(),
        tools.programs.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        packages.map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", "),
    )
}

/// `muster iso`
#[derive(Debug, Subcommand)]
pub enum IsoCommand {
    /// Make the boot medium of a site: for CD and USB, BIOS and UEFI
    ///
    /// Each ISO carries a site credential of its own, by which its machines are known to come from it (`muster policy`
    /// can approve them for it) and by which it can be revoked. It is on the ISO and nowhere else: keep ISOs like keys.
    Build(IsoBuild),
    /// List the boot media that were made for this controller
    #[command(visible_alias = "ls")]
    List(IsoList),
    /// Make a boot medium useless for joining, at once; machines that are in stay in
    Revoke(IsoRevoke),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster iso build --location ber1 -o ber1.iso
  muster iso build --location ber1 -o ber1.iso --controller muster.example
  muster iso build --location ber1 -o ber1.iso --sealed      nothing comes over the network before the agent dials
  dd if=ber1.iso of=/dev/sdX bs=1M               then flash it to a stick")]
pub struct IsoBuild {
    /// Code of the location where it will be used
    #[arg(long)]
    location: String,
    /// The file to write, ending in .iso
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// How machines there reach a controller's boot listener (TCP 8080), of a sealed ISO its agents' listener (UDP 8443);
    /// may be given more than once; this host where it is not
    #[arg(long = "controller", value_name = "HOST[:PORT]")]
    controllers: Vec<String>,
    /// The controllers' HTTPS port, by which UEFI machines ask; the one by which this command reaches its controller where
    /// it is not given
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..), conflicts_with_all = ["sealed", "without_credential"])]
    https_port: Option<u16>,
    /// Make an ISO that vouches for nobody, believes anybody, and that no controller has to know of
    #[arg(long)]
    without_credential: bool,
    /// Put kernel, agent and the CA's fingerprint on it too, so that nobody on the network can change what machines start;
    /// to be made anew for another image or CA
    #[arg(long, conflicts_with = "without_credential")]
    sealed: bool,
    /// The image for a sealed one; what the controller on this host serves where it is not given
    #[arg(long, value_name = "DIR", requires = "sealed")]
    image: Option<PathBuf>,
    #[command(flatten)]
    packages: PackageArgs,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct IsoList {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster iso revoke 3f2a9c1e0b7d           the stick is gone
  muster iso revoke 3f2a9c1e0b7d --yes     and so are the policies that name it")]
pub struct IsoRevoke {
    /// As the list and the screens of its machines show it
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Do not ask where policies go with it; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

impl IsoCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        const COLUMNS: [Column; 9] = [
            Column("id", |iso| text(iso, "/id")),
            Column("location", |iso| text(iso, "/location")),
            Column("kind", |iso| if iso["sealed_ca"].is_null() { "network".into() } else { "sealed".into() }),
            Column("state", state),
            Column("machines", |iso| text(iso, "/machines")),
            Column("controllers", |iso| joined(iso, "/controllers")),
            Column("size", |iso| bytes(iso["bytes"].as_u64().unwrap_or_default())),
            Column("age", |iso| age(iso, "/made")),
            Column("file", |iso| text(iso, "/file")),
        ];
        match self {
            Self::Build(build) => build.run(),
            Self::List(IsoList { show, connect }) => {
                show.list(&connect.client()?.all("/isos", &[])?, &COLUMNS);
                Ok(())
            }
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

impl IsoRevoke {
    fn run(self) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let policies = client.all("/policies", &[])?;
        // What asks for nothing but a medium that is worth nothing approves nobody: it goes with it.
        let of = |id: &str| -> Vec<String> {
            policies.iter().filter(|policy| policy["iso"] == id).map(|policy| text(policy, "/name")).collect()
        };
        let going: Vec<String> = self.ids.iter().flat_map(|id| of(id)).collect();
        if !going.is_empty() && !self.yes {
            let question = format!("The policies that name it are deleted as well: {}.", going.join(", "));
            if !ask::is_meant(&question).unwrap_or_default() {
                let problem = format!(
                    "not confirmed, nothing was changed: this deletes the policies that name it as well: {}; to do it, \
                     add --yes",
                    going.join(", ")
                );
                return Err(CliError::Failed(problem));
            }
        }
        let mut several = Several::new(self.ids.len());
        for id in &self.ids {
            let revoked = client.post(&format!("/isos/{}/revoke", escape(id)), json!({}));
            if let Some(iso) = several.note(revoked)? {
                print(&format!("{id} for {} lets nobody join any more\n", text(&iso, "/location")));
                print(&format!("who came in by it: muster machine list --iso {id}\n"));
                of(id).iter().for_each(|policy| print(&format!("the policy {policy} is deleted\n")));
            }
        }
        several.end()
    }
}

impl IsoBuild {
    fn run(self) -> Result<(), CliError> {
        let config = || Config::load(None, self.connect.data.given());
        let controllers = match self.controllers.as_slice() {
            [] if self.sealed => dialed_controllers(&config()?)?,
            [] => vec![own_controller(config()?.listen.boot.first(), "boot")?],
            given => given.iter().map(|text| host_and_port(text)).collect::<Result<_, _>>()?,
        };
        let default_port = if self.sealed { AGENTS_PORT } else { BOOT_PORT };
        let site = Site::new(&self.location, &controllers, default_port).map_err(|e| CliError::Usage(e.to_string()))?;
        let vouched = match self.without_credential {
            true => None,
            false => Some((self.controller()?, new_credential())),
        };
        let kind = match &vouched {
            None => Kind::Network { vouched: None },
            Some((client, credential)) => {
                let (cas, credential) = match self.sealed {
                    true => (client.get("/ca")?, *credential),
                    false => (client.post("/ca/boot", json!({}))?, *credential),
                };
                let ca = |pointer| {
                    let found = text(&cas, pointer).parse();
                    found.map_err(|e| CliError::Failed(format!("the controller's CA: {e}")))
                };
                if self.sealed {
                    let image = self.image.clone().map_or_else(|| Ok(config()?.boot.images), Ok::<_, CliError>)?;
                    Kind::Sealed { credential, ca: ca("/current/fingerprint")?, image }
                } else {
                    let https_port = self.https_port.unwrap_or_else(|| client.port());
                    Kind::Network {
                        vouched: Some(Vouched { credential, boot_ca: ca("/boot/fingerprint")?, https_port }),
                    }
                }
            }
        };
        let (cache, freshness) = (self.packages.cache(), self.packages.freshness());
        let spec = IsoSpec { site, kind, cache, out: self.output.clone(), freshness };
        let mut progress = Progress::new();
        let built = iso::build(&spec, &mut |now| progress.show(now.percent.into(), now.step));
        progress.clear();
        let built = built.map_err(|e| failed(&e))?;
        let medium = built.manifest.iso.clone();
        let id = match vouched {
            None => {
                built.keep().map_err(|e| failed(&e))?;
                "without a credential".to_owned()
            }
            Some((client, credential)) => {
                let file = std::path::absolute(&spec.out).unwrap_or_else(|_| spec.out.clone());
                let noted = client.post(
                    "/isos",
                    json!({
                        "location": self.location,
                        "controllers": controllers,
                        "file": file.display().to_string(),
                        "bytes": medium.bytes,
                        "sha256": medium.sha256,
                        "credential_sha256": credential.digest().to_string(),
                        "sealed_ca": built.manifest.sealed.as_ref().map(|sealed| &sealed.ca),
                        "boot_ca": built.manifest.boot_ca,
                    }),
                );
                // What its controller does not know of would only be turned away, and takes nobody's place.
                let id = text(&noted?, "/id");
                built.keep().map_err(|e| {
                    drop(client.post(&format!("/isos/{}/revoke", escape(&id)), json!({})));
                    failed(&e)
                })?;
                format!("ISO {id}")
            }
        };
        let by_https = match &spec.kind {
            Kind::Network { vouched: Some(vouched) } => {
                format!("; UEFI machines by HTTPS at port {}", vouched.https_port)
            }
            _ => String::new(),
        };
        print(&format!(
            "{}: {}, {}{id}, for location {}, asks {}{by_https}\n",
            spec.out.display(),
            bytes(medium.bytes),
            if self.sealed { "sealed " } else { "" },
            self.location,
            controllers.join(", ")
        ));
        Ok(())
    }

    /// The controller that is to know of the ISO. It is asked for the location before anything is built: a medium for one
    /// that nobody declared is most likely a typing error.
    fn controller(&self) -> Result<Client, CliError> {
        let code = &self.location;
        let client = self.connect.client()?;
        let known: Vec<String> = client.all("/locations", &[])?.iter().map(|known| text(known, "/code")).collect();
        match known.as_slice() {
            known if known.contains(code) => Ok(client),
            [] => Err(CliError::Usage(format!(
                "--location: there is no location {code:?}, none is made yet; make it first: muster location add {code}"
            ))),
            known => Err(CliError::Usage(format!(
                "--location: there is no location {code:?}, there are {}; make it first: muster location add {code}",
                known.join(", ")
            ))),
        }
    }
}

/// What an ISO is good for now.
fn state(iso: &Value) -> String {
    match (&iso["revoked"], &iso["ca_in_force"]) {
        (Value::Null, Value::Bool(false)) => "old CA",
        (Value::Null, _) => "good",
        _ => "revoked",
    }
    .into()
}

/// 256 random bits.
fn new_credential() -> SiteCredential {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail");
    SiteCredential::from_bytes(bytes)
}

/// `HOST`, `HOST:PORT`, or the HTTP URL of one.
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

fn failed(error: &dyn Error) -> CliError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    CliError::Failed(text)
}

/// The agent that was built or installed with this program.
fn find_agent() -> Result<PathBuf, CliError> {
    let own = std::env::current_exe().unwrap_or_default();
    let here = own.parent().unwrap_or(Path::new("."));
    let places = [
        here.join("muster-agent"),
        here.join("../x86_64-unknown-linux-musl/agent/muster-agent"),
        PathBuf::from("/usr/lib/muster/muster-agent"),
    ];
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let looked = looked.join(", ");
        CliError::Failed(format!("there is no agent at {looked}; make one with `make build`, or name it with --agent"))
    })
}

/// The controllers that agents are told to dial by this host's controller.
fn dialed_controllers(config: &Config) -> Result<Vec<String>, CliError> {
    match config.boot.controllers.as_slice() {
        [] => Ok(vec![own_controller(config.listen.agents.first(), "agents'")?]),
        configured => Ok(configured.iter().map(ToString::to_string).collect()),
    }
}

/// This host as machines reach it: the address that its default route leaves from, and a listener's port.
fn own_controller(listener: Option<&SocketAddr>, name: &str) -> Result<String, CliError> {
    let port = listener.map(|address| address.port()).ok_or_else(|| {
        CliError::Usage(format!("the controller on this host has no {name} listener; name one with --controller"))
    })?;
    // Connecting a UDP socket sends nothing; it only asks the kernel which way it would send.
    let toward = |any: &str, far: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    // Addresses for documentation (RFC 5737, RFC 3849): only default routes lead there.
    match toward("0.0.0.0:0", "192.0.2.1:9").or_else(|| toward("[::]:0", "[2001:db8::1]:9")) {
        Some(IpAddr::V4(ip)) => Ok(format!("{ip}:{port}")),
        Some(IpAddr::V6(ip)) => Ok(format!("[{ip}]:{port}")),
        None => Err(CliError::Usage(
            "this host has no default route to tell its address by; name it with --controller HOST".into(),
        )),
    }
}
