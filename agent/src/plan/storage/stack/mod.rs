//! What stands on partitions: from the bottom up, each layer is kept, run, changed or made.
//!
//! Called by `plan` once the tables are planned. What is there and would be written over is taken out first, from the top
//! down; whatever is lost with it is named, and on disks that the document does not name nothing is lost.

mod down;
mod ground;
mod luks;
mod lvm;
mod raid;
mod sizes;

use std::collections::BTreeMap;

use muster_protocol::DiskId;
use muster_protocol::desired::{Existing, Layer, Place, Storage, UNFINISHED_LAYER, UNFINISHED_PV};
use muster_protocol::observed::{Contents, RaidMember, md_uuid};

use super::choose::Missing;
use super::step::{Carries, Over, Step, Target, take_out};
use super::{Impossible, in_words, line};
use crate::sort;
use ground::Upper;

pub use down::take_down;
pub(super) use ground::{Ground, short};
pub(super) use sizes::{LUKS_BYTES, array_bytes, extents};
pub use sizes::{pool_extents, volume_extents};

/// A device of the document, as it is once the steps so far are done.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    /// As steps name it.
    pub(super) target: Target,
    /// Kernel name of one that is there and runs.
    pub(super) name: Option<String>,
    /// What it carries.
    pub(super) state: State<'a>,
}

/// What a device carries once the steps so far are done.
#[derive(Debug, Clone)]
pub(super) enum State<'a> {
    /// It is made by this plan.
    Fresh(Carries),
    /// What was seen.
    There(&'a Contents),
    /// It is there and does not run: what it carries is seen when it does.
    Asleep,
}

/// A plan that is being made.
pub(super) struct Planner<'a> {
    pub(super) desired: &'a Storage,
    pub(super) ground: Ground<'a>,
    pub(super) nodes: BTreeMap<Place, Vec<Node<'a>>>,
    pub(super) steps: Vec<Step>,
    /// Disks that are not there, and that arrays have to do without.
    pub(super) missing: Vec<Missing>,
    /// What is told beside the steps.
    pub(super) notices: Vec<String>,
    /// Kernel names of what is taken out of use for good.
    gone: Vec<String>,
    /// Whether something is planned only when what is below it runs.
    waits: bool,
}

impl<'a> Planner<'a> {
    pub(super) fn new(desired: &'a Storage, ground: Ground<'a>, missing: Vec<Missing>) -> Self {
        let (nodes, steps, notices, gone) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        Self { desired, ground, nodes, steps, missing, notices, gone, waits: false }
    }

    /// The devices that a place stands for.
    pub(super) fn nodes(&self, place: &Place) -> Vec<Node<'a>> {
        self.nodes.get(place).cloned().unwrap_or_default()
    }

    /// The disks beneath a place.
    pub(super) fn disks_of(&self, place: &Place) -> Vec<DiskId> {
        self.nodes(place).into_iter().flat_map(|node| node.target.disks).collect()
    }

    /// The disks beneath a layer.
    pub(super) fn disks_of_layer(&self, layer: Layer) -> Vec<DiskId> {
        self.places(layer).iter().flat_map(|place| self.disks_of(place)).collect()
    }

    /// What a layer stands on.
    fn places(&self, layer: Layer) -> &'a [Place] {
        let Storage { raid, luks, groups, .. } = self.desired;
        match layer {
            Layer::Raid(i) => raid.get(usize::from(i)).map_or(&[], |raid| &raid.members),
            Layer::Luks(i) => luks.get(usize::from(i)).map_or(&[], |luks| std::slice::from_ref(&luks.place)),
            Layer::Group(i) => groups.get(usize::from(i)).map_or(&[], |group| &group.members),
        }
    }

    /// Plans one layer, once all that it stands on is planned. What would be made on a device that does not run yet waits
    /// for the next plan, and so does all that stands on it: this one makes that run.
    ///
    /// Errors: it does not fit what is there.
    pub(super) fn plan_layer(&mut self, layer: Layer) -> Result<(), Impossible> {
        if self.places(layer).iter().any(|place| self.is_waited_for(place)) {
            return Ok(());
        }
        let (steps, gone, waited) = (self.steps.len(), self.gone.len(), std::mem::take(&mut self.waits));
        let planned = match layer {
            Layer::Raid(i) => self.plan_raid(i),
            Layer::Luks(i) => self.plan_luks(i),
            Layer::Group(i) => self.plan_group(i),
        };
        if self.waits {
            self.steps.truncate(steps);
            self.gone.truncate(gone);
            return Ok(());
        }
        self.waits = waited;
        planned
    }

    /// Whether a device is planned only when what is below it runs.
    pub(super) fn is_waited_for(&self, place: &Place) -> bool {
        self.waits && place.layer().is_some() && !self.nodes.contains_key(place)
    }

    /// What one device is written over with, and the other disks that lose something by it.
    ///
    /// Errors: as of [`Self::over`] and [`Self::also`].
    pub(super) fn over_one(
        &mut self,
        node: &Node<'a>,
        existing: Existing,
        field: &str,
        why: &str,
        word: &str,
    ) -> Result<(Over, Vec<DiskId>), Impossible> {
        let over = self.over(node, existing, field, why, word)?;
        let names: Vec<String> = node.name.iter().filter(|_| over.is_lost()).cloned().collect();
        let also = self.also(&names, &over.on.disks);
        let also = also.map_err(|problem| Impossible { field: field.to_owned(), problem })?;
        Ok((over, also))
    }

    /// Whether it is a piece of a layer that Muster began to make and never finished: nothing was ever kept in it.
    fn is_ours(&self, found: &Contents) -> bool {
        let is_unfinished = |member: &RaidMember| short(&member.name) == UNFINISHED_LAYER;
        match found {
            // The members of an array get its name one by one.
            Contents::Raid(member) => self.ground.devices().iter().any(|(_, other)| match other {
                Contents::Raid(other) => other.array == member.array && is_unfinished(other),
                _ => false,
            }),
            Contents::Luks(luks) => luks.subsystem == UNFINISHED_LAYER,
            // One that cannot tell what is in it may be of a group.
            Contents::Lvm(volume) => {
                volume.group.is_none() && !volume.is_damaged && volume.uuid.to_string().starts_with(UNFINISHED_PV)
            }
            _ => false,
        }
    }

    /// What several devices are written over with, and the other disks that lose something by it.
    ///
    /// Errors: as of [`Self::over`] and [`Self::also`].
    fn over_all(
        &mut self,
        nodes: &[Node<'a>],
        existing: Existing,
        field: &str,
        why: &str,
    ) -> Result<(Vec<Over>, Vec<DiskId>), Impossible> {
        let (mut overs, mut names) = (Vec::new(), Vec::new());
        for (at, node) in nodes.iter().enumerate() {
            let over = self.over(node, existing, &format!("{field}[{at}]"), why, "wipe_volume")?;
            names.extend(node.name.iter().filter(|_| over.is_lost()).cloned());
            overs.push(over);
        }
        let own: Vec<DiskId> =
            overs.iter().filter(|over| over.is_lost()).flat_map(|over| over.on.disks.clone()).collect();
        let also = self.also(&names, &own);
        let also = also.map_err(|problem| Impossible { field: field.to_owned(), problem })?;
        Ok((overs, also))
    }

    /// What a device is written over with.
    ///
    /// Errors: it carries something, or something stands on it, and the document does not let it be replaced.
    pub(super) fn over(
        &mut self,
        node: &Node<'a>,
        existing: Existing,
        field: &str,
        why: &str,
        word: &str,
    ) -> Result<Over, Impossible> {
        let on = node.target.clone();
        let problem = |problem| Err(Impossible { field: field.to_owned(), problem });
        let seen = match &node.state {
            State::Fresh(carries) => return Ok(Over { on, carries: carries.clone() }),
            State::Asleep => {
                self.waits = true;
                let problem =
                    format!("what {} carries is seen once it runs; nothing is made on it before", on.in_words());
                return Err(Impossible { field: field.to_owned(), problem });
            }
            State::There(seen) => *seen,
        };
        let uppers = node.name.as_deref().map(|name| self.ground.uppers(name)).unwrap_or_default();
        let carries = match seen {
            Contents::Blank if uppers.is_empty() => return Ok(Over { on, carries: Carries::Nothing }),
            found if self.is_ours(found) => Carries::Ours(found.unmounted()),
            found if existing == Existing::Replace => Carries::This(found.unmounted()),
            found => {
                let remedy = format!("say `{word}: true` to replace it, which then needs a permit");
                return problem(format!(
                    "{} carries {}{why}; {remedy}",
                    words(&self.ground, node),
                    in_words(found, &[])
                ));
            }
        };
        if let Some(name) = &node.name {
            self.take_out(name);
            self.steps.extend(seen.mounted_at().map(|at| take_out(on.clone(), at)));
        }
        Ok(Over { on, carries })
    }

    /// Takes out of use what stands on a device, from the top down.
    pub(super) fn take_out(&mut self, name: &str) {
        for upper in self.ground.uppers(name) {
            match upper {
                Upper::Array(array) => {
                    self.take_out_device(&array.array.name, |target| Some(Step::Stop { array: target }));
                    // One that does not run is lost all the same.
                    self.gone.extend(array.uuid.map(|uuid| md_uuid(&uuid)));
                }
                Upper::Opened(opened) => {
                    self.take_out_device(&opened.device, |target| Some(Step::Close { luks: target }));
                }
                Upper::Group(i, group) => {
                    let active: Vec<_> = self.ground.volumes(i).filter(|volume| !volume.device.is_empty()).collect();
                    for volume in &active {
                        self.take_out_device(&volume.device, |_| None);
                    }
                    let volumes: Vec<String> = active.iter().map(|volume| volume.name.clone()).collect();
                    let step = Step::Deactivate { group: self.ground.group(group), volumes };
                    if !active.is_empty() && !self.steps.contains(&step) {
                        self.steps.push(step);
                    }
                    self.gone.push(group.name.uuid.to_string());
                }
            }
        }
    }

    fn take_out_device(&mut self, name: &str, step: impl Fn(Target) -> Option<Step>) {
        if name.is_empty() || self.gone.iter().any(|gone| gone == name) {
            return;
        }
        self.gone.push(name.to_owned());
        self.take_out(name);
        let Some(target) = self.ground.target(name) else { return };
        let carried = self.ground.devices().into_iter().find(|(device, _)| device == name);
        let mounted = carried.and_then(|(_, contents)| contents.mounted_at());
        self.steps.extend(mounted.map(|at| take_out(target.clone(), at)));
        self.steps.extend(step(target));
    }

    /// The other disks that lose what they carry together with these devices.
    ///
    /// Errors: one of them is not in the document.
    pub(super) fn also(&self, names: &[String], own: &[DiskId]) -> Result<Vec<DiskId>, String> {
        let family = self.ground.family(names);
        let stranger =
            family.iter().filter_map(|at| self.ground.disks.get(*at)).find(|disk| !self.ground.is_named(disk));
        if let Some(disk) = stranger {
            return Err(format!(
                "what would be lost stands on {} too, which this document does not describe; describe that disk as well",
                line(disk)
            ));
        }
        Ok(self.ground.ids(&family).into_iter().filter(|id| !own.contains(id)).collect())
    }
}

/// A device for people, with the disk where it is a partition.
fn words(ground: &Ground<'_>, node: &Node<'_>) -> String {
    let Some(name) = &node.name else { return node.target.in_words() };
    let disk = ground.disks.iter().find(|disk| disk.partitions.iter().any(|p| disk.partition_name(p.number) == *name));
    match (disk, &node.target.device) {
        (Some(disk), super::Device::Partition { slot, .. }) => format!("partition {} of {}", slot.number, line(disk)),
        _ => node.target.in_words(),
    }
}

/// The disks beneath devices, each once.
fn disks_of<'n, 'a: 'n>(nodes: impl IntoIterator<Item = &'n Node<'a>>) -> Vec<DiskId> {
    let mut disks: Vec<DiskId> = nodes.into_iter().flat_map(|node| node.target.disks.clone()).collect();
    sort::short(&mut disks, Ord::cmp);
    disks.dedup();
    disks
}
