//! `muster serve`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::connect::DataDir;
use crate::cli::error::CliError;
use crate::config::Config;
use crate::server;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster serve                                    defaults, data in /var/lib/muster as root
  muster serve --data ./data                      data elsewhere
  muster serve --config /etc/muster/muster.toml   what to do differently")]
pub struct Serve {
    /// What to do differently; /etc/muster/muster.toml where it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = Config::load(self.config.as_deref(), self.data.given())?;
        Ok(server::run(config)?)
    }
}
