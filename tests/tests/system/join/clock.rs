//! Machines whose hardware clock is wrong: certificates are judged by the controller's time, and so is the rest.

use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use muster_tests::eventually;
use muster_tests::lab::{self, Lab, SOON, text};
use muster_tests::qemu::{Boot, Firmware, HardwareClock, Machine};

/// What the agent writes on its console when it has set the clock, before the time that it is now.
const SET: &str = "and is set to ";

const YEAR_S: i64 = 31_556_952;

#[test]
fn a_machine_at_1970_or_2099_joins_sets_its_clock_and_stays() -> Result<()> {
    let mut lab = Lab::open("wrong-clock", &[])?;
    let mut spec = lab::machine(Firmware::Bios, Boot::Cd(lab.iso()?))?;
    let mut boot = None;
    for year in [1970, 2099] {
        spec.clock = HardwareClock::Year(year);
        let mut machine = Machine::start(&spec, &lab.folder.join(format!("machine-{year}")))?;
        let online = lab.until_online(boot.as_deref())?;
        // Only who is in the fleet is waited for at the end of a CA.
        lab.controller.muster(&["machine", "approve", text(&online, "/id")?])?;

        let line = machine.console.wait_for(SET, 0, SOON)?;
        let then = (UNIX_EPOCH.elapsed()? - line.at.elapsed()).as_secs() as i64;
        let line = line.text;
        let was: i64 = number_after(&line, "was at ")?;
        let is: i64 = number_after(&line, SET)?;
        ensure!(is.abs_diff(then) <= SOON.as_secs(), "it is {then} s since 1970: {line}");
        // Kernels do not read every digit of a year that is so far away.
        let ahead_s = was - is;
        ensure!(ahead_s.abs() > 10 * YEAR_S && (ahead_s > 0) == (year == 2099), "QEMU had it begin in {year}: {line}");

        // Another handshake: certificates are judged again, with the clock that is right now.
        lab.controller.kill();
        lab.controller.start_again()?;
        let back = lab.until(SOON, "the machine is back", |m| m["presence"]["state"] == "online")?;
        ensure!(back["presence"]["boot"] == online["presence"]["boot"], "it did not boot again: {back}");

        // A certificate that is asked for in the session, by what the agent holds for now; nothing brings it sooner than a
        // new CA. The next handshake shows it.
        lab.controller.muster(&["ca", "rotate"])?;
        machine.console.wait_for("the certificate was renewed", 0, SOON)?;
        eventually(SOON, "it follows", || {
            let shown = lab.controller.muster_json(&["ca", "show"])?;
            ensure!(shown["behind"] == 0, "{shown}");
            Ok(())
        })?;
        lab.controller.muster(&["ca", "finish"])?;
        lab.controller.kill();
        lab.controller.start_again()?;
        let back = lab.until(SOON, "the machine is back", |m| m["presence"]["state"] == "online")?;
        ensure!(back["presence"]["boot"] == online["presence"]["boot"], "it did not boot again: {back}");
        boot = Some(text(&back, "/presence/boot")?.to_owned());
        machine.unplug();
    }
    Ok(())
}

/// The number that stands after `words` in a line.
fn number_after(line: &str, words: &str) -> Result<i64> {
    let (_, rest) = line.split_once(words).with_context(|| format!("{words:?} in {line:?}"))?;
    let digits = rest.split(|c: char| c != '-' && !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("a number after {words:?} in {line:?}"))
}
