//! What all resources share.
//!
//! Every extractor here refuses with a [`Problem`], so that no answer of the API is ever a bare text.

pub mod body;
pub mod caller;
pub mod door;
pub mod etag;
pub mod failures;
pub mod feed;
pub mod params;
pub mod problem;
pub mod refusals;
mod refused;
pub mod request;
pub mod when;

pub use body::Body;
pub use caller::{Admin, Caller, Operator, Viewer};
pub use params::{Page, Params, Segment};
pub use problem::Problem;
pub use refused::Refused;
pub use request::RequestId;
