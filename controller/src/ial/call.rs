//! A request as it arrives: its body in whichever shape, the credentials in it, and its fields.
//!
//! Wrapped (`{"auth": …, "request": …}`) or flat (the request's fields at the top, beside `auth` or without it), or no body
//! at all, in which case a `server_id` may stand in the query and credentials in the header. What is absent and what is
//! `null` is the same.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::answer::Error;
use super::takes::{self, Field, Kind};
use crate::api::http::body::{Unread, collect};
use crate::api::http::{RequestId, caller};
use crate::fleet::address::Family;
use crate::fleet::credential::{self, Shown, Wrong};
use crate::fleet::record::PlaceRule;
use crate::fleet::{Author, State};

/// The most bytes of a body. The largest real request has about one thousand.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The longest text that is taken as a name of something.
pub(super) const TEXT_LIMIT: usize = 256;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    from: Option<SocketAddr>,
    request: RequestId,
    auth: Option<Auth>,
    fields: Map<String, Value>,
    at: &'static str,
}

/// Credentials as shown, in the body or in the header.
#[derive(Debug, Clone, Default)]
struct Auth {
    key: String,
    secret: String,
    hub_id: String,
}

/// What a call shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nothing.
    Nobody,
    /// This hub, proved.
    Hub(Hub),
}

/// A hub that calls, and what its credential is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hub {
    /// As operators call it.
    pub(super) name: String,
    /// What it shows no other than.
    pub(super) places: PlaceRule,
}

impl Caller {
    /// Whether what is at the location of this code is shown.
    pub(super) fn sees(&self, code: &str) -> bool {
        match self {
            Self::Nobody => true,
            Self::Hub(hub) => hub.places.allows(code),
        }
    }
}

impl Hub {
    /// What is at another location than this credential's is not there for it.
    pub(super) fn need(&self, code: &str, at: &Fields<'_>) -> Result<(), Error> {
        if self.places.allows(code) { Ok(()) } else { Err(Error::no_such_location(at.pointer("location_id"))) }
    }
}

impl Call {
    /// Reads the body.
    ///
    /// Errors: too large, too slow, no JSON, not an object.
    pub(super) async fn read(request: Request<Body>) -> Result<Self, Error> {
        let (head, body) = request.into_parts();
        let (from, request) = (caller::peer(&head.extensions), RequestId::noted(&head.extensions));
        let wrong =
            |detail: String| Error::new("400.invalid-syntax", "The body is not what it should be").detail(detail);
        let bytes = match tokio::time::timeout(BODY_TIME, collect(body, BODY_LIMIT)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(Unread::TooLarge)) => return Err(wrong(format!("it has more than {BODY_LIMIT} bytes"))),
            Ok(Err(Unread::BrokeOff)) => return Err(wrong("it broke off".into())),
            Err(_) => return Err(wrong(format!("it did not arrive within {} s", BODY_TIME.as_secs()))),
        };
        let value = match bytes.trim_ascii() {
            [] => Value::Null,
            text => serde_json::from_slice(text).map_err(|e| wrong(format!("it is no JSON: {e}")))?,
        };
        let mut body = match value {
            Value::Null => Map::new(),
            Value::Object(body) => body,
            _ => return Err(wrong("it must be an object like {\"auth\": {…}, \"request\": {…}}".into()).source("")),
        };
        let auth = match body.remove("auth") {
            Some(auth) => read_auth(auth)?,
            None => None,
        };
        let (fields, at) = match body.remove("request") {
            Some(Value::Object(fields)) => (fields, "/request"),
            Some(Value::Null) => (Map::new(), "/request"),
            Some(_) => return Err(wrong_type("/request", "an object or null")),
            None if body.is_empty() => (query(head.uri.query()), "/request"),
            None => (body, ""),
        };
        Ok(Self { from, request, auth: auth.or_else(|| header(&head.headers)), fields, at })
    }

    /// Where it came from.
    pub(super) fn from(&self) -> Option<SocketAddr> {
        self.from
    }

    /// For the audit log.
    pub(super) fn author(&self, hub: &str) -> Author {
        Author::new(format!("ial:{hub}"), self.from, self.request.as_str())
    }

    /// Where the fields are, as a JSON pointer.
    pub(super) fn at(&self) -> &'static str {
        self.at
    }

    /// Whether the fields stand at the top of the body.
    pub(super) fn is_flat(&self) -> bool {
        self.at.is_empty()
    }

    /// The request's fields.
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields { map: Some(&self.fields), at: self.at.to_owned() }
    }

    /// Who calls; wrong credentials are an error and not nobody.
    pub(super) fn caller(&self, state: &State) -> Result<Caller, Error> {
        let Some(Auth { key, secret, hub_id }) = &self.auth else { return Ok(Caller::Nobody) };
        match credential::check(state, Shown { key, secret, hub_id }) {
            Ok(record) => Ok(Caller::Hub(Hub { name: record.hub.clone(), places: record.places.clone() })),
            Err(wrong @ Wrong::Credentials) => Err(Error::new("401.auth-invalid", capital(&wrong)).source("/auth")),
            Err(wrong @ Wrong::Hub) => Err(Error::new("403.wrong-hub", capital(&wrong)).source("/auth/cycle/hub_id")),
        }
    }

    /// The hub that calls.
    pub(super) fn hub(&self, state: &State) -> Result<Hub, Error> {
        match self.caller(state)? {
            Caller::Hub(hub) => Ok(hub),
            Caller::Nobody => {
                let error = Error::new("401.auth-invalid", "This call needs credentials");
                Err(error.detail("put api_key and secret into auth").source("/auth"))
            }
        }
    }
}

fn capital(text: &impl ToString) -> String {
    let text = text.to_string();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn read_auth(auth: Value) -> Result<Option<Auth>, Error> {
    let map = match auth {
        Value::Null => return Ok(None),
        Value::Object(map) => map,
        _ => return Err(wrong_type("/auth", "an object or null")),
    };
    let fields = Fields { map: Some(&map), at: "/auth".into() };
    fields.check(takes::AUTH)?;
    let text = |key: &str| fields.text_or_none(key).map(|text| text.unwrap_or_default().to_owned());
    let hub_id = fields.inner("cycle")?.text_or_none("hub_id")?.unwrap_or_default().to_owned();
    let auth = Auth { key: text("api_key")?, secret: text("secret")?, hub_id };
    // Cycle leaves every field out that its user left empty.
    Ok((!auth.key.is_empty() || !auth.secret.is_empty()).then_some(auth))
}

/// `Authorization: Basic`, with the key for a user and the secret for a password: for calls that have no body.
fn header(headers: &HeaderMap) -> Option<Auth> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    // What cannot be read is a wrong credential and not none.
    let decoded = || String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok();
    scheme.eq_ignore_ascii_case("basic").then(|| {
        let pair = decoded().unwrap_or_default();
        let (key, secret) = pair.split_once(':').unwrap_or_default();
        Auth { key: key.into(), secret: secret.into(), hub_id: String::new() }
    })
}

/// `server_id` is the only field that may stand in the query; ids of ours need no decoding.
fn query(query: Option<&str>) -> Map<String, Value> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == "server_id").map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn wrong_type(pointer: &str, expected: &str) -> Error {
    Error::new("400.invalid-syntax", format!("This must be {expected}")).source(pointer)
}

/// The fields of one object of the request.
pub(super) struct Fields<'a> {
    /// `None` where the object is absent.
    map: Option<&'a Map<String, Value>>,
    at: String,
}

impl<'a> Fields<'a> {
    /// JSON pointer to a field.
    pub(super) fn pointer(&self, key: &str) -> String {
        format!("{}/{key}", self.at)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// A text that must be there.
    pub(super) fn text(&self, key: &str) -> Result<&'a str, Error> {
        self.text_or_none(key)?
            .ok_or_else(|| Error::new("422.missing-argument", format!("{key} is missing")).source(self.pointer(key)))
    }

    /// A text that may be absent, null or blank, which is all the same.
    pub(super) fn text_or_none(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let text = match self.get(key) {
            None => return Ok(None),
            Some(Value::String(text)) => text.trim(),
            Some(_) => return Err(wrong_type(&self.pointer(key), "a text")),
        };
        if text.len() > TEXT_LIMIT || text.contains(char::is_control) {
            let title = format!("{key} has more than {TEXT_LIMIT} bytes, or control characters");
            return Err(Error::new("422.invalid-argument", title).source(self.pointer(key)));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// An id of Cycle's; absent ones and zeros are none.
    pub(super) fn cycle_id(&self, key: &str) -> Result<Option<&'a str>, Error> {
        Ok(self.text_or_none(key)?.filter(|id| id.chars().any(|c| c != '0')))
    }

    /// The fields of an object that may be absent or null.
    pub(super) fn inner(&self, key: &str) -> Result<Fields<'a>, Error> {
        let at = self.pointer(key);
        match self.get(key) {
            None => Ok(Fields { map: None, at }),
            Some(Value::Object(map)) => Ok(Fields { map: Some(map), at }),
            Some(_) => Err(wrong_type(&at, "an object or null")),
        }
    }

    /// Whether they are what a call takes; those that are not used here too.
    pub(super) fn check(&self, takes: &[Field]) -> Result<(), Error> {
        takes.iter().try_for_each(|field| match field.kind {
            Kind::Needed => self.text(field.name).map(drop),
            Kind::Family => self.family(field.name).map(drop),
            Kind::Text => self.text_or_none(field.name).map(drop),
            Kind::Any => self.inner(field.name).map(drop),
            Kind::Inner(takes) => self.inner(field.name)?.check(takes),
        })
    }

    /// A family of addresses.
    pub(super) fn family(&self, key: &str) -> Result<Family, Error> {
        match self.text(key)? {
            "ipv4" => Ok(Family::V4),
            "ipv6" => Ok(Family::V6),
            _ => Err(Error::new("422.invalid-argument", format!("{key} is ipv4 or ipv6")).source(self.pointer(key))),
        }
    }
}
