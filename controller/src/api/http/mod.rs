//! What all resources share.
//!
//! Every extractor here refuses with a [`Problem`], so that no answer of the API is ever a bare text.

pub mod body;
pub mod caller;
pub mod etag;
pub mod params;
pub mod problem;
mod refused;

pub use body::Body;
pub use caller::{Admin, Caller, Operator, Viewer};
pub use params::{Page, Params, Segment};
pub use problem::Problem;
pub use refused::Refused;
