//! The catalog is told from what it was told before only where that still holds: after every kind of change it says what a
//! router says that was never asked before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_controller::clock::now_unix_ms;
use muster_controller::fleet::iso::{self, Built};
use muster_controller::fleet::model::{self, CardChange};
use muster_controller::fleet::record::{HubRule, Location, Machine, MachineInventory, Maintenance, PlaceRule, Subnet};
use muster_controller::fleet::{Draft, Refusal, credential, location, machine, subnet};
use muster_controller::ial::{self, Envelope, Present};
use muster_protocol::Digest;
use serde_json::{Map, Value, json};

use crate::site::{Reply, Site, allocation, send};

const LISTS: [&str; 2] = ["/v1/infrastructure/provider/locations", "/v1/infrastructure/provider/server-models"];

/// A site, and credentials for all of it, for a part of it, and none.
struct Asked {
    site: Site,
    auths: Vec<Value>,
}

impl Asked {
    async fn with(machines: u8) -> Self {
        let site = Site::with(machines).await;
        let make =
            |draft: &mut Draft| credential::create(draft, "ham", HubRule::Any, PlaceRule::Only(vec!["ham1".into()]));
        let (record, secret) = site.change(make).await;
        let auths = vec![site.auth.clone(), json!({ "api_key": record.key, "secret": secret }), Value::Null];
        Self { site, auths }
    }

    /// Everything that is listed for anybody: by the router that was asked before, and by one that never was.
    async fn ask(&self) -> Vec<Reply> {
        let fresh = ial::router(self.site.fleet.clone(), self.site.offline.clone(), Envelope::Plain);
        let mut all = Vec::new();
        for path in LISTS {
            for auth in &self.auths {
                let body = json!({ "auth": auth, "request": null }).to_string();
                let kept = send(&self.site.router, "POST", path, &[], body.clone()).await;
                let again = send(&self.site.router, "POST", path, &[], body.clone()).await;
                assert_eq!(kept, again, "nothing has changed");
                assert_eq!(kept, send(&fresh, "POST", path, &[], body).await, "{path}");
                all.push(kept);
            }
        }
        // Found without the copies of tables that the catalog is made of: a table that is forgotten there shows here.
        let models = model::list(&self.site.state(), &|id| self.site.offline.there(id).is, now_unix_ms());
        let free = models.into_iter().map(|model| {
            let places = model.places.into_iter().map(|(code, at)| (code, json!(at.count.free)));
            (model.id, places.collect::<Map<_, _>>().into())
        });
        let told = &all[self.auths.len()].body["data"]["extra"]["available"];
        assert_eq!(*told, Value::Object(free.collect()), "what can be had");
        all
    }

    /// What is listed is another thing than before.
    async fn is_other(&self, before: &mut Vec<Reply>, what: &str) {
        let now = self.ask().await;
        assert!(now != *before, "the same is listed: {what}");
        *before = now;
    }

    /// The same after a change in the fleet.
    async fn change<T: Send + 'static>(
        &self,
        before: &mut Vec<Reply>,
        what: &str,
        decide: impl FnOnce(&mut Draft) -> Result<T, Refusal> + Send + 'static,
    ) -> T {
        let done = self.site.change(decide).await;
        self.is_other(before, what).await;
        done
    }
}

fn price(site: &Site, mils: u64) -> impl FnOnce(&mut Draft) -> Result<(), Refusal> + Send + 'static {
    let id = model::of_machine(&site.state(), site.machines[0]).expect("it has told");
    move |draft| {
        let change = CardChange { monthly_mils: Some(mils), ..CardChange::default() };
        model::describe(draft, &id, change).map(drop)
    }
}

#[tokio::test]
async fn what_is_listed_is_what_the_fleet_is_after_every_kind_of_change() {
    let asked = Asked::with(4).await;
    let site = &asked.site;
    let [first, second, third, fourth] = site.machines[..] else { panic!("four machines") };
    let mut seen = asked.ask().await;

    site.leave(first);
    asked.is_other(&mut seen, "one is gone").await;
    site.come_back(first);
    asked.is_other(&mut seen, "and back").await;

    asked.change(&mut seen, "a price", price(site, 29_000)).await;
    asked.change(&mut seen, "in maintenance", move |d| machine::maintain(d, first, Maintenance::On)).await;
    asked.change(&mut seen, "out of it", move |d| machine::maintain(d, first, Maintenance::Off)).await;
    let zones = |draft: &mut Draft| {
        let record = draft.need::<Location>(&"ber1".to_owned())?;
        location::put(draft, Location { zones: vec!["ber1-a".into(), "ber1-b".into()], ..record })
    };
    asked.change(&mut seen, "a zone more", zones).await;
    let zone = move |draft: &mut Draft| {
        let record = draft.need::<Machine>(&first)?;
        draft.put(Machine { labels: [("zone".to_owned(), "ber1-b".to_owned())].into(), ..record });
        Ok(())
    };
    asked.change(&mut seen, "in a zone", zone).await;
    let elsewhere = move |draft: &mut Draft| {
        let record = draft.need::<Machine>(&second)?;
        draft.put(Machine { location: "ham1".into(), ..record });
        Ok(())
    };
    asked.change(&mut seen, "elsewhere", elsewhere).await;
    let unheard = move |draft: &mut Draft| {
        let record = draft.need::<Machine>(&second)?;
        draft.put(Machine { location: "kiel1".into(), ..record });
        Ok(())
    };
    asked.change(&mut seen, "where nobody declared anything", unheard).await;
    let smaller = move |draft: &mut Draft| {
        let mut record = draft.need::<MachineInventory>(&third)?;
        record.inventory.disks.truncate(1);
        machine::inventory(draft, third, record.inventory)
    };
    asked.change(&mut seen, "another model", smaller).await;

    let sealed = move |draft: &mut Draft| {
        let built = Built {
            location: "ber1".into(),
            controllers: vec!["192.0.2.1:8080".into()],
            file: "/tmp/ber1.iso".into(),
            bytes: 1,
            sha256: Digest::of(b"iso"),
            credential: Digest::of(b"credential"),
            sealed: Some(Digest::of(b"CA")),
            boot_ca: None,
        };
        let (iso, record) = (iso::add(draft, built)?.id, draft.need::<Machine>(&first)?);
        draft.put(Machine { iso, ..record });
        let record = draft.need::<Location>(&"ber1".to_owned())?;
        let boot_target = "http://192.0.2.9/".to_owned().try_into().ok();
        location::put(draft, Location { boot_target, ..record })
    };
    asked.change(&mut seen, "one cannot be handed over", sealed).await;
    let anyhow = |draft: &mut Draft| {
        let record = draft.need::<Location>(&"ber1".to_owned())?;
        location::put(draft, Location { boot_target: None, ..record })
    };
    asked.change(&mut seen, "it need not be", anyhow).await;

    let server = site.provision("6516a1f2a6078e98982dbd92").await;
    asked.is_other(&mut seen, "one is leased").await;
    site.confirm().await;
    // Nine addresses are left of the thirteen: the next ones leave fewer than there are machines.
    let (mut pools, mut left) = (Vec::new(), true);
    for n in 0..13 {
        let request = allocation(&server, "ipv4", json!(format!("{n:024x}")));
        let reply = site.post("/v1/infrastructure/ip/allocate", request).await;
        left = reply.body["error"].is_null();
        if !left {
            break;
        }
        pools.push(reply.body["data"].clone());
    }
    assert!(!left, "there are no more");
    asked.is_other(&mut seen, "no address is left").await;
    let more = |draft: &mut Draft| subnet::add(draft, Subnet::new("203.0.113.64/28".parse().expect("a net"), "ber1"));
    asked.change(&mut seen, "more of them", more).await;
    asked.change(&mut seen, "and less", |d| subnet::remove(d, "203.0.113.64/28".parse().expect("a net"))).await;
    let pool = pools.pop().expect("there are some");
    let release = json!({ "kind": "ipv4", "ip_id": pool["ip_id"], "ip_assignment_id": pool["ip_assignment_id"] });
    site.data("/v1/infrastructure/ip/release", release).await;
    asked.is_other(&mut seen, "one came back").await;

    site.data("/v1/infrastructure/server/decommission", json!({ "server_id": server })).await;
    site.work().await;
    asked.is_other(&mut seen, "nobody's again").await;
    asked.change(&mut seen, "retired", move |d| machine::retire(d, fourth).map(drop)).await;
}

#[tokio::test]
async fn machines_are_looked_at_again_only_where_something_about_them_has_changed() {
    let asked = Asked::with(3).await;
    let site = &asked.site;
    let server = site.server("6516a1f2a6078e98982dbd92").await;
    let list = || site.post(LISTS[1], Value::Null);
    let first = list().await;
    let looks = site.offline.looks();
    assert_eq!(list().await, first);
    site.change(|draft| {
        draft.event("bench.passed", "", "somebody passed by");
        Ok(())
    })
    .await;
    assert_eq!(list().await, first);
    site.data("/v1/infrastructure/ip/allocate", allocation(&server, "ipv6", json!("6516b3a4a6078e98982dbd94"))).await;
    assert_eq!(list().await, first);
    assert_eq!(site.offline.looks(), looks, "nobody was looked at");
    site.leave(site.machines[2]);
    assert_ne!(list().await, first);
    assert!(site.offline.looks() > looks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_told_less_than_was_acknowledged_before_he_asked() {
    const CHANGES: u64 = 200;
    let site = Arc::new(Site::with(2).await);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let askers = (0..8).map(|_| {
        let (site, acknowledged) = (site.clone(), acknowledged.clone());
        tokio::spawn(async move {
            loop {
                let known = acknowledged.load(Ordering::SeqCst);
                let reply = site.post(LISTS[1], Value::Null).await;
                let told = reply.body["data"]["models"][0]["pricing"]["monthly"].as_u64().expect("a price");
                assert!(told >= known, "told {told} after {known} was acknowledged");
                if known == CHANGES {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
    });
    let askers: Vec<_> = askers.collect();
    for mils in 1..=CHANGES {
        site.change(price(&site, mils)).await;
        acknowledged.store(mils, Ordering::SeqCst);
    }
    for asker in askers {
        asker.await.expect("what it was told was never old");
    }
}
