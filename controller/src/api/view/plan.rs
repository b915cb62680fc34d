//! What a machine would do, and how far a document is from what it is.

use muster_protocol::desired::Desired;
use muster_protocol::to_agent::{Impact, Plan};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::machine::ProgressView;
use crate::documents;
use crate::fleet::operation::confirmed::InForce;

/// What a machine would do for a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Plan)]
pub struct PlanView {
    /// In order; empty where the machine is as desired.
    pub steps: Vec<PlanStepView>,
    /// What should be known although all can be as desired, one line each: disks that are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Disks that would lose what they carry; a permit must name them.
    pub destroys: Vec<String>,
    /// Names this plan in a permit.
    pub digest: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = PlanStep)]
pub struct PlanStepView {
    /// One line, imperative.
    pub action: String,
    /// `none`, `addresses-change`, `link-drops`, `control-path` or `destroys`.
    pub impact: String,
    /// The disks that lose what they carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        let steps: Vec<PlanStepView> = plan
            .steps
            .iter()
            .map(|step| {
                let (impact, disks) = match &step.impact {
                    Impact::None => ("none", &[][..]),
                    Impact::AddressesChange => ("addresses-change", &[][..]),
                    Impact::LinkDrops => ("link-drops", &[][..]),
                    Impact::ControlPath => ("control-path", &[][..]),
                    Impact::Destroys(disks) => ("destroys", &disks[..]),
                };
                let disks = disks.iter().map(ToString::to_string).collect();
                PlanStepView { action: step.action.clone(), impact: impact.into(), disks }
            })
            .collect();
        let mut destroys: Vec<String> = steps.iter().flat_map(|step| step.disks.clone()).collect();
        destroys.sort();
        destroys.dedup();
        Self { steps, notices: plan.notices.clone(), destroys, digest: plan.digest.to_string() }
    }
}

/// How a document differs from what a machine is, or is on its way to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Diff)]
pub struct DiffView {
    /// The generation that it was compared with; 0 where the machine is as it boots.
    pub generation: u64,
    /// How what is desired of the machine came to nothing; absent where it did not. Then `generation` was confirmed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<ProgressView>,
    /// Empty where applying the document would change nothing.
    pub changes: Vec<ChangeView>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Change)]
pub struct ChangeView {
    /// Path of keys.
    pub field: String,
    /// What is in force now; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// What the document says; absent where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

impl DiffView {
    /// Compares what is in force with what would be.
    pub fn between(before: &InForce, after: &Desired) -> Self {
        let changes = changes(&documents::render(&before.desired), &documents::render(after));
        Self { generation: before.generation.0, given_up: before.given_up.map(ProgressView::from), changes }
    }
}

/// Compares two documents, as [`documents::render`] writes them.
fn changes(before: &serde_json::Value, after: &serde_json::Value) -> Vec<ChangeView> {
    let mut changes = Vec::new();
    compare("", Some(before), Some(after), &mut changes);
    changes
}

/// Mappings are compared key by key, everything else as a whole: an item's place in a list says little.
fn compare(
    at: &str,
    before: Option<&serde_json::Value>,
    after: Option<&serde_json::Value>,
    changes: &mut Vec<ChangeView>,
) {
    use serde_json::Value::Object;
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Object(old)), Some(Object(new))) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                compare(&at, old.get(key), new.get(key), changes);
            }
        }
        _ => changes.push(ChangeView { field: at.to_owned(), before: before.cloned(), after: after.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_is_named_by_its_path() {
        let before = json!({"network": {"ethernets": {"eth0": {"mtu": 1500, "addresses": ["192.0.2.1/24"]}}}});
        let after = json!({"network": {"ethernets": {"eth0": {"addresses": ["192.0.2.2/24"]}, "eth1": {}}}});
        let fields: Vec<String> = changes(&before, &after).into_iter().map(|c| c.field).collect();
        assert_eq!(
            fields,
            ["network.ethernets.eth0.addresses", "network.ethernets.eth0.mtu", "network.ethernets.eth1"]
        );
        assert!(changes(&after, &after).is_empty());
    }
}
