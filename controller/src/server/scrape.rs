//! `GET /metrics`: what the controller counts, for Prometheus.
//!
//! In the OpenMetrics text format, which Prometheus reads. Whoever asks needs a token of the role viewer.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use muster_protocol::inventory::ArrayState;
use muster_protocol::inventory::health::Verdict;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::api::Api;
use crate::api::http::Viewer;
use crate::api::http::door::{self, Door};
use crate::api::view::drive::verdict;
use crate::api::view::machine::lifecycle;
use crate::clock::now_unix_ms;
use crate::fleet::State;
use crate::fleet::machine::health::is_there;
use crate::metrics::Metrics;
use crate::sessions::Sessions;

/// As the OpenMetrics specification names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The route.
pub fn router(api: Api, sessions: Sessions, metrics: Metrics) -> Router {
    let started = now_unix_ms() / 1000;
    let fleet = api.fleet.clone();
    let scrape = move |_: Viewer| async move {
        let text = text(&metrics, &fleet.state(), &sessions, started);
        ([(CONTENT_TYPE, OPEN_METRICS), (CACHE_CONTROL, "no-store")], text).into_response()
    };
    let door = middleware::from_fn_with_state(Door::new(api.fleet.clone()), door::pass);
    Router::new().route("/metrics", get(scrape)).layer(door).with_state(api)
}

fn text(metrics: &Metrics, state: &State, sessions: &Sessions, started_unix_s: u64) -> String {
    let mut registry = metrics.registry();
    let gauge = |value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };

    let machines = Family::<[(&str, &str); 1], Gauge>::default();
    for word in LIFECYCLES {
        machines.get_or_create(&[("lifecycle", word)]).set(0);
    }
    for machine in state.machines.iter() {
        machines.get_or_create(&[("lifecycle", lifecycle(&machine.lifecycle))]).inc();
    }
    registry.register("muster_machines", "Machines that are known", machines);
    let arrays = Family::<[(&str, &str); 1], Gauge>::default();
    for state in ARRAYS {
        arrays.get_or_create(&[("state", state.word())]).set(0);
    }
    for array in state.inventories.iter().flat_map(|record| &record.inventory.arrays) {
        arrays.get_or_create(&[("state", array.state.word())]).inc();
    }
    registry.register("muster_arrays", "Arrays of disks that run on machines, as they last said", arrays);
    drives(state, &mut registry);
    registry.register("muster_sessions", "Machines that are online", gauge(sessions.count() as u64));
    registry.register(
        "muster_handshakes_in_progress",
        "Peers between their first packet and the end of their handshake",
        gauge(sessions.handshakes() as u64),
    );
    let start = "When the controller started, since 1970 UTC";
    registry.register_with_unit("process_start_time", start, Unit::Seconds, gauge(started_unix_s));
    if let Some(bytes) = resident_bytes() {
        registry.register_with_unit("process_resident_memory", "Memory in use", Unit::Bytes, gauge(bytes));
    }

    let mut text = String::new();
    // A String takes whatever is written to it.
    let _ = encode(&mut text, &registry);
    text
}

/// Drives that machines have, by their own verdicts and by what somebody should look at.
fn drives(state: &State, registry: &mut Registry) {
    let verdicts = Family::<[(&str, &str); 1], Gauge>::default();
    for own in [Verdict::Good, Verdict::Failing, Verdict::Unknown] {
        verdicts.get_or_create(&[("verdict", verdict(own))]).set(0);
    }
    let warnings = Family::<[(&str, &str); 1], Gauge>::default();
    for drive in state.drives.iter().filter(|drive| is_there(state, drive)) {
        verdicts.get_or_create(&[("verdict", verdict(drive.readings.verdict))]).inc();
        for warning in &drive.warnings {
            warnings.get_or_create(&[("warning", warning.word())]).inc();
        }
    }
    registry.register("muster_drives", "Drives that tell of their health, by their own verdicts", verdicts);
    registry.register("muster_drive_warnings", "Drives that somebody should look at, by why", warnings);
}

/// Shown even where there is no such machine.
const LIFECYCLES: [&str; 6] = ["pending", "rejected", "available", "leased", "cleaning", "retired"];

/// The same of arrays.
const ARRAYS: [ArrayState; 5] =
    [ArrayState::Whole, ArrayState::Degraded, ArrayState::Rebuilding, ArrayState::Failed, ArrayState::Inactive];

/// As proc_pid_status(5) says it, in units of 1024 bytes.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
