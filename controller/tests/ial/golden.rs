//! The exact answers of the ten calls, in the order in which Cycle makes them.

use axum::http::StatusCode;
use muster_controller::fleet::machine;
use muster_controller::fleet::machine::controls::{self, BmcAddress, Switch};
use muster_controller::fleet::model::{self, CardChange};
use muster_controller::fleet::record::{Lifecycle, OperationKind, Subnet};
use muster_controller::fleet::{Draft, subnet};
use muster_controller::pki::Pki;
use muster_protocol::inventory::{Cpu, Memory};
use serde_json::{Value, json};

use crate::site::{Site, allocation, cycle};

const SERVER: &str = "6516a1f2a6078e98982dbd92";
const POOL: &str = "6516b3a4a6078e98982dbd94";

#[tokio::test]
async fn verify_says_whether_the_credentials_are_good_and_is_never_an_error() {
    let site = Site::with(0).await;
    let path = "/v1/auth/verify";
    assert_eq!(site.data(path, Value::Null).await, json!({ "valid": true }));
    let wrong = [
        Value::Null,
        json!({}),
        json!({ "api_key": site.auth["api_key"], "secret": "s3cr3t-value-01" }),
        json!({ "api_key": "nobody", "secret": site.auth["secret"], "cycle": site.auth["cycle"] }),
        json!({ "api_key": site.auth["api_key"] }),
        json!({ "secret": site.auth["secret"] }),
        json!({ "api_key": site.auth["api_key"], "secret": site.auth["secret"] }),
        json!({ "api_key": site.auth["api_key"], "secret": site.auth["secret"], "cycle": { "hub_id": "6515" } }),
    ];
    for auth in wrong {
        let reply = site.json("POST", path, &json!({ "auth": auth, "request": null })).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.body, json!({ "data": { "valid": false }, "error": null }), "{auth}");
    }
}

#[tokio::test]
async fn locations_are_listed_with_and_without_machines() {
    let site = Site::with(1).await;
    let data = site.data("/v1/infrastructure/provider/locations", Value::Null).await;
    let expected = json!({
        "locations": [
            {
                "name": "Berlin DC1",
                "geographic": {
                    "latitude": 52.52, "longitude": 13.405, "city": "Berlin", "state": "BE", "country": "DE",
                    "region": "europe",
                },
                "provider": { "location_id": "ber1", "code": "BER1", "availability_zones": ["ber1-a"] },
                "features": { "available": ["bare-metal"], "supported": ["bare-metal"] },
                "abbreviation": "BER",
                "annotations": { "floor": "2" },
                "compatible": true,
            },
            {
                "name": "ham1",
                "geographic": null,
                "provider": { "location_id": "ham1", "code": "HAM1", "availability_zones": [] },
                "features": { "available": ["bare-metal"], "supported": ["bare-metal"] },
                "abbreviation": "HAM1",
                "annotations": {},
                "compatible": true,
            },
        ],
        "extra": {},
    });
    assert_eq!(data, expected);
}

#[tokio::test]
async fn server_models_are_listed_with_the_types_that_cycle_decodes() {
    let site = Site::with(2).await;
    site.leave(site.machines[1]);
    let data = site.data("/v1/infrastructure/provider/server-models", Value::Null).await;
    let id = data["models"][0]["provider"]["model_id"].clone();
    let disks = json!([{ "count": 2, "size_gb": 960, "type": "NVMe", "extra": {} }]);
    let nic = json!({ "scope": "public", "type": "ethernet", "throughput": "10 Gbps" });
    let expected = json!({
        "models": [{
            "name": "16 cores, 128 GB, 2 x 960 GB NVMe",
            "drivers": [],
            "description":
                "1 x AMD EPYC 7313P 16-Core Processor, 16 cores, 128 GB, 2 x 960 GB NVMe, 2 x 10 Gbps NIC",
            "specs": {
                "cpu": {
                    "count": 1, "cores": 16, "threads": 2, "type": "AMD EPYC 7313P 16-Core Processor", "shared": false,
                    "extra": {},
                },
                "gpu": null,
                "memory": { "size_gb": 128, "type": "DDR4", "extra": {} },
                "storage": disks,
                "network": [nic, nic],
                "features": { "raid": null, "hypervisor": true, "extra": {} },
            },
            "provider": {
                "category": "bare-metal", "class": "general", "model_id": id, "locations": ["ber1"],
                "availability_zones": { "ber1": ["ber1-a"] },
            },
            "pricing": { "hourly": 0, "monthly": 0 },
            "compatible": true,
        }],
        "extra": {
            "available": { id.as_str().expect("a text"): { "ber1": 1 } },
            "available_in_zones": { id.as_str().expect("a text"): { "ber1": { "ber1-a": 1 } } },
        },
    });
    assert_eq!(data, expected);
    let empty = Site::with(0).await.data("/v1/infrastructure/provider/server-models", Value::Null).await;
    assert_eq!(empty, json!({ "models": [], "extra": { "available": {}, "available_in_zones": {} } }));
}

#[tokio::test]
async fn a_model_is_listed_as_the_operator_describes_it_and_one_below_cycles_floor_as_not_compatible() {
    let site = Site::with(1).await;
    let machine = site.machines[0];
    let mut small = site.state().inventories.get(&machine).expect("it has one").inventory.clone();
    small.cpu = Cpu { model: String::new(), sockets: 0, cores: 0, threads: 0, flags: Vec::new() };
    small.memory = Memory { total_bytes: 2 << 30, dimms: Vec::new() };
    small.disks.clear();
    small.nics.truncate(1);
    site.change(move |draft| machine::inventory(draft, machine, small)).await;
    let id = site.model().await;
    let card = CardChange {
        name: Some("m1.small".into()),
        description: Some("For trying things out".into()),
        category: Some("bare".into()),
        class: Some("small".into()),
        hourly_mils: Some(450),
        monthly_mils: Some(299_000),
    };
    let described = id.clone();
    site.change(move |draft| model::describe(draft, &described, card)).await;
    let data = site.data("/v1/infrastructure/provider/server-models", Value::Null).await;
    let expected = json!([{
        "name": "m1.small",
        "drivers": [],
        "description": "For trying things out",
        "specs": {
            "cpu": { "count": 1, "cores": null, "threads": null, "type": "unknown", "shared": false, "extra": {} },
            "gpu": null,
            "memory": { "size_gb": 2, "type": "unknown", "extra": {} },
            "storage": [],
            "network": [{ "scope": "public", "type": "ethernet", "throughput": "10 Gbps" }],
            "features": { "raid": null, "hypervisor": false, "extra": {} },
        },
        "provider": {
            "category": "bare", "class": "small", "model_id": id, "locations": ["ber1"],
            "availability_zones": { "ber1": ["ber1-a"] },
        },
        "pricing": { "hourly": 450, "monthly": 299_000 },
        "compatible": false,
    }]);
    assert_eq!(data["models"], expected);
    // Said to be nothing, it is called by what it is again.
    let [name, category, class] = [(); 3].map(|()| Some(String::new()));
    let blank = CardChange { name, category, class, ..CardChange::default() };
    site.change(move |draft| model::describe(draft, &id, blank)).await;
    let model = &site.data("/v1/infrastructure/provider/server-models", Value::Null).await["models"][0];
    assert_eq!([&model["provider"]["category"], &model["provider"]["class"]], ["bare-metal", "general"]);
}

#[tokio::test]
async fn what_a_machine_and_its_network_lack_is_null() {
    let site = Site::with(1).await;
    let machine = site.machines[0];
    let mut nameless = site.state().inventories.get(&machine).expect("it has one").inventory.clone();
    nameless.system.uuid = None;
    let lack = move |draft: &mut Draft| {
        machine::inventory(draft, machine, nameless)?;
        for net in ["203.0.113.0/28", "2001:db8:1::/64"] {
            subnet::remove(draft, net.parse().expect("a prefix"))?;
        }
        subnet::add(draft, Subnet::new("203.0.113.0/28".parse().expect("a prefix"), "ber1"))
    };
    site.change(lack).await;
    let id = site.server(SERVER).await;
    let status = site.data("/v1/infrastructure/server/provision-status", json!({ "server_id": id })).await;
    let auth = json!({ "uuid": null, "initial_ips": ["203.0.113.1"], "mac_addr": "3c:ec:ef:12:34:01" });
    assert_eq!(status, json!({ "server_id": id, "provisioned": true, "auth": auth, "extra": null }));
    let pool = site.data("/v1/infrastructure/ip/allocate", allocation(&id, "ipv4", json!(POOL))).await;
    let expected = json!({
        "ip_id": "203.0.113.2", "ip_assignment_id": pool["ip_assignment_id"], "cidr": "203.0.113.2/32",
        "gateway": null, "netmask": "255.255.255.240", "network": "203.0.113.0/28", "nat_private_ip": null,
    });
    assert_eq!(pool, expected);
}

#[tokio::test]
async fn errors_are_said_as_cycles_own_api_says_them() {
    let site = Site::with(1).await;
    let order = site.order(SERVER).await;
    site.provision("6516a1f2a6078e98982dbd99").await;
    let full = site.post("/v1/infrastructure/server/provision", order).await;
    let title = full.body["error"]["title"].as_str().expect("a text").to_owned();
    assert!(title.contains("1 leased"), "{title}");
    let expected = json!({
        "data": null,
        "error": { "status": 422, "code": "422.max-exceeded", "title": title, "source": "/request/model_id" },
    });
    assert_eq!(full.body, expected);
    let missing = site.post("/v1/location/configure", json!({})).await;
    let expected = json!({
        "data": null,
        "error": {
            "status": 422, "code": "422.missing-argument", "title": "location_id is missing",
            "source": "/request/location_id",
        },
    });
    assert_eq!(missing.body, expected);
    let nowhere = site.post("/v1/location/configure", json!({ "location_id": "par1" })).await;
    let expected = json!({
        "data": null,
        "error": {
            "status": 404, "code": "404.infrastructure.location", "title": "There is no such location",
            "detail": "there is no location \"par1\"", "source": "/request/location_id",
        },
    });
    assert_eq!((nowhere.status.as_u16(), nowhere.body), (404, expected));
    let anonymous = site.json("POST", "/v1/location/configure", &json!({ "location_id": "ber1" })).await;
    let expected = json!({
        "data": null,
        "error": {
            "status": 401, "code": "401.auth-invalid", "title": "This call needs credentials",
            "detail": "put api_key and secret into auth", "source": "/auth",
        },
    });
    assert_eq!((anonymous.status.as_u16(), anonymous.body), (401, expected));
}

#[tokio::test]
async fn configure_answers_the_same_each_time() {
    let site = Site::with(0).await;
    for (version, current) in [(json!(""), Value::Null), (json!("1"), json!({})), (Value::Null, Value::Null)] {
        let request = json!({
            "location_id": "ber1", "version": version, "configuration_current": current,
            "cycle": { "location_id": "6516a0d1a6078e98982dbd91" },
        });
        let data = site.data("/v1/location/configure", request).await;
        assert_eq!(data, json!({ "configured": true, "version": "1", "configuration_latest": {} }));
    }
}

#[tokio::test]
async fn a_server_is_provisioned_restarted_and_decommissioned() {
    let site = Site::with(1).await;
    let machine = site.machines[0];
    let order = site.order(SERVER).await;
    let path = "/v1/infrastructure/server/provision";
    let data = site.data(path, order.clone()).await;
    let id = data["server_id"].as_str().expect("an id").to_owned();
    assert_eq!(data, json!({ "server_id": id, "location_modified": false, "extra": null }));
    assert_eq!(site.data(path, order).await, data, "the same order is the same server");

    let request = json!({
        "server_id": id, "location_id": "ber1", "zone_id": "ber1-a",
        "model_features": { "raid": null, "hypervisor": true }, "provision_options": null, "location_configuration": {}, "extra": null, "cycle": cycle(SERVER),
    });
    let path = "/v1/infrastructure/server/provision-status";
    let pending = json!({
        "server_id": id, "provisioned": false, "auth": { "uuid": null, "initial_ips": null, "mac_addr": null },
        "extra": null,
    });
    assert_eq!(site.data(path, request.clone()).await, pending);
    site.confirm().await;
    let done = json!({
        "server_id": id,
        "provisioned": true,
        "auth": {
            "uuid": "4c4c4544-0042-3510-8052-b4c04f4e3101",
            "initial_ips": ["203.0.113.2", "2001:db8:1::2"],
            "mac_addr": "3c:ec:ef:12:34:01",
        },
        "extra": null,
    });
    assert_eq!(site.data(path, request.clone()).await, done);

    let act = json!({
        "server_id": id, "hostname": "srv-acme-01.example.net", "model_id": "m", "location_id": "ber1", "zone_id": null,
        "extra": null, "cycle": cycle(SERVER),
    });
    assert_eq!(site.data("/v1/infrastructure/server/restart", act.clone()).await, json!(true));
    assert_eq!(site.data("/v1/infrastructure/server/restart", act.clone()).await, json!(true));
    assert_eq!(site.state().operations.iter().filter(|o| !o.state.is_ended()).count(), 1, "one reboot");
    site.work().await;
    assert_eq!(site.data(path, request.clone()).await, done, "what was said stays as it was said");

    for _ in 0..2 {
        assert_eq!(site.data("/v1/infrastructure/server/decommission", act.clone()).await, json!(true));
    }
    assert!(matches!(site.lifecycle(machine), Lifecycle::Cleaning { .. }));
    site.work().await;
    assert_eq!(site.lifecycle(machine), Lifecycle::Available);
    assert_eq!(site.data("/v1/infrastructure/server/decommission", act).await, json!(true), "it is gone already");
    assert_eq!(site.post(path, request).await.body["error"]["code"], "404.infrastructure.server");
    assert_eq!((site.state().leases.len(), site.state().addresses.len()), (0, 0));
}

#[tokio::test]
async fn a_server_without_an_agent_is_restarted_by_its_bmc_and_no_call_waits_for_that() {
    let site = Site::with(1).await;
    let (id, machine) = (site.server(SERVER).await, site.machines[0]);
    site.leave(machine);
    site.change(move |draft| {
        let data = tempfile::tempdir().expect("a temporary folder");
        let seal = Pki::open(data.path()).expect("opens").disks().expect("made");
        let address = BmcAddress::Ipmi { host: "10.0.9.8".into(), port: 623 };
        controls::set_bmc(draft, &seal, machine, address, "admin", "secret")
    })
    .await;
    let act =
        json!({ "server_id": id, "hostname": "h", "model_id": "m", "location_id": "ber1", "cycle": cycle(SERVER) });
    for _ in 0..2 {
        assert_eq!(site.data("/v1/infrastructure/server/restart", act.clone()).await, json!(true));
    }
    let open: Vec<_> = site.state().unfinished(machine).map(|operation| operation.kind.clone()).collect();
    assert!(matches!(open[..], [OperationKind::Switch { action: Switch::Restart, .. }]), "{open:?}");
}

#[tokio::test]
async fn a_machine_that_is_off_when_its_server_is_decommissioned_is_wiped_when_it_is_back() {
    let site = Site::with(1).await;
    let id = site.server(SERVER).await;
    site.leave(site.machines[0]);
    let act =
        json!({ "server_id": id, "hostname": "h", "model_id": "m", "location_id": "ber1", "cycle": cycle(SERVER) });
    let restart = site.post("/v1/infrastructure/server/restart", act.clone()).await;
    assert_eq!((restart.status.as_u16(), &restart.body["error"]["code"]), (504, &json!("504.not-available")));
    assert_eq!(site.data("/v1/infrastructure/server/decommission", act).await, json!(true));
    assert!(matches!(site.lifecycle(site.machines[0]), Lifecycle::Cleaning { .. }));
    site.work().await;
    assert_eq!(site.lifecycle(site.machines[0]), Lifecycle::Available);
}

#[tokio::test]
async fn an_order_that_failed_for_good_is_an_error_with_its_reason() {
    use muster_controller::fleet::lease;
    use muster_protocol::hello::Progress;
    let site = Site::with(1).await;
    let id = site.provision(SERVER).await;
    let machine = site.machines[0];
    let refuse = move |draft: &mut Draft| {
        let generation = muster_protocol::Generation(1);
        let why = "disk serial:S1a carries an LVM2_member".into();
        machine::progress(draft, machine, &Progress::Refused { generation, why })
    };
    site.change(refuse).await;
    let status = json!({ "server_id": id });
    let path = "/v1/infrastructure/server/provision-status";
    assert_eq!(site.data(path, status.clone()).await["provisioned"], json!(false), "another machine is sought");
    site.change(|draft| lease::reconcile(draft, &|_| true)).await;
    let reply = site.post(path, status).await;
    let error = &reply.body["error"];
    assert_eq!((reply.status.as_u16(), &error["code"]), (422, &json!("422.max-exceeded")));
    assert!(error["detail"].as_str().expect("a text").contains("m1: refused: disk serial:S1a carries"), "{error}");
}

#[tokio::test]
async fn addresses_are_allocated_and_released() {
    let site = Site::with(1).await;
    let server = site.server(SERVER).await;
    let path = "/v1/infrastructure/ip/allocate";
    let four = site.data(path, allocation(&server, "ipv4", json!(POOL))).await;
    let assignment = four["ip_assignment_id"].as_str().expect("a text").to_owned();
    assert_eq!(assignment.len(), 32);
    let expected = json!({
        "ip_id": "203.0.113.3", "ip_assignment_id": assignment, "cidr": "203.0.113.3/32", "gateway": "203.0.113.1",
        "netmask": "255.255.255.240", "network": "203.0.113.0/28", "nat_private_ip": null,
    });
    assert_eq!(four, expected);
    assert_eq!(site.data(path, allocation(&server, "ipv4", json!(POOL))).await, four, "one pool, one address");
    let six = site.data(path, allocation(&server, "ipv6", json!(POOL))).await;
    let expected = json!({
        "ip_id": "2001:db8:1::3", "ip_assignment_id": six["ip_assignment_id"], "cidr": "2001:db8:1::3/128",
        "gateway": "2001:db8:1::1", "network": "2001:db8:1::/64", "nat_private_ip": null,
    });
    assert_eq!(six, expected);
    // No key, no idempotence: a load balancer's host asks several times for one server.
    let mut keyless = Vec::new();
    for key in [Value::Null, json!("000000000000000000000000"), json!("")] {
        keyless.push(site.data(path, allocation(&server, "ipv4", key)).await["ip_id"].clone());
    }
    assert_eq!(keyless, ["203.0.113.4", "203.0.113.5", "203.0.113.6"]);

    let mut release = allocation(&server, "ipv4", json!(POOL));
    for key in ["ip_id", "ip_assignment_id", "cidr"] {
        release[key] = four[key].clone();
    }
    release["nat_private_ip"] = Value::Null;
    let path = "/v1/infrastructure/ip/release";
    assert_eq!(site.data(path, release.clone()).await, json!(true));
    assert_eq!(site.data(path, release.clone()).await, json!(true), "it is free already");
    let again = site.data("/v1/infrastructure/ip/allocate", allocation(&server, "ipv4", json!(POOL))).await;
    assert_eq!(again["ip_id"], "203.0.113.3", "the lowest free one");
    assert_ne!(again["ip_assignment_id"], four["ip_assignment_id"]);
    assert_eq!(site.data(path, release).await, json!(true), "a late repetition");
    assert_eq!(site.state().addresses.len(), 2 + 2 + 3, "takes nothing from its new holder");
}

#[tokio::test]
async fn translated_addresses_are_said_with_both_sides_and_ipv6_comes_in_blocks_where_the_operator_wants() {
    let site = Site::with(1).await;
    let declare = |draft: &mut Draft| {
        for net in ["203.0.113.0/28", "2001:db8:1::/64"] {
            subnet::remove(draft, net.parse().expect("a prefix"))?;
        }
        let office = Subnet::new("10.0.0.0/24".parse().expect("a prefix"), "ber1");
        let nat = vec!["10.0.0.16/30=203.0.113.4/30".parse().expect("a pair")];
        subnet::add(draft, Subnet { gateway: "10.0.0.1".parse().ok(), nat, ..office })?;
        let six = Subnet::new("2001:db8:1::/64".parse().expect("a prefix"), "ber1");
        subnet::add(draft, Subnet { gateway: "2001:db8:1::1".parse().ok(), block: Some(121), ..six })
    };
    site.change(declare).await;
    let server = site.server(SERVER).await;
    let status = site.data("/v1/infrastructure/server/provision-status", json!({ "server_id": server })).await;
    assert_eq!(status["auth"]["initial_ips"], json!(["203.0.113.4", "2001:db8:1::2"]), "as the world sees it");

    let path = "/v1/infrastructure/ip/allocate";
    let four = site.data(path, allocation(&server, "ipv4", json!(POOL))).await;
    let expected = json!({
        "ip_id": "10.0.0.17", "ip_assignment_id": four["ip_assignment_id"], "cidr": "203.0.113.5/32",
        "gateway": "10.0.0.1", "netmask": "255.255.255.0", "network": "10.0.0.0/24", "nat_private_ip": "10.0.0.17",
    });
    assert_eq!(four, expected);
    let six = site.data(path, allocation(&server, "ipv6", json!(POOL))).await;
    let expected = json!({
        "ip_id": "2001:db8:1::80", "ip_assignment_id": six["ip_assignment_id"], "cidr": "2001:db8:1::80/121",
        "gateway": "2001:db8:1::1", "network": "2001:db8:1::/64", "nat_private_ip": null,
    });
    assert_eq!(six, expected);
    for (kind, pool) in [("ipv4", &four), ("ipv6", &six)] {
        let mut release = allocation(&server, kind, json!(POOL));
        for key in ["ip_id", "ip_assignment_id", "cidr", "nat_private_ip"] {
            release[key] = pool[key].clone();
        }
        assert_eq!(site.data("/v1/infrastructure/ip/release", release.clone()).await, json!(true));
        let again = site.data(path, allocation(&server, kind, json!(POOL))).await;
        assert_ne!(again["ip_id"], pool["ip_id"], "what was given back is in quarantine");
    }
}

#[tokio::test]
async fn pools_outlive_the_server_that_they_were_asked_for() {
    let site = Site::with(1).await;
    let server = site.server(SERVER).await;
    let four = site.data("/v1/infrastructure/ip/allocate", allocation(&server, "ipv4", json!(POOL))).await;
    site.data("/v1/infrastructure/server/decommission", json!({ "server_id": server })).await;
    site.work().await;
    assert_eq!(site.state().addresses.len(), 1);
    let release = json!({ "kind": "ipv4", "ip_id": four["ip_id"], "ip_assignment_id": four["ip_assignment_id"] });
    assert_eq!(site.data("/v1/infrastructure/ip/release", release).await, json!(true));
    assert!(site.state().addresses.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_allocations_never_give_one_address_twice() {
    let site = std::sync::Arc::new(Site::with(1).await);
    let server = site.server(SERVER).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (site, server) = (std::sync::Arc::clone(&site), server.clone());
        let request = allocation(&server, "ipv4", json!(format!("6516b3a4a6078e98982d{:04x}", n / 2)));
        calls.spawn(async move { (n / 2, site.post("/v1/infrastructure/ip/allocate", request).await) });
    }
    let mut by_pool = std::collections::BTreeMap::new();
    let mut exhausted = 0;
    for (pool, reply) in calls.join_all().await {
        match reply.status {
            StatusCode::OK => {
                let ip = reply.body["data"]["ip_id"].as_str().expect("a text").to_owned();
                assert_eq!(by_pool.entry(pool).or_insert_with(|| ip.clone()), &ip, "one pool, one address");
            }
            _ => {
                assert_eq!(reply.body["error"]["code"], "422.max-exceeded", "{}", reply.body);
                exhausted += 1;
            }
        }
    }
    // Fourteen hosts in a /28, less the gateway and the server's own address.
    let distinct: std::collections::BTreeSet<_> = by_pool.values().collect();
    assert_eq!((by_pool.len(), distinct.len(), exhausted), (12, 12, 40 - 24));
}
