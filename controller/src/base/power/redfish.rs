//! Redfish (DMTF DSP0266, schemas of DSP2046): finds the system behind a BMC and resets it.
//!
//! A system says which ways of resetting it knows; of those that do what is asked for the first of [`ways`] is taken. All
//! paths are the BMC's own to choose, below its own host.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::Method;

use super::http::{Answer, Auth, CallError, Client, Trusted};
use super::{Action, Failure, Secret};

/// Systems that are looked at to find the one with a UUID.
const SYSTEMS: usize = 16;

/// How long a machine may take to be on or off once it was told.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// Where a BMC is, and who asks it.
#[derive(Debug, Clone)]
pub struct Bmc {
    /// `https://` and the host.
    pub url: String,
    /// Id of the system; empty for the only one, or the one with the UUID.
    pub system: String,
    /// The machine's, as it is written.
    pub uuid: Option<String>,
    /// Who it must be.
    pub trusted: Trusted,
    /// Who asks.
    pub user: String,
    /// With what.
    pub password: Secret,
}

/// Where every service says what it has (DSP0266, section 6.3).
const ROOT: &str = "/redfish/v1/";

/// Does it, and says how.
pub fn switch(bmc: &Bmc, action: Action) -> Result<String, Failure> {
    let client = Client::new(&bmc.trusted).map_err(Failure::Refused)?;
    let mut talk = Talk { bmc, client, auth: Auth::None };
    let session = talk.sign_in()?;
    let done = talk.switch(action);
    if let Some(session) = session {
        // A BMC has few; one that stays goes by itself in minutes.
        let _ = talk.call(&Method::DELETE, &session, None);
    }
    done
}

struct Talk<'a> {
    bmc: &'a Bmc,
    client: Client,
    auth: Auth,
}

impl Talk<'_> {
    /// Opens a session, where there are any; else each request shows the password. Answers the path of the session.
    fn sign_in(&mut self) -> Result<Option<String>, Failure> {
        let Bmc { user, password, .. } = self.bmc;
        let root = self.root()?;
        let sessions = root.pointer("/Links/Sessions/@odata.id").and_then(Value::as_str).map(str::to_owned);
        if let Some(path) = sessions {
            let body = json!({"UserName": user, "Password": password.reveal()});
            let answer = self.call(&Method::POST, &path, Some(&body)).map_err(before)?;
            match (answer.status, answer.token) {
                (200..=299, Some(token)) => {
                    self.auth = Auth::Token(token);
                    let made = answer.location.map(|location| below(&location, &self.bmc.url).to_owned());
                    return Ok(made.filter(|path| path.starts_with('/')));
                }
                (400 | 401 | 403, _) => return Err(Failure::Refused(self.denied())),
                // Full, or busy.
                (500..=599, _) => return Err(Failure::Untold(format!("it opens no session: {}", answer.status))),
                _ => {}
            }
        }
        self.auth = Auth::Basic { user: user.clone(), password: password.clone() };
        Ok(None)
    }

    fn switch(&mut self, action: Action) -> Result<String, Failure> {
        let path = self.system()?;
        let system = self.get(&path)?;
        let state = power(&system);
        let (action, wanted) = match (action, state.as_deref()) {
            (Action::On, Some("On")) => return Ok("it was on already".into()),
            (Action::Off, Some("Off")) => return Ok("it was off already".into()),
            // What is off is not restarted by any of the words for that.
            (Action::Restart | Action::Cycle | Action::On, Some("Off")) => (Action::On, Some("On")),
            (Action::On, _) => (Action::On, Some("On")),
            (Action::Off, _) => (Action::Off, Some("Off")),
            (Action::Restart | Action::Cycle, _) => (action, None),
        };
        let Some(target) = system.pointer("/Actions/#ComputerSystem.Reset/target").and_then(Value::as_str) else {
            return Err(Failure::Refused(format!("the system {path} cannot be reset (no ComputerSystem.Reset)")));
        };
        let known = self.known(&system)?;
        let Some(way) = ways(action).iter().find(|way| known.is_empty() || known.iter().any(|known| known == *way))
        else {
            let asked = ways(action).join(", ");
            return Err(Failure::Refused(format!("it knows none of {asked}, but {}", known.join(", "))));
        };
        let answer = self.call(&Method::POST, target, Some(&json!({"ResetType": way})));
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {}
            Ok(answer) if answer.status == 503 => {
                return Err(Failure::Untold(format!("it is busy: {}", said(&answer))));
            }
            Ok(answer) if answer.status >= 500 => {
                return Err(Failure::Unknown(format!("it failed over {way}: {}", said(&answer))));
            }
            Ok(answer) if answer.status == 401 || answer.status == 403 => return Err(Failure::Refused(self.denied())),
            Ok(answer) => return Err(Failure::Refused(format!("it refuses {way}: {}", said(&answer)))),
            Err(CallError::Unanswered(why)) => return Err(Failure::Unknown(format!("told {way}, {why}"))),
            Err(error) => return Err(before(error)),
        }
        match wanted {
            None => Ok(format!("{way} was accepted")),
            Some(wanted) => self.settled(&path, wanted).map(|()| format!("{way} was accepted, and it is {wanted}")),
        }
    }

    /// The path of the system that is meant.
    fn system(&mut self) -> Result<String, Failure> {
        let root = self.root()?;
        let systems = root.pointer("/Systems/@odata.id").and_then(Value::as_str);
        let systems = systems.ok_or_else(|| Failure::Refused("it has no systems; it is no BMC of a machine".into()))?;
        let all = self.get(systems)?;
        let members = all["Members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let paths: Vec<String> =
            members.iter().filter_map(|m| Some(m["@odata.id"].as_str()?.to_owned())).take(SYSTEMS).collect();
        let id = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let ids = || paths.iter().map(|path| id(path)).collect::<Vec<_>>().join(", ");
        if !self.bmc.system.is_empty() {
            let named = paths.iter().find(|path| id(path) == self.bmc.system).cloned();
            let lacks = || format!("it has no system {:?}, but {}", self.bmc.system, ids());
            return named.ok_or_else(|| Failure::Refused(lacks()));
        }
        match &paths[..] {
            [] => Err(Failure::Refused("it has no system".into())),
            [only] => Ok(only.clone()),
            several => {
                let several = several.to_vec();
                for path in &several {
                    let uuid = self.get(path)?["UUID"].as_str().map(str::to_ascii_lowercase);
                    if uuid.is_some() && uuid == self.bmc.uuid.as_deref().map(str::to_ascii_lowercase) {
                        return Ok(path.clone());
                    }
                }
                Err(Failure::Refused(format!(
                    "it has several systems, and none has the machine's UUID; name one: {}",
                    ids()
                )))
            }
        }
    }

    /// The ways of resetting that it knows; empty where it does not say.
    fn known(&mut self, system: &Value) -> Result<Vec<String>, Failure> {
        let texts = |list: Option<&Value>| -> Vec<String> {
            let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
        };
        let reset = &system["Actions"]["#ComputerSystem.Reset"];
        let listed = texts(reset.get("ResetType@Redfish.AllowableValues"));
        match reset["@Redfish.ActionInfo"].as_str() {
            Some(info) if listed.is_empty() => {
                let info = self.get(info)?;
                let parameters = info["Parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
                let of = parameters.iter().find(|parameter| parameter["Name"] == "ResetType");
                Ok(texts(of.and_then(|parameter| parameter.get("AllowableValues"))))
            }
            _ => Ok(listed),
        }
    }

    fn settled(&mut self, path: &str, wanted: &str) -> Result<(), Failure> {
        let until = Instant::now() + SETTLES_WITHIN;
        loop {
            // Once told, what it does not say does not matter.
            let is = self.get(path).ok().and_then(|system| power(&system));
            match is.as_deref() {
                Some(is) if is == wanted => return Ok(()),
                _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(500)),
                Some(is) => return Err(Failure::Unknown(format!("it accepted the command and is still {is}"))),
                None => {
                    return Err(Failure::Unknown(format!(
                        "it accepted the command and does not say that it is {wanted}"
                    )));
                }
            }
        }
    }

    /// What says where everything else is. It needs no password, so whoever has none there is no BMC that speaks Redfish.
    fn root(&mut self) -> Result<Value, Failure> {
        let answer = self.call(&Method::GET, ROOT, None).map_err(before)?;
        match answer.status {
            200..=299 if answer.body.is_object() => Ok(answer.body),
            200..=299 | 404 | 405 | 410 => {
                let problem = format!(
                    "{} has no Redfish service root at {ROOT} (HTTP {}): see that the URL is the BMC's own, with its port, \
                     and that Redfish is switched on in its settings; a BMC without it is named with --ipmi",
                    self.bmc.url, answer.status
                );
                Err(Failure::Refused(problem))
            }
            _ => self.read(ROOT, answer),
        }
    }

    fn get(&mut self, path: &str) -> Result<Value, Failure> {
        let answer = self.call(&Method::GET, path, None).map_err(before)?;
        self.read(path, answer)
    }

    fn read(&self, path: &str, answer: Answer) -> Result<Value, Failure> {
        match answer.status {
            200..=299 => Ok(answer.body),
            401 | 403 => Err(Failure::Refused(self.denied())),
            400..=499 => Err(Failure::Refused(format!("{path}: {}", said(&answer)))),
            _ => Err(Failure::Untold(format!("{path}: {}", said(&answer)))),
        }
    }

    fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, CallError> {
        // Whatever it says, the password goes to its own host alone.
        if !path.starts_with('/') || path.starts_with("//") {
            return Err(CallError::Untrusted(format!("it refers to another host: {}", short(path))));
        }
        self.client.call(method, &format!("{}{path}", self.bmc.url), &self.auth, body)
    }

    fn denied(&self) -> String {
        format!("it does not let {} in, or not do this: the password or the user's role is wrong", self.bmc.user)
    }
}

/// Of a request after which nothing is switched.
fn before(error: CallError) -> Failure {
    match error {
        CallError::Unconnected(why) | CallError::Unanswered(why) => Failure::Untold(why),
        CallError::Untrusted(why) => Failure::Refused(why),
    }
}

/// What does it, the best first. A graceful restart that the system ignores looks like one that was made, so it is the last.
fn ways(action: Action) -> &'static [&'static str] {
    match action {
        Action::On => &["On", "ForceOn"],
        Action::Off => &["ForceOff", "PushPowerButton", "GracefulShutdown"],
        Action::Restart => &["ForceRestart", "PowerCycle", "FullPowerCycle", "GracefulRestart"],
        Action::Cycle => &["PowerCycle", "FullPowerCycle", "ForceRestart"],
    }
}

fn power(system: &Value) -> Option<String> {
    Some(system["PowerState"].as_str()?.to_owned())
}

fn below<'a>(location: &'a str, url: &str) -> &'a str {
    location.strip_prefix(url).unwrap_or(location)
}

/// What an error says, as far as it is for people.
fn said(answer: &Answer) -> String {
    let error = &answer.body["error"];
    let extended = error.pointer("/@Message.ExtendedInfo/0/Message").and_then(Value::as_str);
    let text = extended.or_else(|| error["message"].as_str()).unwrap_or_default();
    format!("HTTP {} {}", answer.status, short(text)).trim_end().to_owned()
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

#[cfg(test)]
mod tests;
