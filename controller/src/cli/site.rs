//! `muster location`, `model`, `subnet` and `address`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, encode};
use super::output::{Column, Output, text};

/// The sites that machines stand at
#[derive(Subcommand)]
pub(super) enum Location {
    /// All locations
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Make a location, or say anew what it is
    Add(About),
    /// Remove a location at which nothing stands
    Remove {
        /// Its code
        code: String,
    },
}

/// What is said of a location.
#[derive(Args)]
pub(super) struct About {
    /// Short and stable, like ber1: lower-case letters, digits, hyphens
    code: String,
    /// For people
    #[arg(long, default_value = "")]
    name: String,
    /// For maps, like BER
    #[arg(long, default_value = "")]
    abbreviation: String,
    /// An availability zone; may be given more than once
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Vec<String>,
    #[arg(long, default_value = "")]
    city: String,
    #[arg(long, default_value = "")]
    state: String,
    #[arg(long, default_value = "")]
    country: String,
    #[arg(long, default_value = "")]
    region: String,
    /// Degrees, north is positive
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    latitude: f64,
    /// Degrees, east is positive
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    longitude: f64,
}

impl Location {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        const COLUMNS: [Column; 5] = [
            ("CODE", |l| text(l, "code")),
            ("NAME", |l| text(l, "name")),
            ("CITY", |l| text(l, "city")),
            ("ZONES", |l| text(l, "zones")),
            ("MACHINES", |l| text(l, "machines")),
        ];
        match self {
            Self::List { output } => output.list(client.list("/locations")?, &COLUMNS),
            Self::Add(about) => {
                let About { code, name, abbreviation, zones, city, state, country, region, latitude, longitude } =
                    about;
                let body = json!({
                    "name": name, "abbreviation": abbreviation, "zones": zones, "city": city, "state": state,
                    "country": country, "region": region, "latitude": latitude, "longitude": longitude,
                });
                client.put(&format!("/locations/{}", encode(&code)), body)?;
                println!("{code} is a location");
            }
            Self::Remove { code } => {
                client.delete(&format!("/locations/{}", encode(&code)))?;
                println!("{code} is removed");
            }
        }
        Ok(())
    }
}

/// Machines that are alike, and what they are called and cost
#[derive(Subcommand)]
pub(super) enum Model {
    /// All models
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Name and price a model
    Set {
        /// Its id
        model: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// First of the two words that Cycle groups models by
        #[arg(long)]
        category: Option<String>,
        /// Second of them
        #[arg(long)]
        class: Option<String>,
        /// Thousandths of a dollar
        #[arg(long)]
        hourly_mils: Option<u64>,
        /// Thousandths of a dollar
        #[arg(long)]
        monthly_mils: Option<u64>,
    },
}

impl Model {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        const COLUMNS: [Column; 5] = [
            ("ID", |m| text(m, "id")),
            ("NAME", |m| text(m, "name")),
            ("MONTHLY MILS", |m| text(m, "monthly_mils")),
            ("CYCLE", |m| if m["compatible"] == true { "fits".into() } else { "too small".into() }),
            ("FREE/ALL", places),
        ];
        match self {
            Self::List { output } => output.list(client.list("/models")?, &COLUMNS),
            Self::Set { model, name, description, category, class, hourly_mils, monthly_mils } => {
                let mut body = json!({
                    "name": name, "description": description, "category": category, "class": class,
                    "hourly_mils": hourly_mils, "monthly_mils": monthly_mils,
                });
                if let Some(fields) = body.as_object_mut() {
                    fields.retain(|_, value| !value.is_null());
                }
                let model = client.patch(&format!("/models/{}", encode(&model)), body)?;
                println!("{} is called {}", text(&model, "id"), text(&model, "name"));
            }
        }
        Ok(())
    }
}

fn places(model: &Value) -> String {
    let places = model.get("places").and_then(Value::as_object);
    let place = |(code, count): (&String, &Value)| format!("{code} {}/{}", text(count, "free"), text(count, "total"));
    places.map(|places| places.iter().map(place).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// The networks that addresses are handed out from
#[derive(Subcommand)]
pub(super) enum Subnet {
    /// All subnets
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Add a whole subnet to a location
    Add {
        /// Like 203.0.113.0/28 or 2001:db8:1::/64
        net: String,
        /// Code of the location where it is on the wire
        #[arg(long)]
        location: String,
        /// The router of those who get an address from it
        #[arg(long)]
        gateway: Option<String>,
        /// A resolver for those who get an address from it; may be given more than once
        #[arg(long = "nameserver", value_name = "ADDRESS")]
        nameservers: Vec<String>,
        /// What is never handed out: an address, FIRST-LAST, or a prefix; may be given more than once
        #[arg(long = "reserve", value_name = "RANGE")]
        reserved: Vec<String>,
    },
    /// Remove a subnet of which nothing is handed out
    Remove {
        /// As it was added
        net: String,
    },
}

impl Subnet {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        const COLUMNS: [Column; 6] = [
            ("SUBNET", |s| text(s, "net")),
            ("LOCATION", |s| text(s, "location")),
            ("GATEWAY", |s| text(s, "gateway")),
            ("RESERVED", |s| text(s, "reserved")),
            ("TAKEN", |s| text(s, "taken")),
            ("FREE", |s| text(s, "free")),
        ];
        match self {
            Self::List { output } => output.list(client.list("/subnets")?, &COLUMNS),
            Self::Add { net, location, gateway, nameservers, reserved } => {
                let body = json!({
                    "net": net, "location": location, "gateway": gateway, "nameservers": nameservers,
                    "reserved": reserved,
                });
                let subnet = client.post("/subnets", body)?;
                println!("{} has {} free addresses", text(&subnet, "net"), text(&subnet, "free"));
            }
            Self::Remove { net } => {
                client.delete(&format!("/subnets/{}", encode(&net)))?;
                println!("{net} is removed");
            }
        }
        Ok(())
    }
}

/// The addresses that were handed out
#[derive(Subcommand)]
pub(super) enum Address {
    /// All of them
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Take an address back whose holder is gone
    Release {
        /// As the list shows it
        address: String,
    },
}

impl Address {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        const COLUMNS: [Column; 5] = [
            ("ADDRESS", |a| text(a, "address")),
            ("SUBNET", |a| text(a, "subnet")),
            ("HOLDER", |a| text(a, "holder")),
            ("MACHINE", |a| text(a, "machine")),
            ("SINCE", |a| text(a, "since")),
        ];
        match self {
            Self::List { output } => output.list(client.list("/addresses")?, &COLUMNS),
            Self::Release { address } => {
                client.delete(&format!("/addresses/{}", encode(&address)))?;
                println!("{address} is free");
            }
        }
        Ok(())
    }
}
