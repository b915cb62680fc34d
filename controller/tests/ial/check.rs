//! The mock Cycle: our own server passes it, so does another that is right, and each fault is found by its case.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_controller::fleet::record::{HubRule, PlaceRule};
use muster_controller::fleet::{Draft, credential};
use muster_controller::ial::Envelope;
use muster_controller::ial::check::door::Door;
use muster_controller::ial::check::{CASES, Check, GIVEN_BACK, Orders, Report, Takes, Went};
use serde_json::{Value, json};

use crate::site::Site;
use crate::wrong::{self, Fault, SECOND, SECRET};

/// Of two hubs.
fn check(at: SocketAddr, [auth, second]: [Value; 2], orders: Option<Orders>) -> Check {
    let door = Door::new(&format!("http://{at}/"), Vec::new()).expect("a URL");
    Check { door, auth, second: Some(second), orders, poll: Duration::from_millis(5), wait: Duration::from_secs(60) }
}

async fn run(check: Check) -> Report {
    let run = move || check.run(&AtomicBool::new(false), &mut |_| {}).expect("random bytes");
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

/// Which cases failed, with what was expected and what came.
fn failed(report: &Report) -> BTreeMap<&'static str, String> {
    let failed = report.lines.iter().filter_map(|line| match &line.went {
        Went::Failed(fault) => Some((line.case.name, format!("expected {}; got {}", fault.expected, fault.got))),
        _ => None,
    });
    failed.collect()
}

fn left_out(report: &Report) -> BTreeSet<&'static str> {
    report.lines.iter().filter(|line| matches!(line.went, Went::LeftOut(_))).map(|line| line.case.name).collect()
}

fn notes(report: &Report) -> Vec<String> {
    report.lines.iter().flat_map(|line| line.notes.iter().map(|note| format!("{}: {note}", line.case.name))).collect()
}

/// Serves a site whose machines do at once what they are told to.
async fn open(machines: u8, envelope: Envelope) -> (Arc<Site>, SocketAddr) {
    let site = Arc::new(Site::serving(machines, envelope).await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let router = site.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let agents = Arc::clone(&site);
    tokio::spawn(async move {
        let mut states = agents.fleet.watch();
        while states.changed().await.is_ok() {
            // Looked at anew after each change, their own ones too: nothing that happens meanwhile is missed.
            if states.borrow_and_update().operations.iter().any(|operation| !operation.state.is_ended()) {
                agents.confirm().await;
                agents.work().await;
            }
        }
    });
    (site, address)
}

/// The site's hub, and another one.
async fn hubs(site: &Site) -> [Value; 2] {
    let make = |draft: &mut Draft| credential::create(draft, "other", HubRule::Any, PlaceRule::Anywhere);
    let (record, secret) = site.change(make).await;
    let hub = json!({ "hub_name": "Other", "hub_id": "651586fca6078e98982dbd91" });
    [site.auth.clone(), json!({ "api_key": record.key, "secret": secret, "cycle": hub })]
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_server_passes_every_case_and_needs_no_note() {
    for envelope in [Envelope::Plain, Envelope::Superset] {
        let (site, address) = open(3, envelope).await;
        let report = run(check(address, hubs(&site).await, Some(Orders { most: 4, ..Orders::default() }))).await;
        assert_eq!(failed(&report), BTreeMap::new());
        assert_eq!((left_out(&report), notes(&report)), (BTreeSet::new(), Vec::new()));
        assert_eq!(report.count("passed"), CASES.len());
        let left = |state: &muster_controller::fleet::State| {
            (state.leases.is_empty() && state.addresses.is_empty()).then_some(())
        };
        site.until(Duration::from_secs(60), left).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_to_lease_nothing_is_changed() {
    let (site, address) = open(1, Envelope::Plain).await;
    let hubs = hubs(&site).await;
    let before = site.state().next_event();
    let report = run(check(address, hubs, None)).await;
    assert_eq!(failed(&report), BTreeMap::new());
    let leases: BTreeSet<_> = CASES.iter().filter(|case| case.takes == Takes::Machines).map(|case| case.name).collect();
    assert_eq!(left_out(&report), leases);
    assert_eq!(site.state().next_event(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_is_given_back_when_the_check_is_interrupted() {
    let (site, address) = open(2, Envelope::Plain).await;
    let check = check(address, hubs(&site).await, Some(Orders { most: 4, ..Orders::default() }));
    let stopped = tokio::task::spawn_blocking(move || {
        let stop = AtomicBool::new(false);
        check.run(&stop, &mut |case| {
            stop.store(case.name == "address/allocate" || stop.load(Ordering::Relaxed), Ordering::Relaxed)
        })
    });
    let report = stopped.await.expect("no panic").expect("random bytes");
    assert!(report.is_interrupted);
    let of = |name: &str| report.lines.iter().find(|line| line.case.name == name).expect("a case").went.clone();
    assert_eq!(of("server/stays-provisioned"), Went::Passed);
    assert_eq!(of("address/allocate"), Went::LeftOut("interrupted".into()));
    assert_eq!(of("server/given-back"), Went::Passed);
    let left =
        |state: &muster_controller::fleet::State| (state.leases.is_empty() && state.addresses.is_empty()).then_some(());
    site.until(Duration::from_secs(60), left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_second_hub_its_cases_are_left_out_and_say_how_to_try_them() {
    let there = wrong::serve(Fault::None).await;
    let orders = Some(Orders { most: 4, ..Orders::default() });
    let mut check = check(there, hubs_of_another(), orders.clone());
    check.second = None;
    let report = run(check).await;
    let cases: BTreeSet<_> =
        ["verify/second-hub", "hubs/others-server", "hubs/same-id", "hubs/last-machine"].into_iter().collect();
    assert_eq!((failed(&report), left_out(&report)), (BTreeMap::new(), cases.clone()));
    for line in report.lines.iter().filter(|line| cases.contains(line.case.name)) {
        assert!(matches!(&line.went, Went::LeftOut(why) if why.contains("--second-key")), "{:?}", line.went);
    }

    let mut hubs = hubs_of_another();
    hubs[1]["secret"] = json!("another");
    let report = run(self::check(there, hubs, orders)).await;
    let Went::Failed(fault) = &report.lines[2].went else { panic!("{:?}", failed(&report)) };
    assert_eq!(failed(&report).keys().copied().collect::<Vec<_>>(), ["verify/second-hub"]);
    assert!(fault.remedy.contains("--second-secret-file"), "{fault:?}");
    assert_eq!(left_out(&report).len(), cases.len() - 1);
}

/// What the first case says, and that nothing after it was tried.
fn only_the_first(report: &Report) -> (String, String) {
    assert_eq!(failed(report).keys().copied().collect::<Vec<_>>(), ["verify/good-credentials"]);
    let rest: BTreeSet<_> = CASES[1..].iter().map(|case| case.name).filter(|name| *name != GIVEN_BACK).collect();
    assert_eq!(left_out(report), rest);
    let Went::Failed(fault) = &report.lines[0].went else { panic!("it failed") };
    (fault.got.clone(), fault.remedy.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_or_the_credential_is_not_known_the_rest_is_not_tried() {
    let orders = || Some(Orders { most: 1, ..Orders::default() });
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let (got, remedy) = only_the_first(&run(check(nobody, hubs_of_another(), orders())).await);
    assert!(got.contains("refused") && remedy.contains("host and port"), "{got}; {remedy}");

    let page = axum::Router::new().fallback(|| async { (http::StatusCode::NOT_FOUND, "<html>") });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, page).await });
    let (got, remedy) = only_the_first(&run(check(address, hubs_of_another(), orders())).await);
    assert!(got.contains("404") && remedy.contains("base URL"), "{got}; {remedy}");

    let mut stranger = hubs_of_another();
    stranger[0]["secret"] = json!("another");
    let there = wrong::serve(Fault::None).await;
    let (got, remedy) = only_the_first(&run(check(there, stranger.clone(), orders())).await);
    assert!(got.contains("\"valid\":false") && remedy.contains("--secret-file"), "{got}; {remedy}");

    let mut trusted = check(there, hubs_of_another(), orders());
    trusted.door = Door::new(&format!("https://{there}"), Vec::new()).expect("a URL");
    let (got, remedy) = only_the_first(&run(trusted).await);
    assert!(remedy.contains("http://"), "{got}; {remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_or_a_model_that_was_named_and_is_not_listed_is_a_failure() {
    let there = wrong::serve(Fault::None).await;
    for (location, model) in [(Some("nowhere"), None), (None, Some("m-none"))] {
        let [location, model] = [location, model].map(|id: Option<&str>| id.map(str::to_owned));
        let report = run(check(there, hubs_of_another(), Some(Orders { location, model, zone: None, most: 1 }))).await;
        let failed = failed(&report);
        assert_eq!(failed.keys().copied().collect::<Vec<_>>(), ["server/configure"], "{failed:?}");
        assert!(failed["server/configure"].contains("is listed"), "{failed:?}");
    }
}

/// Those that [`wrong`] knows.
fn hubs_of_another() -> [Value; 2] {
    [(SECRET, "651586fca6078e98982dbd90"), (SECOND, "651586fca6078e98982dbd99")].map(
        |(secret, id)| json!({ "api_key": "key", "secret": secret, "cycle": { "hub_name": "Check", "hub_id": id } }),
    )
}

async fn find(fault: Fault, wait: Duration) -> Report {
    let check = check(wrong::serve(fault).await, hubs_of_another(), Some(Orders { most: 4, ..Orders::default() }));
    run(Check { poll: Duration::from_millis(1), wait, ..check }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_that_is_right_passes_and_so_does_what_only_some_documents_have() {
    for (fault, note) in [
        (Fault::None, "ipv6 is not to be had"),
        (Fault::Bare, "verify/good-credentials: answers are bare payloads"),
        (Fault::FewReadings, "POST /v1/infrastructure/server/provision-check, wrapped is answered with 404"),
    ] {
        let report = find(fault, Duration::from_secs(60)).await;
        assert_eq!((failed(&report), left_out(&report)), (BTreeMap::new(), BTreeSet::new()), "{fault:?}");
        assert!(notes(&report).iter().any(|said| said.contains(note)), "{fault:?}: {:?}", notes(&report));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_one_reason_names_the_first_case_that_did() {
    let mut check = check(wrong::serve(Fault::ErrorsInAnotherShape).await, hubs_of_another(), None);
    check.second = None;
    let report = run(check).await;
    let view = report.view();
    let of = |case: &Value| (case["case"].as_str().expect("a name").to_owned(), case["same_as"].clone());
    let cases = view["cases"].as_array().expect("a list").iter();
    let failed: Vec<(String, Value)> = cases.filter(|case| case["result"] == "failed").map(of).collect();
    assert!(failed.len() > 20, "{failed:?}");
    let (first, rest) = failed.split_first().expect("some");
    assert_eq!(first.1, Value::Null);
    for (case, same_as) in rest {
        assert_eq!(*same_as, first.0, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_by_the_case_that_is_there_for_it() {
    let found = [
        (Fault::RedirectsSlashes, "transport/slashes"),
        (Fault::AnybodyIsValid, "verify/strangers"),
        (Fault::RefusesUnknownKeys, "verify/unknown-keys"),
        (Fault::LacksKey, "catalog/locations"),
        (Fault::TwoLocationsOfOneId, "catalog/locations"),
        (Fault::TextForNumber, "catalog/server-models"),
        (Fault::NumberForThroughput, "catalog/server-models"),
        (Fault::ModelsElsewhere, "catalog/server-models"),
        (Fault::IdsChange, "catalog/resync"),
        (Fault::EnvelopeNowAndThen, "verify/unknown-keys"),
        (Fault::NoBodyLimit, "hostile/too-large"),
        (Fault::DeepBodiesPanic, "hostile/too-deep"),
        (Fault::ErrorsInAnotherShape, "refused/status-unknown"),
        (Fault::ErrorsWithStatus200, "refused/status-unknown"),
        (Fault::StrangersAreServed, "refused/strangers"),
        (Fault::UnknownServerIsPending, "refused/status-unknown"),
        (Fault::ConfigureChanges, "server/configure-again"),
        (Fault::ListsWhatItHasNot, "server/provision"),
        (Fault::OrdersAgainAreOthers, "server/provision-again"),
        (Fault::ZeroIsAKey, "server/zero-id"),
        (Fault::NeverReady, "server/provisioned"),
        (Fault::FlipsBack, "server/stays-provisioned"),
        (Fault::IdentityChanges, "server/stays-provisioned"),
        (Fault::IpsWithPrefix, "server/identity"),
        (Fault::NothingToKnowItBy, "server/identity"),
        (Fault::ChecksAnotherServer, "server/status-readings"),
        (Fault::RacesWithItself, "server/lost-answer"),
        (Fault::DoubleLease, "server/last-machine"),
        (Fault::RestartForgets, "server/restart"),
        (Fault::DecommissionOnce, "server/decommission"),
        (Fault::RisesAgain, "server/after-decommission"),
        (Fault::KeepsMachines, "server/had-again"),
        (Fault::PrefixMissing, "address/allocate"),
        (Fault::OtherNetwork, "address/allocate"),
        (Fault::DoubleAddress, "address/at-once"),
        (Fault::PoolsHaveNoKey, "address/lost-answer"),
        (Fault::ReleaseOnce, "address/release-readings"),
        (Fault::LateReleaseTakes, "address/late-release"),
        (Fault::HubsActForOthers, "hubs/others-server"),
        (Fault::HubsShareIds, "hubs/same-id"),
        (Fault::HubsAreBlind, "hubs/last-machine"),
    ];
    for (fault, case) in found {
        // What never comes is waited for to the end of the time, so that is short where nothing else can come.
        let is_waited_for = match fault {
            Fault::NeverReady | Fault::KeepsMachines => true,
            // These lose machines.
            Fault::ListsWhatItHasNot | Fault::OrdersAgainAreOthers | Fault::RacesWithItself => true,
            _ => false,
        };
        let wait = Duration::from_millis(if is_waited_for { 100 } else { 60_000 });
        let report = find(fault, wait).await;
        let failed = failed(&report);
        assert!(failed.contains_key(case), "{fault:?}: {case} passed; {failed:#?} {:?}", left_out(&report));
    }
}
