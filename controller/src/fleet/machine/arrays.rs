//! Arrays of disks: what machines tell of them, and what of that is news.
//!
//! Called with each new inventory, inside [`crate::fleet::Fleet::change`]. Arrays are known by their kernel names: an array
//! that has another one after a boot is told again, where it is in trouble.

use muster_protocol::inventory::Array;

use crate::fleet::Draft;
use crate::fleet::record::Machine;

/// Makes an event of each array that came into trouble, is in other trouble than before, or came out of it.
pub(super) fn tell(draft: &mut Draft, machine: &Machine, before: &[Array], now: &[Array]) {
    for text in news(before, now) {
        draft.event("machine.array", machine.id, format!("{}: {text}", machine.name));
    }
}

fn news(before: &[Array], now: &[Array]) -> Vec<String> {
    let named = |arrays: &'_ [Array], name: &str| arrays.iter().position(|array| array.name == name);
    let told = now.iter().filter_map(|array| {
        let was = named(before, &array.name).map(|at| &before[at]);
        let was_troubled = was.is_some_and(Array::is_troubled);
        match array.is_troubled() {
            true if was.is_none_or(|was| was.in_words() != array.in_words()) => {
                Some(format!("the array {}", array.in_words()))
            }
            false if was_troubled => Some(format!("the array {} again", array.in_words())),
            _ => None,
        }
    });
    let gone = before.iter().filter(|array| array.is_troubled() && named(now, &array.name).is_none());
    told.chain(gone.map(|array| format!("the array {} is gone; it was {}", array.name, array.state.word()))).collect()
}

#[cfg(test)]
mod tests {
    use muster_protocol::inventory::ArrayState;

    use super::*;

    fn array(name: &str, state: ArrayState, missing: &[u16], faulty: &str) -> Array {
        let missing = missing.iter().copied().collect();
        Array { name: name.into(), level: "raid1".into(), devices: 2, state, missing, faulty: faulty.into() }
    }

    #[test]
    fn trouble_and_its_end_are_news_and_what_is_as_it_was_is_none() {
        let whole = array("md0", ArrayState::Whole, &[], "");
        let failed = array("md0", ArrayState::Degraded, &[1], "sdb1");
        let removed = array("md0", ArrayState::Degraded, &[1], "");
        let filled = array("md0", ArrayState::Rebuilding, &[], "");
        let lost = array("md0", ArrayState::Failed, &[0, 1], "sda1 sdb1");
        let between = |before: &Array, now: &Array| news(std::slice::from_ref(before), std::slice::from_ref(now));
        assert_eq!(between(&whole, &failed), ["the array md0 (raid1): degraded, lacks member 1 of 2; faulty: sdb1"]);
        assert_eq!(between(&failed, &removed), ["the array md0 (raid1): degraded, lacks member 1 of 2"]);
        assert_eq!(between(&removed, &filled), ["the array md0 (raid1): rebuilding"]);
        assert_eq!(between(&filled, &whole), ["the array md0 (raid1): whole again"]);
        assert_eq!(
            between(&removed, &lost),
            ["the array md0 (raid1): failed, lacks member 0, 1 of 2; faulty: sda1 sdb1"]
        );
        for same in [&whole, &failed, &filled] {
            assert_eq!(between(same, same), [""; 0]);
        }
        assert_eq!(news(&[], std::slice::from_ref(&whole)), [""; 0], "a new one that is whole is no trouble");
        assert_eq!(news(&[], std::slice::from_ref(&removed)).len(), 1);
        assert_eq!(news(std::slice::from_ref(&removed), &[]), ["the array md0 is gone; it was degraded"]);
        assert_eq!(news(&[whole], &[]), [""; 0]);
    }
}
