//! LUKS devices: kept, opened, or made.

use muster_protocol::desired::{Existing, Layer, Place};
use muster_protocol::observed::Contents;

use super::super::keys::{Header, differs};
use super::super::step::{Carries, Device, MakeLuks, Step, Target};
use super::super::{in_words, size};
use super::{LUKS_BYTES, Node, Planner, State};
use crate::plan::Impossible;

/// What an open device may have less than what it is on, beside its headers, before it is grown.
const SLACK: u64 = 16 << 20;

impl<'a> Planner<'a> {
    /// Plans one LUKS device.
    ///
    /// Errors: something else is there; its name is taken.
    pub(super) fn plan_luks(&mut self, i: u16) -> Result<(), Impossible> {
        let Some(want) = self.desired.luks.get(usize::from(i)) else { return Ok(()) };
        let field = self.desired.layer_field(Layer::Luks(i));
        let Some(node) = self.nodes(&want.place).into_iter().next() else {
            return Err(super::super::filesystem::no_device(&field));
        };
        let on = node.target.clone();
        let found = match node.state {
            State::There(found @ Contents::Luks(luks)) if !self.is_ours(found) => Some(&**luks),
            _ => None,
        };
        let differs = found.and_then(|found| differs(&want.label, want.uuid, found));
        let inside = on.size_bytes.saturating_sub(LUKS_BYTES);
        let device = Device::Luks { name: want.name.clone() };
        let mut target = Target { device, disks: on.disks.clone(), size_bytes: inside };
        let opened = self.ground.layers.opened.iter().find(|opened| Some(&opened.on) == node.name.as_ref());
        let taken = self.ground.layers.opened.iter().find(|opened| {
            opened.name == want.name && Some(&opened.on) != node.name.as_ref() && !self.gone.contains(&opened.device)
        });
        if let Some(other) = taken {
            let problem = format!("{} is open by this name; choose another one", self.ground.in_words(&other.on));
            return Err(Impossible { field: format!("{field}.name"), problem });
        }
        let open = |header: Header, target: &Target| Step::Open {
            luks: target.clone(),
            on: on.clone(),
            header,
            key: want.key,
            discard: want.discard,
        };
        let made = match (&node.state, found) {
            (State::Asleep, _) => {
                target.size_bytes = 0;
                let header = Header::Unseen { label: want.label.clone(), uuid: want.uuid };
                self.steps.push(open(header, &target));
                Node { target, name: None, state: State::Asleep }
            }
            (_, Some(found)) if differs.is_none() => match opened {
                None => {
                    target.size_bytes = 0;
                    self.steps.push(open(Header::Seen(found.uuid.clone()), &target));
                    Node { target, name: None, state: State::Asleep }
                }
                Some(opened) if opened.name != want.name => {
                    let problem = format!(
                        "{} is open as {}; call it so in the document, or close it first",
                        on.in_words(),
                        opened.name
                    );
                    return Err(Impossible { field: format!("{field}.name"), problem });
                }
                Some(opened) => {
                    let Some(contents) = &opened.contents else {
                        let problem = format!("{} is open and cannot be read", target.in_words());
                        return Err(Impossible { field, problem });
                    };
                    if inside >= opened.size_bytes.saturating_add(SLACK) {
                        self.steps.push(Step::GrowLuks { luks: target.clone(), on });
                    } else {
                        target.size_bytes = opened.size_bytes;
                    }
                    Node { target, name: Some(opened.device.clone()), state: State::There(contents) }
                }
            },
            (_, _) => {
                if on.size_bytes > 0 && on.size_bytes < 2 * LUKS_BYTES {
                    let (least, has) = (size(2 * LUKS_BYTES), size(on.size_bytes));
                    let problem = format!("LUKS2 needs at least {least}, and {} has {has}", on.in_words());
                    return Err(Impossible { field: format!("{field}.device"), problem });
                }
                if let Some((why, found)) = differs.zip(found).filter(|_| want.existing == Existing::Keep) {
                    let found = in_words(&Contents::Luks(found.clone().into()), &[]);
                    let problem = format!(
                        "{} carries {found}: {why}; say `wipe_volume: true` to replace it, which then needs a permit",
                        on.in_words()
                    );
                    return Err(Impossible { field, problem });
                }
                let (over, also) = self.over_one(&node, want.existing, &field, "", "wipe_volume")?;
                let luks = MakeLuks {
                    name: want.name.clone(),
                    label: want.label.clone(),
                    uuid: want.uuid,
                    key: want.key,
                    options: want.options.clone(),
                };
                self.steps.push(Step::MakeLuks { on: over, luks, also });
                self.steps.push(open(Header::Made, &target));
                Node { target, name: None, state: State::Fresh(Carries::Nothing) }
            }
        };
        self.nodes.insert(Place::Luks(i), vec![made]);
        Ok(())
    }
}
