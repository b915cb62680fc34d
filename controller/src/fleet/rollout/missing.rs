//! What helps where a template needs a value that a machine does not have: see [`super::values`] for those that there are.

use serde_json::Value;

/// What an operator can do about it, for the machine with these values.
pub fn remedy(name: &str, values: &Value) -> String {
    let root = name.split(['.', '[']).next().unwrap_or(name);
    let is_there = values.get(root).is_some();
    let nics = values["nics"].as_array().map_or(0, Vec::len);
    let told = match nics {
        0 => "it tells of its NICs when it is online for the first time".to_owned(),
        1 => "it has told of one NIC".to_owned(),
        nics => format!("it has told of {nics} NICs"),
    };
    let instead = format!("{{{{ {name} | default(\"…\") }}}}");
    // Of what is not there no part is, and what a part is replaced by does not help.
    let only_if = format!("{{% if {root} is defined %}}");
    let (helps, write) = match root {
        "labels" => ("give it that label".to_owned(), instead),
        "machine" if name == "machine.role" => ("give it the label role".to_owned(), instead),
        "location" if is_there => ("say so of its location".to_owned(), instead),
        "location" => ("it has no location".to_owned(), only_if),
        "lease" if !is_there => ("it is not leased".to_owned(), only_if),
        "primary" if !is_there && nics > 0 => (format!("{told}, and none has a carrier"), only_if),
        "primary" if !is_there => (told, only_if),
        "nics" => (told, "{% for nic in nics %}".to_owned()),
        "addresses" => {
            ("it was given no such address from a subnet".to_owned(), "{% for address in addresses %}".to_owned())
        }
        _ if name == root && !is_there => {
            return "there are addresses, labels, lease, location, machine, nics and primary".to_owned();
        }
        _ => return format!("write {instead}"),
    };
    format!("{helps}, or write {write}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::fleet::rollout::template::Template;

    #[test]
    fn what_is_said_to_help_where_a_value_is_missing_is_what_helps() {
        let labeled = json!({"machine": {}, "labels": {}, "location": {"code": "ber1", "annotations": {}}});
        let unplugged = json!({"nics": [{}, {}], "addresses": []});
        let new = json!({"nics": [], "addresses": []});
        for (values, name, says) in [
            (&labeled, "labels.ip", "give it that label, or write {{ labels.ip | default(\"…\") }}"),
            (&labeled, "machine.role", "give it the label role, or write {{ machine.role | default(\"…\") }}"),
            (&labeled, "machine.serial", "write {{ machine.serial | default(\"…\") }}"),
            (&labeled, "location.city", "say so of its location, or write {{ location.city | default(\"…\") }}"),
            (&labeled, "lease.hub", "it is not leased, or write {% if lease is defined %}"),
            (&new, "location.code", "it has no location, or write {% if location is defined %}"),
            (
                &new,
                "primary.mac",
                "it tells of its NICs when it is online for the first time, or write {% if primary is defined %}",
            ),
            (
                &unplugged,
                "primary.mac",
                "it has told of 2 NICs, and none has a carrier, or write {% if primary is defined %}",
            ),
            (&unplugged, "nics[2].mac", "it has told of 2 NICs, or write {% for nic in nics %}"),
            (
                &new,
                "addresses[0].cidr",
                "it was given no such address from a subnet, or write {% for address in addresses %}",
            ),
            (&new, "role", "there are addresses, labels, lease, location, machine, nics and primary"),
        ] {
            let render = |text: &str| Template::read(text).and_then(|template| template.render(values));
            let fault = render(&format!("{{{{ {name} }}}}")).expect_err(name);
            assert_eq!(fault.problem, format!("{name} is not known of it; {says}"));
            let Some((_, write)) = says.split_once("write ") else { continue };
            let text = match &write[..6] {
                "{% if " => format!("{write}{{{{ {name} }}}}{{% endif %}}"),
                "{% for" => format!("{write}x{{% endfor %}}"),
                _ => write.to_owned(),
            };
            assert!(render(&text).is_ok(), "{text}: {:?}", render(&text));
        }
    }
}
