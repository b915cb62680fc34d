//! netplan's own examples and those of its reference: every one is taken for what it says, or refused for what is not
//! supported in it.
//!
//! They are another project's, fetched by `make build/netplan`, and not in this repository. What is here is what they
//! must come to: `netplan/NAME.json` is what `NAME.yaml` must mean, `netplan/NAME.txt` the lines with which it is refused.
//! `BLESS=1 cargo test` writes what came out; look at the difference before you commit it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use muster_controller::documents;

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netplan")
}

/// Name and text of each.
fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/netplan");
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}; run `make build/netplan` first", folder.display()));
    let mut examples: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .map(|path| {
            let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("readable"))
        })
        .collect();
    examples.sort();
    examples
}

/// What a text comes to: the kind of its file in the table, and what is in it.
fn outcome(text: &str) -> (&'static str, String) {
    match documents::parse(text) {
        Ok(desired) => ("json", format!("{:#}\n", documents::render(desired.get()))),
        Err(problems) => ("txt", problems.iter().map(|problem| format!("{problem}\n")).collect()),
    }
}

#[test]
fn every_example_of_netplan_is_taken_for_what_it_says_or_refused_by_name() {
    let mut wrong = Vec::new();
    for (name, text) in examples() {
        let (kind, found) = outcome(&text);
        let other = if kind == "json" { "txt" } else { "json" };
        let file = table().join(format!("{name}.{kind}"));
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(table()).expect("the table can be written");
            let _ = fs::remove_file(file.with_extension(other));
            fs::write(&file, &found).expect("the table can be written");
        }
        if fs::read_to_string(&file).ok().as_deref() != Some(found.as_str()) || file.with_extension(other).exists() {
            wrong.push(format!("{name} comes to this {kind}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_entry_of_the_table_is_one_of_an_example() {
    let names: BTreeSet<String> = examples().into_iter().map(|(name, _)| name).collect();
    let entries = fs::read_dir(table()).expect("the table is there").map(|entry| entry.expect("readable").path());
    let stale: Vec<_> =
        entries.filter(|path| !names.contains(&*path.file_stem().expect("a file").to_string_lossy())).collect();
    assert!(stale.is_empty(), "netplan has no such examples: {stale:?}");
}

#[test]
fn what_an_accepted_example_means_is_accepted_again() {
    let accepted = examples().into_iter().filter_map(|(name, text)| Some((name, documents::parse(&text).ok()?)));
    let accepted: Vec<_> = accepted.collect();
    assert!(accepted.len() > 25, "only {} are accepted", accepted.len());
    for (name, desired) in accepted {
        let rendered = documents::render(desired.get());
        let again =
            documents::parse(&rendered.to_string()).unwrap_or_else(|problems| panic!("{name}: {}", problems[0]));
        assert_eq!(documents::render(again.get()), rendered, "{name}");
    }
}
