//! What was in force before has no say in what is proven now, nor in which NIC a document means.

use muster_protocol::desired::{Dhcp, LeaseUse};

use super::*;

fn of_links(links: Vec<Link>) -> Desired {
    Desired { network: Some(Network { links, ..Network::default() }), storage: None }
}

fn named(id: &str, select: Select, set_name: Option<&str>, settings: Settings) -> Link {
    let set_name = set_name.map(str::to_owned);
    let kind = LinkKind::Ethernet(Ethernet { select, set_name, ..Ethernet::default() });
    Link { id: id.into(), kind, settings }
}

#[tokio::test(start_paused = true)]
async fn a_way_that_the_next_document_does_not_describe_does_not_prove_it() {
    let lab = Lab::new();
    lab.machine.set_wire(Wire::Gateway(GATEWAY.parse().expect("an address")));
    lab.answer_confirmations();
    lab.apply(1, &network(GATEWAY)).await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    let before = lab.network();

    // Nothing but a name for the machine; and another NIC, which hears no server.
    let hostname = Some("rack3-u12".to_owned());
    let hostname = Desired { network: Some(Network { hostname, ..Network::default() }), storage: None };
    let select = Select { name: Some("eth1".into()), ..Select::default() };
    let spare = of_links(vec![named(
        "spare",
        select,
        None,
        Settings { dhcp4: Dhcp::On(LeaseUse::default()), ..Settings::default() },
    )]);
    for (generation, document) in [(2, &hostname), (3, &spare)] {
        assert_eq!(lab.apply(generation, document).await, Answer::Accepted);
        let outcome = lab.settled().await;
        assert!(matches!(outcome, Progress::Reverted { .. }), "{outcome:?}");
        assert_eq!(lab.network().links[0].addresses, before.links[0].addresses, "it is reached as it was");
    }
}

#[tokio::test(start_paused = true)]
async fn a_nic_is_known_by_the_name_it_boots_with_after_a_restart_of_the_agent_as_well() {
    let lab = Lab::new();
    lab.answer_confirmations();
    let by_name = Select { name: Some("eth1".into()), ..Select::default() };
    let renamed = of_links(vec![named("lan", by_name.clone(), Some("lan0"), Settings::default())]);
    lab.apply(1, &renamed).await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    assert_eq!(lab.network().links[1].name, "lan0");

    let lab = lab.restarted().await;
    // It dials when it has made true again what was confirmed; time does not pass before.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let by_new_name = of_links(vec![named("lan0", Select::default(), None, Settings::default())]);
    let answer = lab.apply(2, &by_new_name).await;
    assert!(
        matches!(&answer, Answer::Refused(Refusal::Impossible(why)) if why.contains("no NIC with the name lan0")),
        "{answer:?}"
    );
    lab.answer_confirmations();
    let by_boot_name = of_links(vec![named("lan", by_name, None, Settings::default())]);
    lab.apply(3, &by_boot_name).await;
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(3) });
    assert_eq!(lab.network().links[1].name, "eth1", "and has it again where no other is said");
}
