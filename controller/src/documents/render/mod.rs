//! A desired state in the words in which it could have been written.
//!
//! Used by the operator API and `muster diff`: [`super::parse`] of the result gives the same [`Desired`] again.
//! What a document says in two ways (a deprecated gateway, a device's many names) comes out in one.

mod network;
mod storage;

use muster_protocol::desired::Desired;
use serde_json::{Map, Value};

pub use network::render_network;
pub use storage::render_storage;

/// The whole document, as JSON.
pub fn render(desired: &Desired) -> Value {
    let mut out = Map::new();
    if let Some(network) = &desired.network {
        put(&mut out, "network", render_network(network));
    }
    if let Some(storage) = &desired.storage {
        put(&mut out, "storage", render_storage(storage));
    }
    Value::Object(out)
}

fn put(out: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    out.insert(key.to_owned(), value.into());
}

/// Nothing where there is nothing in it.
fn put_some(out: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let is_empty = match &value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    if !is_empty {
        put(out, key, value);
    }
}
