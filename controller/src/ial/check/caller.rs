//! Calls as Cycle makes them, and answers as it reads them: in their envelope or bare, errors in its own API's shape.
//!
//! Shared by the threads of a case. What is wrong with an answer is a [`Fault`], found here where it is the same for
//! every call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::calls::wrapped;
use super::door::{self, Ask, Door, Reply};
use super::shape::{self, Shape};

/// Why a case goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The server is wrong.
    Fault(Fault),
    /// There is nothing to try this on.
    LeftOut(String),
    /// Whoever started the check has had enough.
    Interrupted,
}

/// What is wrong with a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// What should have come.
    pub expected: String,
    /// What came.
    pub got: String,
    /// What to do about it at every call; empty where the case knows better.
    pub remedy: &'static str,
}

/// A step of a case.
pub type Step<T> = Result<T, Stop>;

/// What an answer says.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It was done.
    Data(Value),
    /// It was refused.
    Refused(Refused),
}

/// A refusal in Cycle's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `STATUS.SLUG`
    pub code: String,
    /// For people.
    pub title: String,
}

/// How successful answers are dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dress {
    /// `{data, error}`
    Envelope,
    /// The payload alone.
    Bare,
}

/// See the module.
pub struct Caller<'a> {
    /// The way there.
    pub door: Door,
    /// What stands in `auth`.
    pub auth: Value,
    stop: &'a AtomicBool,
    calls: AtomicUsize,
    dress: Mutex<Option<(Dress, String)>>,
}

/// The server is wrong.
pub fn fault<T>(expected: impl Into<String>, got: impl Into<String>) -> Step<T> {
    Err(Stop::Fault(Fault { expected: expected.into(), got: got.into(), remedy: "" }))
}

impl Refused {
    /// In one line.
    pub fn words(&self) -> String {
        format!("{} {}: {}", self.status, self.code, self.title)
    }
}

/// A POST with this body.
pub fn post(path: &str, body: &Value) -> Ask {
    ask("POST", path, body)
}

/// The same with any method.
pub fn ask(method: &'static str, path: &str, body: &Value) -> Ask {
    let headers = "content-type: application/json\r\n".to_owned();
    Ask { method, path: path.to_owned(), headers, body: Some(body.to_string().into_bytes()) }
}

impl<'a> Caller<'a> {
    /// A hub with these credentials, until `stop` says that it is enough.
    pub fn new(door: Door, auth: Value, stop: &'a AtomicBool) -> Self {
        Self { door, auth, stop, calls: AtomicUsize::new(0), dress: Mutex::new(None) }
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// How answers are dressed, once one came.
    pub fn dress(&self) -> Option<Dress> {
        self.dress.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(dress, _)| *dress)
    }

    /// Errors: it was interrupted.
    pub fn go_on(&self) -> Step<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Stop::Interrupted) } else { Ok(()) }
    }

    /// Sends anything and takes any answer.
    ///
    /// Errors: there is none; it is a redirect.
    pub fn raw(&self, ask: &Ask) -> Step<Reply> {
        self.go_on()?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let shown = format!("{} {}", ask.method, ask.path);
        match self.door.ask(ask) {
            Ok(reply) if (300..400).contains(&reply.status) => Err(Stop::Fault(Fault {
                expected: format!("{shown}: an answer at this very path"),
                got: format!("{}, a redirect to {:?}", reply.status, reply.header("location")),
                remedy: "answer where you are asked: a Go client turns a redirected POST into a GET",
            })),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Stop::Fault(Fault {
                expected: format!("{shown}: an answer"),
                remedy: door::remedy(&error),
                got: error.to_string(),
            })),
        }
    }

    /// Sends it and reads the answer as Cycle does.
    pub fn ask(&self, ask: &Ask) -> Step<Answer> {
        let reply = self.raw(ask)?;
        self.read(&ask.path, &reply)
    }

    /// One call: `request` beside the credentials, by POST.
    pub fn call(&self, path: &str, request: &Value) -> Step<Answer> {
        self.ask(&post(path, &wrapped(&self.auth, request)))
    }

    /// What a call answers that has to succeed.
    pub fn data(&self, path: &str, request: &Value) -> Step<Value> {
        match self.call(path, request)? {
            Answer::Data(data) => Ok(data),
            Answer::Refused(refused) => fault(format!("POST {path}: success"), refused.words()),
        }
    }

    /// What a call answers that has to succeed, in this shape, with the keys that would be better there.
    pub fn shaped(&self, path: &str, request: &Value, shape: Shape) -> Step<(Value, Vec<String>)> {
        let data = self.data(path, request)?;
        let missed = shaped(&data, shape)?;
        Ok((data, missed))
    }

    /// A call whose answer is true.
    pub fn is_true(&self, path: &str, request: &Value) -> Step<()> {
        match self.data(path, request)? {
            Value::Bool(true) => Ok(()),
            other => fault(format!("POST {path}: data is true"), other.to_string()),
        }
    }

    /// Reads an answer.
    ///
    /// Errors: it is none that Cycle could read; 500, which is never the caller's fault.
    pub fn read(&self, path: &str, reply: &Reply) -> Step<Answer> {
        let start: String = String::from_utf8_lossy(&reply.body).chars().take(120).collect();
        let status = reply.status;
        let Ok(body) = serde_json::from_slice::<Value>(&reply.body) else {
            return Err(Stop::Fault(Fault {
                expected: format!("{path}: JSON"),
                got: format!("status {status} and {start:?}"),
                remedy: "answer every call in JSON, errors too, and have no proxy in between answer in its own words",
            }));
        };
        if !(200..300).contains(&status) {
            return error(path, status, &body).map(Answer::Refused);
        }
        match body.get("error") {
            Some(error) if !error.is_null() => {
                return fault(
                    format!("{path}: an error has its own HTTP status"),
                    format!("status {status} and {start}"),
                );
            }
            _ => {}
        }
        let (dress, data) = match body.get("data") {
            Some(data) => (Dress::Envelope, data.clone()),
            None => (Dress::Bare, body),
        };
        let mut known = self.dress.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((before, at)) if *before != dress => {
                let words = |dress| if dress == Dress::Bare { "bare" } else { "in an envelope" };
                fault(
                    format!("{path}: dressed as the answer of {at} is, {}", words(*before)),
                    format!("an answer that is {}: {start}", words(dress)),
                )
            }
            _ => {
                known.get_or_insert((dress, path.to_owned()));
                Ok(Answer::Data(data))
            }
        }
    }
}

/// Compares with a shape.
pub fn shaped(data: &Value, shape: Shape) -> Step<Vec<String>> {
    shape::check(data, shape, "data").or_else(|wrong| fault(wrong.expected, wrong.got))
}

/// The shape of a refusal.
fn error(path: &str, status: u16, body: &Value) -> Step<Refused> {
    const REMEDY: &str = "send {\"data\": null, \"error\": {\"status\", \"code\": \"STATUS.SLUG\", \"title\"}}";
    let wrong = |expected: String, got: String| Err(Stop::Fault(Fault { expected, got, remedy: REMEDY }));
    let shown: String = body.to_string().chars().take(160).collect();
    let Some(error) = body.get("error").filter(|_| body.get("data").is_some_and(Value::is_null)) else {
        return wrong(
            format!("{path}: a refusal is an object with data, null, and error"),
            format!("{status} and {shown}"),
        );
    };
    if let Err(w) = shape::check(error, shape::ERROR, "error") {
        return wrong(format!("{path}: {}", w.expected), w.got);
    }
    if error["status"] != status {
        return wrong(format!("{path}: error/status is the HTTP status, {status}"), error["status"].to_string());
    }
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    let (code, title) = (text("code"), text("title"));
    if !code.starts_with(&format!("{status}.")) {
        return wrong(format!("{path}: error/code begins with {status}."), code);
    }
    if status == 500 {
        return fault(format!("{path}: an answer, or an error that is the caller's"), format!("500 {code}: {title}"));
    }
    Ok(Refused { status, code, title })
}
