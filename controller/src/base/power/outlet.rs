//! Smart outlets, by whatever URLs switch them.
//!
//! Plain HTTP is what most have; HTTPS is verified by the CAs that the controller's host trusts.

use std::time::Duration;

use ureq::http::Method;

use super::http::{Auth, CallError, Client, Trusted};
use super::{Action, Failure, Secret};

/// How long the plug is without power: power supplies hold for seconds.
const OFF_FOR: Duration = Duration::from_secs(10);

/// What asks an outlet.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// Switches on.
    pub on: Secret,
    /// Switches off.
    pub off: Secret,
    /// Switches off and on by itself.
    pub cycle: Option<Secret>,
    /// How.
    pub method: Method,
}

/// Does it, and says how.
pub fn switch(outlet: &Outlet, action: Action) -> Result<String, Failure> {
    switch_in(outlet, action, OFF_FOR)
}

fn switch_in(outlet: &Outlet, action: Action, off_for: Duration) -> Result<String, Failure> {
    match (action, &outlet.cycle) {
        (Action::On, _) => ask(outlet, &outlet.on, "on"),
        (Action::Off, _) => ask(outlet, &outlet.off, "off"),
        (Action::Restart | Action::Cycle, Some(cycle)) => ask(outlet, cycle, "off and on"),
        (Action::Restart | Action::Cycle, None) => {
            // Asked twice it does no harm; and what is off must come on, whatever comes in between.
            ask(outlet, &outlet.off, "off").map_err(again)?;
            std::thread::sleep(off_for);
            ask(outlet, &outlet.on, "on").map_err(again)?;
            Ok(format!("its power was off for {} s", off_for.as_secs()))
        }
    }
}

/// What may have been done is done again.
fn again(failure: Failure) -> Failure {
    match failure {
        Failure::Unknown(why) => Failure::Untold(why),
        other => other,
    }
}

fn ask(outlet: &Outlet, url: &Secret, what: &str) -> Result<String, Failure> {
    let client = Client::new(&Trusted::System).or_else(|why| {
        // A host without CAs can ask over HTTP all the same.
        let is_plain = url.reveal().starts_with("http://");
        if is_plain { Client::new(&Trusted::Pinned(muster_protocol::Digest::from_bytes([0; 32]))) } else { Err(why) }
    });
    let client = client.map_err(Failure::Refused)?;
    let (url, auth) = parted(url.reveal());
    match client.call(&outlet.method, url.reveal(), &auth, None) {
        Ok(answer) if (200..300).contains(&answer.status) => Ok(format!("it was switched {what}")),
        Ok(answer) if answer.status == 503 => Err(Failure::Untold("it is busy (HTTP 503)".into())),
        Ok(answer) if answer.status >= 500 => Err(Failure::Unknown(format!("it failed (HTTP {})", answer.status))),
        Ok(answer) => Err(Failure::Refused(format!("it refuses to be switched {what} (HTTP {})", answer.status))),
        Err(CallError::Unconnected(why)) => Err(Failure::Untold(why)),
        Err(CallError::Untrusted(why)) => Err(Failure::Refused(why)),
        Err(CallError::Unanswered(why)) => Err(Failure::Unknown(why)),
    }
}

/// The URL without the user and the password that stand in it, which go where HTTP has them.
fn parted(url: &str) -> (Secret, Auth) {
    let Some((scheme, rest)) = url.split_once("://") else { return (Secret::new(url), Auth::None) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        None => (Secret::new(url), Auth::None),
        Some((who, host)) => {
            let (user, password) = who.split_once(':').unwrap_or((who, ""));
            let auth = Auth::Basic { user: user.to_owned(), password: Secret::new(password) };
            (Secret::new(format!("{scheme}://{host}{path}")), auth)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::standin::{Answered, StandIn};
    use super::*;

    fn outlet(there: &StandIn, cycle: Option<&str>) -> Outlet {
        let url = |path: &str| Secret::new(format!("http://admin:hunter2@{}{path}", there.at));
        Outlet { on: url("/relay?turn=on"), off: url("/relay?turn=off"), cycle: cycle.map(url), method: Method::GET }
    }

    fn fine() -> Answered {
        Some((200, String::new(), Value::Null))
    }

    fn now(outlet: &Outlet, action: Action) -> Result<String, Failure> {
        switch_in(outlet, action, Duration::ZERO)
    }

    #[test]
    fn an_outlet_is_asked_by_its_urls_and_their_password_goes_into_the_header() {
        let there = StandIn::plain(|_| fine());
        now(&outlet(&there, None), Action::On).expect("done");
        now(&outlet(&there, None), Action::Cycle).expect("done");
        now(&outlet(&there, Some("/cycle")), Action::Restart).expect("done");
        let post = Outlet { method: Method::POST, ..outlet(&there, None) };
        now(&post, Action::Off).expect("done");
        let asked =
            ["GET /relay?turn=on", "GET /relay?turn=off", "GET /relay?turn=on", "GET /cycle", "POST /relay?turn=off"];
        assert_eq!(there.asked(), asked);
        let log = there.log.lock().expect("no test panics inside");
        assert!(log.iter().all(|asked| asked.head.contains("Basic YWRtaW46aHVudGVyMg==")), "{log:?}");
    }

    #[test]
    fn what_is_off_and_could_not_be_switched_on_is_tried_again() {
        let there = StandIn::plain(|asked| if asked.path.ends_with("on") { None } else { fine() });
        let failure = now(&outlet(&there, None), Action::Cycle).expect_err("it stays off");
        assert!(matches!(failure, Failure::Untold(_)), "{failure:?}");
        let failure = now(&outlet(&there, Some("/on")), Action::Cycle).expect_err("cut off");
        assert!(matches!(failure, Failure::Unknown(_)), "{failure:?}");
        let there = StandIn::plain(|_| Some((401, String::new(), Value::Null)));
        let failure = now(&outlet(&there, None), Action::Off).expect_err("refused");
        assert!(matches!(&failure, Failure::Refused(why) if why.contains("401") && !why.contains("hunter2")));
    }
}
