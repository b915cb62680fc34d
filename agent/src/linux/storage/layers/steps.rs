//! Steps about arrays, encrypted devices and volume groups, carried out: each device is found anew and must be what the plan
//! saw, then the programs do it, then it is looked at. What is done already is done.
//!
//! Called by `apply`.

use muster_protocol::DiskId;
use muster_protocol::desired::{Key, RaidLevel, VolumeId, VolumeKind, VolumeSize};
use muster_protocol::ids::parse_uuid;
use muster_protocol::observed::{Contents, Headers, Layers, MemberState, Volume, VolumeGroup};

use super::keys::Keys;
use super::{UNFINISHED, luks, lvm, raid};
use crate::linux::storage::disks::{Disks, Node};
use crate::linux::storage::find::{differs, find, find_there, over, own_name, runs, stands_on};
use crate::machine::MachineError;
use crate::plan::storage::{Device, Group, Header, MakeLuks, Over, Target, pool_extents, volume_extents};
use crate::random;

type Done = Result<(), MachineError>;

/// Makes an array of these members, of which the last `spares` are spares.
pub fn make_array(
    disks: &Disks,
    array: &Target,
    level: RaidLevel,
    members: &[Over],
    spares: u16,
    options: &[String],
) -> Done {
    stop_unfinished(disks, members)?;
    let nodes = all_over(disks, members)?;
    let new = raid::New {
        name: array_name(array)?,
        uuid: random::uuid(),
        level: level.name(),
        spares: spares.into(),
        options,
    };
    raid::create(disks, &new, &nodes)?;
    reads_blank(disks, array)
}

/// An array that was being made when power went may have been put together again since.
fn stop_unfinished(disks: &Disks, members: &[Over]) -> Done {
    let ours: Vec<Node> = members.iter().map(|member| Ok(find(disks, &member.on)?.node)).collect::<Result<_, _>>()?;
    let theirs: Vec<DiskId> = members.iter().flat_map(|member| member.on.disks.iter().cloned()).collect();
    let (_, layers) = disks.only(&theirs).observe_all()?;
    for array in layers.arrays.iter().filter(|array| runs(array) && own_name(&array.label) == UNFINISHED) {
        let is_of = |name: &String| ours.iter().any(|node| node.name == *name);
        if !array.members.is_empty() && array.members.iter().all(|member| is_of(&member.name)) {
            raid::stop(disks, &node(disks, &array.array.name)?)?;
        }
    }
    Ok(())
}

/// Runs an array of these members.
pub fn assemble(disks: &Disks, array: &Target, members: &[Target]) -> Done {
    let Device::Array { name, uuid } = &array.device else { return Err(strange(array)) };
    if find_there(disks, array)?.is_some() {
        return Ok(());
    }
    // One whose members were hidden when the plan was made is known by its name.
    let (mut uuid, mut level) = (*uuid, String::new());
    let mut nodes = Vec::new();
    for member in members {
        let found = find(disks, member)?;
        match &found.contents {
            Contents::Raid(raid) if uuid.map_or(own_name(&raid.name) == name, |uuid| raid.array == uuid) => {
                level.clone_from(&raid.level);
                uuid = Some(raid.array);
            }
            other => return Err(differs(member, other)),
        }
        nodes.push(found.node);
    }
    let Some(uuid) = uuid else { return Err(strange(array)) };
    raid::assemble(disks, name, &uuid, &level, &nodes)?;
    find(disks, array).map(drop)
}

/// Gives an array another member, in the place of those that failed.
pub fn add_member(disks: &Disks, array: &Target, member: &Over) -> Done {
    let runs = find(disks, array)?.node;
    let new = over(disks, member)?;
    let (_, layers) = disks.observe_all()?;
    let told = layers.arrays.iter().find(|told| told.array.name == runs.name);
    let mut failed = told.iter().flat_map(|array| &array.members).filter(|member| member.state == MemberState::Faulty);
    failed.try_for_each(|member| raid::remove(&runs, &member.name))?;
    raid::add(disks, &runs, &new)
}

/// Stops an array.
pub fn stop(disks: &Disks, array: &Target) -> Done {
    find_there(disks, array)?.map_or(Ok(()), |found| raid::stop(disks, &found.node))
}

/// Makes an encrypted device, and leaves it closed.
pub fn make_luks(disks: &Disks, keys: &Keys, on: &Over, new: &MakeLuks) -> Done {
    let uuid = new.uuid.or_else(|| keys.uuid(&new.name)).unwrap_or_else(random::uuid);
    let key = keys.key(new.key, &new.name, &uuid)?;
    let node = over(disks, on)?;
    let uuid = VolumeId::Uuid(uuid).to_string();
    let made = luks::New { uuid: &uuid, label: &new.label, options: &new.options };
    luks::create(disks, &made, &node, key.bytes())?;
    match find(disks, &on.on)?.contents {
        Contents::Luks(luks) if luks.uuid == uuid && luks.label == new.label && luks.subsystem.is_empty() => Ok(()),
        other => Err(read_back(&on.on, &other)),
    }
}

/// The device below one, and the UUID in the header that is found there.
///
/// Errors: that is not the header which is meant, or it cannot be opened.
pub fn header(disks: &Disks, on: &Target, header: &Header) -> Result<(Node, [u8; 16]), MachineError> {
    let below = find(disks, on)?;
    let changed = |now| MachineError::Changed { what: on.in_words(), now };
    let found = header.of(&below.contents).map_err(changed)?;
    let is_good = matches!(found.headers, Headers::Whole | Headers::FirstAlone);
    let uuid = parse_uuid(&found.uuid).filter(|_| is_good).ok_or_else(|| differs(on, &below.contents))?;
    Ok((below.node, uuid))
}

/// Opens one.
pub fn open(
    disks: &Disks,
    keys: &Keys,
    (luks, on): (&Target, &Target),
    meant: &Header,
    key: Key,
    discard: bool,
) -> Done {
    let Device::Luks { name } = &luks.device else { return Err(strange(luks)) };
    let (below, uuid) = header(disks, on, meant)?;
    if find_there(disks, luks)?.is_some() {
        let (_, layers) = disks.observe_all()?;
        let is_it = layers.opened.iter().any(|opened| opened.name == *name && opened.on == below.name);
        let other = || MachineError::Changed { what: luks.in_words(), now: "open on another device".into() };
        return if is_it { Ok(()) } else { Err(other()) };
    }
    let key = keys.key(key, name, &uuid)?;
    luks::open(disks, &below, name, discard, key.bytes())?;
    find(disks, luks).map(drop)
}

/// Closes one.
pub fn close(disks: &Disks, luks: &Target) -> Done {
    let Device::Luks { name } = &luks.device else { return Err(strange(luks)) };
    find_there(disks, luks)?.map_or(Ok(()), |_| luks::close(disks, name))
}

/// Makes physical volumes and a group of them.
pub fn make_group(disks: &Disks, group: &Group, members: &[Over], extent_bytes: u64) -> Done {
    let nodes = make_physical(disks, members)?;
    lvm::make_group(disks, &group.name, u32::try_from(extent_bytes >> 20).ok(), &nodes)
}

/// Makes physical volumes and gives them to a group.
pub fn extend_group(disks: &Disks, group: &Group, members: &[Over]) -> Done {
    let there = found_group(disks, group)?.members;
    let new = make_physical(disks, members)?;
    lvm::extend_group(disks, &group.name, &there, &new)
}

fn make_physical(disks: &Disks, members: &[Over]) -> Result<Vec<Node>, MachineError> {
    let nodes = all_over(disks, members)?;
    nodes.iter().try_for_each(|node| lvm::make_physical(disks, node, lvm::new_id()))?;
    Ok(nodes)
}

/// Lets a group have all of a member.
pub fn grow_member(disks: &Disks, group: &Group, member: &Target) -> Done {
    let there = found_group(disks, group)?;
    let node = find(disks, member)?.node;
    lvm::grow_physical(disks, &there.members, &node)
}

/// Makes volumes appear. Where what a group stands on did not run when the plan was made, that one hoped for them: a power
/// cut may have come before they were made.
pub fn activate(disks: &Disks, group: &Group, volumes: &[String]) -> Done {
    let hoped = |what: String| {
        let now = "not there; this could not be seen before what is below it ran, so apply again".into();
        MachineError::Changed { what, now }
    };
    let there = match found_group(disks, group) {
        Err(MachineError::Missing(what)) => return Err(hoped(what)),
        there => there?,
    };
    if let Some(lacks) = volumes.iter().find(|name| !there.volumes.iter().any(|volume| volume.name == **name)) {
        return Err(hoped(format!("the volume {}/{lacks}", group.name)));
    }
    lvm::activate(disks, &group.name, &there.members, volumes)
}

/// Makes volumes disappear, and their pools with the last of them.
pub fn deactivate(disks: &Disks, group: &Group, volumes: &[String]) -> Done {
    let there = match found_group(disks, group) {
        Err(MachineError::Missing(_)) => return Ok(()),
        there => there?,
    };
    lvm::deactivate(disks, &group.name, &there.members, volumes)?;
    let there = found_group(disks, group)?;
    let is_used = |volume: &&Volume| volume.kind != "thin-pool" && !volume.device.is_empty();
    if there.volumes.iter().any(|volume| is_used(&volume)) {
        return Ok(());
    }
    lvm::deactivate_all(disks, &group.name, &there.members)
}

/// Makes a volume.
pub fn make_volume(disks: &Disks, volume: &Target, group: &Group, kind: &VolumeKind, size: VolumeSize) -> Done {
    let Device::Volume { name, .. } = &volume.device else { return Err(strange(volume)) };
    let mut there = found_group(disks, group)?;
    let unfinished = lvm::unfinished(name);
    if there.volumes.iter().any(|volume| volume.name == unfinished) {
        lvm::remove_volume(disks, &group.name, &there.members, &unfinished)?;
        there = found_group(disks, group)?;
    }
    let VolumeGroup { extents: all, free_extents: free, extent_bytes, .. } = there.told;
    let wanted = volume_extents(size, all, free, extent_bytes);
    let kind = match kind {
        VolumeKind::Linear => lvm::Kind::Linear { extents: wanted },
        VolumeKind::Pool => {
            let (extents, metadata) = pool_extents(wanted, free, extent_bytes);
            lvm::Kind::Pool { extents, metadata_bytes: metadata.saturating_mul(extent_bytes) }
        }
        VolumeKind::Thin { pool } => lvm::Kind::Thin { pool, bytes: wanted.saturating_mul(extent_bytes) },
    };
    lvm::make_volume(disks, &group.name, &there.members, name, kind)?;
    match kind {
        // It is not for reading.
        lvm::Kind::Pool { .. } => Ok(()),
        lvm::Kind::Linear { .. } | lvm::Kind::Thin { .. } => reads_blank(disks, volume),
    }
}

/// Makes a volume larger.
pub fn grow_volume(disks: &Disks, volume: &Target, group: &Group, size: VolumeSize) -> Done {
    let Device::Volume { name, .. } = &volume.device else { return Err(strange(volume)) };
    let there = found_group(disks, group)?;
    let told = there.volumes.iter().find(|volume| volume.name == *name);
    let told = told.ok_or_else(|| MachineError::Missing(volume.in_words()))?;
    let VolumeGroup { extents: all, free_extents: free, extent_bytes, .. } = there.told;
    let has = told.size_bytes / extent_bytes.max(1);
    let extents = volume_extents(size, all, free.saturating_add(has), extent_bytes);
    if extents <= has {
        return Ok(());
    }
    let kind = match &*told.kind {
        "thin" => lvm::Kind::Thin { pool: &told.pool, bytes: extents.saturating_mul(extent_bytes) },
        _ => lvm::Kind::Linear { extents },
    };
    lvm::extend_volume(disks, &group.name, &there.members, name, kind)
}

/// A group as it is now.
struct FoundGroup {
    told: VolumeGroup,
    volumes: Vec<Volume>,
    members: Vec<Node>,
}

/// Finds the one group of this name, all of which is there, on its disks and no other.
fn found_group(disks: &Disks, group: &Group) -> Result<FoundGroup, MachineError> {
    let what = format!("the volume group {}", group.name);
    let (all, layers) = disks.observe_all()?;
    let Layers { groups, volumes, .. } = layers;
    let mut named = groups.into_iter().zip(0_u16..).filter(|(told, _)| told.name.name == group.name);
    let changed = |now: &str| MachineError::Changed { what: what.clone(), now: now.to_owned() };
    let (told, index) = match (named.next(), named.next()) {
        (Some(one), None) => one,
        (None, _) => return Err(MachineError::Missing(what)),
        (Some(_), Some(_)) => return Err(changed("the name of more than one")),
    };
    if group.uuid.is_some_and(|uuid| uuid != told.name.uuid) {
        return Err(changed("another one"));
    }
    let mut members = Vec::new();
    for member in &told.members {
        if member.device.is_empty() {
            return Err(changed("without one of its physical volumes"));
        }
        let node = node(disks, &member.device)?;
        stands_on(disks, &all, &node, &group.disks, &what)?;
        members.push(node);
    }
    let volumes = volumes.into_iter().filter(|volume| volume.group == index).collect();
    Ok(FoundGroup { told, volumes, members })
}

fn all_over(disks: &Disks, members: &[Over]) -> Result<Vec<Node>, MachineError> {
    members.iter().map(|member| over(disks, member)).collect()
}

/// A device of any kind by its kernel name.
fn node(disks: &Disks, name: &str) -> Result<Node, MachineError> {
    disks.any_node(name).ok_or_else(|| MachineError::Missing(name.to_owned()))
}

fn array_name(array: &Target) -> Result<&str, MachineError> {
    match &array.device {
        Device::Array { name, .. } => Ok(name),
        _ => Err(strange(array)),
    }
}

/// The planner made a step about something else.
fn strange(target: &Target) -> MachineError {
    MachineError::Unable(format!("take {} for what the step says that it is", target.in_words()))
}

fn reads_blank(disks: &Disks, on: &Target) -> Done {
    match find(disks, on)?.contents {
        Contents::Blank => Ok(()),
        other => Err(read_back(on, &other)),
    }
}

fn read_back(on: &Target, contents: &Contents) -> MachineError {
    let found = crate::plan::storage::in_words(contents, &[]);
    MachineError::ReadBack { what: on.in_words(), found }
}

/// Lets an open one have all of the device that it is on.
pub fn grow_luks(disks: &Disks, luks: &Target) -> Done {
    let Device::Luks { name } = &luks.device else { return Err(strange(luks)) };
    find(disks, luks)?;
    luks::grow(disks, name)
}
