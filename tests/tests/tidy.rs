//! The repository's own rules, as far as a program can hold them: files open by saying what they are, stay of a size that
//! is read in one sitting, and folders stay of a size that is seen at one glance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file, tests included.
const FILE_LINES: usize = 700;

/// Entries of a folder of source code. Folders of test cases hold as many as there are cases.
///
/// A ratchet: the widest folder of today, to be lowered with every split, until it is nine.
const FOLDER_ENTRIES: usize = 14;

/// Every file that git tracks, relative to the top of the repository.
fn tracked() -> Vec<PathBuf> {
    let top = top();
    let listing = Command::new("git").arg("-C").arg(&top).arg("ls-files").output().expect("git is there");
    assert!(listing.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listing.stderr));
    String::from_utf8(listing.stdout).expect("paths are UTF-8").lines().map(PathBuf::from).collect()
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    tracked().into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).filter_map(|path| {
        // A file that was removed and not committed yet is still listed.
        let text = std::fs::read_to_string(top().join(&path)).ok()?;
        Some((path, text))
    })
}

#[test]
fn every_source_file_opens_by_saying_what_it_is() {
    let silent: Vec<_> = sources().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "no `//!` on the first line: {silent:?}");
}

#[test]
fn no_file_is_longer_than_one_sitting() {
    let long: Vec<_> =
        sources().map(|(path, text)| (path, text.lines().count())).filter(|(_, lines)| *lines > FILE_LINES).collect();
    assert!(long.is_empty(), "split by noun: {long:?}");
}

#[test]
fn no_folder_of_sources_is_wider_than_one_glance() {
    let mut entries: BTreeMap<PathBuf, std::collections::BTreeSet<PathBuf>> = BTreeMap::new();
    for (path, _) in sources() {
        for at in path.ancestors().take_while(|at| !at.as_os_str().is_empty()) {
            entries.entry(at.parent().unwrap_or(Path::new("")).to_owned()).or_default().insert(at.to_owned());
        }
    }
    let wide: Vec<_> = entries
        .into_iter()
        .map(|(folder, entries)| (folder, entries.len()))
        .filter(|(_, count)| *count > FOLDER_ENTRIES)
        .collect();
    assert!(wide.is_empty(), "split by noun: {wide:?}");
}

/// A module that nobody names is compiled by nobody: its tests would pass by never being run.
#[test]
fn every_source_file_is_part_of_a_program() {
    let texts: BTreeMap<PathBuf, String> = sources().collect();
    let is_root = |path: &Path| {
        let folder = path.parent().unwrap_or(Path::new(""));
        let is_program = ["tests", "bin", "fuzz_targets", "benches"].iter().any(|name| folder.ends_with(name));
        let is_crate = folder.parent().is_some_and(|above| top().join(above).join("Cargo.toml").exists());
        ["main.rs", "lib.rs", "build.rs"].iter().any(|name| path.ends_with(name))
            || is_program && (is_crate || !folder.ends_with("tests"))
    };
    let is_at_path = |path: &Path| {
        let above = path.ancestors().nth(2).unwrap_or(path);
        let place = path.strip_prefix(above).unwrap_or(path).display().to_string();
        let beside = texts.iter().filter(|(other, _)| other.parent() == Some(above));
        beside.map(|(_, text)| text).any(|text| text.contains(&format!("#[path = \"{place}\"]")))
    };
    let is_named = |path: &Path| {
        let module = if path.ends_with("mod.rs") { path.parent().unwrap_or(path) } else { path };
        let (name, home) = (module.with_extension(""), module.parent().unwrap_or(Path::new("")));
        let name = name.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let [one, two, three] = ["mod.rs", "main.rs", "lib.rs"].map(|file| home.join(file));
        let parents = [one, two, three, home.with_extension("rs")];
        parents
            .iter()
            .filter_map(|parent| texts.get(parent))
            .any(|text| text.lines().any(|line| line.trim_end().ends_with(&format!("mod {name};"))))
    };
    let lost: Vec<_> = texts.keys().filter(|path| !is_root(path) && !is_named(path) && !is_at_path(path)).collect();
    assert!(lost.is_empty(), "no `mod` names them: {lost:?}");
}

#[test]
fn nothing_is_left_for_later_in_silence() {
    // A test that is ignored for a reason that is written down (`#[ignore = "…"]`) is not silent.
    let marks = ["todo!(", "unimplemented!(", "FIXME", "#[ignore]"];
    let here = Path::new("tests/tests/tidy.rs");
    let left: Vec<_> = sources()
        .filter(|(path, text)| path != here && marks.iter().any(|mark| text.contains(mark)))
        .map(|(path, _)| path)
        .collect();
    assert!(left.is_empty(), "do it, or take it out: {left:?}");
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let page = std::fs::read_to_string(top().join("docs/threat-model.md")).expect("the page is there");
    let code = page.split('`').skip(1).step_by(2);
    // A promise has many words; what has fewer is the name of something else.
    let named: Vec<_> = code
        .filter(|name| name.matches('_').count() > 3 && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()))
        .collect();
    assert!(named.len() > 20, "the page says which tests show it: {named:?}");
    let sources: Vec<_> = sources().map(|(_, text)| text).collect();
    let lost: Vec<_> =
        named.into_iter().filter(|name| !sources.iter().any(|text| text.contains(&format!("fn {name}(")))).collect();
    assert!(lost.is_empty(), "there are no such tests: {lost:?}");
}
