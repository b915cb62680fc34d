//! The operator API under `/api/v1`.
//!
//! `server` mounts [`router`]. Reading takes the fleet's newest state; changing goes through the fleet's writer, and is
//! answered when it is durable. Nothing here speaks with agents but through [`Live`], and only to ask.
//!
//! | part | what it is |
//! | --- | --- |
//! | `http/` | what all resources share: who calls, bodies, pages, ETags, repeated requests, problem documents |
//! | `view/` | the shapes of the JSON |
//! | the rest | one file per resource |

mod live;

pub use live::{CallError, Live, Presence, Session};
