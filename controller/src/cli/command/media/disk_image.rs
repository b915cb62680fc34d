//! `muster disk-image`: operating systems that machines may be given, kept on the controller's own host.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use muster_protocol::Digest;
use serde_json::{Value, json};

use crate::cli::connect::{DataDir, fetching};
use crate::cli::error::CliError;
use crate::cli::follow::Progress;
use crate::cli::several::Several;
use crate::cli::show::{Column, Show, bytes, print, text};
use crate::config::Config;
use crate::disk_image::{self, DiskImage, FOLDER};

/// `muster disk-image`
#[derive(Debug, Subcommand)]
pub enum DiskImageCommand {
    /// Take in the image of a disk: raw, qcow2, or raw packed with zstd or xz, with a GPT
    ///
    /// Run it on the controller's host, as the controller's user. What the file is, is told from its bytes. Parts that are
    /// all zeros are neither kept nor sent. Documents name it by the SHA-256 of the file: `storage.images`.
    Add(DiskImageAdd),
    /// List the images that are here
    #[command(visible_alias = "ls")]
    List(DiskImageList),
    /// Remove images; machines that have them on their disks keep them
    #[command(visible_alias = "rm")]
    Remove(DiskImageRemove),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster disk-image add debian-12-genericcloud-amd64.qcow2
  muster disk-image add https://images.example/debian-12.raw.xz --sha256 9f86d081884c7d65…")]
pub struct DiskImageAdd {
    /// A file, or an https:// URL to fetch it from
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// What its publisher says; another file is refused. Needed with a URL
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub struct DiskImageList {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub struct DiskImageRemove {
    /// As the list shows it
    #[arg(required = true, value_name = "SHA256")]
    digests: Vec<Digest>,
    #[command(flatten)]
    place: Place,
}

/// Where the controller on this host has its images.
#[derive(Debug, Args)]
pub struct Place {
    /// The folder of kernel and initramfs, in which they lie too; where the controller looks by default
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
}

impl Place {
    fn folder(&self) -> Result<PathBuf, CliError> {
        let images = match &self.images {
            Some(images) => images.clone(),
            None => Config::load(None, self.data.given())?.boot.images,
        };
        Ok(images.join(FOLDER))
    }
}

impl DiskImageCommand {
    pub(in crate::cli::command) fn run(self) -> Result<(), CliError> {
        const COLUMNS: [Column; 4] = [
            Column("sha256", |image| text(image, "/sha256")),
            Column("disk", |image| bytes(image["disk_bytes"].as_u64().unwrap_or_default())),
            Column("kept", |image| bytes(image["bytes"].as_u64().unwrap_or_default())),
            Column("name", |image| text(image, "/name")),
        ];
        match self {
            Self::Add(add) => add.run(),
            Self::List(DiskImageList { show, place }) => {
                let images = disk_image::list(&place.folder()?).map_err(|e| failed(&e))?;
                show.list(&images.iter().map(view).collect::<Vec<_>>(), &COLUMNS);
                Ok(())
            }
            Self::Remove(DiskImageRemove { digests, place }) => {
                let folder = place.folder()?;
                let mut several = Several::new(digests.len());
                for digest in &digests {
                    let removed = match disk_image::remove(&folder, digest) {
                        Ok(true) => Ok(()),
                        Ok(false) => Err(CliError::Failed(format!("there is no disk image {digest}"))),
                        Err(error) => Err(failed(&error)),
                    };
                    if several.note(removed)?.is_some() {
                        print(&format!("{digest} is removed\n"));
                    }
                }
                several.end()
            }
        }
    }
}

impl DiskImageAdd {
    fn run(self) -> Result<(), CliError> {
        let folder = self.place.folder()?;
        let mut progress = Progress::new();
        let name = self.source.rsplit('/').next().unwrap_or_default();
        let added = match self.source.split_once("://") {
            Some(("https", _)) => {
                let Some(expected) = self.sha256 else {
                    let problem = "--sha256 is needed with a URL: what is fetched must be what its publisher says";
                    return Err(CliError::Usage(problem.into()));
                };
                let fetched = fetch(&self.source, &folder, &mut progress)?;
                disk_image::add(&folder, &fetched.0, name, Some(expected), &mut |done, step| progress.show(done, step))
            }
            Some((scheme, _)) => {
                return Err(CliError::Usage(format!(
                    "{scheme}:// is not fetched from; https:// is, and files are read"
                )));
            }
            None => {
                let mut show = |percent, step: &str| progress.show(percent, step);
                disk_image::add(&folder, Path::new(&self.source), name, self.sha256, &mut show)
            }
        };
        progress.clear();
        let DiskImage { header, bytes: kept } = added.map_err(|e| match e {
            disk_image::DiskImageError::Refused(why) => CliError::Failed(format!("{}: {why}", self.source)),
            e => failed(&e),
        })?;
        print(&format!("{} {}: a disk of {}, {} kept\n", header.source, header.name, bytes(header.size), bytes(kept)));
        print(&format!("in a document: storage: {{images: [{{device: …, sha256: {}}}]}}\n", header.source));
        Ok(())
    }
}

/// A file that goes with the value.
struct Fetched(PathBuf);

impl Drop for Fetched {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn fetch(url: &str, folder: &Path, progress: &mut Progress) -> Result<Fetched, CliError> {
    let broken = |why: String| CliError::Failed(format!("{url}: {why}"));
    let mut response = fetching()?.get(url).call().map_err(|e| broken(e.to_string()))?;
    if response.status().as_u16() != 200 {
        return Err(broken(format!("its server answered {}", response.status())));
    }
    let length = response.body().content_length().unwrap_or_default();
    let path = folder.join(format!("fetching-{}.new", std::process::id()));
    let file = |cause| CliError::File { verb: "write", path: path.clone(), cause };
    fs::create_dir_all(folder).map_err(file)?;
    let fetched = Fetched(path.clone());
    let mut out = File::create(&path).map_err(file)?;
    let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
    let (mut chunk, mut done, mut looked) = (vec![0; 1 << 20], 0, 0);
    loop {
        let count = body.read(&mut chunk).map_err(|e| broken(e.to_string()))?;
        if count == 0 {
            return Ok(fetched);
        }
        out.write_all(&chunk[..count]).map_err(file)?;
        done += count as u64;
        if done - looked >= 64 << 20 {
            looked = done;
            disk_image::has_room(folder).map_err(|e| failed(&e))?;
        }
        progress.show((done * 100).checked_div(length).unwrap_or_default().min(100), "fetching");
    }
}

fn view(image: &DiskImage) -> Value {
    let DiskImage { header, bytes } = image;
    json!({"sha256": header.source.to_string(), "disk_bytes": header.size, "bytes": bytes, "name": header.name})
}

fn failed(error: &dyn Error) -> CliError {
    CliError::Failed(error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
}
