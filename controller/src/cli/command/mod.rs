//! The commands, one file per noun.

mod access;
mod desired;
mod feed;
mod lease;
mod location;
mod machine;
mod media;
mod model;
mod operation;
mod policy;
mod power;
mod serve;

use clap::Subcommand;

pub use desired::steps as plan_text;

use super::error::CliError;

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a controller
    ///
    /// Needs nothing: makes its CA, an admin token and its database on first start.
    Serve(serve::Serve),
    /// How the controller and its fleet are
    Status(feed::Status),
    /// Machines: who is there, who may come in, what they are called
    #[command(subcommand)]
    Machine(machine::MachineCommand),
    /// Policies: rules by which machines are approved without an operator's hand
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// What machines would do for a document; changes nothing
    ///
    /// The machines themselves are asked. Steps that destroy name the disk by its identity.
    Plan(desired::PlanArgs),
    /// How a document differs from what machines are, or are on their way to
    ///
    /// No machine is asked: this compares what was applied last with the document.
    Diff(desired::DiffArgs),
    /// Make a document what a machine should be, or roll a template out over many
    ///
    /// A document with `network` alone leaves the storage as it is, and the other way round; links that its `network` does not
    /// describe and the one before did are given back. The machine keeps the change only after it reached the controller over
    /// it, and undoes it by itself otherwise. An offline machine follows when it comes back.
    ///
    /// Over machines that are selected it is a rollout: a canary first, then waves; it stops by itself where a machine
    /// undoes the change or refuses it, and leaves those of later waves as they are.
    Apply(desired::ApplyArgs),
    /// Rollouts: one template over many machines, wave after wave
    #[command(subcommand)]
    Rollout(desired::rollout::RolloutCommand),
    /// Switch machines on and off, and start them anew
    #[command(subcommand)]
    Power(power::PowerCommand),
    /// Operations: what is being done, and what was
    #[command(subcommand)]
    Operation(operation::OperationCommand),
    /// Locations: the sites that machines stand at
    #[command(subcommand)]
    Location(location::LocationCommand),
    /// Models: machines that are alike
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Subnets from which addresses are handed out
    #[command(subcommand)]
    Subnet(location::subnet::SubnetCommand),
    /// Addresses that are handed out
    #[command(subcommand)]
    Address(location::subnet::AddressCommand),
    /// DHCP: what a server is to tell machines of their addresses
    #[command(subcommand)]
    Dhcp(location::dhcp::DhcpCommand),
    /// Leases: machines in the hands of Cycle's hubs
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Boot media for sites
    #[command(subcommand)]
    Iso(media::IsoCommand),
    /// The kernel and the initramfs that machines boot
    #[command(subcommand)]
    Image(media::ImageCommand),
    /// Disk images: operating systems that machines may be given
    #[command(subcommand)]
    DiskImage(media::DiskImageCommand),
    /// Operators' tokens
    #[command(subcommand)]
    Token(access::TokenCommand),
    /// Boot tickets, for agents that are started as processes
    #[command(subcommand)]
    Ticket(access::TicketCommand),
    /// The certificate authority: which one signs, and how the fleet goes to a new one
    #[command(subcommand)]
    Ca(access::ca::CaCommand),
    /// Cycle's Infrastructure Abstraction Layer
    #[command(subcommand)]
    Ial(access::IalCommand),
    /// What happens, as it happens
    Events(feed::Events),
    /// Who changed what
    Audit(feed::Audit),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<(), CliError> {
        match self {
            Self::Serve(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::Machine(command) => command.run(),
            Self::Policy(command) => command.run(),
            Self::Plan(command) => command.run(),
            Self::Diff(command) => command.run(),
            Self::Apply(command) => command.run(),
            Self::Rollout(command) => command.run(),
            Self::Power(command) => command.run(),
            Self::Operation(command) => command.run(),
            Self::Location(command) => command.run(),
            Self::Model(command) => command.run(),
            Self::Subnet(command) => command.run(),
            Self::Address(command) => command.run(),
            Self::Dhcp(command) => command.run(),
            Self::Lease(command) => command.run(),
            Self::Iso(command) => command.run(),
            Self::Image(command) => command.run(),
            Self::DiskImage(command) => command.run(),
            Self::Token(command) => command.run(),
            Self::Ticket(command) => command.run(),
            Self::Ca(command) => command.run(),
            Self::Ial(command) => command.run(),
            Self::Events(command) => command.run(),
            Self::Audit(command) => command.run(),
        }
    }
}
