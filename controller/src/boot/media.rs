//! Kernel and initramfs as HTTP: exact lengths, ranges, and an ETag that is the digest of what is served.
//!
//! The files are replaced as a whole by `muster image build`; a download that is under way goes on with the file that it
//! began with.

use std::fs::Metadata;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use muster_protocol::Digest;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes that are read at once; what a slow download holds.
const CHUNK: usize = 64 * 1024;

/// One file that is served, and its digest as long as it stays the same.
#[derive(Debug)]
pub struct Medium {
    path: PathBuf,
    known: Mutex<Option<(Version, Digest)>>,
}

/// Tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(file: &Metadata) -> Self {
        let changed = (file.ctime(), file.ctime_nsec());
        Self { device: file.dev(), inode: file.ino(), length: file.len(), changed }
    }
}

impl Medium {
    /// The file at `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::new(None) }
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.is_file()
    }

    /// Answers a GET or HEAD; the framework leaves the body of a HEAD out.
    pub async fn serve(&self, headers: &HeaderMap) -> Response {
        match self.open().await {
            Ok((file, length, digest)) => respond(file, length, digest, headers).await,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let text = "this controller has no boot image; run: muster image build\n";
                (StatusCode::NOT_FOUND, text).into_response()
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "cannot serve a boot file");
                (StatusCode::INTERNAL_SERVER_ERROR, "the boot image cannot be read; see the controller's log\n")
                    .into_response()
            }
        }
    }

    /// The file, its length and its digest. Reads all of it where this version was not served before.
    async fn open(&self) -> io::Result<(File, u64, Digest)> {
        let mut file = File::open(&self.path).await?;
        let version = Version::of(&file.metadata().await?);
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, digest)) = known.filter(|(known, _)| *known == version) {
            return Ok((file, version.length, digest));
        }
        let mut hash = Context::new(&SHA256);
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk).await? {
                0 => break,
                count => hash.update(&chunk[..count]),
            }
        }
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(hash.finish().as_ref());
        let digest = Digest::from_bytes(digest);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, digest));
        Ok((file, version.length, digest))
    }
}

/// Which bytes a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// First and last.
    Part(u64, u64),
    /// None that are there.
    Nothing,
}

async fn respond(mut file: File, length: u64, digest: Digest, headers: &HeaderMap) -> Response {
    let tag = format!("\"{digest}\"");
    let named = |name: http::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    if named(IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag || t.trim() == "*")) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, header(&tag))]).into_response();
    }
    // RFC 9110, section 13.1.5: a part of another version is no use, so the whole is sent.
    let same_version = named(IF_RANGE).is_none_or(|version| version.trim() == tag);
    let wanted = named(RANGE).filter(|_| same_version).map_or(Wanted::All, |range| wanted(range, length));
    let (status, first, count) = match wanted {
        Wanted::All => (StatusCode::OK, 0, length),
        Wanted::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Wanted::Nothing => {
            let range = [(CONTENT_RANGE, header(&format!("bytes */{length}")))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    if let Err(error) = file.seek(SeekFrom::Start(first)).await {
        tracing::error!(%error, "cannot read a boot file");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let mut response = Response::new(Body::from_stream(read(file, count)));
    *response.status_mut() = status;
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    out.insert(CONTENT_LENGTH, count.into());
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    out.insert(ETAG, header(&tag));
    if status == StatusCode::PARTIAL_CONTENT {
        out.insert(CONTENT_RANGE, header(&format!("bytes {first}-{}/{length}", first + count - 1)));
    }
    response
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits, letters and marks of ours")
}

/// RFC 9110, section 14.1.2. One range is served; several, and what is no range, get the whole file, as the RFC allows.
fn wanted(range: &str, length: u64) -> Wanted {
    let Some(range) = range.trim().strip_prefix("bytes=") else { return Wanted::All };
    let Some((first, last)) = range.split_once('-') else { return Wanted::All };
    let number = |text: &str| -> Option<u64> {
        let text = text.trim();
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    match (number(first), number(last), first.trim().is_empty(), last.trim().is_empty()) {
        (Some(first), _, _, true) if first < length => Wanted::Part(first, length - 1),
        (Some(first), Some(last), ..) if first <= last && first < length => Wanted::Part(first, last.min(length - 1)),
        (_, Some(count), true, _) if count > 0 && length > 0 => Wanted::Part(length.saturating_sub(count), length - 1),
        (Some(_), _, _, true) | (_, Some(_), true, _) => Wanted::Nothing,
        (Some(first), Some(last), ..) if first <= last => Wanted::Nothing,
        _ => Wanted::All,
    }
}

/// `count` bytes from where the file stands. A file that was cut short breaks the download off.
fn read(file: File, count: u64) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold((file, count), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = BytesMut::with_capacity(size);
        let got = (&mut file).take(size as u64).read_buf(&mut chunk).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((chunk.freeze(), (file, left - got as u64))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (range, expected) in [
            ("bytes=0-0", Wanted::Part(0, 0)),
            ("bytes=2-", Wanted::Part(2, 9)),
            ("bytes=2-5", Wanted::Part(2, 5)),
            ("bytes=2-99999", Wanted::Part(2, 9)),
            ("bytes=-3", Wanted::Part(7, 9)),
            ("bytes=-30", Wanted::Part(0, 9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-2", Wanted::All),
            ("bytes=0-1,4-5", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=99999999999999999999-", Wanted::All),
            ("lines=1-2", Wanted::All),
            ("", Wanted::All),
        ] {
            assert_eq!(wanted(range, 10), expected, "{range}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(wanted("bytes=-5", 0), Wanted::Nothing);
    }
}
