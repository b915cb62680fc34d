//! What each call takes: the fields of its request. A request is checked by these tables, and the OpenAPI document is made
//! of them.

/// One field of an object.
pub(super) struct Field {
    /// Its key.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) kind: Kind,
    /// For whoever reads the OpenAPI document.
    pub(super) about: &'static str,
    /// A value of it, in JSON.
    pub(super) example: &'static str,
}

/// Of which type a field is, and whether it has to be there. What may be absent may be null too.
pub(super) enum Kind {
    /// A text that has to be there and has something in it.
    Needed,
    /// `ipv4` or `ipv6`; has to be there.
    Family,
    /// A text, or none.
    Text,
    /// An object with anything in it, or none.
    Any,
    /// An object of which these fields are read, or none.
    Inner(&'static [Field]),
}

use Kind::{Any, Family, Inner, Needed, Text};

const fn field(name: &'static str, kind: Kind, example: &'static str, about: &'static str) -> Field {
    Field { name, kind, about, example }
}

const LOCATION: Field = field("location_id", Needed, "\"ber1\"", "`provider.location_id` of a location");
const MODEL: Field = field("model_id", Needed, "\"m-0123456789abcdef\"", "`provider.model_id` of a server model");
const SERVER: Field = field("server_id", Needed, "\"srv-0123\"", "what provision answered");
const KIND: Field = field("kind", Family, "\"ipv4\"", "which family");
const ZONE: Field = field("zone_id", Text, "null", "a zone of the location; any where there is none");
const HOSTNAME: Field = field("hostname", Text, "\"srv-acme-01.example.net\"", "for people");
const EXTRA: Field = field("extra", Any, "null", "what provision answered; not used");
const FEATURES: Field =
    field("model_features", Any, "{\"raid\":null,\"hypervisor\":true}", "`specs.features` of the model; not used");
const OPTIONS: Field = field("provision_options", Any, "null", "not used");
const CONFIGURATION: Field =
    field("location_configuration", Any, "{}", "`configuration_latest` of the location; not used");
/// What Cycle says of itself where nothing of it is read.
const CYCLE: Field = field("cycle", Any, "{}", "Cycle's own ids; not used here");

/// Of configure.
pub(super) const CONFIGURE: &[Field] = &[
    LOCATION,
    field("version", Text, "\"\"", "of the configuration that Cycle has; not used"),
    field("configuration_current", Any, "null", "what Cycle has; not used"),
    CYCLE,
];

/// Of provision.
pub(super) const PROVISION: &[Field] = &[
    MODEL,
    LOCATION,
    ZONE,
    HOSTNAME,
    FEATURES,
    OPTIONS,
    CONFIGURATION,
    field(
        "cycle",
        Inner(&[field(
            "server_id",
            Text,
            "\"6516a1f2a6078e98982dbd92\"",
            "Cycle's id of the server: an order with an id that was used before is that order. Zeros are no id",
        )]),
        "{\"server_id\":\"6516a1f2a6078e98982dbd92\"}",
        "Cycle's own ids",
    ),
];

/// Of provision-status.
pub(super) const STATUS: &[Field] = &[
    SERVER,
    field("location_id", Text, "\"ber1\"", "not used"),
    field("zone_id", Text, "null", "not used"),
    FEATURES,
    OPTIONS,
    CONFIGURATION,
    EXTRA,
    CYCLE,
];

/// Of restart and decommission.
pub(super) const ACT: &[Field] = &[
    SERVER,
    field("hostname", Text, "\"srv-acme-01.example.net\"", "not used"),
    field("model_id", Text, "\"m-0123456789abcdef\"", "not used"),
    field("location_id", Text, "\"ber1\"", "not used"),
    field("zone_id", Text, "null", "not used"),
    EXTRA,
    CYCLE,
];

/// Of allocate.
pub(super) const ALLOCATE: &[Field] = &[
    KIND,
    SERVER,
    LOCATION,
    field("zone_id", Text, "null", "not used"),
    CONFIGURATION,
    field(
        "cycle",
        Inner(&[field(
            "pool_id",
            Text,
            "\"6516b3a4a6078e98982dbd94\"",
            "Cycle's id of the pool: an order of the same kind with an id that was used before is that order. Zeros are no \
             id",
        )]),
        "{\"pool_id\":\"6516b3a4a6078e98982dbd94\"}",
        "Cycle's own ids",
    ),
];

/// Of release.
pub(super) const RELEASE: &[Field] = &[
    KIND,
    field("ip_id", Needed, "\"203.0.113.10\"", "what allocate answered"),
    field("ip_assignment_id", Needed, "\"0123456789abcdef0123456789abcdef\"", "what allocate answered"),
    field(
        "cidr",
        Text,
        "\"203.0.113.10/32\"",
        "what allocate answered; where it is another block, the call is refused",
    ),
    field("nat_private_ip", Text, "null", "not used"),
    field("zone_id", Text, "null", "not used"),
    field("server_id", Text, "\"srv-0123\"", "not used"),
    field("location_id", Text, "\"ber1\"", "not used"),
    CONFIGURATION,
    CYCLE,
];

/// Of `auth`. What else is in it is not looked at.
pub(super) const AUTH: &[Field] = &[
    field("api_key", Text, "\"5f0c9a7e21b3d864\"", "the key of a credential"),
    field("secret", Text, "\"the secret of that key\"", "its secret"),
    field(
        "cycle",
        Inner(&[field(
            "hub_id",
            Text,
            "\"651586fca6078e98982dbd90\"",
            "Cycle's id of the hub; a credential may be good for one hub alone",
        )]),
        "{\"hub_id\":\"651586fca6078e98982dbd90\"}",
        "Cycle's own ids",
    ),
];
