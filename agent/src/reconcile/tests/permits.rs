//! Leave to destroy: for one plan, on one machine, once.

use super::*;

type Exchange = fn(&mut observed::Disk);

/// Wipes the disk and puts back what it carried: to the bit what the first permit was given for.
fn carries_ntfs(machine: &SimMachine) {
    machine.wipe(&disk(), WipeLevel::Full, &mut |_| {}).expect("wiped");
    machine.put_filesystem(&disk(), "ntfs");
}

async fn permitted(lab: &Lab, desired: &Desired) -> Permit {
    let Answer::Planned(plan) = lab.reconciler.plan(desired.clone()).await else { panic!("plans") };
    Permit { plan: plan.digest, disks: vec![disk()] }
}

#[track_caller]
fn is_void(answer: &Answer) {
    assert!(matches!(answer, Answer::Refused(Refusal::PermitVoid { .. })), "{answer:?}");
}

fn disks(lab: &Lab) -> Vec<observed::Disk> {
    lab.machine.observe().expect("observes").disks
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_destroys_needs_a_permit_that_names_plan_and_disk() {
    let lab = Lab::new();
    lab.answer_confirmations();
    lab.machine.put_filesystem(&disk(), "ntfs");
    let Answer::Planned(plan) = lab.reconciler.plan(storage()).await else { panic!("plans") };
    let refused = Answer::Refused(Refusal::PermitNeeded { disks: vec![disk()], plan: plan.digest });
    assert_eq!(lab.apply(1, &storage()).await, refused);
    let other_disk = "serial:SIM00001B".parse().expect("a disk id");
    let of_another_disk = Permit { plan: plan.digest, disks: vec![other_disk] };
    assert_eq!(lab.apply_with(1, &storage(), Some(of_another_disk)).await, refused);
    let of_another_plan = Permit { plan: Digest::of(b"another plan"), disks: vec![disk()] };
    let void = Answer::Refused(Refusal::PermitVoid { disks: vec![disk()], plan: plan.digest });
    assert_eq!(lab.apply_with(1, &storage(), Some(of_another_plan)).await, void);
    assert!(lab.machine.observe().expect("observes").disks[0].partitions.is_empty());

    let permit = Permit { plan: plan.digest, disks: vec![disk()] };
    // A permit does not outlive what the disk carried when it was given.
    lab.machine.put_filesystem(&disk(), "xfs");
    assert!(matches!(lab.apply_with(1, &storage(), Some(permit.clone())).await, Answer::Refused(_)));
    lab.machine.put_filesystem(&disk(), "ntfs");
    assert_eq!(lab.apply_with(1, &storage(), Some(permit)).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });
    assert_eq!(lab.machine.observe().expect("observes").disks[0].partitions.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_good_once() {
    let lab = Lab::new();
    lab.answer_confirmations();
    carries_ntfs(&lab.machine);
    let permit = permitted(&lab, &storage()).await;
    assert_eq!(lab.apply_with(1, &storage(), Some(permit.clone())).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(1) });

    carries_ntfs(&lab.machine);
    let before = disks(&lab);
    is_void(&lab.apply_with(2, &storage(), Some(permit.clone())).await);
    let lab = lab.restarted().await;
    is_void(&lab.apply_with(2, &storage(), Some(permit.clone())).await);
    // Another boot, told the same again, as a controller does that knows what is desired.
    let lab = Lab::booted(lab.machine.clone(), BootId::from_bytes([2; 16]));
    lab.answer_confirmations();
    for generation in [1, 2] {
        is_void(&lab.apply_with(generation, &storage(), Some(permit.clone())).await);
    }
    assert_eq!(disks(&lab), before, "nothing was written");

    let anew = permitted(&lab, &storage()).await;
    assert_ne!(anew.plan, permit.plan);
    assert_eq!(lab.apply_with(2, &storage(), Some(anew)).await, Answer::Accepted);
    assert_eq!(lab.settled().await, Progress::Confirmed { generation: Generation(2) });
}

#[tokio::test(start_paused = true)]
async fn a_permit_does_not_outlive_the_boot_it_was_given_in() {
    let lab = Lab::new();
    carries_ntfs(&lab.machine);
    let permit = permitted(&lab, &storage()).await;
    let lab = Lab::booted(lab.machine.clone(), BootId::from_bytes([2; 16]));
    is_void(&lab.apply_with(1, &storage(), Some(permit)).await);
}

#[tokio::test(start_paused = true)]
async fn a_permit_of_another_machine_is_void_even_where_its_disk_looks_the_same() {
    let (one, twin) = (Lab::new(), Lab::booted(Arc::new(SimMachine::new(1)), BootId::from_bytes([2; 16])));
    carries_ntfs(&one.machine);
    carries_ntfs(&twin.machine);
    assert_eq!(disks(&one), disks(&twin));
    let permit = permitted(&one, &storage()).await;
    is_void(&twin.apply_with(1, &storage(), Some(permit)).await);
}

#[tokio::test(start_paused = true)]
async fn a_permit_of_another_document_is_void() {
    let lab = Lab::new();
    carries_ntfs(&lab.machine);
    let permit = permitted(&lab, &storage()).await;
    let mut other = storage();
    other.storage.as_mut().expect("there").filesystems[0].label = "more".into();
    is_void(&lab.apply_with(1, &other, Some(permit)).await);
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_void_for_whatever_else_is_in_the_slot_by_then() {
    let exchanges: [(&str, Exchange); 5] = [
        ("another disk with the same serial", |disk| disk.model = "another".into()),
        ("another one with a WWN", |disk| disk.wwn = Some("0x5000c500a1b2c3d4".into())),
        ("a larger one", |disk| disk.size_bytes += 512),
        ("other sectors", |disk| disk.logical_sector = 4096),
        ("other contents", |disk| disk.contents = Contents::Signature("zfs_member".into())),
    ];
    for (what, exchange) in exchanges {
        let lab = Lab::new();
        carries_ntfs(&lab.machine);
        let permit = permitted(&lab, &storage()).await;
        lab.machine.exchange_disks(|disks| exchange(&mut disks[0]));
        let answer = lab.apply_with(1, &storage(), Some(permit)).await;
        assert!(matches!(answer, Answer::Refused(Refusal::PermitVoid { .. })), "{what}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_exchanged_once_the_plan_was_accepted_is_not_written_to() {
    let exchanges: [fn(&mut Vec<observed::Disk>); 5] = [
        |disks| disks[0].model = "another".into(),
        |disks| disks[0].contents = Contents::Unknown,
        |disks| disks[0].held = "sda is mounted at /mnt".into(),
        |disks| disks[1].serial = disks[0].serial.clone(),
        |disks| drop(disks.remove(0)),
    ];
    for exchange in exchanges {
        let lab = Lab::new();
        carries_ntfs(&lab.machine);
        let permit = Some(permitted(&lab, &storage()).await);
        let (generation, confirm_within_s) = (Generation(1), 20);
        let offer = Apply { generation, desired: storage(), permit, confirm_within_s };
        let (answer, begin) = lab.reconciler.apply(offer).await;
        assert_eq!(answer, Answer::Accepted);
        lab.machine.exchange_disks(exchange);
        let before = disks(&lab);
        drop(begin);
        let outcome = lab.settled().await;
        assert!(matches!(outcome, Progress::Reverted { reason: Reason::StepFailed, .. }), "{outcome:?}");
        assert_eq!(disks(&lab), before);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_permit_is_for_names_the_disk_by_all_that_it_has() {
    let lab = Lab::new();
    carries_ntfs(&lab.machine);
    lab.machine.exchange_disks(|disks| disks[0].wwn = Some("0x5000c500a1b2c3d4".into()));
    let Answer::Planned(plan) = lab.reconciler.plan(storage()).await else { panic!("plans") };
    let action = &plan.steps[0].action;
    for part in ["\"simulated\"", "serial SIM00001A", "wwn 0x5000c500a1b2c3d4", "GiB", "contents "] {
        assert!(action.contains(part), "{part}: {action}");
    }
    assert!(!plan.steps[1].action.contains("contents "), "what is lost already is not told again");
}
