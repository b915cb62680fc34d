//! The mock Cycle: plays the platform against any IAL server, ours or another, and tells what it does wrong.
//!
//! `muster ial check` runs it. The table of cases is [`CASES`]; each is a few calls as Cycle makes them. Where Cycle's
//! own documents contradict each other, whatever one of them allows passes, with a note. By itself it only reads, and
//! sends what has to be refused; with [`Orders`] it leases machines, and gives back whatever it took, also where it is
//! interrupted.
//!
//! | file | what it is |
//! | --- | --- |
//! | `case` | the table: name, what it proves, the fact behind it, the remedy |
//! | `reads`, `hostile` | cases that change nothing |
//! | `servers`, `addresses` | cases that lease machines |
//! | `hubs` | cases of two hubs |
//! | `stage` | what cases share, and what was taken |
//! | `caller`, `shape` | an answer as Cycle reads it |
//! | `calls`, `door` | bodies, and HTTP |

mod addresses;
pub mod caller;
pub mod calls;
mod case;
pub mod door;
mod hostile;
mod hubs;
mod reads;
mod servers;
pub mod shape;
mod stage;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use caller::{Caller, Fault, Stop};
pub use case::{CASES, Case, GIVEN_BACK, Takes};
use door::Door;
use serde_json::{Value, json};
use stage::Stage;

/// What is checked, and how.
pub struct Check {
    /// The way to the server.
    pub door: Door,
    /// What stands in `auth` of every call.
    pub auth: Value,
    /// The same of another hub, for the cases of two; `None` to leave them out.
    pub second: Option<Value>,
    /// What may be leased; `None` for nothing.
    pub orders: Option<Orders>,
    /// The time from one look at a server to the next; Cycle's is 5 to 10 s.
    pub poll: Duration,
    /// How long a server may take to be ready, and a machine to be free again.
    pub wait: Duration,
}

/// What may be leased.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// At this location, or at the first one with a compatible model.
    pub location: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// Of this model, or the first compatible one.
    pub model: Option<String>,
    /// The most servers that it has at one time.
    pub most: usize,
}

/// How a case went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// It holds.
    Passed,
    /// It does not.
    Failed(Fault),
    /// It was not tried, and why.
    LeftOut(String),
}

/// One line of the report.
pub struct Line {
    /// Which one.
    pub case: &'static Case,
    /// How it went.
    pub went: Went,
    /// What is no fault, and good to know.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Line {
    /// What a failure has in common with others that one mend would end: the remedy, where it is that of every call, else
    /// what came and the remedy of the case.
    fn reason(&self) -> Option<(&str, &str)> {
        match &self.went {
            Went::Failed(Fault { got, remedy: "", .. }) => Some((got, self.case.remedy)),
            Went::Failed(Fault { remedy, .. }) => Some(("", remedy)),
            Went::Passed | Went::LeftOut(_) => None,
        }
    }
}

/// What was found.
pub struct Report {
    /// In the order of the table.
    pub lines: Vec<Line>,
    /// Calls that were made.
    pub calls: usize,
    /// Whether it was interrupted before its end.
    pub is_interrupted: bool,
}

impl Check {
    /// Runs every case, and `each` before it; ends early once `stop` is set. Whatever was taken is given back.
    ///
    /// Errors: no random bytes.
    pub fn run(&self, stop: &AtomicBool, each: &mut dyn FnMut(&Case)) -> Result<Report, getrandom::Error> {
        let mut run = [0; 8];
        getrandom::fill(&mut run)?;
        let hub = |auth: &Value| {
            let caller = Caller::new(self.door.clone(), auth.clone(), stop);
            Stage::new(caller, self.orders.as_ref(), self.poll, self.wait, run)
        };
        let mut stage = hub(&self.auth);
        stage.second = self.second.as_ref().map(|auth| Box::new(hub(auth)));
        let mut lines = Vec::new();
        let mut is_interrupted = false;
        for case in CASES {
            each(case);
            // The first call may have been cut off by just that.
            is_interrupted |= stage.closed.is_some() && stop.load(Ordering::Relaxed);
            let began = Instant::now();
            let is_last = case.name == GIVEN_BACK;
            let went = match case.takes {
                Takes::Machines if self.orders.is_none() => Went::LeftOut("needs --provision".into()),
                // What was taken is given back, whatever else happens.
                _ if is_interrupted && !is_last => Went::LeftOut("interrupted".into()),
                _ if stage.closed.is_some() && !is_last => Went::LeftOut(stage.closed.unwrap_or_default().into()),
                _ => match case.run(&mut stage) {
                    Ok(()) => Went::Passed,
                    Err(Stop::Fault(fault)) => Went::Failed(fault),
                    Err(Stop::LeftOut(why)) => Went::LeftOut(why),
                    Err(Stop::Interrupted) => {
                        is_interrupted = true;
                        Went::LeftOut("interrupted".into())
                    }
                },
            };
            let notes = std::mem::take(&mut stage.notes);
            lines.push(Line { case, went, notes, took: began.elapsed() });
        }
        Ok(Report { lines, calls: stage.calls(), is_interrupted })
    }
}

impl Went {
    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::LeftOut(_) => "left out",
        }
    }
}

impl Line {
    fn view(&self) -> Value {
        let Self { case, went, notes, took } = self;
        let mut view = json!({
            "case": case.name, "result": went.word(), "proves": case.proves, "fact": case.fact, "notes": notes,
            "milliseconds": took.as_millis() as u64,
        });
        match went {
            Went::Passed => {}
            Went::LeftOut(why) => view["why"] = why.as_str().into(),
            Went::Failed(Fault { expected, got, remedy }) => {
                view["expected"] = expected.as_str().into();
                view["got"] = got.as_str().into();
                view["remedy"] = (if remedy.is_empty() { case.remedy } else { remedy }).into();
            }
        }
        view
    }
}

impl Report {
    /// How many cases went so.
    pub fn count(&self, word: &str) -> usize {
        self.lines.iter().filter(|line| line.went.word() == word).count()
    }

    /// A line, and by which one its reason was told first.
    fn case(&self, at: usize) -> Value {
        let (line, before) = (&self.lines[at], &self.lines[..at]);
        let mut view = line.view();
        let reason = line.reason();
        let first = before.iter().find(|before| reason.is_some() && before.reason() == reason);
        if let Some(first) = first {
            view["same_as"] = first.case.name.into();
        }
        view
    }

    /// For programs, and for tables.
    pub fn view(&self) -> Value {
        json!({
            "passed": self.count("passed"), "failed": self.count("failed"), "left_out": self.count("left out"),
            "calls": self.calls, "interrupted": self.is_interrupted,
            "cases": (0..self.lines.len()).map(|at| self.case(at)).collect::<Vec<_>>(),
        })
    }
}
