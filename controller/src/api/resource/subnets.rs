//! Subnets, and the addresses that are handed out from them.

use std::net::{IpAddr, Ipv4Addr};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Body, Operator, Page, Params, Problem, Refused, Segment, Viewer, etag};
use crate::api::view::Time;
use crate::api::{Api, PREFIX};
use crate::clock::now_unix_ms;
use crate::fleet::answered::Outcome;
use crate::fleet::location::reservation::{self, Reservation};
use crate::fleet::record::{Address, AddressHolder, AddressRange, NatRange, Subnet};
use crate::fleet::{Refusal, State as FleetState, address, free, location, machine, subnet};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(show, remove))
        .routes(routes!(addresses, assign))
        .routes(routes!(reclaim))
        .routes(routes!(reservations))
}

/// Addresses that may be handed out at one location.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Subnet)]
struct SubnetView {
    /// Prefix, such as `192.0.2.0/24`.
    net: String,
    /// Code of the location.
    location: String,
    /// Router of those who get an address from it.
    gateway: Option<String>,
    /// Resolvers of those who get an address from it.
    nameservers: Vec<String>,
    /// What is never handed out: addresses, `FIRST-LAST` or prefixes.
    reserved: Vec<String>,
    /// Private addresses and the public ones that stand for them, `PRIVATE=PUBLIC`; leases and pools get no others.
    nat: Vec<String>,
    /// Prefix length of one pool of Cycle's, for IPv6; single addresses where there is none.
    block: Option<u8>,
    /// For how many seconds an address that was given back is nobody's.
    quarantine_s: u32,
    /// How many are handed out.
    taken: u64,
    /// How many were given back, and are nobody's for now.
    quarantined: u64,
    /// When the first of those is free again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    quarantine_ends: Option<Time>,
    /// How many could be handed out now; the largest number that JSON readers keep where there are more.
    free: u64,
}

/// A subnet to declare.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SubnetBody {
    /// Prefix without host bits, such as `192.0.2.0/24`.
    net: String,
    /// Code of the location where it is on the wire.
    location: String,
    /// Router of those who get an address from it.
    gateway: Option<String>,
    /// Resolvers of those who get an address from it.
    #[serde(default)]
    nameservers: Vec<String>,
    /// What is never handed out, besides the gateway: addresses, `FIRST-LAST` or prefixes.
    #[serde(default)]
    reserved: Vec<String>,
    /// Private addresses and the public ones that stand for them: `PRIVATE=PUBLIC`, two addresses or two prefixes of one
    /// length. Leases and pools get no others then.
    #[serde(default)]
    nat: Vec<String>,
    /// Prefix length of one pool of Cycle's, for IPv6; single addresses where there is none.
    block: Option<u8>,
    /// For how many seconds an address that was given back is nobody's; 600 by default, 30 days at most.
    quarantine_s: Option<u32>,
}

impl SubnetBody {
    fn read(self) -> Result<Subnet, Problem> {
        let address = |field: String, text: &str| {
            let wrong = || Problem::invalid(field.clone(), format!("must be an IP address, and is {text:?}"));
            text.parse::<IpAddr>().map_err(|_| wrong())
        };
        let nameserver = |(i, text): (usize, &String)| address(format!("nameservers[{i}]"), text);
        let range = |(i, text): (usize, &String)| {
            text.parse::<AddressRange>().map_err(|e| Problem::from(e).at(format!("reserved[{i}]")))
        };
        let pair = |(i, text): (usize, &String)| {
            text.parse::<NatRange>().map_err(|e| Problem::from(e).at(format!("nat[{i}]")))
        };
        Ok(Subnet {
            net: net("net", &self.net)?,
            location: self.location,
            gateway: self.gateway.map(|text| address("gateway".into(), &text)).transpose()?,
            nameservers: self.nameservers.iter().enumerate().map(nameserver).collect::<Result<_, _>>()?,
            reserved: self.reserved.iter().enumerate().map(range).collect::<Result<_, _>>()?,
            nat: self.nat.iter().enumerate().map(pair).collect::<Result<_, _>>()?,
            block: self.block,
            quarantine_s: self.quarantine_s.unwrap_or(subnet::QUARANTINE_S),
        })
    }
}

fn net(field: &str, text: &str) -> Result<IpNet, Problem> {
    text.parse().map_err(|_| Problem::invalid(field, format!("must be a prefix like 192.0.2.0/24, and is {text:?}")))
}

fn view(state: &FleetState, subnet: &Subnet) -> SubnetView {
    // 2^53 - 1: larger integers lose digits in JavaScript.
    let short = |count: u128| u64::try_from(count).unwrap_or(u64::MAX).min((1 << 53) - 1);
    let now = now_unix_ms();
    let usage = free::usage(state, subnet, now);
    SubnetView {
        net: subnet.net.to_string(),
        location: subnet.location.clone(),
        gateway: subnet.gateway.map(|gateway| gateway.to_string()),
        nameservers: subnet.nameservers.iter().map(ToString::to_string).collect(),
        reserved: subnet.reserved.iter().map(ToString::to_string).collect(),
        nat: subnet.nat.iter().map(ToString::to_string).collect(),
        block: subnet.block,
        quarantine_s: subnet.quarantine_s,
        taken: short(usage.taken),
        quarantined: short(usage.quarantined),
        quarantine_ends: free::ends(state, subnet, now).min().map(Time),
        free: short(usage.free),
    }
}

/// What a DHCP server is to tell one NIC of a machine: the IPv4 address that it has, of a lease or assigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Reservation)]
pub struct ReservationView {
    /// Address.
    #[schema(value_type = String)]
    pub address: Ipv4Addr,
    /// Prefix of its subnet.
    #[schema(value_type = String)]
    pub net: Ipv4Net,
    /// Code of the location.
    pub location: String,
    /// Whose it is.
    pub machine: String,
    /// Permanent MAC of the NIC.
    pub mac: String,
    /// The lease's host name or the machine's own, in lower case; `null` where neither could be a host's.
    pub hostname: Option<String>,
    /// Router.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers.
    #[schema(value_type = Vec<String>)]
    pub nameservers: Vec<Ipv4Addr>,
    /// For how many seconds the address is nobody's once it was given back: the most that a DHCP server should lease it for.
    pub quarantine_s: u32,
}

impl From<Reservation> for ReservationView {
    fn from(reserved: Reservation) -> Self {
        let Reservation { machine, mac, address, net, location, hostname, gateway, nameservers, quarantine_s } =
            reserved;
        let (machine, mac) = (machine.to_string(), mac.to_string());
        Self { address, net, location, machine, mac, hostname, gateway, nameservers, quarantine_s }
    }
}

/// What a DHCP server is to tell machines of the addresses that they have, by address.
#[utoipa::path(get, path = "/reservations", tag = "addresses",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("location" = Option<String>, Query, description = "only those at the location with this code"),
    ),
    responses((status = 200, body = Page<ReservationView>), Refused))]
async fn reservations(
    _: Viewer,
    State(api): State<Api>,
    mut params: Params,
) -> Result<Json<Page<ReservationView>>, Problem> {
    let limit = params.limit()?;
    let cursor: Option<Ipv4Addr> = params.cursor()?;
    let state = api.fleet.state();
    let location = params.text("location");
    if let Some(code) = &location {
        location::choose(&state, "location", code)?;
    }
    params.finish()?;
    let wanted = |r: &Reservation| {
        cursor.is_none_or(|cursor| r.address > cursor) && location.as_deref().is_none_or(|code| code == r.location)
    };
    let all: Vec<Reservation> = reservation::list(&state).filter(wanted).collect();
    Ok(Json(Page::take(all.iter(), limit, |r| r.address.to_string(), |r| r.clone().into())))
}

/// All subnets, by prefix.
#[utoipa::path(get, path = "/subnets", tag = "addresses",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("location" = Option<String>, Query, description = "only those at the location with this code"),
    ),
    responses((status = 200, body = Page<SubnetView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<SubnetView>>, Problem> {
    let limit = params.limit()?;
    let cursor: Option<IpNet> = params.cursor()?;
    let state = api.fleet.state();
    let location = params.text("location");
    if let Some(code) = &location {
        location::choose(&state, "location", code)?;
    }
    params.finish()?;
    let wanted = |s: &&Subnet| {
        cursor.is_none_or(|cursor| s.net > cursor) && location.as_deref().is_none_or(|code| code == s.location)
    };
    Ok(Json(Page::take(state.subnets.iter().filter(wanted), limit, |s| s.net.to_string(), |s| view(&state, s))))
}

/// One subnet. The `/` of its prefix is written `%2F`.
#[utoipa::path(get, path = "/subnets/{net}", tag = "addresses",
    params(("net" = String, Path, description = "prefix, such as `192.0.2.0%2F24`")),
    responses((status = 200, body = SubnetView), Refused))]
async fn show(_: Viewer, State(api): State<Api>, Segment(text): Segment) -> Result<impl IntoResponse, Problem> {
    let state = api.fleet.state();
    let record = state.subnets.get(&net("net", &text)?).ok_or(Refusal::NotFound { kind: "subnet", name: text })?;
    Ok((etag::header(&etag::of(record)), Json(view(&state, record))))
}

/// Declares a subnet.
#[utoipa::path(post, path = "/subnets", tag = "addresses", request_body = SubnetBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 201, body = SubnetView), Refused))]
async fn add(
    Operator(caller): Operator,
    State(api): State<Api>,
    body: Body<SubnetBody>,
) -> Result<impl IntoResponse, Problem> {
    let subnet = body.value.read()?;
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            subnet::add(draft, subnet).map(|subnet| (subnet.net.to_string(), subnet.net.to_string()))
        })
        .await?;
    let (Outcome::Done(text) | Outcome::Repeated { subject: text }) = outcome;
    let state = api.fleet.state();
    let location = [(header::LOCATION, format!("{PREFIX}/subnets/{}", text.replace('/', "%2F")))];
    let record = state.subnets.get(&net("net", &text)?).ok_or(Refusal::NotFound { kind: "subnet", name: text })?;
    Ok((StatusCode::CREATED, location, etag::header(&etag::of(record)), Json(view(&state, record))))
}

/// Removes a subnet from which nothing is handed out.
#[utoipa::path(delete, path = "/subnets/{net}", tag = "addresses",
    params(
        ("net" = String, Path, description = "prefix, such as `192.0.2.0%2F24`"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 204, description = "it is gone"), Refused))]
async fn remove(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(text): Segment,
) -> Result<StatusCode, Problem> {
    let net = net("net", &text)?;
    api.fleet
        .change(caller.author, move |draft| {
            let before = draft.need::<Subnet>(&net)?;
            caller.condition.check("subnet", Some(&etag::of(&before)))?;
            subnet::remove(draft, net)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An address in somebody's hands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Address)]
struct AddressView {
    /// What was handed out.
    address: String,
    /// The subnet it is from.
    subnet: String,
    /// By which one the world reaches it, where pairs of its subnet say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<String>,
    /// `machine`: for itself, by a lease; `pool`: to a pool of Cycle's; `assigned`: to a machine, by an operator;
    /// `quarantine`: nobody, it was given back.
    holder: String,
    /// Id of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    /// The machine's name; absent where it is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_name: Option<String>,
    /// Cycle's hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<String>,
    /// The lease that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Time,
    /// When the quarantine ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Time>,
}

fn address_view(state: &FleetState, record: &Address) -> AddressView {
    let subnet = state.subnets.get(&record.subnet);
    let public = subnet.map(|subnet| subnet.public(record.block.addr())).filter(|ip| *ip != record.block.addr());
    let mut view = AddressView {
        address: record.block.to_string(),
        subnet: record.subnet.to_string(),
        public: public.map(|ip| ip.to_string()),
        holder: String::new(),
        machine: None,
        machine_name: None,
        hub: None,
        lease: None,
        since: Time(record.since_unix_ms),
        until: None,
    };
    let name_of = |id| state.machines.get(&id).map(|machine| machine.name.clone());
    view.holder = match record.holder.clone() {
        AddressHolder::Machine { machine, lease } => {
            (view.machine, view.machine_name) = (Some(machine.to_string()), name_of(machine));
            view.lease = Some(lease);
            "machine"
        }
        AddressHolder::Pool { hub, lease, .. } => {
            (view.hub, view.lease) = (Some(hub), Some(lease));
            "pool"
        }
        AddressHolder::Assigned { machine } => {
            (view.machine, view.machine_name) = (Some(machine.to_string()), name_of(machine));
            "assigned"
        }
        AddressHolder::Quarantine { until_unix_ms } => {
            view.until = Some(Time(until_unix_ms));
            "quarantine"
        }
    }
    .to_owned();
    view
}

/// An address for a machine.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AssignBody {
    /// Id, unique beginning of an id, or name of the machine.
    machine: String,
    /// The subnet to take it from, such as `192.0.2.0/24`.
    subnet: String,
}

/// Assigns the lowest free address of a subnet to a machine, for its configuration. Where the machine has one of that subnet
/// it is answered again.
#[utoipa::path(post, path = "/addresses", tag = "addresses", request_body = AssignBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 201, body = AddressView), Refused))]
async fn assign(
    Operator(caller): Operator,
    State(api): State<Api>,
    body: Body<AssignBody>,
) -> Result<impl IntoResponse, Problem> {
    let AssignBody { machine: name, subnet } = body.value;
    let of = net("subnet", &subnet)?;
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            let id = machine::lookup(draft.state(), &name)?;
            address::assign(draft, id, of).map(|address| (address.block.to_string(), address.block.to_string()))
        })
        .await?;
    let (Outcome::Done(text) | Outcome::Repeated { subject: text }) = outcome;
    let state = api.fleet.state();
    let record = state.addresses.get(&net("address", &text)?);
    let record = record.ok_or(Refusal::NotFound { kind: "address", name: text })?;
    Ok((StatusCode::CREATED, Json(address_view(&state, record))))
}

/// Addresses that are handed out or in quarantine, in order.
#[utoipa::path(get, path = "/addresses", tag = "addresses",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("subnet" = Option<String>, Query, description = "only those of this subnet"),
    ),
    responses((status = 200, body = Page<AddressView>), Refused))]
async fn addresses(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<AddressView>>, Problem> {
    let limit = params.limit()?;
    let cursor: Option<IpNet> = params.cursor()?;
    let subnet: Option<IpNet> = params.parsed("subnet", "a prefix like 192.0.2.0/24")?;
    params.finish()?;
    let state = api.fleet.state();
    let wanted =
        |a: &&Address| cursor.is_none_or(|cursor| a.block > cursor) && subnet.is_none_or(|subnet| a.subnet == subnet);
    let now = now_unix_ms();
    let wanted = |a: &&Address| wanted(a) && !free::is_over(a, now);
    Ok(Json(Page::take(
        state.addresses.iter().filter(wanted),
        limit,
        |a| a.block.to_string(),
        |a| address_view(&state, a),
    )))
}

/// Takes back an address that was assigned to a machine, or that a pool of Cycle's holds and will not release any more. One
/// that was given back leaves its quarantine.
#[utoipa::path(delete, path = "/addresses/{address}", tag = "addresses",
    params(("address" = String, Path, description = "the address, with or without `%2F32`")),
    responses((status = 204, description = "it is free"), Refused))]
async fn reclaim(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(text): Segment,
) -> Result<StatusCode, Problem> {
    let block = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
    let block = block.map_err(|_| {
        let problem = "must be an address like 192.0.2.7, or a block like 2001:db8::80/121, that was handed out";
        Problem::invalid("address", format!("{problem}, and is {text:?}"))
    })?;
    api.fleet.change(caller.author, move |draft| address::reclaim(draft, block)).await?;
    Ok(StatusCode::NO_CONTENT)
}
