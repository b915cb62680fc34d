//! Writing a rollout down, however many machines it has: in changes that the store takes, and nobody is told of it before
//! the last one. A controller that dies in between finds what is left over, and removes it.

use muster_protocol::{Digest, MachineId};

use super::check::Prepared;
use super::record::{Member, MemberKey, MemberState, Pace};
use crate::fleet::answered::{Outcome, RequestKey, once};
use crate::fleet::{Author, Fleet, Refusal, rollout};

/// Machines that are written in one change.
const AT_ONCE: usize = 300;

/// Their bytes, which the store holds in memory until they are on the disk.
const BYTES_AT_ONCE: usize = 4 << 20;

/// What is to be rolled out.
pub struct Wish {
    /// In words.
    pub selector: String,
    /// Of the template.
    pub template: Digest,
    /// How.
    pub pace: Pace,
    /// To whom, in this order.
    pub machines: Vec<Prepared>,
}

/// Writes a rollout and starts it; answers its number.
///
/// To be run to its end: a caller that goes away leaves a rollout that is not started, until the controller's next start.
pub async fn create(
    fleet: &Fleet,
    author: Author,
    key: Option<RequestKey>,
    wish: Wish,
    online: impl Fn(MachineId) -> bool + Send + 'static,
) -> Result<Outcome<u64>, Refusal> {
    let Wish { selector, template, pace, machines } = wish;
    rollout::check_pace(&pace)?;
    let begun = fleet.change(author.clone(), move |draft| Ok(rollout::begin(draft, selector, template, pace)));
    let number = begun.await?;
    let started = async {
        for members in chunks(number, machines) {
            let write = |draft: &mut crate::fleet::Draft| {
                members.into_iter().for_each(|member| draft.put(member));
                Ok(())
            };
            fleet.change(author.clone(), write).await?;
        }
        let start = move |draft: &mut crate::fleet::Draft| {
            once(draft, key, |draft| {
                let rollout = rollout::start(draft, number, online)?;
                Ok((rollout.number, rollout.number.to_string()))
            })
        };
        fleet.change(author.clone(), start).await
    };
    let outcome = started.await;
    if !matches!(outcome, Ok(Outcome::Done(_))) {
        remove(fleet, number).await?;
    }
    outcome
}

/// Removes a rollout with all its machines.
pub async fn remove(fleet: &Fleet, number: u64) -> Result<(), Refusal> {
    while !fleet.change(Author::controller(), move |draft| Ok(rollout::remove(draft, number))).await? {}
    Ok(())
}

fn chunks(number: u64, machines: Vec<Prepared>) -> Vec<Vec<Member>> {
    let mut chunks: Vec<Vec<Member>> = Vec::new();
    let mut bytes = 0;
    for (place, one) in (1..).zip(machines) {
        let Prepared { machine, seen, desired, is_there } = one;
        let state = match is_there {
            true => MemberState::There,
            false => MemberState::Waiting { desired: Box::new(desired.into_inner()), seen },
        };
        let member = Member { key: MemberKey { rollout: number, place }, machine, state };
        bytes += postcard::experimental::serialized_size(&member).unwrap_or_default();
        match chunks.last_mut().filter(|chunk| chunk.len() < AT_ONCE && bytes <= BYTES_AT_ONCE) {
            Some(chunk) => chunk.push(member),
            None => {
                chunks.push(vec![member]);
                bytes = 0;
            }
        }
    }
    chunks
}
