//! Where in a text the fields stand of which a machine speaks: it knows what a document means, and not how it is written.
//!
//! Used where a machine refuses, by the command line and for templates. What cannot be known for sure is not said.

use super::reader::Findings;
use super::{read, yaml};

/// The fields of one text.
pub struct Places {
    findings: Findings,
    /// Whether entries of lists are counted in the text as they are in what it means.
    are_counted: bool,
}

impl Places {
    /// Those of a document; `None` where it cannot be read at all.
    pub fn of(text: &str) -> Option<Self> {
        let root = yaml::read(text).ok()?;
        let mut findings = Findings::default();
        read(&root, &mut findings);
        Some(Self { findings, are_counted: true })
    }

    /// Those of a template, so far as they stand in it word by word. A block may take entries of a list away, or repeat
    /// them: in a template with blocks none of them is known.
    pub fn of_template(text: &str) -> Option<Self> {
        let are_counted = !text.contains("{%");
        Some(Self { are_counted, ..Self::of(&without_tags(text))? })
    }

    /// Line and column of a field by its path, such as `network.vlans.office.link`, counted from 1.
    pub fn find(&self, field: &str) -> Option<(usize, usize)> {
        if field.is_empty() || (field.contains('[') && !self.are_counted) {
            return None;
        }
        // A NIC that is chosen by its entry's name has no match to name.
        let entry = || self.findings.place(field.strip_suffix(".match")?);
        self.findings.place(field).or_else(entry).map(|place| (place.line, place.column))
    }

    /// The line alone.
    pub fn line(&self, field: &str) -> Option<usize> {
        self.find(field).map(|(line, _)| line)
    }
}

/// A template with a word in place of each value and nothing in place of each block, every line where it was.
fn without_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let (end, instead) = match &rest[start..start + 2] {
            "{{" => ("}}", '_'),
            "{%" => ("%}", ' '),
            _ => ("#}", ' '),
        };
        let length = rest[start..].find(end).map_or(rest.len() - start, |length| length + end.len());
        out.push_str(&rest[..start]);
        out.extend(rest[start..start + length].chars().map(|c| if c.is_whitespace() { c } else { instead }));
        rest = &rest[start + length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "network:
  ethernets:
    eth0.5:
      addresses:
        - 192.0.2.7/24
      routes:
        - to: 198.51.100.0/24
          via: 192.0.2.1
      gateway4: 192.0.2.1
  bonds:
    bond0:
      parameters: {gratuitious-arp: 7}
storage:
  disks:
    - wipe_table: true
      device: serial:A
";

    #[test]
    fn every_field_that_is_written_has_its_line() {
        let places = Places::of(DOCUMENT).expect("it is YAML");
        for (field, line) in [
            ("network.ethernets.eth0.5", 3),
            ("network.ethernets.eth0.5.match", 3),
            ("network.ethernets.eth0.5.addresses[0]", 5),
            ("network.ethernets.eth0.5.routes[0]", 7),
            ("network.ethernets.eth0.5.routes[0].via", 8),
            ("network.ethernets.eth0.5.routes[1].via", 9),
            ("network.bonds.bond0.parameters.gratuitous-arp", 12),
            ("storage.disks.serial:A", 15),
        ] {
            assert_eq!(places.line(field), Some(line), "{field}");
        }
    }

    #[test]
    fn what_is_not_written_has_no_line() {
        let places = Places::of(DOCUMENT).expect("it is YAML");
        for field in ["", "network.ethernets.eth1", "network.ethernets.eth0.5.routes[2]", "network.hostname", "line"] {
            assert_eq!(places.line(field), None, "{field}");
        }
        assert!(Places::of("network: [").is_none());
    }

    #[test]
    fn a_template_has_the_lines_that_stand_in_it() {
        let text = "network:
  ethernets:
    {{ labels.nic }}:
      mtu: {{ labels.mtu | default(1500) }}
    eth1:
      addresses: [\"{{ labels.ip
        }}/24\"]
      mtu: 1500
";
        let places = Places::of_template(text).expect("it is YAML");
        assert_eq!(places.line("network.ethernets.eth1.addresses[0]"), Some(6));
        assert_eq!(places.line("network.ethernets.eth1.mtu"), Some(8));
        assert_eq!(places.line("network.ethernets.eth0"), None, "its name is the machine's");
    }

    #[test]
    fn what_a_block_leaves_open_has_no_line() {
        let text = "network:
  ethernets:
    {% for nic in nics %}
    lan{{ loop.index }}: {match: {macaddress: \"{{ nic.mac }}\"}}
    {% endfor %}
  bonds:
    bond0:
      {% if labels.fast is defined %}
      mtu: 9000
      {% else %}
      mtu: 1500
      {% endif %}
      routes: [{to: 198.51.100.0/24, via: 192.0.2.1}]
      {# nothing: 7 #}
      dhcp4: true
";
        let places = Places::of_template(text).expect("it is YAML");
        for field in ["network.ethernets.lan1", "network.bonds.bond0.mtu", "network.bonds.bond0.routes[0].via"] {
            assert_eq!(places.line(field), None, "{field}");
        }
        assert_eq!(places.line("network.bonds.bond0"), Some(7));
        assert_eq!(places.line("network.bonds.bond0.dhcp4"), Some(15));
    }
}
