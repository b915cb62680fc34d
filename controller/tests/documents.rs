//! Texts as operators write them, and what comes of them.
//!
//! `documents/accepted/NOUN/NAME.yaml` is read and must mean `NAME.json`; `documents/refused/NOUN/NAME.yaml` must give
//! exactly the lines of `NAME.txt`. `BLESS=1 cargo test` writes what came out; look at the difference before you commit it.

use std::fs;
use std::path::{Path, PathBuf};

use muster_controller::documents::{self, TEXT_LIMIT};
use muster_protocol::desired::Desired;

fn cases(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/documents").join(kind);
    let inside = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("the folder of cases is there");
        entries.map(|entry| entry.expect("readable").path()).collect::<Vec<_>>()
    };
    let mut inputs: Vec<_> = inside(&folder)
        .iter()
        .flat_map(|noun| inside(noun))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    inputs.sort();
    inputs
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What came out against the file beside the input.
fn compare(input: &Path, extension: &str, found: &str) {
    let expected = input.with_extension(extension);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&expected, found).expect("the case can be written");
    }
    assert_eq!(found, read(&expected), "{}", input.display());
}

/// Links by their ids: their order in a document means nothing, and JSON has another one.
fn sorted(mut desired: Desired) -> Desired {
    if let Some(network) = &mut desired.network {
        network.links.sort_by(|a, b| a.id.cmp(&b.id));
    }
    desired
}

fn problems(text: &str) -> Vec<String> {
    match documents::parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_the_operators_guide_shows_is_understood() {
    let guide = include_str!("../../docs/operating.md");
    let documents: Vec<_> = guide.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```")).collect();
    assert!(documents.len() >= 2, "the guide has documents");
    for (text, _) in documents {
        assert_eq!(problems(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_netplan_and_butane_write_is_understood() {
    let inputs = cases("accepted");
    assert!(inputs.len() >= 30, "only {} cases", inputs.len());
    for input in inputs {
        let desired = documents::parse(&read(&input))
            .unwrap_or_else(|problems| panic!("{}: {}", input.display(), problems[0]))
            .into_inner();
        let rendered = documents::render(&desired);
        compare(&input, "json", &format!("{rendered:#}\n"));

        // What is shown can be given back, and means the same.
        let again = documents::parse(&rendered.to_string()).expect("what is rendered is accepted").into_inner();
        assert_eq!(sorted(again), sorted(desired), "{}", input.display());
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_the_remedy() {
    let inputs = cases("refused");
    assert!(inputs.len() >= 40, "only {} cases", inputs.len());
    for input in inputs {
        let found = problems(&read(&input));
        assert!(!found.is_empty(), "{} was accepted", input.display());
        compare(&input, "txt", &format!("{}\n", found.join("\n")));
    }
}

#[test]
fn a_text_over_the_limit_is_refused_before_it_is_read() {
    let text = format!("network: {{}}\n#{}", "x".repeat(TEXT_LIMIT));
    assert_eq!(problems(&text), [format!("line 1, column 1: {} bytes are over the limit of 262144", text.len())]);
}

#[test]
fn a_bomb_of_aliases_costs_nothing() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let found = problems(&text);
    assert!(found[0].ends_with("more than 50000 values, aliases included"), "{}", found[0]);
}

#[test]
fn depth_is_limited_in_every_style() {
    for text in
        ["[".repeat(100_000), "- ".repeat(50_000), "{a: ".repeat(20_000), "? ".repeat(50_000), "- [{a: ".repeat(9_000)]
    {
        assert_eq!(problems(&text).len(), 1, "{}", &text[..8]);
    }
}

#[test]
fn a_text_full_of_mistakes_gives_a_short_list() {
    let text: String = (0..5_000).map(|i| format!("key{i}: 1\n")).collect();
    let found = problems(&text);
    assert_eq!(found.len(), 100);
    assert!(found[99].ends_with("(and 4900 more problems, not listed)"), "{}", found[99]);
}

/// The largest text of every kind of entry: what is refused is refused in time that grows with the text alone.
#[test]
fn long_lists_are_refused_by_their_length() {
    let many = |line: fn(usize) -> String| (0..5_000).map(line).collect::<String>();
    let disk = "storage:\n  disks:\n  - device: serial:A\n    partitions:\n";
    for (text, field) in [
        (format!("{disk}{}", many(|_| "    - {}\n".into())), "storage.disks[0].partitions"),
        (format!("storage:\n  filesystems:\n{}", many(|_| "  - {}\n".into())), "storage.filesystems"),
        (format!("network:\n  ethernets:\n{}", many(|i| format!("    e{i}: {{}}\n"))), "network.ethernets"),
        (
            format!("network:\n  ethernets:\n    e:\n      routes:\n{}", many(|_| "      - {}\n".into())),
            "network.ethernets.e.routes",
        ),
    ] {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with(&format!("{field}: 5000 entries are over the limit of 1024")), "{}", found[0]);
    }
}

#[test]
fn arbitrary_bytes_never_panic() {
    // A small generator, so that the same bytes come in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds: Vec<String> = cases("accepted").iter().chain(&cases("refused")).map(|path| read(path)).collect();
    let alphabet: Vec<char> = "\t\n -:[]{}#&*!|>'\"%@`?,.0aé\u{feff}\u{0}/\\".chars().collect();
    for round in 0..4_000 {
        let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..1 + next() % 8 {
            let at = (next() % (text.len() as u64 + 1)) as usize;
            let c = alphabet[(next() % alphabet.len() as u64) as usize];
            match next() % 3 {
                0 if at < text.len() => text[at] = c,
                1 if at < text.len() => {
                    text.remove(at);
                }
                _ => text.insert(at, c),
            }
        }
        let _ = documents::parse(&text.into_iter().collect::<String>());
    }
}
