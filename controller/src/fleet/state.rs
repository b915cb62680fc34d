//! The image of everything durable: one table per kind of record, cheap to copy and to keep.
//!
//! Persistent maps make a copy of the whole state a handful of pointers; the writer works on one copy while readers keep
//! theirs.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use muster_protocol::{Digest, MachineId, OperationId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::enrollment::marks::{self, Marks};
use super::location::address::Family;
use super::location::edge::Edges;
use super::machine::controls::Controls;
use super::machine::keys::{KeyOf, VolumeKey};
use super::operation::confirmed::Confirmed;
use super::operation::proven::Proven;
use super::record::{
    Address, AddressHolder, Answered, AuditHead, Credential, DesiredState, DriveKey, DriveRecord, Event, Iso, Lease,
    Location, Machine, MachineInventory, ModelCard, Operation, Policy, Subnet, Ticket, Token,
};
use super::rollout::record::{Member, MemberKey, Rollout};

/// Records by key.
#[derive(Debug, Clone)]
pub struct Table<K: Ord + Clone, R>(OrdMap<K, Arc<R>>);

impl<K: Ord + Clone, R> Default for Table<K, R> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord + Clone, R> Table<K, R> {
    /// The record with this key.
    pub fn get(&self, key: &K) -> Option<&R> {
        self.0.get(key).map(Arc::as_ref)
    }

    /// All records in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.0.values().map(Arc::as_ref)
    }

    /// Whether nothing was changed between the one and the other. That nothing was is known at once, and may be missed.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// The records whose keys come after `key`, in order.
    pub fn after<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a R> + use<'a, K, R> {
        use std::ops::Bound::{self, Excluded, Unbounded};
        self.0.range::<(Bound<&K>, Bound<&K>), K>((Excluded(key), Unbounded)).map(|(_, record)| record.as_ref())
    }

    /// The records whose keys come before `key`, the last one first.
    pub fn before<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a R> + use<'a, K, R> {
        self.0.range(..key.clone()).rev().map(|(_, record)| record.as_ref())
    }

    /// The keys of records that are new, other or gone since `earlier`, an older version of the table.
    ///
    /// Costs what has changed and not what is there: versions share what is the same in them.
    pub fn touched_since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = &'a K>
    where
        R: PartialEq,
    {
        use imbl::ordmap::DiffItem::{Add, Remove, Update};
        earlier.0.diff(&self.0).map(|item| match item {
            Add(key, _) | Update { new: (key, _), .. } | Remove(key, _) => key,
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn last_key(&self) -> Option<&K> {
        self.0.get_max().map(|(key, _)| key)
    }
}

/// A kind of record.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// What it is found by.
    type Key: Ord + Clone + Send + Sync + StoredKey + 'static;
    /// First bytes of its keys in the store; ends in `/`, never changes.
    const PREFIX: &'static str;
    /// What it is called in errors.
    const KIND: &'static str;
    /// Its own key.
    fn key(&self) -> Self::Key;
    /// Its table.
    fn table(state: &State) -> &Table<Self::Key, Self>;
    /// Its table.
    fn table_mut(state: &mut State) -> &mut Table<Self::Key, Self>;
    /// Enters the record into the indexes of [`State`], or takes it out; most kinds have none.
    fn index(&self, _state: &mut State, _is_there: bool) {}
    /// The key for people.
    fn key_text(key: &Self::Key) -> Vec<u8> {
        key.text()
    }
}

/// Keys as bytes whose order is the keys' order.
pub trait StoredKey {
    /// For the store.
    fn bytes(&self) -> Vec<u8>;
    /// For people.
    fn text(&self) -> Vec<u8>;
}

impl StoredKey for String {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
    fn text(&self) -> Vec<u8> {
        self.bytes()
    }
}

impl StoredKey for u64 {
    fn bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
    fn text(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

/// Ordered by family, then address, then prefix length, as [`IpNet`] itself is.
impl StoredKey for IpNet {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::V4(net) => [&[4][..], &net.addr().octets(), &[net.prefix_len()]].concat(),
            Self::V6(net) => [&[6][..], &net.addr().octets(), &[net.prefix_len()]].concat(),
        }
    }
    fn text(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

macro_rules! id_keys {
    ($($id:ty: $bytes:ident),*) => {$(
        impl StoredKey for $id {
            fn bytes(&self) -> Vec<u8> {
                self.as_bytes().to_vec()
            }
            fn text(&self) -> Vec<u8> {
                self.to_string().into_bytes()
            }
        }
    )*};
}
id_keys!(MachineId: as_bytes, OperationId: as_bytes, Digest: as_bytes);

/// Declares the tables of [`State`]: a field, its record, its key, its prefix in the store, and what it is called.
macro_rules! tables {
    ($($(#[$doc:meta])* $field:ident: $record:ident by $key:ty = |$r:ident| $of:expr, $prefix:literal, $kind:literal $(, indexed by $index:expr)?;)*) => {
        /// Everything durable.
        #[derive(Debug, Clone, Default)]
        pub struct State {
            $($(#[$doc])* pub $field: Table<$key, $record>,)*
            unfinished: OrdSet<(MachineId, OperationId)>,
            ended: OrdSet<(u64, OperationId)>,
            rolling: OrdMap<MachineId, MemberKey>,
            pools: OrdMap<Arc<str>, IpNet>,
            edges: Edges,
            marks: Marks,
        }

        $(impl Record for $record {
            type Key = $key;
            const PREFIX: &'static str = $prefix;
            const KIND: &'static str = $kind;
            fn key(&self) -> $key {
                let $r = self;
                $of
            }
            fn table(state: &State) -> &Table<$key, Self> {
                &state.$field
            }
            fn table_mut(state: &mut State) -> &mut Table<$key, Self> {
                &mut state.$field
            }
            $(fn index(&self, state: &mut State, is_there: bool) {
                $index(state, self, is_there);
            })?
        })*

        impl State {
            /// Whether nothing was changed in any table between the one and the other; see [`Table::is_same`].
            pub fn is_same(&self, other: &Self) -> bool {
                true $(&& self.$field.is_same(&other.$field))*
            }

            /// Reads what a store holds.
            pub(super) fn load(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self, LoadError> {
                let mut state = Self::default();
                for (key, value) in entries {
                    let known = false $(|| state.load_one::<$record>(&key, &value)?)*;
                    if !known {
                        return Err(LoadError::Prefix { key: String::from_utf8_lossy(&key).into_owned() });
                    }
                }
                Ok(state)
            }
        }
    };
}

tables! {
    /// Machines that enrolled at least once.
    machines: Machine by MachineId = |r| r.id, "machine/", "machine", indexed by marks::index_machine;
    /// What they are made of.
    inventories: MachineInventory by MachineId = |r| r.machine, "inventory/", "inventory", indexed by marks::index_inventory;
    /// How their drives are.
    drives: DriveRecord by DriveKey = |r| r.key.clone(), "drive/", "drive";
    /// What they should be.
    desired: DesiredState by MachineId = |r| r.machine, "desired/", "desired state";
    /// What they were confirmed to be last.
    confirmed: Confirmed by MachineId = |r| r.machine, "confirmed/", "confirmed state";
    /// What they have proven and not yet said that they keep.
    proven: Proven by MachineId = |r| r.machine, "proven/", "proven state";
    /// Keys of their encrypted volumes.
    volume_keys: VolumeKey by KeyOf = |r| r.of, "volume-key/", "key of an encrypted volume";
    /// What switches them from outside.
    controls: Controls by MachineId = |r| r.machine, "controls/", "power controls";
    /// Work, done and to be done.
    operations: Operation by OperationId = |r| r.id, "operation/", "operation", indexed by State::index_operation;
    /// Sites.
    locations: Location by String = |r| r.code.clone(), "location/", "location";
    /// Boot tickets, by their digest.
    tickets: Ticket by Digest = |r| r.digest, "ticket/", "ticket";
    /// Boot media, by their ids.
    isos: Iso by String = |r| r.id.clone(), "iso/", "ISO";
    /// Rules by which machines are approved.
    policies: Policy by String = |r| r.name.clone(), "policy/", "policy";
    /// Operators' tokens.
    tokens: Token by String = |r| r.id.clone(), "token/", "token";
    /// What may be handed out, by prefix.
    subnets: Subnet by IpNet = |r| r.net, "subnet/", "subnet", indexed by State::index_subnet;
    /// What is handed out, by the block.
    addresses: Address by IpNet = |r| r.block, "address/", "address", indexed by State::index_address;
    /// What operators say of server models, by the model's id.
    models: ModelCard by String = |r| r.id.clone(), "model/", "server model";
    /// What hubs of Cycle's show, by the public part.
    credentials: Credential by String = |r| r.key.clone(), "credential/", "IAL credential";
    /// Machines in hubs' hands.
    leases: Lease by String = |r| r.id.clone(), "lease/", "lease";
    /// Templates on their way over many machines.
    rollouts: Rollout by u64 = |r| r.number, "rollout/", "rollout";
    /// Their machines.
    members: Member by MemberKey = |r| r.key, "rollout-member/", "rollout's machine", indexed by State::index_member;
    /// Requests that may be repeated.
    answered: Answered by Digest = |r| r.key, "answered/", "answered request";
    /// The change feed.
    events: Event by u64 = |r| r.seq, "event/", "event";
    /// Where the audit log ends; one record. The entries themselves are in the [`super::access::ledger`].
    audit_head: AuditHead by u64 = |_r| 0, "audit-head/", "head of the audit log";
}

impl State {
    /// Nothing but what machines are counted from, by model and place. Whoever looks at it sees nothing else, and what he
    /// found out holds for as long as [this is the same](Self::is_same).
    pub fn machines_alone(&self) -> Self {
        Self {
            machines: self.machines.clone(),
            inventories: self.inventories.clone(),
            models: self.models.clone(),
            locations: self.locations.clone(),
            isos: self.isos.clone(),
            ..Self::default()
        }
    }

    /// Whether nothing was changed that machines are told from: addresses come to them in desired states, and what happened
    /// and who did it are no business of theirs.
    pub fn is_same_for_machines(&self, other: &Self) -> bool {
        let told_from = |state: &Self| Self {
            addresses: Table::default(),
            answered: Table::default(),
            events: Table::default(),
            audit_head: Table::default(),
            ..state.clone()
        };
        told_from(self).is_same(&told_from(other))
    }

    /// Nothing but subnets and what is handed out of them, for the same purpose.
    pub fn addresses_alone(&self) -> Self {
        Self { subnets: self.subnets.clone(), addresses: self.addresses.clone(), ..Self::default() }
    }

    /// The sequence number that the next event gets; 1 for the first.
    pub fn next_event(&self) -> u64 {
        self.events.last_key().map_or(1, |last| last + 1)
    }

    /// The operations of a machine that have not ended.
    pub fn unfinished(&self, machine: MachineId) -> impl Iterator<Item = &Operation> {
        let ids = OperationId::from_bytes([0; 16])..=OperationId::from_bytes([0xff; 16]);
        let range = (machine, *ids.start())..=(machine, *ids.end());
        self.unfinished.range(range).filter_map(|(_, id)| self.operations.get(id))
    }

    /// All operations that have not ended, each machine's together.
    pub fn all_unfinished(&self) -> impl Iterator<Item = &Operation> {
        self.unfinished.iter().filter_map(|(_, id)| self.operations.get(id))
    }

    /// The operation that ended first, where more than `kept` have ended.
    pub fn ended_beyond(&self, kept: usize) -> Option<OperationId> {
        (self.ended.len() > kept).then(|| self.ended.get_min().map(|(_, id)| *id))?
    }

    /// Whether this is a machine that somebody let in, and nobody put out.
    pub fn is_in(&self, machine: MachineId) -> bool {
        self.machines.get(&machine).is_some_and(|machine| machine.lifecycle.is_in())
    }

    /// Where a machine stands in the rollout that it is at work for.
    pub fn rolling(&self, machine: MachineId) -> Option<MemberKey> {
        self.rolling.get(&machine).copied()
    }

    /// What a hub has under its own name of a pool; unnamed pools are found by nothing.
    pub fn pool(&self, hub: &str, pool: &str, family: Family) -> Option<&Address> {
        self.addresses.get(self.pools.get(&pool_name(hub, pool, family))?)
    }

    /// What machines are found by.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    pub(super) fn marks_mut(&mut self) -> &mut Marks {
        &mut self.marks
    }

    fn index_operation(&mut self, operation: &Operation, is_there: bool) {
        let (unfinished, ended) = ((operation.machine, operation.id), operation.ended_unix_ms.unwrap_or_default());
        match (operation.state.is_ended(), is_there) {
            (false, true) => drop(self.unfinished.insert(unfinished)),
            (false, false) => drop(self.unfinished.remove(&unfinished)),
            (true, true) => drop(self.ended.insert((ended, operation.id))),
            (true, false) => drop(self.ended.remove(&(ended, operation.id))),
        }
    }

    /// Up to where subnets are full.
    pub(super) fn edges(&self) -> &Edges {
        &self.edges
    }

    pub(super) fn edges_mut(&mut self) -> &mut Edges {
        &mut self.edges
    }

    fn index_subnet(&mut self, subnet: &Subnet, _is_there: bool) {
        self.edges.forget(subnet.net);
    }

    fn index_address(&mut self, address: &Address, is_there: bool) {
        self.edges.index(address, is_there);
        let AddressHolder::Pool { hub, pool, .. } = &address.holder else { return };
        if pool.is_empty() {
            return;
        }
        let named = pool_name(hub, pool, Family::of(address.block.addr()));
        match is_there {
            true => drop(self.pools.insert(named, address.block)),
            false => drop(self.pools.remove(&named)),
        }
    }

    fn index_member(&mut self, member: &Member, is_there: bool) {
        match (member.is_given(), is_there) {
            (false, _) => {}
            (true, true) => drop(self.rolling.insert(member.machine, member.key)),
            (true, false) => drop(self.rolling.remove(&member.machine)),
        }
    }

    pub(super) fn put<R: Record>(&mut self, record: R) {
        self.put_shared(Arc::new(record));
    }

    pub(super) fn put_shared<R: Record>(&mut self, record: Arc<R>) {
        let key = record.key();
        if let Some(gone) = R::table_mut(self).0.insert(key, record.clone()) {
            gone.index(self, false);
        }
        record.index(self, true);
    }

    pub(super) fn delete<R: Record>(&mut self, key: &R::Key) {
        if let Some(gone) = R::table_mut(self).0.remove(key) {
            gone.index(self, false);
        }
    }

    /// The sequence number that the next audit entry gets; 1 for the first.
    pub fn next_audit(&self) -> u64 {
        super::audit::Head::of(self).seq + 1
    }

    fn load_one<R: Record>(&mut self, key: &[u8], value: &[u8]) -> Result<bool, LoadError> {
        if !key.starts_with(R::PREFIX.as_bytes()) {
            return Ok(false);
        }
        match read_value::<R>(value).filter(|record| stored_key::<R>(&record.key()) == key) {
            Some(record) => {
                self.put(record);
                Ok(true)
            }
            None => Err(LoadError::Value { kind: R::KIND, key: String::from_utf8_lossy(key).into_owned() }),
        }
    }
}

/// A hub's own name for a pool, in one text: hubs' names have no line breaks.
fn pool_name(hub: &str, pool: &str, family: Family) -> Arc<str> {
    format!("{hub}\n{family}\n{pool}").into()
}

/// Why a store's contents cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Written by a newer version.
    #[error("the database has a record {key:?} that this version does not know; it was written by a newer one")]
    Prefix {
        /// Its key.
        key: String,
    },
    /// Written by a newer version, or damaged.
    #[error("the {kind} record {key:?} cannot be read; it was written by a newer version or is damaged")]
    Value {
        /// What it should be.
        kind: &'static str,
        /// Its key.
        key: String,
    },
}

/// Records are a protocol with the past: a released version's bytes are read for ever, growth is a new variant.
#[derive(Serialize, Deserialize)]
enum Stored<R> {
    V1(R),
}

pub(super) fn stored_key<R: Record>(key: &R::Key) -> Vec<u8> {
    [R::PREFIX.as_bytes(), &key.bytes()].concat()
}

/// What [`stored_value`] wrote; `None` for anything else.
pub(super) fn read_value<R: DeserializeOwned>(value: &[u8]) -> Option<R> {
    let (Stored::V1(record), rest) = postcard::take_from_bytes(value).ok()?;
    rest.is_empty().then_some(record)
}

pub(super) fn stored_value<R: Serialize>(record: &R) -> Vec<u8> {
    #[derive(Serialize)]
    enum StoredRef<'a, R> {
        V1(&'a R),
    }
    postcard::to_stdvec(&StoredRef::V1(record)).expect("records always encode: no custom code in them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use crate::fleet::{Draft, Facts, machine};
    use muster_protocol::enroll::Identity;

    #[test]
    fn what_was_touched_between_two_versions_is_what_is_new_other_or_gone() {
        let mut earlier = Table::<u64, String>::default();
        for key in 0..1_000 {
            earlier.0.insert(key, Arc::new(format!("v{key}")));
        }
        let mut later = earlier.clone();
        later.0.insert(7, Arc::new("other".into()));
        later.0.insert(8, Arc::new("v8".into()));
        later.0.insert(5_000, Arc::new("new".into()));
        later.0.remove(&9);
        assert_eq!(later.touched_since(&earlier).collect::<Vec<_>>(), [&7, &9, &5_000]);
        assert_eq!(later.touched_since(&later).count(), 0);
    }

    #[test]
    fn machines_are_told_again_for_what_concerns_them_and_not_for_addresses_or_news() {
        let mut draft = draft();
        let id = enrolled(&mut draft, Identity::default());
        let before = draft.state().clone();
        draft.event("bench.passed", id, "somebody passed by");
        draft.audit("bench.passed", id, Facts::none(), Facts::none());
        let holder = AddressHolder::Machine { machine: id, lease: "l1".into() };
        let block = "203.0.113.5/32".parse().expect("a block");
        draft.put(Address { block, subnet: block, holder, since_unix_ms: 0 });
        assert!(!draft.state().is_same(&before) && draft.state().is_same_for_machines(&before));
        machine::approve(&mut draft, id).expect("approved");
        assert!(!draft.state().is_same_for_machines(&before));
    }

    #[test]
    fn a_pool_is_found_by_its_hubs_name_for_it_until_it_is_given_back() {
        let mut draft = draft();
        let pool = |block: &str, hub: &str, pool: &str| {
            let block = block.parse().expect("a block");
            let (hub, pool, assignment) = (hub.into(), pool.into(), "a".into());
            let holder = AddressHolder::Pool { hub, pool, lease: "l1".into(), assignment };
            Address { block, subnet: block, holder, since_unix_ms: 0 }
        };
        for (block, hub, name) in [
            ("203.0.113.5/32", "acme", "p1"),
            ("2001:db8::5/128", "acme", "p1"),
            ("203.0.113.6/32", "other", "p1"),
            ("203.0.113.7/32", "acme", ""),
        ] {
            draft.put(pool(block, hub, name));
        }
        let found = |draft: &Draft, hub, name, family| {
            draft.state().pool(hub, name, family).map(|address| address.block.to_string())
        };
        assert_eq!(found(&draft, "acme", "p1", Family::V4).as_deref(), Some("203.0.113.5/32"));
        assert_eq!(found(&draft, "acme", "p1", Family::V6).as_deref(), Some("2001:db8::5/128"));
        assert_eq!(found(&draft, "other", "p1", Family::V4).as_deref(), Some("203.0.113.6/32"));
        assert_eq!(found(&draft, "acme", "", Family::V4), None, "what has no name is found by none");
        let given_back =
            Address { holder: AddressHolder::Quarantine { until_unix_ms: 1 }, ..pool("203.0.113.5/32", "acme", "p1") };
        draft.put(given_back);
        assert_eq!(found(&draft, "acme", "p1", Family::V4), None);
        draft.delete::<Address>(&"2001:db8::5/128".parse().expect("a block"));
        assert_eq!(found(&draft, "acme", "p1", Family::V6), None);
    }

    /// Whoever is passed over is not woken: a machine that was approved went on to wait, one that was retired stayed.
    #[test]
    fn nothing_that_was_touched_is_passed_over() {
        // A small generator, so that the same numbers come in every run.
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..100 {
            let mut table = Table::<u64, u64>::default();
            let mut keys = Vec::new();
            for _ in 0..60 {
                let earlier = table.clone();
                for _ in 0..=next() % 12 {
                    let key = if keys.is_empty() || next() % 2 == 0 {
                        keys.push(next());
                        keys[keys.len() - 1]
                    } else {
                        keys[(next() % keys.len() as u64) as usize]
                    };
                    if next() % 16 == 0 {
                        table.0.remove(&key);
                    } else {
                        table.0.insert(key, Arc::new(next()));
                    }
                }
                let touched = keys.iter().filter(|key| table.get(key) != earlier.get(key));
                let touched: std::collections::BTreeSet<&u64> = touched.collect();
                assert_eq!(table.touched_since(&earlier).collect::<std::collections::BTreeSet<_>>(), touched);
            }
        }
    }
}
