//! Pools of addresses: allocate, release. A pool is one address, /32 or /128, or a block of IPv6.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Ial;
use super::answer::{Answer, Error};
use super::call::{Call, Caller};
use super::server::{ELSEWHERE, no_such_server, of_hub};
use super::takes;
use crate::fleet::address::{self, Family};
use crate::fleet::location;
use crate::fleet::pool::{self, PoolOrder};
use crate::fleet::record::{Address, AddressHolder, Subnet};
use crate::fleet::{Draft, Refusal};

/// Takes an address. The same hub asking again for the same `cycle.pool_id` and kind gets the same one.
pub(super) async fn allocate(ial: &Ial, call: &Call) -> Answer {
    let state = ial.fleet.state();
    let hub = call.hub(&state)?;
    let fields = call.fields();
    fields.check(takes::ALLOCATE)?;
    let family = fields.family("kind")?;
    let order = PoolOrder {
        hub: hub.name.clone(),
        pool: fields.inner("cycle")?.cycle_id("pool_id")?.unwrap_or_default().to_owned(),
        lease: fields.text("server_id")?.to_owned(),
        location: fields.text("location_id")?.to_owned(),
        family,
    };
    hub.need(&order.location, &fields)?;
    location::need(&state, &order.location).map_err(|refusal| Error::of(refusal, call.at()))?;
    if of_hub(&state, &hub, &order.lease, &fields)?.is_none() {
        return Err(no_such_server(&fields));
    }
    if !address::is_offered(&state, &order.location, family) {
        let title = format!("{family} is not offered at {}", order.location);
        return Err(Error::new("422.not-compatible", title).source(fields.pointer("kind")));
    }
    let places = hub.places.clone();
    let allocate = move |draft: &mut Draft| {
        // A repeated order is the address that it was, wherever that is from.
        let (address, subnet) = pool::allocate(draft, order)?;
        if places.allows(&subnet.location) { Ok((address, subnet)) } else { Err(Refusal::Conflict(ELSEWHERE.into())) }
    };
    let (address, subnet) = ial.change(&hub.name, call, allocate).await?;
    Ok(view(&address, &subnet))
}

fn view(address: &Address, subnet: &Subnet) -> Value {
    let assignment = match &address.holder {
        AddressHolder::Pool { assignment, .. } => assignment.as_str(),
        AddressHolder::Machine { .. } | AddressHolder::Assigned { .. } | AddressHolder::Quarantine { .. } => "",
    };
    let own = address.block.addr();
    let public = subnet.public(own);
    let mut view = json!({
        "ip_id": own,
        "ip_assignment_id": assignment,
        "cidr": format!("{public}/{}", address.block.prefix_len()),
        // Where the public address is translated, these two are of the network that the server is on.
        "gateway": subnet.gateway,
        "network": subnet.net,
        "nat_private_ip": (public != own).then_some(own),
    });
    // Gone from Cycle's own types, demanded by its OpenAPI file.
    if let IpNet::V4(net) = subnet.net {
        view["netmask"] = json!(net.netmask());
    }
    view
}

/// Gives an address back. True for one that came back before.
///
/// Cycle's OpenAPI file shows this one call without any credentials. `ip_assignment_id` is 128 random bits that only the hub
/// was told, so a flat body without `auth` that has it is as good as one with; for any other it does nothing.
pub(super) async fn release(ial: &Ial, call: &Call) -> Answer {
    let state = ial.fleet.state();
    let caller = if call.is_flat() { call.caller(&state)? } else { Caller::Hub(call.hub(&state)?) };
    let fields = call.fields();
    fields.check(takes::RELEASE)?;
    let family = fields.family("kind")?;
    let ip: IpAddr = fields.text("ip_id")?.parse().map_err(|_| {
        Error::new("404.infrastructure.ips.pool", "This names no address of ours").source(fields.pointer("ip_id"))
    })?;
    let assignment = fields.text("ip_assignment_id")?.to_owned();
    let mismatch = |key, title: String| Err(Error::new("422.invalid-argument", title).source(fields.pointer(key)));
    if Family::of(ip) != family {
        return mismatch("kind", format!("{ip} is not {family}"));
    }
    // Who has it under this name; another name has been given back before.
    let held = address::beginning(&state, ip).find_map(|address| match &address.holder {
        AddressHolder::Pool { hub, assignment: held, .. } if *held == assignment => Some((address, hub.clone())),
        _ => None,
    });
    let subnet = held.as_ref().and_then(|(address, _)| state.subnets.get(&address.subnet));
    if let Some(cidr) = fields.text_or_none("cidr")? {
        let address = cidr.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
        let public = subnet.map_or(ip, |subnet| subnet.public(ip));
        if held.is_some() && address != Some(public) {
            return mismatch("cidr", format!("This is not the block of {ip}"));
        }
    }
    let location = subnet.map(|subnet| subnet.location.clone()).unwrap_or_default();
    let block = held.as_ref().map_or(IpNet::from(ip), |(address, _)| address.block);
    let owner = held.map(|(_, hub)| (hub, location));
    match (owner, caller) {
        (None, _) => Ok(json!(true)),
        (Some((owner, _)), Caller::Hub(hub)) if owner != hub.name => Err(Error::wrong_hub(fields.pointer("ip_id"))),
        (Some((_, location)), caller) if !caller.sees(&location) => Err(Error::elsewhere(fields.pointer("ip_id"))),
        (Some((owner, _)), _) => {
            ial.change(&owner, call, move |draft| pool::release(draft, block, &assignment)).await?;
            Ok(json!(true))
        }
    }
}
