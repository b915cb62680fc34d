//! What Cycle decodes: which keys an answer has and of which type each is. A wrong type fails the whole answer there.
//!
//! Keys that are not named here are nobody's business.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use Kind::{Cidr, Count, Flag, Ip, Many, Number, Object, One, Text, TextMap, Texts, TextsMap, Whole, Word};
use Need::{May, Must, MustOrNull, Should};

/// The keys of one object.
pub type Shape = &'static [Key];

/// One key of it.
pub struct Key(pub &'static str, pub Need, pub Kind);

/// Whether it has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Cycle's OpenAPI file demands it, and it is nothing that may be null.
    Must,
    /// It has to be there, as what it is or as null.
    MustOrNull,
    /// One source has it and another one has not: better said than left out.
    Should,
    /// Absent and null are all right.
    May,
}

/// A type of JSON, as Go's decoder tells them apart.
pub enum Kind {
    /// A text.
    Text,
    /// A text with something in it: an id, a name.
    Word,
    /// true or false.
    Flag,
    /// A whole number.
    Whole,
    /// A whole number that is not negative.
    Count,
    /// Any number.
    Number,
    /// An object, whatever is in it.
    Object,
    /// A list of texts.
    Texts,
    /// From texts to texts.
    TextMap,
    /// From texts to lists of texts.
    TextsMap,
    /// An IP address.
    Ip,
    /// An IP address with the length of its prefix.
    Cidr,
    /// An object of this shape.
    One(Shape),
    /// A list of such objects.
    Many(Shape),
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What should be where.
    pub expected: String,
    /// What is there.
    pub got: String,
}

/// Compares. Answers with the keys that would be better there.
///
/// Errors: the first one that Cycle could not read, or would miss.
pub fn check(value: &Value, shape: Shape, at: &str) -> Result<Vec<String>, Wrong> {
    let Value::Object(map) = value else { return Err(wrong(at, "an object", value)) };
    let mut missed = Vec::new();
    for Key(name, need, kind) in shape {
        let at = format!("{at}/{name}");
        match (map.get(*name), need) {
            (None, Must | MustOrNull) => {
                let keys = map.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let got = format!("no such key; there are: {keys}");
                return Err(Wrong { expected: format!("{at}: {}", kind.words()), got });
            }
            (None, Should) => missed.push(at),
            (None, May) | (Some(Value::Null), MustOrNull | May | Should) => {}
            (Some(value), _) => missed.extend(kind.check(value, &at)?),
        }
    }
    Ok(missed)
}

fn wrong(at: &str, expected: &str, got: &Value) -> Wrong {
    let text: String = got.to_string().chars().take(80).collect();
    let kind = match got {
        Value::Null => "",
        Value::Bool(_) => ", a boolean",
        Value::Number(_) => ", a number",
        Value::String(_) => ", a text",
        Value::Array(_) => ", a list",
        Value::Object(_) => ", an object",
    };
    Wrong { expected: format!("{at}: {expected}"), got: format!("{text}{kind}") }
}

impl Kind {
    fn words(&self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Word => "a text that is not empty",
            Self::Flag => "true or false",
            Self::Whole => "a whole number",
            Self::Count => "a whole number from 0 on",
            Self::Number => "a number",
            Self::Object | Self::One(_) => "an object",
            Self::Texts => "a list of texts",
            Self::TextMap => "an object of texts",
            Self::TextsMap => "an object of lists of texts",
            Self::Ip => "an IP address without a prefix length",
            Self::Cidr => "an IP address with its prefix length",
            Self::Many(_) => "a list of objects",
        }
    }

    fn check(&self, value: &Value, at: &str) -> Result<Vec<String>, Wrong> {
        let is_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
        let is_map = |of: &dyn Fn(&Value) -> bool| value.as_object().is_some_and(|map| map.values().all(of));
        let is_right = match self {
            Self::Text => value.is_string(),
            Self::Word => value.as_str().is_some_and(|text| !text.trim().is_empty()),
            Self::Flag => value.is_boolean(),
            Self::Whole => value.is_i64() || value.is_u64(),
            Self::Count => value.is_u64(),
            Self::Number => value.is_number(),
            Self::Object => value.is_object(),
            Self::Texts => is_texts(value),
            Self::TextMap => is_map(&Value::is_string),
            Self::TextsMap => is_map(&|value| value.is_null() || is_texts(value)),
            Self::Ip => value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok()),
            Self::Cidr => value.as_str().is_some_and(|text| text.parse::<IpNet>().is_ok()),
            Self::One(shape) => return check(value, shape, at),
            Self::Many(shape) => {
                let Value::Array(list) = value else { return Err(wrong(at, self.words(), value)) };
                let each = list.iter().enumerate().map(|(n, value)| check(value, shape, &format!("{at}/{n}")));
                return each.collect::<Result<Vec<_>, _>>().map(|missed| missed.concat());
            }
        };
        if is_right { Ok(Vec::new()) } else { Err(wrong(at, self.words(), value)) }
    }
}

/// Of verify.
pub const VERIFY: Shape = &[Key("valid", Must, Flag)];

/// Of locations.
pub const LOCATIONS: Shape = &[Key("locations", MustOrNull, Many(LOCATION)), Key("extra", MustOrNull, Object)];

const LOCATION: Shape = &[
    Key("name", Must, Text),
    Key("geographic", May, One(GEOGRAPHIC)),
    Key("provider", Must, One(LOCATION_PROVIDER)),
    Key("features", May, One(&[Key("available", May, Texts), Key("supported", May, Texts)])),
    Key("abbreviation", Should, Text),
    Key("annotations", May, TextMap),
    Key("compatible", May, Flag),
];

const GEOGRAPHIC: Shape = &[
    Key("latitude", Must, Number),
    Key("longitude", Must, Number),
    Key("city", Must, Text),
    Key("state", Must, Text),
    Key("country", Must, Text),
    Key("region", Must, Text),
];

const LOCATION_PROVIDER: Shape =
    &[Key("location_id", Must, Word), Key("code", Must, Text), Key("availability_zones", MustOrNull, Texts)];

/// Of server models.
pub const MODELS: Shape = &[Key("models", MustOrNull, Many(MODEL)), Key("extra", MustOrNull, Object)];

const MODEL: Shape = &[
    Key("name", Must, Text),
    Key("drivers", May, Texts),
    Key("description", Must, Text),
    Key("specs", Must, One(SPECS)),
    Key("provider", Must, One(MODEL_PROVIDER)),
    Key("pricing", Must, One(&[Key("hourly", Must, Whole), Key("monthly", Must, Whole)])),
    Key("compatible", May, Flag),
];

const MODEL_PROVIDER: Shape = &[
    Key("category", Must, Text),
    Key("class", May, Text),
    Key("model_id", Must, Word),
    Key("locations", May, Texts),
    Key("availability_zones", May, TextsMap),
];

const SPECS: Shape = &[
    Key("cpu", Must, One(CPU)),
    Key("gpu", May, One(GPU)),
    Key("memory", Must, One(&[Key("size_gb", Must, Count), Key("type", Must, Text), Key("extra", May, TextMap)])),
    Key("storage", May, Many(STORAGE)),
    Key("network", May, Many(NIC)),
    Key("features", Must, One(FEATURES)),
];

const CPU: Shape = &[
    Key("count", Must, Count),
    Key("cores", May, Count),
    Key("threads", May, Count),
    Key("type", Must, Text),
    Key("shared", May, Flag),
    Key("extra", May, TextMap),
];

const GPU: Shape = &[
    Key("count", Must, Count),
    Key("cores", May, Count),
    Key("vram_gb", May, Count),
    Key("type", Must, Text),
    Key("shared", May, Flag),
    Key("extra", May, TextMap),
];

const STORAGE: Shape =
    &[Key("count", Must, Count), Key("size_gb", Must, Count), Key("type", Must, Text), Key("extra", May, TextMap)];

const NIC: Shape = &[Key("scope", Must, Text), Key("type", Must, Text), Key("throughput", Must, Text)];

const FEATURES: Shape = &[Key("raid", May, Text), Key("hypervisor", May, Flag), Key("extra", May, Object)];

/// Of configure.
pub const CONFIGURE: Shape =
    &[Key("configured", Must, Flag), Key("version", May, Text), Key("configuration_latest", Must, Object)];

/// Of provision.
pub const PROVISION: Shape =
    &[Key("server_id", Must, Word), Key("location_modified", Should, Flag), Key("extra", May, Object)];

/// Of provision-status.
pub const STATUS: Shape = &[
    Key("server_id", Must, Word),
    Key("provisioned", Must, Flag),
    Key("auth", Must, One(&[Key("uuid", May, Text), Key("initial_ips", May, Texts), Key("mac_addr", May, Text)])),
    Key("extra", May, Object),
];

/// Of allocate. Cycle's OpenAPI file demands `netmask`, its own types have it no more.
pub const ADDRESS: Shape = &[
    Key("ip_id", Must, Word),
    Key("ip_assignment_id", Must, Word),
    Key("cidr", Must, Cidr),
    Key("gateway", MustOrNull, Ip),
    Key("network", MustOrNull, Cidr),
    Key("nat_private_ip", May, Ip),
];

/// Of every refusal.
pub const ERROR: Shape = &[
    Key("status", Must, Count),
    Key("code", Must, Word),
    Key("title", Must, Word),
    Key("detail", May, Text),
    Key("source", May, Text),
    Key("extra", May, Object),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_type_that_cycle_cannot_read_is_found_with_its_place() {
        let good = json!({ "server_id": "s", "location_modified": false, "extra": null, "more": [1] });
        assert_eq!(check(&good, PROVISION, "data"), Ok(Vec::new()));
        let missed = json!({ "server_id": "s" });
        assert_eq!(check(&missed, PROVISION, "data"), Ok(vec!["data/location_modified".to_owned()]));
        for (value, place) in [
            (json!({}), "data/server_id"),
            (json!({ "server_id": 7 }), "data/server_id"),
            (json!({ "server_id": " " }), "data/server_id"),
            (json!({ "server_id": null }), "data/server_id"),
            (json!({ "server_id": "s", "location_modified": "no" }), "data/location_modified"),
            (json!([]), "data"),
        ] {
            let wrong = check(&value, PROVISION, "data").expect_err("wrong");
            assert!(wrong.expected.starts_with(&format!("{place}: ")), "{value}: {wrong:?}");
        }
        for (key, value) in
            [("count", json!("1")), ("count", json!(1.0)), ("count", json!(-1)), ("extra", json!({"a": 1}))]
        {
            let mut cpu = json!({ "count": 1, "type": "x" });
            assert_eq!(check(&cpu, CPU, ""), Ok(Vec::new()));
            cpu[key] = value;
            assert!(check(&cpu, CPU, "").is_err(), "{cpu}");
        }
    }
}
