//! A site's boot medium, as `muster iso build` notes it in the data directory and as the API shows it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;
use crate::files;

/// A boot medium that was built on the controller's host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Iso)]
pub struct MediumView {
    /// Where it was written.
    pub file: String,
    /// Code of the location that it is for.
    pub location: String,
    /// Where its machines reach the controller.
    pub controllers: Vec<String>,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// When it was built.
    #[schema(value_type = String, format = DateTime)]
    pub made: Time,
}

impl MediumView {
    /// Notes a medium in `folder`, which is made where it is missing. The same medium is noted once.
    pub fn note(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let json = serde_json::to_vec(self)?;
        files::replace(&folder.join(format!("{}.json", self.sha256)), &json, files::PUBLIC)
    }

    /// All media that are noted in `folder`, oldest first.
    pub fn all(folder: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let read = |path| serde_json::from_slice::<Self>(&std::fs::read(path).ok()?).ok();
        let mut media: Vec<Self> = entries.filter_map(|entry| read(entry.path())).collect();
        media.sort_by_key(|medium| medium.made);
        media
    }
}
