//! The network that a controller hands to a machine with its boot script: the one that was confirmed last, in a file of the
//! initramfs, so that a machine whose only way home is a VLAN or a static address finds it after a reboot.
//!
//! Written by the controller's boot listener, read by the agent when it starts. It may come over a wire that nobody
//! protects, so it is judged as anything from outside: a limit, no leftovers, and the check of every desired state.

use serde::{Deserialize, Serialize};

use crate::Generation;
use crate::desired::{Desired, Network, check};
use crate::frame::{self, FrameError, HEADER, Message};

/// Where it lies in the initramfs.
pub const PATH: &str = "muster/network";

/// What a machine's network was when it was confirmed last. A new form is a new variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handed {
    /// The first form.
    V1 {
        /// Which generation confirmed it.
        generation: Generation,
        /// The whole of it.
        network: Network,
    },
}

impl Message for Handed {
    /// As much as the whole desired state may have where it is stored.
    const LIMIT: usize = 64 * 1024;
}

/// Why bytes are no network that a machine may be brought to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandedError {
    /// They are damaged, or of a version that is not known here.
    #[error(transparent)]
    Damaged(#[from] FrameError),
    /// They say what no document may say.
    #[error("it is no network that could be desired: {0}")]
    Wrong(String),
}

impl Handed {
    /// The file's contents.
    ///
    /// Errors: [`FrameError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FrameError> {
        frame::encode(self).map(|mut frame| frame.split_off(HEADER))
    }

    /// What a file with these contents hands over.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Generation, Network), HandedError> {
        let Self::V1 { generation, network } = frame::decode(bytes)?;
        let desired = Desired { network: Some(network), storage: None };
        let wrong =
            |problems: Vec<crate::desired::Problem>| problems.first().map(ToString::to_string).unwrap_or_default();
        let desired = check(desired).map_err(|problems| HandedError::Wrong(wrong(problems)))?.into_inner();
        Ok((generation, desired.network.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Ethernet, Link, LinkKind, Select, Settings};

    fn handed(id: &str) -> Handed {
        let kind = LinkKind::Ethernet(Ethernet { select: Select::default(), ..Ethernet::default() });
        let links = vec![Link { id: id.into(), kind, settings: Settings::default() }];
        Handed::V1 { generation: Generation(7), network: Network { links, ..Network::default() } }
    }

    #[test]
    fn what_is_handed_over_is_read_whole_or_not_at_all() {
        let bytes = handed("lan").to_bytes().expect("small");
        let (generation, network) = Handed::from_bytes(&bytes).expect("reads");
        assert_eq!((generation, network.links[0].id.as_str()), (Generation(7), "lan"));
        for length in 0..bytes.len() {
            assert!(matches!(Handed::from_bytes(&bytes[..length]), Err(HandedError::Damaged(_))), "{length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Handed::from_bytes(&longer), Err(FrameError::Leftover { count: 1 }.into()));
        let length = Handed::LIMIT + 1;
        assert_eq!(
            Handed::from_bytes(&vec![0; length]),
            Err(FrameError::TooLong { length, limit: Handed::LIMIT }.into())
        );
    }

    #[test]
    fn what_no_document_may_say_is_not_handed_over_either() {
        let bytes = handed("../x").to_bytes().expect("small");
        let error = Handed::from_bytes(&bytes).expect_err("no name of a link").to_string();
        assert!(error.starts_with("it is no network that could be desired: network.ethernets"), "{error}");
    }
}
