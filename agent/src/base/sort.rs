//! Sorts short lists, in few bytes.
//!
//! The standard library's sort is compiled anew for every type, 3 kB and more each time, to be quick with millions of
//! items. Nothing in the agent has more than some hundreds: an insertion sort is quick enough and a few hundred bytes.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Sorts; equal items keep their order. Quadratic.
pub fn short<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    for end in 1..items.len() {
        let mut at = end;
        while at > 0 && compare(&items[at - 1], &items[at]) == Ordering::Greater {
            items.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// A map of few entries, of which later ones replace equal ones before them: what `collect` gives, which sorts first.
pub fn map<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(entries);
    map
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorts_like_the_standard_library(items in proptest::collection::vec((0_u8..9, any::<u16>()), 0..40)) {
            let (mut ours, mut theirs) = (items.clone(), items);
            super::short(&mut ours, |a, b| a.0.cmp(&b.0));
            theirs.sort_by_key(|item| item.0);
            prop_assert_eq!(ours, theirs);
        }
    }
}
