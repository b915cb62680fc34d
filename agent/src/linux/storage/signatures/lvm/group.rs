//! A volume group out of its text (LVM2, lib/format_text/import_vsn1.c): what is in it, and how much of it is free.
//!
//! Called by `lvm`; pure. Numbers are whatever a disk says: sums never overflow, and lists are bounded by their text.

use muster_protocol::observed::LvmId;

use super::text::{Section, Value};
use crate::linux::text::clean;

const SECTOR: u64 = 512;
/// A group of more physical volumes is not read: no machine has as many disks.
const MEMBERS: usize = 1024;

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its own.
    pub uuid: LvmId,
    /// Grows with every change.
    pub seqno: u32,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Its physical volumes.
    pub members: Vec<Member>,
    /// Its logical volumes, those that LVM hides left out.
    pub volumes: Vec<Volume>,
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its own.
    pub uuid: LvmId,
    /// Extents.
    pub extents: u64,
    /// Those that logical volumes have.
    pub used: u64,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its own.
    pub uuid: LvmId,
    /// Bytes.
    pub size_bytes: u64,
    /// As lvs names the type of its segments; `snapshot` for one that is no thin one.
    pub kind: String,
    /// The pool that a thin volume takes its room from, or empty.
    pub pool: String,
    /// What it is a snapshot of, or empty.
    pub origin: String,
}

/// What a metadata text says; `None` for a text that describes no group.
pub fn read(text: &str) -> Option<Group> {
    let all = Section::parse(text)?;
    let (name, group) = all.sections().next()?;
    let extent_bytes = group.number("extent_size").filter(|sectors| *sectors > 0)?.saturating_mul(SECTOR);
    let empty = Section::default();
    let of = |key: &str| group.section(key).unwrap_or(&empty);
    let mut names = Vec::new();
    let mut members = Vec::new();
    for (name, physical) in of("physical_volumes").sections() {
        names.push(name);
        members.push(Member { uuid: id(physical)?, extents: physical.number("pe_count").unwrap_or(0), used: 0 });
    }
    if members.len() > MEMBERS {
        return None;
    }
    let logical = of("logical_volumes");
    let segments = || logical.sections().flat_map(|(_, volume)| volume.sections().map(|(_, segment)| segment));
    for segment in segments() {
        let areas = segment.list("stripes");
        // Each is a name and an extent; names of logical volumes are of their hidden parts.
        let count = (areas.len() / 2).max(1) as u64;
        let each = segment.number("extent_count").unwrap_or(0) / count;
        for name in areas.iter().step_by(2).filter_map(Value::as_text) {
            if let Some(member) = names.iter().position(|other| *other == name).and_then(|i| members.get_mut(i)) {
                member.used = member.used.saturating_add(each);
            }
        }
    }
    // A snapshot that is no thin one has two volumes: the one that people know stores the differences, and the one that
    // says so, and of what, has the flag by which the other would be shown.
    let snapshots: Vec<(&str, &str)> = segments()
        .filter(|segment| segment.text("type") == Some("snapshot"))
        .filter_map(|segment| Some((segment.text("cow_store")?, segment.text("origin")?)))
        .collect();
    let is_visible = |name: &str, volume: &Section<'_>| {
        let flagged = volume.list("status").iter().any(|flag| flag.as_text() == Some("VISIBLE"));
        let says_so = volume.sections().any(|(_, segment)| segment.text("type") == Some("snapshot"));
        flagged && !says_so || snapshots.iter().any(|(store, _)| *store == name)
    };
    let volumes = logical.sections().filter(|(name, volume)| is_visible(name, volume));
    let volumes =
        volumes.map(|(name, section)| volume(name, section, extent_bytes, &snapshots)).collect::<Option<_>>()?;
    Some(Group {
        name: clean(name),
        uuid: id(group)?,
        seqno: group.number("seqno").and_then(|seqno| u32::try_from(seqno).ok())?,
        extent_bytes,
        members,
        volumes,
    })
}

fn volume(name: &str, section: &Section<'_>, extent_bytes: u64, snapshots: &[(&str, &str)]) -> Option<Volume> {
    let segments = || section.sections().map(|(_, segment)| segment);
    let extents = segments().filter_map(|segment| segment.number("extent_count")).fold(0, u64::saturating_add);
    let said = |key: &str| clean(segments().find_map(|segment| segment.text(key)).unwrap_or_default());
    let kind = said("type");
    let is_striped = segments().any(|segment| segment.number("stripe_count").is_some_and(|count| count > 1));
    let of = snapshots.iter().find(|(store, _)| *store == name).map(|(_, origin)| clean(origin));
    Some(Volume {
        name: clean(name),
        uuid: id(section)?,
        size_bytes: extents.saturating_mul(extent_bytes),
        kind: match (&of, kind.as_str()) {
            (Some(_), _) => "snapshot".into(),
            (None, "striped") if !is_striped => "linear".into(),
            (None, _) => kind,
        },
        pool: said("thin_pool"),
        origin: of.unwrap_or_else(|| said("origin")),
    })
}

fn id(section: &Section<'_>) -> Option<LvmId> {
    section.text("id")?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A group of one physical volume of 100 extents of 4 MiB, with a volume of 3 extents in two segments, its snapshot,
    /// and a thin pool with its hidden parts.
    pub(in super::super::super) fn text(name: &str, seqno: u32) -> String {
        let id = |letter: char| format!("id = \"{}\"", letter.to_string().repeat(32));
        let segment = |number: u32, extents: u32, rest: &str| {
            format!("segment{number} {{ start_extent = 0 extent_count = {extents} {rest} }}")
        };
        let on = |extent: u32| format!("type = \"striped\" stripe_count = 1 stripes = [ \"pv0\", {extent} ]");
        let shown = "status = [\"READ\", \"WRITE\", \"VISIBLE\"]";
        let hidden = "status = [\"READ\", \"WRITE\"]";
        let volumes = [
            format!("data {{ {} {shown} {} {} }}", id('d'), segment(1, 2, &on(0)), segment(2, 1, &on(9))),
            format!("before {{ {} {hidden} {} }}", id('b'), segment(1, 1, &on(2))),
            format!(
                "snapshot0 {{ {} {shown} {} }}",
                id('s'),
                segment(1, 2, "type = \"snapshot\" chunk_size = 8 origin = \"data\" cow_store = \"before\"")
            ),
            format!("pool_tdata {{ {} {hidden} {} }}", id('x'), segment(1, 20, &on(20))),
            format!(
                "pool {{ {} {shown} {} }}",
                id('p'),
                segment(1, 20, "type = \"thin-pool\" metadata = \"pool_tmeta\" pool = \"pool_tdata\"")
            ),
            format!(
                "thin {{ {} {shown} {} }}",
                id('t'),
                segment(1, 50, "type = \"thin\" thin_pool = \"pool\" device_id = 1 origin = \"data\"")
            ),
        ];
        format!(
            "{name} {{\n{} seqno = {seqno} format = \"lvm2\" extent_size = 8192\n\
             physical_volumes {{ pv0 {{ {} device = \"/dev/sda\" pe_start = 2048 pe_count = 100 }} }}\n\
             logical_volumes {{ {} }} }}\ncontents = \"Text Format Volume Group\" version = 1",
            id('g'),
            id('v'),
            volumes.join("\n")
        )
    }

    #[test]
    fn a_group_tells_its_volumes_and_what_is_free() {
        let group = read(&text("vg0", 7)).expect("a group");
        assert_eq!((group.name.as_str(), group.seqno, group.extent_bytes), ("vg0", 7, 4 << 20));
        assert_eq!((group.members[0].extents, group.members[0].used), (100, 24));
        let told: Vec<_> = group
            .volumes
            .iter()
            .map(|v| (v.name.as_str(), v.kind.as_str(), v.size_bytes >> 22, v.pool.as_str(), v.origin.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("data", "linear", 3, "", ""),
                ("before", "snapshot", 1, "", "data"),
                ("pool", "thin-pool", 20, "", ""),
                ("thin", "thin", 50, "pool", "data"),
            ]
        );
    }

    #[test]
    fn numbers_that_cannot_be_do_no_harm() {
        let huge = text("vg0", 7).replace("extent_count = 2 ", "extent_count = 18446744073709551615 ");
        assert_eq!(read(&huge).expect("a group").members[0].used, u64::MAX);
        for (from, to) in [
            ("extent_size = 8192", "extent_size = 0"),
            ("seqno = 7", "seqno = 4294967296"),
            ("seqno = 7", ""),
            (&"g".repeat(32)[..], "short"),
        ] {
            assert_eq!(read(&text("vg0", 7).replace(from, to)), None, "{from}");
        }
        assert_eq!(read(""), None);
        assert_eq!(read("a = 1"), None);
    }
}
