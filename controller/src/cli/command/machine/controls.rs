//! `muster machine bmc`, `outlet` and `wake`: what switches a machine from outside.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::path;
use crate::cli::ask;
use crate::cli::client::{Client, with_query};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{print, text};

/// `muster machine bmc`
#[derive(Debug, Subcommand)]
pub enum BmcCommand {
    /// Name the BMC that switches a machine, in place of the one before
    ///
    /// Its password is kept sealed and never shown again. A Redfish BMC must show the certificate with the given fingerprint,
    /// or one by a CA; where neither is given, the certificate that it shows now is shown, and taken after a yes.
    Set(SetBmc),
    /// Forget a machine's BMC, and its password
    Forget(Target),
}

/// `muster machine outlet`
#[derive(Debug, Subcommand)]
pub enum OutletCommand {
    /// Name the smart outlet that a machine's plug is in, in place of the one before
    ///
    /// Its URLs are kept sealed and never shown again; what the machine's sheet has is the host alone.
    Set(SetOutlet),
    /// Forget a machine's outlet, and what asks it
    Forget(Target),
}

#[derive(Debug, Args)]
pub struct Target {
    /// Id, unique beginning of an id, or name
    machine: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("address").required(true).args(["redfish", "ipmi"]), after_help = "Examples:
  muster machine bmc set kitchen --redfish https://10.0.9.7 --user admin --password-file bmc.pass
  muster machine bmc set attic --ipmi 10.0.9.8 --user admin --password-file -      password from standard input")]
pub struct SetBmc {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// The BMC speaks Redfish here
    #[arg(long, value_name = "https://HOST")]
    redfish: Option<String>,
    /// The BMC speaks IPMI 2.0 over LAN here
    #[arg(long, value_name = "HOST")]
    ipmi: Option<String>,
    /// IPMI's UDP port, where it is another one than 623
    #[arg(long, requires = "ipmi")]
    port: Option<u16>,
    /// Who signs in
    #[arg(long)]
    user: String,
    /// The file with the password in its first line; - is standard input
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
    /// Redfish's id of the system, where the BMC has several
    #[arg(long, value_name = "ID", requires = "redfish")]
    system: Option<String>,
    /// SHA-256 of the BMC's certificate, compared with what the BMC itself or its papers say
    #[arg(long, value_name = "SHA256", requires = "redfish", conflicts_with_all = ["bmc_ca", "system_cas"])]
    fingerprint: Option<String>,
    /// The CA in PEM that the BMC's certificate must be by
    #[arg(long = "bmc-ca", value_name = "FILE", requires = "redfish", conflicts_with = "system_cas")]
    bmc_ca: Option<PathBuf>,
    /// The BMC's certificate must be by a CA that the controller's host trusts
    #[arg(long, requires = "redfish")]
    system_cas: bool,
    /// Do not ask whether the certificate is the right one; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster machine outlet set kitchen --on 'http://10.0.9.20/relay/0?turn=on' --off 'http://10.0.9.20/relay/0?turn=off'
  muster machine outlet set attic --urls-file attic.urls        for URLs with a password in them")]
pub struct SetOutlet {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// URL that switches on
    #[arg(long, value_name = "URL", required_unless_present = "urls_file", requires = "off")]
    on: Option<String>,
    /// URL that switches off
    #[arg(long, value_name = "URL", requires = "on")]
    off: Option<String>,
    /// URL that switches off and on by itself, where there is one
    #[arg(long, value_name = "URL", requires = "on")]
    cycle: Option<String>,
    /// The file with these URLs, one a line: on, off, and cycle where there is one; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "off", "cycle"])]
    urls_file: Option<PathBuf>,
    /// Ask by POST with an empty body, and not by GET
    #[arg(long)]
    post: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster machine wake kitchen on       a magic packet switches it on; its firmware must allow that")]
pub struct Wake {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// Whether a magic packet switches it on
    wish: OnLan,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnLan {
    /// A magic packet is sent to switch it on
    On,
    /// None is
    Off,
}

impl BmcCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Set(set) => set.run(),
            Self::Forget(Target { machine, connect }) => {
                connect.client()?.delete(&format!("{}/bmc", path(&machine)))?;
                print(&format!("{machine}: its BMC and the password are forgotten\n"));
                Ok(())
            }
        }
    }
}

impl OutletCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Set(set) => set.run(),
            Self::Forget(Target { machine, connect }) => {
                connect.client()?.delete(&format!("{}/outlet", path(&machine)))?;
                print(&format!("{machine}: its outlet is forgotten\n"));
                Ok(())
            }
        }
    }
}

impl SetBmc {
    fn run(self) -> Result<(), CliError> {
        let password = secret(&self.password_file)?.lines().next().unwrap_or_default().to_owned();
        let client = self.connect.client()?;
        let mut body = json!({"user": self.user, "password": password});
        match (&self.redfish, &self.ipmi) {
            (Some(url), _) => {
                body["redfish"] = json!(url);
                body["system"] = json!(self.system.as_deref().unwrap_or_default());
                if let Some(file) = &self.bmc_ca {
                    body["ca"] = json!(secret(file)?);
                } else if self.system_cas {
                    body["system_cas"] = json!(true);
                } else {
                    body["fingerprint"] = json!(match &self.fingerprint {
                        Some(fingerprint) => fingerprint.clone(),
                        None => self.shown(&client, url)?,
                    });
                }
            }
            (None, host) => {
                body["ipmi"] = json!(host);
                body["port"] = json!(self.port);
            }
        }
        let machine = client.put(&format!("{}/bmc", path(&self.machine)), body, &[])?;
        print(&format!(
            "{}: its BMC is {}, user {}; `muster power on` and `cycle` ask it\n",
            text(&machine, "/name"),
            text(&machine, "/controls/bmc/address"),
            text(&machine, "/controls/bmc/user"),
        ));
        Ok(())
    }

    /// The fingerprint of what the BMC shows now, once somebody said that it is the right one.
    fn shown(&self, client: &Client, url: &str) -> Result<String, CliError> {
        let shown: Value = client.get(&with_query("/bmc/certificate", &[("url", Some(url))]))?;
        let fingerprint = text(&shown, "/fingerprint");
        eprintln!("{url} shows a certificate for {}, good until {}", text(&shown, "/subject"), text(&shown, "/until"));
        eprintln!("SHA-256 {fingerprint}");
        let question = "Whoever shows it from now on gets the password.";
        if !self.yes && !ask::is_meant(question).unwrap_or_default() {
            let problem = format!(
                "not confirmed, nothing was changed: compare it with what the BMC itself says, and give it as \
                 --fingerprint {fingerprint}, or add --yes"
            );
            return Err(CliError::Failed(problem));
        }
        Ok(fingerprint)
    }
}

impl SetOutlet {
    fn run(self) -> Result<(), CliError> {
        let [on, off, cycle] = match &self.urls_file {
            None => [self.on, self.off, self.cycle],
            Some(file) => {
                let urls = secret(file)?;
                let mut urls = urls.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned);
                let all = [urls.next(), urls.next(), urls.next()];
                if all[1].is_none() || urls.next().is_some() {
                    let problem = format!("{} must have two or three URLs, one a line", file.display());
                    return Err(CliError::Usage(problem));
                }
                all
            }
        };
        let method = if self.post { "post" } else { "get" };
        let body = json!({"on": on, "off": off, "cycle": cycle, "method": method});
        let machine = self.connect.client()?.put(&format!("{}/outlet", path(&self.machine)), body, &[])?;
        print(&format!("{}: its outlet is at {}\n", text(&machine, "/name"), text(&machine, "/controls/outlet")));
        Ok(())
    }
}

impl Wake {
    pub(super) fn run(self) -> Result<(), CliError> {
        let body = json!({"on_lan": self.wish == OnLan::On});
        let machine = self.connect.client()?.put(&format!("{}/wake", path(&self.machine)), body, &[])?;
        let what =
            if self.wish == OnLan::On { "a magic packet switches it on" } else { "no magic packet is sent to it" };
        print(&format!("{}: {what}\n", text(&machine, "/name")));
        Ok(())
    }
}

/// A file's text; `-` is standard input.
fn secret(file: &Path) -> Result<String, CliError> {
    ask::document(file)
}
