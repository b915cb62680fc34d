//! What a document makes of a machine: the plan as `muster plan` prints it, and the plan of its revert.
//!
//! A case is one file in `plans/cases/NOUN/`: a sentence, what the machine is (see [`machine`]), what was applied to it
//! before, if anything, what is desired, and then what is planned. netplan's own examples are cases as well: their texts are
//! another project's, fetched by `make build/netplan`, and `plans/netplan/NAME.txt` is what is planned for them.
//! Every plan and every revert is carried out on the twin of the kernel's network too, and leads where it says.
//! `BLESS=1 cargo test -p muster-controller --test plans` writes what came out; look at the difference before you commit it.

mod case;
mod disks;
mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use case::{Case, Planned};
use muster_controller::documents;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(name)
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inside: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    inside.sort();
    inside
}

/// The name of each of netplan's examples that is accepted, and its text.
fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/netplan");
    assert!(folder.is_dir(), "{}: not there; run `make build/netplan` first", folder.display());
    let named = inside(&folder).into_iter().map(|path| {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("readable"))
    });
    named.filter(|(_, text)| documents::parse(text).is_ok()).collect()
}

/// What came out against what is written down; the difference where there is one.
fn compare(file: &Path, found: &str) -> Option<String> {
    if std::env::var_os("BLESS").is_some() {
        fs::write(file, found).expect("the case can be written");
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    let (mut old, mut new): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let alike = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    old.drain(..alike);
    new.drain(..alike);
    while old.last().is_some_and(|line| new.last() == Some(line)) {
        old.pop();
        new.pop();
    }
    let marked = old.iter().map(|line| format!("- {line}\n")).chain(new.iter().map(|line| format!("+ {line}\n")));
    let difference: String = marked.collect();
    (expected != found).then(|| format!("{}, from line {}:\n{difference}", file.display(), alike + 1))
}

#[test]
fn every_case_is_planned_and_reverted_as_it_says_and_leads_there() {
    let files: Vec<PathBuf> = inside(&folder("cases")).iter().flat_map(|noun| inside(noun)).collect();
    assert!(files.len() >= 40, "only {} cases", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let case = Case::read(&text).unwrap_or_else(|problem| panic!("{}: {problem}", file.display()));
        match case.plan() {
            Ok(planned) => wrong.extend(compare(&file, &case.write(&planned))),
            Err(problem) => wrong.push(format!("{}: {problem}", file.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_of_netplan_is_planned_and_reverted_and_leads_there() {
    let examples = examples();
    assert!(examples.len() > 25, "only {} are accepted", examples.len());
    let mut wrong = Vec::new();
    for (name, document) in &examples {
        let case = Case::of_example(document);
        let found = case.plan().map(|planned| case.write(&planned));
        let file = folder("netplan").join(format!("{name}.txt"));
        match found {
            Ok(found) => wrong.extend(compare(&file, &found)),
            Err(problem) => wrong.push(format!("{name}: {problem}")),
        }
    }
    let names: BTreeSet<_> = examples.iter().map(|(name, _)| name.as_str()).collect();
    let is_stale = |path: &PathBuf| !names.contains(&*path.file_stem().expect("a file").to_string_lossy());
    let stale = inside(&folder("netplan")).into_iter().filter(is_stale);
    wrong.extend(stale.map(|path| format!("netplan has no such example, or it is refused: {}", path.display())));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A folder test that holds whatever it is given shows nothing.
#[test]
fn a_case_that_says_something_else_is_told_with_the_lines_that_differ() {
    let file = inside(&folder("cases")).iter().flat_map(|noun| inside(noun)).next().expect("there are cases");
    let case = Case::read(&fs::read_to_string(&file).expect("readable")).expect("a case");
    let planned = case.plan().expect("it is planned");
    let Planned::Steps { plan, .. } = &planned else { panic!("the first case is one that fits") };
    let first = plan.lines().next().expect("it has steps");
    let other = case.write(&planned).replacen(first, "1. something else", 1);
    if std::env::var_os("BLESS").is_none() {
        let told = compare(&file, &other).expect("they differ");
        assert!(told.contains(&format!("- {first}\n+ 1. something else\n")), "{told}");
    }
}
