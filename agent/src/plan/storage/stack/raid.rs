//! Arrays of Linux md: kept, run, given a member that lacks, or made.

use muster_protocol::desired::{Existing, Layer, Place, Raid, RaidLevel};
use muster_protocol::inventory::ArrayState;
use muster_protocol::observed::{Array, ArrayMember, Contents, MemberState, RaidMember, md_uuid};

use super::super::step::{Carries, Device, Step, Target};
use super::{Node, Planner, State, array_bytes, disks_of, short};
use crate::plan::Impossible;

impl<'a> Planner<'a> {
    /// Plans one array.
    ///
    /// Errors: its members carry something else, or are of another array; too few of them are left; its name is taken.
    pub(super) fn plan_raid(&mut self, i: u16) -> Result<(), Impossible> {
        let layer = Layer::Raid(i);
        let Some(want) = self.desired.raid.get(usize::from(i)) else { return Ok(()) };
        let field = self.desired.layer_field(layer);
        let nodes: Vec<Node<'a>> = want.members.iter().flat_map(|place| self.nodes(place)).collect();
        let seen = nodes.iter().filter_map(|node| self.raid_member(node)).next();
        let lacks = self.missing_of(want);
        // Nothing is made that lacks a disk from the beginning.
        let whole = |why: &str| lacks.first().map_or(Ok(()), |(_, needed)| Err(needed_for(want, needed, why)));
        let node = match seen {
            None if !lacks.is_empty() => return whole("is not found on the other disks, and none is made without it"),
            None if !nodes.is_empty() && nodes.iter().all(|node| matches!(node.state, State::Asleep)) => {
                self.hope_for_array(want, &nodes)
            }
            None => self.make_array(want, &nodes, &field, "")?,
            Some(member) => {
                let array = self.ground.layers.arrays.iter().find(|array| array.uuid == Some(member.array));
                match (self.array_differs(want, nodes.len() + lacks.len(), &nodes, member, array), array) {
                    (None, Some(array)) => {
                        let node = self.keep_array(want, &nodes, array, &field, &whole)?;
                        let array = node.target.in_words();
                        self.notices.extend(lacks.iter().map(|(disk, _)| {
                            format!("{disk} is missing: the array {array} runs without it, until another disk is in its place")
                        }));
                        node
                    }
                    (why, _) if !lacks.is_empty() => {
                        let why = why.unwrap_or_else(|| "it is not told".to_owned());
                        return whole(&format!("is not the one on the other disks, which carry {member}: {why}"));
                    }
                    (why, _) if want.existing == Existing::Replace => {
                        self.make_array(want, &nodes, &field, &why.unwrap_or_default())?
                    }
                    (why, _) => {
                        let why = why.unwrap_or_else(|| "it is not told".to_owned());
                        let problem = format!(
                            "there is {member}, and not the array that is described: {why}; say `wipe_volume: true` to \
                             replace what its members carry, which then needs a permit"
                        );
                        return Err(Impossible { field, problem });
                    }
                }
            }
        };
        self.nodes.insert(Place::Raid(i), vec![node]);
        Ok(())
    }

    /// Disks with members of an array that are not there: what the document calls them, and why they are needed.
    fn missing_of(&self, want: &Raid) -> Vec<(String, Impossible)> {
        let mut lacks = Vec::new();
        for place in &want.members {
            let Place::Partition { disk, .. } = place else { continue };
            let missing = self.missing.iter().find(|missing| missing.entry == usize::from(*disk));
            lacks.extend(missing.map(|missing| (self.desired.disk_name(missing.entry), missing.needed.clone())));
        }
        lacks
    }

    /// What a device says as a member of an array that was finished once.
    fn raid_member(&self, node: &Node<'a>) -> Option<&'a RaidMember> {
        match node.state {
            State::There(found @ Contents::Raid(member)) if !self.is_ours(found) => Some(&**member),
            _ => None,
        }
    }

    /// The first way in which the array that is there contradicts the document.
    fn array_differs(
        &self,
        want: &Raid,
        described: usize,
        nodes: &[Node<'a>],
        member: &RaidMember,
        array: Option<&Array>,
    ) -> Option<String> {
        let array = array?;
        let devices = described.saturating_sub(usize::from(want.spares));
        let names: Vec<&str> = nodes.iter().filter_map(|node| node.name.as_deref()).collect();
        // The kernel takes one whose disk is gone for a member until it wants to write to it.
        let is_strange = |name: &&str| !names.contains(name) && self.ground.is_there(name);
        let held = array.members.iter().filter(|member| member.state != MemberState::Faulty);
        let stranger = held.map(|member| &*member.name).find(is_strange);
        let other = nodes.iter().filter_map(|node| self.raid_member(node)).find(|other| other.array != member.array);
        if self.gone.contains(&md_uuid(&member.array)) {
            Some("this plan takes one of its members away".to_owned())
        } else if let Some(other) = other {
            Some(format!("there is {other} as well"))
        } else if member.level != want.level.name() {
            Some(format!("its level is {} and not {}", member.level, want.level.name()))
        } else if usize::from(member.devices) != devices {
            Some(format!("it has {} members and not {devices}", member.devices))
        } else if short(&member.name) != want.name {
            Some(format!("its name is {:?}", short(&member.name)))
        } else {
            stranger.map(|name| format!("{} is a member too, and is not described", self.ground.in_words(name)))
        }
    }

    fn keep_array(
        &mut self,
        want: &Raid,
        nodes: &[Node<'a>],
        array: &'a Array,
        field: &str,
        whole: &dyn Fn(&str) -> Result<(), Impossible>,
    ) -> Result<Node<'a>, Impossible> {
        self.array_name_is_free(want, array.uuid, field)?;
        let is_in = |node: &&Node<'a>| {
            let name = node.name.as_deref();
            array.members.iter().any(|member| Some(&*member.name) == name && member.state != MemberState::Faulty)
        };
        let device = Device::Array { name: want.name.clone(), uuid: array.uuid };
        let its: Vec<&Node<'a>> = nodes.iter().filter(is_in).collect();
        let target = Target { device, disks: disks_of(its.iter().copied()), size_bytes: array.size_bytes };
        let runs = !matches!(array.array.state, ArrayState::Stopped | ArrayState::Inactive);
        let mut node = Node { target: target.clone(), name: None, state: State::Asleep };
        let up_to_date = |slot: u16| {
            let is_it = |state| matches!(state, MemberState::InSync);
            let is_its = |member: &&ArrayMember| member.slot == Some(slot) && self.ground.is_there(&member.name);
            array.members.iter().filter(is_its).any(|member| is_it(member.state))
        };
        // Some may be on what does not run yet: how many there are is seen by the step.
        let asleep: Vec<&Node<'a>> = nodes.iter().filter(|node| matches!(node.state, State::Asleep)).collect();
        let missing: Vec<u16> = (0..array.array.devices).filter(|slot| !up_to_date(*slot)).collect();
        let are_too_few = asleep.is_empty() && !is_enough(want.level, array.array.devices, &missing);
        if are_too_few {
            whole("cannot run without it")?;
        }
        if runs {
            let name = &array.array.name;
            let Some(contents) = &array.contents else {
                let problem = format!("{} runs and cannot be read", target.in_words());
                return Err(Impossible { field: field.to_owned(), problem });
            };
            (node.name, node.state) = (Some(name.clone()), State::There(contents));
        } else {
            if are_too_few && want.existing == Existing::Replace {
                return self.make_array(want, nodes, field, "");
            }
            if are_too_few {
                let problem = format!(
                    "{} of its {} members are there and up to date, which is too few for {}; bring the others back, or say \
                     `wipe_volume: true` to make it anew, which then needs a permit",
                    usize::from(array.array.devices) - missing.len(),
                    array.array.devices,
                    want.level.name()
                );
                return Err(Impossible { field: field.to_owned(), problem });
            }
            node.target.disks = disks_of(its.iter().chain(&asleep).copied());
            let members = its.iter().chain(&asleep).map(|node| node.target.clone()).collect();
            self.steps.push(Step::Assemble { array: node.target.clone(), members });
        }
        for (at, new) in nodes.iter().enumerate() {
            let is_its = self.raid_member(new).is_some_and(|member| Some(member.array) == array.uuid);
            // One of its own that failed or was left behind is told; what became of it only an operator knows.
            if is_its || is_in(&new) || matches!(new.state, State::Asleep) {
                continue;
            }
            let field = format!("{field}.devices[{at}]");
            let (member, also) = self.over_one(new, want.existing, &field, "", "wipe_volume")?;
            node.target.disks = disks_of(nodes);
            self.steps.push(Step::AddMember { array: target.clone(), member, also });
        }
        Ok(node)
    }

    /// None of its members is seen before what is below runs: it is there, or the step that runs it says that it is not.
    fn hope_for_array(&mut self, want: &Raid, nodes: &[Node<'a>]) -> Node<'a> {
        let device = Device::Array { name: want.name.clone(), uuid: None };
        let target = Target { device, disks: disks_of(nodes), size_bytes: 0 };
        let members = nodes.iter().map(|node| node.target.clone()).collect();
        self.steps.push(Step::Assemble { array: target.clone(), members });
        Node { target, name: None, state: State::Asleep }
    }

    fn make_array(&mut self, want: &Raid, nodes: &[Node<'a>], field: &str, why: &str) -> Result<Node<'a>, Impossible> {
        let (members, also) = self.over_all(nodes, want.existing, &format!("{field}.devices"), why)?;
        self.array_name_is_free(want, None, field)?;
        let least = nodes.iter().map(|node| node.target.size_bytes).min().unwrap_or(0);
        let active = nodes.len().saturating_sub(usize::from(want.spares));
        let device = Device::Array { name: want.name.clone(), uuid: None };
        let size_bytes = array_bytes(want.level, active, least);
        let target = Target { device, disks: disks_of(nodes), size_bytes };
        let (level, spares, options) = (want.level, want.spares, want.options.clone());
        self.steps.push(Step::MakeArray { array: target.clone(), level, members, spares, options, also });
        Ok(Node { target, name: None, state: State::Fresh(Carries::Nothing) })
    }

    /// Errors: another array is called so.
    fn array_name_is_free(&self, want: &Raid, own: Option<[u8; 16]>, field: &str) -> Result<(), Impossible> {
        let is_it = |array: &&Array| {
            let is_gone = array.uuid.is_some_and(|uuid| self.gone.contains(&md_uuid(&uuid)));
            // Beside one that is known by its UUID, another one that does not run is in nobody's way.
            let is_in_the_way = array.array.state != ArrayState::Stopped || own.is_none();
            array.uuid != own && short(&array.label) == want.name && !is_gone && is_in_the_way
        };
        let Some(other) = self.ground.layers.arrays.iter().find(is_it) else { return Ok(()) };
        let members: Vec<String> = other.members.iter().map(|member| self.ground.in_words(&member.name)).collect();
        let problem = format!(
            "another array has this name, of {}; choose another name, or wipe that one's members first",
            members.join(", ")
        );
        Err(Impossible { field: format!("{field}.name"), problem })
    }
}

/// A disk that is missing, and an array that is not run without it.
fn needed_for(want: &Raid, needed: &Impossible, why: &str) -> Impossible {
    let problem = format!("{}; the array {} {why}", needed.problem, want.name);
    Impossible { field: needed.field.clone(), problem }
}

/// Whether an array has its data without the members in these places.
fn is_enough(level: RaidLevel, devices: u16, missing: &[u16]) -> bool {
    match level {
        RaidLevel::Raid0 => missing.is_empty(),
        RaidLevel::Raid1 => missing.len() < usize::from(devices),
        RaidLevel::Raid5 => missing.len() <= 1,
        RaidLevel::Raid6 => missing.len() <= 2,
        // Neighbors have the same data, where each has one.
        RaidLevel::Raid10 if devices.is_multiple_of(2) => {
            !missing.iter().any(|slot| slot.is_multiple_of(2) && missing.contains(&(slot + 1)))
        }
        RaidLevel::Raid10 => missing.len() <= 1,
    }
}
