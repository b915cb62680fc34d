//! Which machines are meant: by labels, as kubectl's selectors say it, by location and by role.
//!
//! Only machines that are in are ever selected. A role is the label `role`.

use std::fmt;
use std::str::FromStr;

use crate::fleet::record::Machine;
use crate::fleet::{Refusal, State, location};

/// The longest text of label requirements, in bytes.
const TEXT_LIMIT: usize = 1_024;

/// The label that says what a machine is for.
pub const ROLE: &str = "role";

/// Which machines are meant. All of what it says must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Of labels.
    pub labels: Labels,
    /// Code of the location.
    pub location: Option<String>,
    /// Value of the label `role`.
    pub role: Option<String>,
}

/// Requirements of labels: `key=value`, `key!=value`, `key`, `!key`, `key in (a,b)`, `key notin (a,b)`, with commas between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    /// The key is there.
    Has(String),
    /// The key is not there.
    Lacks(String),
    /// The key has one of these values.
    In(String, Vec<String>),
    /// The key is not there, or has none of these values.
    NotIn(String, Vec<String>),
}

impl FromStr for Labels {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if text.len() > TEXT_LIMIT {
            return Err(Refusal::invalid("selector", format!("is over {TEXT_LIMIT} bytes")));
        }
        split(text).map(|part| requirement(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

/// Parts between commas that are in no parentheses; none of an empty text.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    let parts = text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.filter(move |_| !text.trim().is_empty())
}

fn requirement(text: &str) -> Result<Requirement, Refusal> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Lacks(key_of(key, text)?));
    }
    for (sign, is_in) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = text.split_once(sign) {
            return one_of(key_of(key, text)?, vec![value_of(value, text)?], is_in);
        }
    }
    if let Some((left, values)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let mut words = left.split_whitespace();
        let is_in = match (words.next(), words.next(), words.next()) {
            (Some(_), Some("in"), None) => true,
            (Some(_), Some("notin"), None) => false,
            _ => return Err(wrong(text)),
        };
        let key = left.split_whitespace().next().unwrap_or_default();
        let values = values.split(',').map(|value| value_of(value, text)).collect::<Result<_, _>>()?;
        return one_of(key_of(key, text)?, values, is_in);
    }
    Ok(Requirement::Has(key_of(text, text)?))
}

fn one_of(key: String, values: Vec<String>, is_in: bool) -> Result<Requirement, Refusal> {
    Ok(if is_in { Requirement::In(key, values) } else { Requirement::NotIn(key, values) })
}

fn key_of(key: &str, whole: &str) -> Result<String, Refusal> {
    let key = key.trim();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
    if key.is_empty() || key.len() > 63 || !key.chars().all(legal) { Err(wrong(whole)) } else { Ok(key.to_owned()) }
}

fn value_of(value: &str, whole: &str) -> Result<String, Refusal> {
    let value = value.trim();
    if value.contains(['=', '!', '(', ')']) { Err(wrong(whole)) } else { Ok(value.to_owned()) }
}

fn wrong(text: &str) -> Refusal {
    let shown: String = text.chars().take(80).collect();
    let expected = "write key=value, key!=value, key, !key, key in (a,b) or key notin (a,b), with commas between";
    Refusal::invalid("selector", format!("{shown:?} is no requirement of labels; {expected}"))
}

impl Requirement {
    fn takes(&self, machine: &Machine) -> bool {
        let value = |key: &String| machine.labels.get(key);
        match self {
            Self::Has(key) => value(key).is_some(),
            Self::Lacks(key) => value(key).is_none(),
            Self::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(value)),
        }
    }
}

impl Selector {
    /// Whether nothing is asked of machines, so that it means all of them.
    pub fn is_all(&self) -> bool {
        self == &Self::default()
    }

    /// Whether this machine is meant.
    pub fn takes(&self, machine: &Machine) -> bool {
        machine.lifecycle.is_in()
            && self.location.as_ref().is_none_or(|code| *code == machine.location)
            && self.role.as_ref().is_none_or(|role| machine.labels.get(ROLE) == Some(role))
            && self.labels.0.iter().all(|requirement| requirement.takes(machine))
    }

    /// The machines that are meant, in the order of their names.
    ///
    /// Errors: there is no such location; nobody is meant.
    pub fn choose<'s>(&self, state: &'s State) -> Result<Vec<&'s Machine>, Refusal> {
        if let Some(code) = &self.location {
            location::choose(state, "location", code)?;
        }
        let mut machines: Vec<&Machine> = state.machines.iter().filter(|machine| self.takes(machine)).collect();
        if machines.is_empty() {
            return Err(Refusal::invalid("selector", format!("no machine that is in is meant by {self}")));
        }
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(machines)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Has(key) => write!(f, "{key}"),
            Self::Lacks(key) => write!(f, "!{key}"),
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Self::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Self::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
        }
    }
}

/// `rack=b2,!spare, location ber1, role web`; `all machines`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all machines");
        }
        let labels = self.labels.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let parts = [
            Some(labels).filter(|labels| !labels.is_empty()),
            self.location.as_ref().map(|code| format!("location {code}")),
            self.role.as_ref().map(|role| format!("role {role}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::{Draft, machine};
    use muster_protocol::enroll::Identity;

    fn named(draft: &mut Draft, name: &str, labels: &[(&str, &str)]) {
        let id = enrolled(draft, Identity { system_serial: name.into(), ..Identity::default() });
        machine::approve(draft, id).expect("approved");
        machine::rename(draft, id, name).expect("renamed");
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())));
        machine::label(draft, id, labels.collect()).expect("labeled");
    }

    fn chosen(draft: &Draft, labels: &str) -> Vec<String> {
        let selector = Selector { labels: labels.parse().expect(labels), ..Selector::default() };
        let chosen = selector.choose(draft.state()).map(|found| found.iter().map(|m| m.name.clone()).collect());
        chosen.unwrap_or_default()
    }

    #[test]
    fn labels_are_selected_as_kubectl_selects_them() {
        let mut draft = draft();
        named(&mut draft, "a-web", &[("role", "web"), ("rack", "b2")]);
        named(&mut draft, "b-web", &[("role", "web"), ("rack", "b3"), ("spare", "")]);
        named(&mut draft, "c-db", &[("role", "db"), ("rack", "b2")]);
        named(&mut draft, "d-bare", &[]);
        for (labels, expected) in [
            ("role=web", &["a-web", "b-web"][..]),
            ("role==web,rack=b2", &["a-web"]),
            ("role!=web", &["c-db", "d-bare"]),
            ("role", &["a-web", "b-web", "c-db"]),
            ("!role", &["d-bare"]),
            ("role,!spare", &["a-web", "c-db"]),
            ("rack in (b2, b4), role!=db", &["a-web"]),
            ("rack notin (b2,b3)", &["d-bare"]),
            ("spare=", &["b-web"]),
            ("", &["a-web", "b-web", "c-db", "d-bare"]),
            ("role=nobody", &[]),
        ] {
            assert_eq!(chosen(&draft, labels), expected, "{labels}");
        }
        let role = Selector { role: Some("db".into()), ..Selector::default() };
        assert_eq!(role.choose(draft.state()).map(|found| found.len()), Ok(1));
    }

    #[test]
    fn only_machines_that_are_in_are_selected() {
        let mut draft = draft();
        enrolled(&mut draft, Identity { system_serial: "pending".into(), ..Identity::default() });
        assert!(matches!(Selector::default().choose(draft.state()), Err(Refusal::Invalid { .. })));
        named(&mut draft, "in", &[]);
        assert_eq!(chosen(&draft, ""), ["in"]);
        let id = draft.state().machines.iter().find(|m| m.name == "in").expect("there").id;
        machine::retire(&mut draft, id).expect("retired");
        assert_eq!(chosen(&draft, ""), [""; 0]);
    }

    #[test]
    fn what_is_no_selector_is_refused_with_what_would_be_right() {
        for wrong in ["=b2", "a b", "rack=b2,", "rack in b2", "rack is (b2)", "a=b=c", "!", "rack in (b2", "a!b", "ä=1"]
        {
            let refused = wrong.parse::<Labels>().expect_err(wrong).to_string();
            assert!(refused.starts_with("selector: ") && refused.contains("key=value"), "{wrong}: {refused}");
        }
        assert!("a,".repeat(600).parse::<Labels>().is_err());
        let nowhere = Selector { location: Some("atlantis".into()), ..Selector::default() };
        assert!(nowhere.choose(draft().state()).is_err());
    }

    #[test]
    fn a_selector_is_told_as_it_was_meant() {
        let selector = Selector {
            labels: "rack==b2, !spare,x in (1,2),y!=3".parse().expect("one"),
            location: Some("ber1".into()),
            role: Some("web".into()),
        };
        assert_eq!(selector.to_string(), "rack=b2,!spare,x in (1,2),y!=3, location ber1, role web");
        assert_eq!(Selector::default().to_string(), "all machines");
    }
}
