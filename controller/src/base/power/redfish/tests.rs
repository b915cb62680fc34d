//! Redfish against a stand-in: what is asked for, in which order, and what becomes of each answer.

use std::sync::Mutex;

use muster_protocol::Digest;
use serde_json::{Value, json};

use super::super::standin::{Answered, Asked, StandIn};
use super::*;

const UUID: &str = "11111111-2222-3333-4444-555555555555";

fn ok(body: Value) -> Answered {
    Some((200, String::new(), body))
}

/// A BMC of one system, with a power state, that knows these ways of resetting.
struct Model {
    state: Mutex<&'static str>,
    known: &'static [&'static str],
    sessions: bool,
    systems: usize,
}

impl Model {
    fn of(state: &'static str, known: &'static [&'static str]) -> Self {
        Self { state: Mutex::new(state), known, sessions: false, systems: 1 }
    }

    fn says(&self, asked: &Asked) -> Answered {
        let known = ["Basic YWRtaW46c2VjcmV0", "x-auth-token: t0ken"];
        let is_in = known.iter().any(|known| asked.head.to_ascii_lowercase().contains(&known.to_ascii_lowercase()));
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/redfish/v1/") => {
                let links = json!({"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}});
                let links = if self.sessions { links } else { json!({}) };
                ok(json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}, "Links": links}))
            }
            ("POST", "/redfish/v1/SessionService/Sessions") => {
                if asked.body == json!({"UserName": "admin", "Password": "secret"}) {
                    let headers = "x-auth-token: t0ken\r\nlocation: /redfish/v1/SessionService/Sessions/7\r\n";
                    Some((201, headers.into(), json!({})))
                } else {
                    Some((401, String::new(), json!({})))
                }
            }
            _ if !is_in => Some((401, String::new(), json!({}))),
            ("DELETE", "/redfish/v1/SessionService/Sessions/7") => ok(json!({})),
            ("GET", "/redfish/v1/Systems") => {
                let members: Vec<Value> =
                    (1..=self.systems).map(|n| json!({"@odata.id": format!("/redfish/v1/Systems/{n}")})).collect();
                ok(json!({"Members": members}))
            }
            ("GET", path) if path.starts_with("/redfish/v1/Systems/") => {
                let target = format!("{path}/Actions/ComputerSystem.Reset");
                let uuid = if path.ends_with('2') || self.systems == 1 { UUID } else { "0" };
                ok(json!({"PowerState": *self.state.lock().expect("ours"), "UUID": uuid, "Actions": {
                    "#ComputerSystem.Reset": {"target": target, "ResetType@Redfish.AllowableValues": self.known},
                }}))
            }
            ("POST", path) if path.ends_with("/Actions/ComputerSystem.Reset") => {
                match asked.body["ResetType"].as_str() {
                    Some("On" | "ForceOn") => *self.state.lock().expect("ours") = "On",
                    Some("ForceOff" | "GracefulShutdown") => *self.state.lock().expect("ours") = "Off",
                    _ => {}
                }
                Some((204, String::new(), Value::Null))
            }
            _ => Some((404, String::new(), json!({}))),
        }
    }
}

fn bmc(there: &StandIn) -> Bmc {
    Bmc {
        url: there.url(),
        system: String::new(),
        uuid: Some(UUID.to_uppercase()),
        trusted: Trusted::Pinned(there.certificate.expect("it speaks TLS")),
        user: "admin".into(),
        password: Secret::new("secret"),
    }
}

fn stand_in(model: Model) -> StandIn {
    StandIn::secure(move |asked| model.says(asked))
}

/// What was reset how, after what was asked for.
fn resets(there: &StandIn) -> Vec<String> {
    let log = there.log.lock().expect("no test panics inside");
    log.iter().filter_map(|asked| Some(asked.body["ResetType"].as_str()?.to_owned())).collect()
}

const ALL: &[&str] = &["On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "Nmi", "ForceOn"];

#[test]
fn a_machine_is_reset_in_the_best_way_that_its_bmc_knows() {
    for (state, known, action, way) in [
        ("On", ALL, Action::Restart, "ForceRestart"),
        ("Off", ALL, Action::Restart, "On"),
        ("Off", ALL, Action::Cycle, "On"),
        ("On", ALL, Action::Cycle, "ForceRestart"),
        ("On", ALL, Action::Off, "ForceOff"),
        ("Off", ALL, Action::On, "On"),
        ("Off", &["ForceOn"], Action::On, "ForceOn"),
        ("On", &["GracefulRestart", "PowerCycle"], Action::Restart, "PowerCycle"),
        ("On", &["GracefulRestart"], Action::Restart, "GracefulRestart"),
        ("On", &[], Action::Restart, "ForceRestart"),
    ] {
        let there = stand_in(Model::of(state, known));
        let said = switch(&bmc(&there), action).expect("done");
        assert_eq!(resets(&there), [way], "{action:?} of what is {state}: {said}");
        assert!(said.starts_with(&format!("{way} was accepted")), "{said}");
    }
    for (state, action) in [("On", Action::On), ("Off", Action::Off)] {
        let there = stand_in(Model::of(state, ALL));
        assert!(switch(&bmc(&there), action).expect("done").contains("already"));
        assert!(resets(&there).is_empty());
    }
}

#[test]
fn a_url_without_redfish_is_said_to_be_one_and_what_to_look_at() {
    for (status, body) in [(404, json!({})), (200, Value::Null), (405, json!({"error": {"message": "no"}}))] {
        let there = StandIn::secure(move |_| Some((status, String::new(), body.clone())));
        let refused = switch(&bmc(&there), Action::On).expect_err("no");
        let Failure::Refused(why) = &refused else { panic!("{refused:?}") };
        for part in [&there.url(), "no Redfish service root at /redfish/v1/", "with its port", "--ipmi"] {
            assert!(why.contains(part), "{part}: {why}");
        }
    }
    let busy = StandIn::secure(|_| Some((503, String::new(), json!({}))));
    assert!(matches!(switch(&bmc(&busy), Action::On), Err(Failure::Untold(_))), "it may be asked again");
}

#[test]
fn what_a_bmc_does_not_know_is_refused_with_what_it_knows() {
    let there = stand_in(Model::of("On", &["Nmi", "On"]));
    let refused = switch(&bmc(&there), Action::Restart).expect_err("no");
    assert!(matches!(&refused, Failure::Refused(why) if why.contains("but Nmi, On")), "{refused:?}");
    assert!(resets(&there).is_empty());
}

#[test]
fn a_session_is_opened_and_closed_where_there_are_sessions() {
    let there = stand_in(Model { sessions: true, ..Model::of("On", ALL) });
    switch(&bmc(&there), Action::Restart).expect("done");
    let asked = there.asked();
    assert_eq!(asked[..2], ["GET /redfish/v1/", "POST /redfish/v1/SessionService/Sessions"]);
    assert_eq!(asked.last().map(String::as_str), Some("DELETE /redfish/v1/SessionService/Sessions/7"));
    let log = there.log.lock().expect("no test panics inside");
    assert!(log.iter().all(|asked| !asked.head.to_lowercase().contains("authorization")), "the password is shown once");
}

#[test]
fn the_system_of_several_is_the_one_with_the_machines_uuid_or_the_one_that_was_named() {
    let model = || Model { systems: 3, ..Model::of("On", ALL) };
    let reset = |there: &StandIn| there.asked().into_iter().find(|asked| asked.starts_with("POST")).unwrap_or_default();
    let there = stand_in(model());
    switch(&bmc(&there), Action::Restart).expect("done");
    assert_eq!(reset(&there), "POST /redfish/v1/Systems/2/Actions/ComputerSystem.Reset");
    let there = stand_in(model());
    switch(&Bmc { system: "3".into(), ..bmc(&there) }, Action::Restart).expect("done");
    assert_eq!(reset(&there), "POST /redfish/v1/Systems/3/Actions/ComputerSystem.Reset");
    for (system, uuid) in [("", None), ("9", Some(UUID.to_owned()))] {
        let there = stand_in(model());
        let refused = switch(&Bmc { system: system.into(), uuid, ..bmc(&there) }, Action::Restart).expect_err("no");
        assert!(matches!(&refused, Failure::Refused(why) if why.ends_with("1, 2, 3")), "{refused:?}");
    }
}

#[test]
fn a_wrong_password_is_not_tried_again() {
    for sessions in [false, true] {
        let there = stand_in(Model { sessions, ..Model::of("On", ALL) });
        let wrong = Bmc { password: Secret::new("hunter2"), ..bmc(&there) };
        let refused = switch(&wrong, Action::Restart).expect_err("no");
        assert!(matches!(&refused, Failure::Refused(why) if why.contains("does not let admin in")), "{refused:?}");
        assert!(!format!("{refused:?} {wrong:?}").contains("hunter2"));
        assert!(resets(&there).is_empty());
    }
}

#[test]
fn who_shows_another_certificate_is_told_nothing() {
    let there = stand_in(Model::of("On", ALL));
    let shown = there.certificate.expect("it speaks TLS");
    let other = Trusted::Pinned(Digest::from_bytes([7; 32]));
    for (trusted, part) in [
        (other, format!("SHA-256 {shown} in place of 0707")),
        (Trusted::Cas(there.pem.clone()), format!("(SHA-256 {shown}) is not good")),
    ] {
        let refused = switch(&Bmc { trusted, ..bmc(&there) }, Action::Restart).expect_err("no");
        assert!(matches!(&refused, Failure::Refused(why) if why.contains(&part)), "{refused:?}");
    }
    assert!(there.asked().is_empty());
    assert_eq!(Digest::of(&super::super::http::shown(&there.url()).expect("shown")), shown);
    assert!(there.asked().is_empty(), "looking at a certificate says nothing either");
}

#[test]
fn what_may_have_been_done_is_told_from_what_was_not() {
    type Says = fn(&Asked) -> bool;
    let resets: Says = |asked| asked.path.ends_with("ComputerSystem.Reset");
    let lists: Says = |asked| asked.path == "/redfish/v1/Systems";
    let error = || json!({"error": {"message": "m", "@Message.ExtendedInfo": [{"Message": "the fan is missing"}]}});
    for (at, answer, expected) in [
        (lists, Some((500, String::new(), error())), "untold"),
        (lists, None, "untold"),
        (lists, Some((404, String::new(), error())), "refused"),
        (resets, Some((503, String::new(), error())), "untold"),
        (resets, Some((500, String::new(), error())), "unknown"),
        (resets, None, "unknown"),
        (resets, Some((400, String::new(), error())), "refused"),
        (resets, Some((302, "location: https://evil.example/\r\n".into(), Value::Null)), "refused"),
    ] {
        let model = Model::of("On", ALL);
        let is_cut = answer.is_none();
        let there = StandIn::secure(move |asked| if at(asked) { answer.clone() } else { model.says(asked) });
        let failure = switch(&bmc(&there), Action::Restart).expect_err("no");
        let word = match &failure {
            Failure::Untold(_) => "untold",
            Failure::Refused(_) => "refused",
            Failure::Unknown(_) => "unknown",
        };
        assert_eq!(word, expected, "{failure:?}");
        assert!(is_cut || failure.to_string().contains("HTTP"), "{failure}");
    }
    let nobody = StandIn::secure(|_| None);
    let url = "https://127.0.0.1:1".to_owned();
    let failure = switch(&Bmc { url, ..bmc(&nobody) }, Action::Restart).expect_err("nobody is there");
    assert!(matches!(&failure, Failure::Untold(why) if why.contains("cannot be reached")), "{failure:?}");
}

#[test]
fn a_bmc_that_refers_to_another_host_does_not_get_the_password_sent_there() {
    for target in ["https://evil.example/redfish/v1/Systems", "//evil.example/x"] {
        let there = StandIn::secure(move |_| ok(json!({"Systems": {"@odata.id": target}})));
        let refused = switch(&bmc(&there), Action::Restart).expect_err("no");
        assert!(matches!(&refused, Failure::Refused(why) if why.contains("another host")), "{refused:?}");
    }
}
