//! What is durable in a journal and not in the database yet: whoever reads the database reads this over it.

use std::cmp::Ordering;
use std::ops::RangeBounds;
use std::sync::Arc;

use imbl::OrdMap;

use super::{Order, StoreError, Write};

/// By key the newest value; none for a key that goes.
pub(super) type Writes = OrdMap<Vec<u8>, Option<Arc<[u8]>>>;

/// A key and its value, or that it has none.
pub(super) type Change = Result<(Vec<u8>, Option<Vec<u8>>), StoreError>;

/// See the module. Cheap to copy: whoever reads has his own.
#[derive(Debug, Clone, Default)]
pub(super) struct Ahead {
    /// In the journal that is written to.
    pub(super) newest: Writes,
    /// In the other one, and on its way into the database.
    pub(super) going: Writes,
}

impl Ahead {
    /// Of a batch that has become durable.
    pub(super) fn add(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Put { key, value } => self.newest.insert(key.clone(), Some(value.as_slice().into())),
                Write::Delete { key } => self.newest.insert(key.clone(), None),
            };
        }
    }

    /// What the database holds in this range, as it will be.
    pub(super) fn over<'a>(
        &'a self,
        stored: impl Iterator<Item = Change> + 'a,
        keys: impl RangeBounds<Vec<u8>> + Clone,
        order: Order,
    ) -> impl Iterator<Item = Change> + 'a {
        let going = merged(within(&self.going, keys.clone(), order), stored, order);
        merged(within(&self.newest, keys, order), going, order)
    }
}

fn within<'a>(
    writes: &'a Writes,
    keys: impl RangeBounds<Vec<u8>>,
    order: Order,
) -> Box<dyn Iterator<Item = Change> + 'a> {
    let all = writes.range(keys).map(|(key, value)| Ok((key.clone(), value.as_deref().map(<[u8]>::to_vec))));
    match order {
        Order::Ascending => Box::new(all),
        Order::Descending => Box::new(all.rev()),
    }
}

/// Both in one order; of two that are about the same key the upper one.
fn merged(
    upper: impl Iterator<Item = Change>,
    lower: impl Iterator<Item = Change>,
    order: Order,
) -> impl Iterator<Item = Change> {
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    std::iter::from_fn(move || {
        let compared = match (upper.peek(), lower.peek()) {
            (Some(Ok((above, _))), Some(Ok((below, _)))) => match order {
                Order::Ascending => above.cmp(below),
                Order::Descending => below.cmp(above),
            },
            (_, None) => Ordering::Less,
            // An error is told where it is, before whoever reads has enough.
            (_, Some(_)) => Ordering::Greater,
        };
        match compared {
            Ordering::Less => upper.next(),
            Ordering::Equal => lower.next().and_then(|_| upper.next()),
            Ordering::Greater => lower.next(),
        }
    })
}
