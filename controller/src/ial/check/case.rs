//! The table of cases: what each is called, what it proves, which fact of Cycle's API it stands on, and what to do where
//! a server fails it. In the order in which they are run, which is Cycle's own.

use super::caller::Step;
use super::calls::{ALLOCATE, CONFIGURE, DECOMMISSION, PROVISION, RELEASE, RESTART, STATUS};
use super::hostile::Verdict::{self, Refused, RefusedOrDone};
use super::stage::Stage;
use super::{addresses, hostile, hubs, reads, servers};

/// One case.
pub struct Case {
    /// `group/what`
    pub name: &'static str,
    /// What holds where it passes.
    pub proves: &'static str,
    /// What Cycle's sources say of it, and how sure that is.
    pub fact: &'static str,
    /// What to do where it fails.
    pub remedy: &'static str,
    /// What it takes.
    pub takes: Takes,
    act: Act,
}

/// What a case takes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Answers.
    Nothing,
    /// Machines and addresses, which are given back.
    Machines,
}

enum Act {
    Do(fn(&mut Stage) -> Step<()>),
    Refuse(&'static str, &'static str, Verdict),
    Body(&'static [u8]),
}

impl Case {
    /// Runs it.
    pub fn run(&self, stage: &mut Stage) -> Step<()> {
        match self.act {
            Act::Do(act) => act(stage),
            Act::Refuse(path, request, verdict) => hostile::refuses(stage, path, request, verdict),
            Act::Body(bytes) => hostile::body(stage, bytes),
        }
    }
}

const fn read(
    name: &'static str,
    act: fn(&mut Stage) -> Step<()>,
    proves: &'static str,
    fact: &'static str,
    remedy: &'static str,
) -> Case {
    Case { name, proves, fact, remedy, takes: Takes::Nothing, act: Act::Do(act) }
}

const fn lease(
    name: &'static str,
    act: fn(&mut Stage) -> Step<()>,
    proves: &'static str,
    fact: &'static str,
    remedy: &'static str,
) -> Case {
    Case { name, proves, fact, remedy, takes: Takes::Machines, act: Act::Do(act) }
}

const fn refuse(name: &'static str, path: &'static str, request: &'static str, verdict: Verdict) -> Case {
    Case {
        name,
        proves: "bad input is refused in Cycle's shape",
        fact: "errors: {data: null, error: {status, code, title}}, with the HTTP status that error/status has",
        remedy: "refuse it with 400, 404 or 422, a code like 422.invalid-argument and a title that names the field",
        takes: Takes::Nothing,
        act: Act::Refuse(path, request, verdict),
    }
}

const fn body(name: &'static str, bytes: &'static [u8]) -> Case {
    Case {
        name,
        proves: "what is no request is refused in Cycle's shape",
        fact: "a request is a JSON object with auth and request; errors have {data, error}",
        remedy: "answer 400 with the code 400.invalid-syntax",
        takes: Takes::Nothing,
        act: Act::Body(bytes),
    }
}

const TYPES: &str =
    "a wrong type, or a key that is not there, fails the whole answer in Cycle's decoder, which is Go's";
const HUBS: &str =
    "credentials are a hub's, and auth names it; no document says how hubs are kept apart, but there is 403.wrong-hub";
const SAME: &str = "what Cycle does after a lost answer is not documented: it can only ask again with its own id";

/// The last case, which is run whatever happened before.
pub const GIVEN_BACK: &str = "server/given-back";

/// All of them.
pub const CASES: &[Case] = &[
    read(
        "verify/good-credentials",
        reads::verify,
        "good credentials are valid, and the answer is one that Cycle reads",
        "verify: {valid} within {data, error}; the OpenAPI file shows the bare payload, and either is accepted",
        "answer {\"data\": {\"valid\": true}, \"error\": null}",
    ),
    read(
        "verify/strangers",
        reads::verify_strangers,
        "a wrong secret, and none, are not valid",
        "verify says valid: false; 401 is not documented for it, and is accepted",
        "answer 200 with valid: false",
    ),
    read(
        "verify/second-hub",
        hubs::verify,
        "another hub's credentials are good beside the first one's",
        HUBS,
        "answer {\"data\": {\"valid\": true}, \"error\": null}",
    ),
    read(
        "verify/unknown-keys",
        reads::verify_unknown_keys,
        "keys that are not known do no harm, nor does a request that is null, empty or absent",
        "Cycle's types grow: its stored credentials already have a key that its IAL types have not",
        "ignore keys that you do not know",
    ),
    read(
        "transport/slashes",
        reads::slashes,
        "a base URL that ends in a slash works, and nothing is redirected",
        "Cycle puts /v1/… behind what its user types; a Go client turns a redirected POST into a GET",
        "match paths without their empty parts; never redirect",
    ),
    read(
        "transport/content-type",
        reads::content_types,
        "a body is read whatever is said of its type",
        "requests and answers are application/json; which headers Cycle sends is not documented",
        "take a body for JSON whatever its header says",
    ),
    read(
        "catalog/locations",
        reads::locations,
        "locations are read by GET with a body, without one, or by POST, with the types that Cycle decodes",
        "locations: GET everywhere, yet all requests are wrapped; whether a GET has a body is not said. Types: Go's",
        "serve both verbs with one handler, a body where there is one; keep to the types",
    ),
    read(
        "catalog/server-models",
        reads::models,
        "models are read in the same ways, and stand at locations and zones that are listed",
        TYPES,
        "keep to the types: counts and prices are whole numbers, throughput is a text",
    ),
    read(
        "catalog/resync",
        reads::resync,
        "a day of resyncs finds the same locations, and models that are what they were",
        "Cycle reads both every six hours and keeps servers by their ids",
        "make ids from what does not change",
    ),
    read(
        "catalog/crowd",
        reads::crowd,
        "32 callers at one time read the same catalog",
        "timeouts of Cycle's are not documented",
        "read without a lock that writers hold",
    ),
    read(
        "transport/hang-up",
        reads::hang_up,
        "callers that go away in the middle of a request or before its answer do no harm",
        "retries of Cycle's are not documented",
        "give up what nobody waits for, and nothing else",
    ),
    read(
        "refused/strangers",
        hostile::strangers,
        "without credentials, or with wrong ones, nothing is done",
        "credentials come in the body, in auth; OAS shows release without any",
        "answer 401 with the code 401.auth-invalid",
    ),
    read(
        "refused/paths",
        hostile::paths,
        "unknown paths and verbs are refused",
        "the IAL has ten calls",
        "answer 404 with the code 404.uri",
    ),
    refuse("refused/configure-nowhere", CONFIGURE, r#"{"location_id":"check-nowhere"}"#, Refused),
    refuse("refused/configure-wrong-type", CONFIGURE, r#"{"location_id":["check"],"version":1}"#, Refused),
    refuse("refused/configure-nothing", CONFIGURE, "{}", Refused),
    refuse(
        "refused/provision-unknown",
        PROVISION,
        r#"{"hostname":"h","model_id":"check-none","location_id":"check-nowhere","cycle":{"server_id":"c0"}}"#,
        Refused,
    ),
    refuse("refused/provision-wrong-type", PROVISION, r#"{"model_id":7,"location_id":{"a":1}}"#, Refused),
    refuse("refused/provision-nothing", PROVISION, "null", Refused),
    refuse("refused/status-unknown", STATUS, r#"{"server_id":"check-none","location_id":"check-nowhere"}"#, Refused),
    refuse("refused/status-zero-id", STATUS, r#"{"server_id":"000000000000000000000000"}"#, Refused),
    refuse("refused/status-wrong-type", STATUS, r#"{"server_id":1.5}"#, Refused),
    refuse("refused/status-nothing", STATUS, "{}", Refused),
    refuse("refused/restart-unknown", RESTART, r#"{"server_id":"check-none","hostname":"h"}"#, Refused),
    refuse("refused/restart-wrong-type", RESTART, r#"{"server_id":true}"#, Refused),
    refuse("refused/decommission-unknown", DECOMMISSION, r#"{"server_id":"check-none","hostname":"h"}"#, RefusedOrDone),
    refuse("refused/decommission-nothing", DECOMMISSION, "{}", Refused),
    refuse("refused/decommission-wrong-type", DECOMMISSION, r#"{"server_id":[]}"#, Refused),
    refuse(
        "refused/allocate-unknown",
        ALLOCATE,
        r#"{"kind":"ipv4","server_id":"check-none","location_id":"check-nowhere"}"#,
        Refused,
    ),
    refuse(
        "refused/allocate-kind",
        ALLOCATE,
        r#"{"kind":"ipv5","server_id":"check-none","location_id":"check-nowhere"}"#,
        Refused,
    ),
    refuse("refused/allocate-nothing", ALLOCATE, "{}", Refused),
    refuse(
        "refused/release-unknown",
        RELEASE,
        r#"{"kind":"ipv4","ip_id":"192.0.2.77","ip_assignment_id":"check-none","cidr":"192.0.2.77/32"}"#,
        RefusedOrDone,
    ),
    refuse("refused/release-wrong-type", RELEASE, r#"{"kind":4,"ip_id":{},"ip_assignment_id":1}"#, Refused),
    body("body/cut-off", b"{\"auth\":{\"api_key\":"),
    body("body/empty", b""),
    body("body/list", b"[]"),
    body("body/text", b"\"text\""),
    body("body/number", b"7"),
    body("body/no-utf8", b"\xff\xfe\x00\x80"),
    body("body/two-values", b"{} {}"),
    body("body/auth-is-a-text", b"{\"auth\":\"key\",\"request\":{}}"),
    body("body/request-is-a-list", b"{\"request\":[]}"),
    read(
        "hostile/too-large",
        hostile::too_large,
        "a body of four megabytes from a stranger is not taken in",
        "the largest real request has about a thousand bytes; a limit is not documented",
        "limit bodies before you read them; 64 KiB are plenty",
    ),
    read(
        "hostile/too-deep",
        hostile::too_deep,
        "objects and lists nested thousands deep are refused",
        "everybody can reach an IAL: Cycle publishes no addresses that it calls from",
        "limit the depth of JSON",
    ),
    read(
        "hostile/long-texts",
        hostile::long_texts,
        "ids of 32 KiB, and such with control characters, are refused",
        "everybody can reach an IAL: Cycle publishes no addresses that it calls from",
        "limit texts before you look anything up",
    ),
    lease(
        "server/configure",
        servers::configure,
        "a location is configured, with an empty version and no configuration before",
        "configure: version is empty and configuration_current null the first time; configured is a boolean",
        "where there is nothing to do answer {configured: true, version: \"1\", configuration_latest: {}}",
    ),
    lease(
        "server/configure-again",
        servers::configure_again,
        "configured again it is the same, also with absent keys and unknown ones",
        "it is called before every server, or on a hub's first one: the sources differ",
        "make it idempotent and cheap",
    ),
    lease(
        "server/provision",
        servers::provision,
        "a model that is listed can be provisioned",
        "provision answers {server_id, location_modified, extra} at once; the machine follows later",
        "list no more than you can give",
    ),
    lease(
        "server/provision-again",
        servers::provision_again,
        "the same order again, at the same time, with absent keys or unknown ones, is the same server",
        SAME,
        "keep cycle.server_id with the hub's id, and answer a repeated order with the server that it was",
    ),
    lease(
        "server/too-early",
        servers::too_early,
        "a restart of a server that is not ready is done or refused",
        "the order of calls is Cycle's, and a network may change it",
        "answer 403 with the code 403.invalid-state",
    ),
    lease(
        "server/zero-id",
        servers::zero_id,
        "the zero id is no key, and a server that is being prepared can be given back",
        "an id that was never set is 24 zeros on the wire",
        "take 24 zeros, an empty text, null and an absent key for no key at all",
    ),
    lease(
        "server/provisioned",
        servers::provisioned,
        "the server becomes ready while it is polled, with a resync in between",
        "provision-status is asked every 5 to 10 s until provisioned is true; there is no field for a failure",
        "answer provisioned: false as long as it may still come, and an error only for what is final",
    ),
    lease(
        "server/identity",
        servers::identity,
        "a provisioned server says by what Cycle will know it",
        "auth has uuid, initial_ips and mac_addr, each of which may be null; which are compared is not documented",
        "fill all three: plain addresses, and the MAC of the first NIC",
    ),
    lease(
        "server/stays-provisioned",
        servers::stays,
        "provisioned is true once and for ever, and what is said then does not change",
        "provisioned is the only state on the wire",
        "store what you answered, and answer it again",
    ),
    lease(
        "server/status-readings",
        servers::status_readings,
        "the status is served by one reading at least of its names, verbs and bodies, and all say the same",
        "provision-status in lists, provision-check in prose; POST in one list, GET in comments and the OpenAPI file",
        "serve both paths and both verbs with one handler that reads the body",
    ),
    lease(
        "server/status-query",
        servers::status_query,
        "a GET with its id in the query and no body does no harm",
        "the OpenAPI file shows a GET that says nothing of the server, which cannot be all",
        "answer it, or 401",
    ),
    lease(
        "address/allocate",
        addresses::allocate,
        "addresses are to be had, of the kind that was asked for, with what Cycle decodes",
        "cidr and network have a prefix length, gateway has none; netmask is in one source; /32 is not settled",
        "send cidr as /32 or a block of IPv6, network as the subnet, gateway as a plain address",
    ),
    lease(
        "address/lost-answer",
        addresses::lost_answer,
        "an answer that was lost, asked for again by several at once, is the same address",
        SAME,
        "keep cycle.pool_id with the address, and answer a repeated order with it",
    ),
    lease(
        "address/at-once",
        addresses::at_once,
        "orders at one time, with and without a key, never get one address twice",
        "pool_id may be null or zero, and a host with load balancers asks several times for one server",
        "decide in one place, and make it durable before you answer",
    ),
    lease(
        "address/release-readings",
        addresses::release_readings,
        "an address is given back wrapped or flat, and once more is no error",
        "the OpenAPI file shows release flat and without auth; the prose wraps all requests",
        "where there is a key request take it, else take the body for it; what is free already is true",
    ),
    lease(
        "address/late-release",
        addresses::late_release,
        "a release that comes late takes nothing from the next one who has the address",
        "ip_assignment_id names the assignment, ip_id the address",
        "make a new ip_assignment_id each time, and compare it",
    ),
    lease(
        "server/lost-answer",
        servers::lost_order,
        "an order whose answer was lost, asked for again by several at once, is one server",
        SAME,
        "keep cycle.server_id with the hub's id before you answer",
    ),
    lease(
        "server/last-machine",
        servers::last_machine,
        "orders at one time get a machine each, or none: no two of them get the same",
        "a refusal for want of machines is 422 with the code 422.max-exceeded, or 503",
        "decide in one place, and make it durable before you answer",
    ),
    lease(
        "hubs/others-server",
        hubs::others_server,
        "a server of one hub is not there for another one",
        HUBS,
        "keep the hub with the server, and answer others with 403.wrong-hub",
    ),
    lease(
        "server/restart",
        servers::restart,
        "a restart, and a second one, leave the server what it was",
        "restart answers true; it has no key, and there is no state for it",
        "take repeated restarts for one, and leave provisioned as it is",
    ),
    lease(
        "server/decommission",
        servers::decommission,
        "a server is given back, twice at once and once more",
        "decommission answers true; whether accepted or finished is not said",
        "answer true as soon as it is on record, and for what is gone already",
    ),
    lease(
        "server/after-decommission",
        servers::after,
        "late calls for a server that was given back bring nothing back",
        "decommission comes after all addresses were given back",
        "refuse what names a server that is gone",
    ),
    lease(
        "server/had-again",
        servers::had_again,
        "what was given back can be had again",
        "the catalog has no count of what is free: only an order tells",
        "make a machine free once it is clean",
    ),
    lease(
        "hubs/same-id",
        hubs::same_id,
        "two hubs that order with the same id of Cycle's at one time never get one server",
        HUBS,
        "keep cycle.server_id with the hub's id; where both credentials are one hub's there: give another hub's",
    ),
    lease(
        "hubs/last-machine",
        hubs::last_machine,
        "the last machine, asked for by two hubs at one time, goes to one of them",
        "a refusal for want of machines is 422 with the code 422.max-exceeded, or 503",
        "decide in one place for all hubs, and make it durable before you answer",
    ),
    lease(
        GIVEN_BACK,
        servers::given_back,
        "everything that this check took is given back",
        "decommission and release answer true",
        "end what is left by hand; the line above names it",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own_a_fact_and_a_remedy() {
        let names: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        for Case { name, proves, fact, remedy, act, .. } in CASES {
            assert!(name.split_once('/').is_some_and(|(group, what)| !group.is_empty() && !what.is_empty()), "{name}");
            assert!(!proves.is_empty() && !fact.is_empty() && !remedy.is_empty(), "{name}");
            if let Act::Refuse(_, request, _) = act {
                assert!(serde_json::from_str::<serde_json::Value>(request).is_ok(), "{name}: {request}");
            }
        }
    }
}
