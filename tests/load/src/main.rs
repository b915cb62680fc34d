//! What `make bench` times the controller with, built as the controller is released.
//!
//! | call | what it does |
//! | --- | --- |
//! | `muster-load call`, a [`clients::Load`] in JSON on standard input | so many clients that call one server; how long each call took |
//! | `muster-load serve FOLDER ADDRESS` | the bare servers beside the controller, until it is ended |
//! | `muster-load write`, a [`disk::Writes`] in JSON on standard input | bare writes, each made durable; how long each took |
//!
//! What they found out is one line of JSON on standard output.

mod clients;
mod disk;
mod floor;
mod took;

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["call"] => tell(&clients::run(&asked()?)?),
        ["serve", folder, address] => floor::serve(Path::new(folder), address.parse()?),
        ["write"] => tell(&disk::run(&asked()?)?),
        _ => bail!("muster-load call | serve FOLDER ADDRESS | write"),
    }
}

fn asked<T: DeserializeOwned>() -> Result<T> {
    Ok(serde_json::from_reader(std::io::stdin())?)
}

fn tell(found: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(found)?);
    Ok(())
}
