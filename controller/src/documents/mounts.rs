//! `storage.mounts:` into [`TreeMount`]s: what is mounted that is on no disk of its own.
//!
//! Called by [`super::storage`]. Butane has no word for these; the keys are those of a mount unit of systemd
//! (`What=`, `Where=`, `Type=`, `Options=`), and the values those of fstab.

use muster_protocol::desired::{Mount, Tree, TreeMount, mount_options};

use super::reader::{Fields, Findings, Keys};
use super::storage::{in_words, texts};

const MOUNT: Keys = Keys { supported: &["what", "where", "type", "options"], known: &[] };

/// Reads the list. What cannot be read is left out.
pub(super) fn read(storage: &Fields<'_>, findings: &mut Findings) -> Vec<TreeMount> {
    let items = findings.items(storage, "mounts");
    items.into_iter().filter_map(|(at, node)| mount(&findings.fields(node, &at, &MOUNT)?, findings)).collect()
}

fn mount(fields: &Fields<'_>, findings: &mut Findings) -> Option<TreeMount> {
    findings.require(fields, "where", "the path to mount it at, such as /srv/scratch");
    let path = findings.text(fields, "where");
    let kind = findings.text(fields, "type");
    let from = findings.text(fields, "what");
    let options = texts(fields, "options", findings);
    let words = in_words(&options);
    let is_bind = words.iter().any(|(_, word)| *word == "bind") || kind == Some("bind");
    let place = |key: &str| fields.get(key).map_or(fields.place, |node| node.place);
    let what = match (kind, is_bind) {
        (Some("tmpfs"), false) => Tree::Tmpfs,
        (None | Some("none" | "bind"), true) => match from {
            Some(from) => Tree::Bind(from.to_owned()),
            None => {
                findings.require(fields, "what", "the directory to show, such as /srv/data/www");
                return None;
            }
        },
        _ => {
            let problem = "not supported; give type: tmpfs, or options: [bind] and the directory as what";
            findings.add(place("type"), fields.path("type"), problem);
            return None;
        }
    };
    let own: Vec<_> = words.into_iter().filter(|(_, word)| *word != "bind").collect();
    let words: Vec<&str> = own.iter().map(|(_, word)| *word).collect();
    let options = mount_options(what.mountable(), &words).map_err(|(at, problem)| {
        let i = own.get(at).map_or(0, |(i, _)| *i);
        let place = options.get(i).map_or(fields.place, |(node, _)| node.place);
        findings.add(place, format!("{}[{i}]", fields.path("options")), problem);
    });
    Some(TreeMount { what, mount: Mount { path: path?.to_owned(), options: options.ok()? } })
}
