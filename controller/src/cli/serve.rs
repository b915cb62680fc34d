//! `muster serve`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::client::Target;
use crate::config::Config;
use crate::server;

/// Run the controller
///
/// Makes its CA, an admin token and its database on first start, and needs nothing else.
/// Ends on Ctrl-C or SIGTERM; machines keep what they have and dial again.
#[derive(Args)]
pub(super) struct Serve {
    /// The configuration file; /etc/muster/muster.toml where it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Serve {
    pub fn run(self, target: &Target) -> Result<(), Failure> {
        let config = Config::load(self.config.as_deref(), target.data.clone()).map_err(|e| Failure::chain(&e))?;
        server::run(config).map_err(|e| Failure::chain(&e))
    }
}
