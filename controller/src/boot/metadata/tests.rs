//! Who is told what by the metadata service.

use axum::body::{Body, to_bytes};
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::fleet::Author;
use crate::fleet::location::reservation::tests::with_lease;
use crate::fleet::record::{AddressHolder, Lease, LeaseState, Location};
use crate::store::MemoryStore;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGEga2V5IG9mIG5vYm9keSB0aGF0IG9wZW5zIG5vbmUh ops@example.net";

struct World {
    fleet: Fleet,
    router: Router,
}

/// One leased machine, 203.0.113.2 and 2001:db8::2.
async fn world() -> World {
    let (fleet, _) = Fleet::start(MemoryStore::new()).expect("starts");
    let lease = |draft: &mut crate::fleet::Draft| {
        with_lease(draft);
        let location = draft.need::<Location>(&"ber1".to_owned())?;
        draft.put(Location { ssh_keys: vec![KEY.into()], user_data: "#cloud-config\n".into(), ..location });
        Ok(())
    };
    fleet.change(Author::controller(), lease).await.expect("leased");
    World { router: router(fleet.clone()), fleet }
}

impl World {
    async fn ask(&self, method: &str, path: &str, from: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).expect("a request");
        let from: IpAddr = from.parse().expect("an address");
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((from, 1234))));
        let response = self.router.clone().oneshot(request).await.expect("always answers");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.expect("whole").to_vec();
        (parts.status.as_u16(), String::from_utf8(body).expect("text"))
    }

    async fn get(&self, path: &str) -> String {
        let (status, text) = self.ask("GET", path, "203.0.113.2", &[]).await;
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await).expect("JSON")
    }
}

#[tokio::test]
async fn a_leased_machine_is_told_of_itself_in_three_shapes() {
    let world = world().await;
    let meta = world.json("/nocloud/meta-data").await;
    assert_eq!(meta, json!({ "instance-id": "srv-1", "local-hostname": "SRV-1.example.net", "public-keys": [KEY] }));
    assert_eq!(world.get("/nocloud/user-data").await, "#cloud-config\n");
    assert_eq!(world.get("/nocloud/vendor-data").await, "");

    assert_eq!(world.get("/").await, "latest/\nnocloud/\nopenstack/");
    let all = "hostname\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/\npublic-ipv4\npublic-keys/";
    assert_eq!(world.get("/latest/meta-data/").await, all);
    assert_eq!(world.get("//2021-07-15/meta-data/local-ipv4").await, "203.0.113.2");
    assert_eq!(world.get("/1.0/meta-data/public-keys/").await, "0=muster-0");
    assert_eq!(world.get("/latest/meta-data/public-keys/0/openssh-key").await, KEY);
    let nic = "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01";
    assert_eq!(world.get(&format!("{nic}/subnet-ipv4-cidr-block")).await, "203.0.113.0/28");
    assert_eq!(world.get(&format!("{nic}/ipv6s")).await, "2001:db8::2");
    assert_eq!(world.json("/latest/dynamic/instance-identity/document").await["privateIp"], "203.0.113.2");

    let meta = world.json("/openstack/2018-08-27/meta_data.json").await;
    assert_eq!((&meta["hostname"], &meta["public_keys"]["muster-0"]), (&json!("SRV-1.example.net"), &json!(KEY)));
    let network = world.json("/openstack/latest/network_data.json").await;
    assert_eq!(network["links"][0]["ethernet_mac_address"], "02:00:00:00:00:01");
    assert_eq!(
        network["networks"][0],
        json!({
            "id": "network0", "network_id": "203.0.113.0/28", "type": "ipv4", "link": "primary",
            "ip_address": "203.0.113.2", "netmask": "255.255.255.240",
            "routes": [{ "network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "203.0.113.1" }],
        })
    );
    assert_eq!(network["networks"][1]["routes"][0]["gateway"], "fe80::1");
    assert_eq!(network["services"][0], json!({ "type": "dns", "address": "192.0.2.53" }));
    assert_eq!(world.get("/openstack/latest/user_data").await, "#cloud-config\n");
}

#[tokio::test]
async fn nobody_but_the_leased_machine_itself_is_told_anything() {
    let world = world().await;
    let asks = async |from: &str, headers: &[(&str, &str)]| {
        let (status, text) = world.ask("GET", "/nocloud/user-data", from, headers).await;
        assert!(status == 200 || !text.contains("cloud-config"));
        status
    };
    assert_eq!(asks("203.0.113.2", &[]).await, 200);
    assert_eq!(asks("::ffff:203.0.113.2", &[]).await, 200, "the same on a socket of both families");
    assert_eq!(asks("2001:db8::2", &[]).await, 200);
    for stranger in ["203.0.113.3", "127.0.0.1", "::1"] {
        assert_eq!(asks(stranger, &[]).await, 404, "{stranger}");
    }
    for header in ["x-forwarded-for", "forwarded", "via"] {
        assert_eq!(asks("203.0.113.2", &[(header, "203.0.113.2")]).await, 403, "a proxy asks: {header}");
    }
    let end = |draft: &mut crate::fleet::Draft| {
        let lease = draft.need::<Lease>(&"srv-1".to_owned())?;
        let LeaseState::Ready { seat } = &lease.state else { panic!("it is ready") };
        let state = LeaseState::Ending { machine: seat.machine };
        draft.put(Lease { state, ..lease });
        Ok(())
    };
    world.fleet.change(Author::controller(), end).await.expect("ended");
    assert_eq!(asks("203.0.113.2", &[]).await, 404, "what was the hub's is no more told");
}

#[tokio::test]
async fn an_address_of_a_pool_is_not_the_machine_itself() {
    let world = world().await;
    let give = |draft: &mut crate::fleet::Draft| {
        let pool =
            AddressHolder::Pool { hub: "acme".into(), pool: "p".into(), lease: "srv-1".into(), assignment: "a".into() };
        crate::fleet::address::take(draft, "ber1", crate::fleet::address::Family::V4, pool).map(drop)
    };
    world.fleet.change(Author::controller(), give).await.expect("given");
    // What runs there may be anybody's container.
    assert_eq!(world.ask("GET", "/nocloud/user-data", "203.0.113.3", &[]).await.0, 404);
}

#[tokio::test]
async fn a_token_is_its_machines_own_and_wrong_ones_are_refused() {
    let world = world().await;
    let put = async |ttl: &str| {
        let headers = [("x-aws-ec2-metadata-token-ttl-seconds", ttl)];
        world.ask("PUT", "/latest/api/token", "203.0.113.2", &headers).await
    };
    for wrong in ["", "0", "21601", "-1", "ten"] {
        assert_eq!(put(wrong).await.0, 400, "{wrong:?}");
    }
    let (status, token) = put("60").await;
    assert_eq!(status, 200);
    let shows = async |token: &str, from: &str| {
        world.ask("GET", "/latest/meta-data/mac", from, &[("x-aws-ec2-metadata-token", token)]).await.0
    };
    assert_eq!(shows(&token, "203.0.113.2").await, 200);
    assert_eq!(shows(&token, "2001:db8::2").await, 401, "it is for the address that asked");
    let (ends, digest) = token.split_once('-').expect("two parts");
    let later = ends.parse::<u64>().expect("a number") + 1;
    for wrong in [format!("{later}-{digest}"), format!("1-{digest}"), "junk".to_owned(), "-".to_owned()] {
        assert_eq!(shows(&wrong, "203.0.113.2").await, 401, "{wrong}");
    }
}
