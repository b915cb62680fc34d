//! Lists that are refused by their length before there is memory for them.
//!
//! A frame's limit bounds its bytes, and an empty text is one byte on the wire and 24 in memory: so the lists of every
//! message that an agent sends have a limit of their own, which is looked at before the first element is read.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Whole disks of a machine: two shelves of a hundred, by two paths each, are less.
pub const DISKS: usize = 256;
/// Arrays of Linux md.
pub const ARRAYS: usize = 10;
/// Members of each that an observation names.
pub const ARRAY_MEMBERS: usize = 64;
/// Volume groups of LVM2.
pub const GROUPS: usize = 32;
/// Physical volumes of each that are named.
pub const GROUP_MEMBERS: usize = 64;
/// Logical volumes of all groups together.
pub const VOLUMES: usize = 256;
/// LUKS devices that are open.
pub const OPENED: usize = 64;
/// Memory modules: eight sockets of twenty-four.
pub const DIMMS: usize = 192;
/// Physical network interfaces.
pub const NICS: usize = 64;
/// Addresses of one interface that an inventory names.
pub const NIC_ADDRESSES: usize = 16;
/// VLANs, bonds and bridges that an inventory names.
pub const LINKS: usize = 40;
/// Addresses of each of them.
pub const LINK_ADDRESSES: usize = 8;
/// Processor flags that an inventory names.
pub const FLAGS: usize = 64;
/// Bytes of a certificate signing request.
pub const CSR_BYTES: usize = 4096;

/// For `#[serde(deserialize_with)]`: a list of at most `N`, and no room for more than it says that it has.
pub fn at_most<'de, const N: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct List<const N: usize, T>(PhantomData<T>);

    impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for List<N, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {N}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let said = list.size_hint().unwrap_or_default();
            if said > N {
                return Err(A::Error::invalid_length(said, &self));
            }
            let mut read = Vec::with_capacity(said);
            while let Some(element) = list.next_element()? {
                if read.len() == N {
                    return Err(A::Error::invalid_length(N + 1, &self));
                }
                read.push(element);
            }
            Ok(read)
        }
    }

    deserializer.deserialize_seq(List::<N, T>(PhantomData))
}
