//! What machines would be given for a template: all of them are looked at before the first one is given anything.

use muster_protocol::desired::{Checked, Desired};
use muster_protocol::hello::Progress;
use muster_protocol::{Digest, Generation, MachineId};

use super::select::Selector;
pub use super::template::Fault;
use super::template::Template;
use super::values::Values;
use crate::documents::{self, DocumentProblem, Places};
use crate::fleet::record::{DesiredState, Machine};
use crate::fleet::{Refusal, State, machine};
use crate::store::VALUE_LIMIT;

/// Machines whose problems are told; the others are not looked at any more.
pub const TOLD: usize = 20;

/// Bytes of all machines' documents together: reading them is work.
const TEXTS_LIMIT: usize = 64 << 20;

/// What one machine would be given.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Which one.
    pub machine: MachineId,
    /// The generation that it had to reach when this was looked at.
    pub seen: Generation,
    /// What the template says of it.
    pub desired: Checked<Desired>,
    /// Whether it is that already.
    pub is_there: bool,
}

/// Why nothing can be given to anybody.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// Nobody is selected, or too much would have to be read.
    Refused(Refusal),
    /// The template is none.
    Template(Fault),
    /// It is wrong for these machines, and others were not looked at.
    Machines(Vec<(String, Wrong)>),
}

/// What is wrong for one machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Wrong {
    /// In the template.
    Template(Fault),
    /// In the document that the template gives for it.
    Document {
        /// With their places in the template.
        placed: Vec<DocumentProblem>,
        /// With their places in the document, which are nowhere in the template.
        unplaced: Vec<DocumentProblem>,
    },
}

impl Wrong {
    /// Each problem where it stands in the template, as far as that is known: the document of one machine has other lines
    /// where blocks left some out or repeated them.
    fn document(template: &str, document: &str, problems: Vec<DocumentProblem>) -> Self {
        let keeps_lines = keeps_lines(template, document);
        let places = if keeps_lines { None } else { Places::of_template(template) };
        let (mut placed, mut unplaced) = (Vec::new(), Vec::new());
        for problem in problems {
            let place = match keeps_lines {
                true => Some((problem.line, column(template, document, &problem))),
                false => places.as_ref().and_then(|places| places.find(&problem.field)),
            };
            match place {
                Some((line, column)) => placed.push(DocumentProblem { line, column, ..problem }),
                None => unplaced.push(problem),
            }
        }
        Self::Document { placed, unplaced }
    }
}

/// Whether each line of the document comes from the same line of its template: no blocks, no tag over several lines, no
/// value of several lines.
fn keeps_lines(template: &str, document: &str) -> bool {
    let ends = |line: &str| line.rfind("{{").is_none_or(|start| line[start..].contains("}}"));
    let count = |text: &str| text.matches('\n').count();
    !template.contains("{%")
        && !template.contains("{#")
        && template.lines().all(ends)
        && count(template) == count(document)
}

/// The column in the template: of the tag, where a value came before.
fn column(template: &str, document: &str, problem: &DocumentProblem) -> usize {
    let line = |text: &'_ str| text.split('\n').nth(problem.line - 1).map_or(Vec::new(), |line| line.chars().collect());
    let (written, given): (Vec<char>, Vec<char>) = (line(template), line(document));
    let alike = written.iter().zip(&given).take_while(|(a, b)| a == b).count();
    problem.column.min(alike + 1)
}

/// Renders the template for every machine that is selected, in the order of their names, and reads what it gives.
///
/// Pure, and long where machines are many: not for the writer's thread.
pub fn prepare(state: &State, selector: &Selector, text: &str) -> Result<Vec<Prepared>, Problem> {
    let machines = selector.choose(state).map_err(Problem::Refused)?;
    let template = Template::read(text).map_err(Problem::Template)?;
    let values = Values::new(state);
    let (mut prepared, mut wrong, mut bytes) = (Vec::with_capacity(machines.len()), Vec::new(), 0);
    for machine in machines {
        match one(state, &template, &values, machine, &mut bytes) {
            Ok(one) => prepared.push(one),
            Err(why) => wrong.push((machine.name.clone(), why)),
        }
        if bytes > TEXTS_LIMIT {
            let most = TEXTS_LIMIT >> 20;
            let problem = format!("gives more than {most} MiB for all machines together; select fewer of them");
            return Err(Problem::Refused(Refusal::invalid("document", problem)));
        }
        if wrong.len() >= TOLD {
            break;
        }
    }
    if wrong.is_empty() { Ok(prepared) } else { Err(Problem::Machines(wrong)) }
}

fn one(
    state: &State,
    template: &Template,
    values: &Values,
    machine: &Machine,
    bytes: &mut usize,
) -> Result<Prepared, Wrong> {
    let document = template.render(&values.of(machine)).map_err(Wrong::Template)?;
    *bytes += document.len();
    let wrong = |problems| Wrong::document(template.text(), &document, problems);
    let desired = documents::parse(&document).map_err(wrong)?;
    let whole = machine::whole(state, machine.id, desired.clone().into_inner());
    // What the record says of the permit and the like is much smaller than the room that is left.
    if postcard::experimental::serialized_size(&whole).unwrap_or(usize::MAX) > VALUE_LIMIT - 4096 {
        let problem = "the whole desired state is over 60 KiB".to_owned();
        let all = DocumentProblem { line: 1, column: 1, field: String::new(), problem };
        return Err(Wrong::Document { placed: vec![all], unplaced: Vec::new() });
    }
    Ok(Prepared { machine: machine.id, seen: machine.generation, is_there: is_there(state, machine, &whole), desired })
}

/// Whether this is desired of the machine, and the machine has confirmed it.
pub fn is_there(state: &State, machine: &Machine, whole: &Desired) -> bool {
    let is_desired = |record: &DesiredState| record.digest == Digest::of_value(whole);
    state.desired.get(&machine.id).is_some_and(is_desired)
        && machine.outcome == (Progress::Confirmed { generation: machine.generation })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fleet::Draft;
    use crate::fleet::draft::tests::draft;
    use crate::fleet::enrollment::tests::enrolled;
    use muster_protocol::enroll::Identity;

    const TEMPLATE: &str = "network:\n  ethernets:\n    lan:\n      addresses: [\"{{ labels.ip }}/24\"]\n";

    fn machines(draft: &mut Draft, ips: &[(&str, Option<&str>)]) -> Vec<MachineId> {
        let one = |(name, ip): &(&str, Option<&str>)| {
            let id = enrolled(draft, Identity { system_serial: (*name).into(), ..Identity::default() });
            machine::approve(draft, id).expect("approved");
            machine::rename(draft, id, name).expect("renamed");
            machine::label(draft, id, BTreeMap::from([("ip".into(), ip.map(str::to_owned))])).expect("labeled");
            id
        };
        ips.iter().map(one).collect()
    }

    fn prepared(draft: &Draft, text: &str) -> Result<Vec<Prepared>, Problem> {
        prepare(draft.state(), &Selector::default(), text)
    }

    #[test]
    fn every_machine_gets_a_document_of_its_own() {
        let mut draft = draft();
        let ids = machines(&mut draft, &[("a", Some("192.0.2.1")), ("b", Some("192.0.2.2"))]);
        let prepared = prepared(&draft, TEMPLATE).expect("nothing is wrong");
        let addresses = prepared.iter().map(|one| {
            let network = one.desired.clone().into_inner().network.expect("a network");
            network.links[0].settings.addresses[0].to_string()
        });
        assert_eq!(addresses.collect::<Vec<_>>(), ["192.0.2.1/24", "192.0.2.2/24"]);
        assert_eq!(prepared.iter().map(|one| one.machine).collect::<Vec<_>>(), ids);
        assert!(prepared.iter().all(|one| !one.is_there && one.seen == Generation(0)));
    }

    #[test]
    fn a_machine_that_has_confirmed_the_same_is_there_already() {
        let mut draft = draft();
        let id = machines(&mut draft, &[("a", Some("192.0.2.1"))])[0];
        let desired = prepared(&draft, TEMPLATE).expect("nothing is wrong").remove(0).desired;
        machine::set_desired(&mut draft, id, desired, None, None).expect("set");
        let is_there = |draft: &Draft| prepared(draft, TEMPLATE).expect("nothing is wrong")[0].is_there;
        assert!(!is_there(&draft), "it was given, and did not come to it yet");
        let generation = Generation(1);
        machine::progress(&mut draft, id, &Progress::Confirmed { generation }).expect("noted");
        assert!(is_there(&draft));
        let other = BTreeMap::from([("ip".into(), Some("192.0.2.9".into()))]);
        machine::label(&mut draft, id, other).expect("labeled");
        assert!(!is_there(&draft), "another value makes another document");
    }

    #[test]
    fn what_is_wrong_is_told_of_each_machine_and_for_a_bounded_number_of_them() {
        let mut draft = draft();
        machines(&mut draft, &[("a", None), ("b", Some("192.0.2.2")), ("c", Some("192.0.2.300"))]);
        let Err(Problem::Machines(wrong)) = prepared(&draft, TEMPLATE) else { panic!("two are wrong") };
        let names: Vec<&str> = wrong.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert!(
            matches!(&wrong[0].1, Wrong::Template(Fault { line: 4, problem, .. }) if problem.contains("labels.ip"))
        );
        let Wrong::Document { placed, .. } = &wrong[1].1 else { panic!("{wrong:?}") };
        assert!(placed[0].line == 4 && placed[0].problem.contains("192.0.2.300"), "{placed:?}");

        let many: Vec<String> = (0..50).map(|n| format!("n{n:02}")).collect();
        machines(&mut draft, &many.iter().map(|name| (name.as_str(), None)).collect::<Vec<_>>());
        let Err(Problem::Machines(wrong)) = prepared(&draft, TEMPLATE) else { panic!("most are wrong") };
        assert_eq!(wrong.len(), TOLD);
        assert!(matches!(prepared(&draft, "{{"), Err(Problem::Template(_))));
    }

    /// Line and column in the template, `None` where it has none, and the field.
    fn told(template: &str, document: &str) -> Vec<(Option<(usize, usize)>, String)> {
        let problems = documents::parse(document).expect_err("it is wrong");
        let Wrong::Document { placed, unplaced } = Wrong::document(template, document, problems) else {
            panic!("it is")
        };
        let placed = placed.into_iter().map(|problem| (Some((problem.line, problem.column)), problem.field));
        placed.chain(unplaced.into_iter().map(|problem| (None, problem.field))).collect()
    }

    #[test]
    fn what_is_wrong_for_a_machine_is_told_by_the_line_of_the_template_or_by_none() {
        let field = "network.ethernets.lan.mtu".to_owned();
        // Without blocks the lines are the same; a column behind a value is that of the value.
        let template = "network:\n  ethernets:\n    lan: {dhcp4: {{ labels.dhcp }}, mtu: x}\n";
        let document = template.replace("{{ labels.dhcp }}", "true");
        assert_eq!(told(template, &document), [(Some((3, 18)), field.clone())]);
        // With blocks the field is looked for.
        let block = "network:\n  ethernets:\n    {% if labels.lan %}\n    lan:\n      mtu: x\n    {% endif %}\n";
        let document = "network:\n  ethernets:\n    lan:\n      mtu: x\n";
        assert_eq!(told(block, document), [(Some((5, 7)), field.clone())]);
        // What a block may repeat or leave out stands nowhere for sure.
        let each =
            "network:\n  ethernets:\n    {% for nic in nics %}\n    {{ nic.name }}: {mtu: x}\n    {% endfor %}\n";
        let document = "network:\n  ethernets:\n    lan: {mtu: x}\n";
        assert_eq!(told(each, document), [(None, field.clone())]);
        // A value of two lines moves what follows.
        let template = "network:\n  ntp: {{ labels.ntp }}\n  ethernets: {lan: {mtu: x}}\n";
        let document = "network:\n  ntp:\n    {}\n  ethernets: {lan: {mtu: x}}\n";
        assert_eq!(told(template, document), [(Some((3, 21)), field)]);
    }
}
