//! How something was or is, field by field, in words for people: what the audit log holds of a change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fleet::draft::cut;

/// The longest value.
const VALUE_BYTES: usize = 2 * 1024;

/// All values together.
const BYTES: usize = 8 * 1024;

/// Values by their fields, in the order of these; nothing empty, and never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = BTreeMap<String, String>)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// Nothing: what was not there before, or is not there any more.
    pub fn none() -> Self {
        Self::default()
    }

    /// These, without those that are empty; values that are too long are cut.
    pub fn of<K: Into<String>>(pairs: impl IntoIterator<Item = (K, String)>) -> Self {
        let mut left = BYTES;
        let mut short = |value: String| {
            let value = cut(value, VALUE_BYTES.min(left));
            left = left.saturating_sub(value.len());
            value
        };
        let given =
            pairs.into_iter().map(|(field, value)| (field.into(), value)).filter(|(_, value)| !value.is_empty());
        Self(given.map(|(field, value)| (field, short(value))).collect())
    }

    /// These and one more.
    #[must_use]
    pub fn and(self, field: &str, value: String) -> Self {
        Self::of(self.0.into_iter().chain([(field.to_owned(), value)]))
    }

    /// One.
    pub fn one(field: &str, value: impl ToString) -> Self {
        Self::of([(field, value.to_string())])
    }

    /// The value of a field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// For people: what was made or removed with all of it, of what was changed the fields that are not what they were.
    pub fn change(before: &Self, after: &Self) -> String {
        let all = |facts: &Self| {
            let said: Vec<String> = facts.0.iter().map(|(field, value)| format!("{field}: {value}")).collect();
            said.join(", ")
        };
        match (before.0.is_empty(), after.0.is_empty()) {
            (true, _) => all(after),
            (false, true) => format!("was {}", all(before)),
            (false, false) => {
                let mut fields: Vec<&String> = before.0.keys().chain(after.0.keys()).collect();
                fields.sort();
                fields.dedup();
                let of = |facts: &Self, field| facts.0.get(field).map_or_else(|| "none".to_owned(), String::clone);
                let changed = fields.into_iter().filter(|field| before.0.get(*field) != after.0.get(*field));
                let said: Vec<String> =
                    changed.map(|field| format!("{field}: {} → {}", of(before, field), of(after, field))).collect();
                said.join(", ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_by_the_fields_that_changed() {
        let facts = |name: &str, city: &str| Facts::of([("name", name.to_owned()), ("city", city.to_owned())]);
        let (old, new) = (facts("Berlin", ""), facts("Berlin", "Berlin"));
        assert_eq!(Facts::change(&old, &new), "city: none → Berlin");
        assert_eq!(Facts::change(&Facts::none(), &new), "city: Berlin, name: Berlin");
        assert_eq!(Facts::change(&new, &Facts::none()), "was city: Berlin, name: Berlin");
        assert_eq!(Facts::change(&Facts::none(), &Facts::none()), "");
    }

    #[test]
    fn facts_without_end_are_cut() {
        let many = Facts::of((0..64).map(|n| (format!("labels.{n}"), "ä".repeat(2_000))));
        let bytes: usize = many.0.values().map(String::len).sum();
        assert!(bytes <= BYTES + 64 * "…".len(), "{bytes}");
        assert_eq!(many.0.len(), 64, "no field is left out");
    }
}
