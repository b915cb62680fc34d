//! What a reading command prints: a table for people, JSON or YAML for programs.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::api::view::Time;
use crate::clock::now_unix_ms;
use crate::words::visible;

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub struct Show {
    /// How to print what was read
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

/// A way to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
}

/// A column of a table, or a line of one thing: its heading, and how its text comes from the JSON.
#[derive(Clone, Copy)]
pub struct Column(pub &'static str, pub fn(&Value) -> String);

impl Show {
    /// Prints a list.
    pub fn list(self, items: &[Value], columns: &[Column]) {
        match self.output {
            Format::Table => print(&table(items, columns)),
            Format::Json => print(&format!("{:#}\n", Value::Array(items.to_vec()))),
            Format::Yaml => print(&yaml(&Value::Array(items.to_vec()))),
        }
    }

    /// Prints one thing: `people` is its form for people.
    pub fn one(self, value: &Value, people: impl FnOnce(&Value) -> String) {
        match self.output {
            Format::Table => print(&people(value)),
            Format::Json => print(&format!("{value:#}\n")),
            Format::Yaml => print(&yaml(value)),
        }
    }
}

/// Prints to standard output; to a terminal without what would move its cursor, which JSON's quotes let pass in part.
/// A reader that went away is no failure: `muster events | head`.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = match out.is_terminal() {
        true => out.write_all(visible(text).as_bytes()),
        false => out.write_all(text.as_bytes()),
    };
}

/// The widest cell of a table, in characters; JSON and YAML hold all of it.
const CELL: usize = 100;

/// Things below each other, `none` where there is none.
pub fn table(items: &[Value], columns: &[Column]) -> String {
    if items.is_empty() {
        return "none\n".into();
    }
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|column| column.0.to_uppercase()).collect()];
    rows.extend(items.iter().map(|item| columns.iter().map(|column| cell((column.1)(item))).collect()));
    if let Some(width) = terminal_width() {
        fit(&mut rows, width);
    }
    aligned(&rows)
}

/// The least that a column is cut to.
const NARROW: usize = 20;

/// Cuts the widest columns until a row has no more than `width` characters, as far as that is possible.
fn fit(rows: &mut [Vec<String>], width: usize) {
    let count = rows.first().map(Vec::len).unwrap_or_default();
    let widest = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or_default();
    let mut widths: Vec<usize> = (0..count).map(widest).collect();
    while widths.iter().sum::<usize>() + 2 * count.saturating_sub(1) > width {
        match widths.iter_mut().max() {
            Some(most) if *most > NARROW => *most -= 1,
            _ => break,
        }
    }
    for row in rows {
        for (cell, width) in row.iter_mut().zip(&widths) {
            *cell = short(std::mem::take(cell), *width);
        }
    }
}

/// A line that a terminal does not break, with its end; all of it where nobody looks.
pub fn fitting(line: &str) -> String {
    let width = terminal_width().unwrap_or(usize::MAX);
    format!("{}\n", short(line.trim_end().to_owned(), width))
}

/// Characters in a line of the terminal that is printed to, where it is one.
fn terminal_width() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= NARROW)
}

/// One thing as lines of heading and text; empty ones are left out.
pub fn lines(value: &Value, columns: &[Column]) -> String {
    let rows: Vec<Vec<String>> = columns
        .iter()
        .map(|column| vec![format!("{}:", column.0), (column.1)(value)])
        .filter(|row| !row[1].is_empty())
        .collect();
    aligned(&rows)
}

/// Rows with their cells below each other.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|i| width(i).unwrap_or_default()).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let gap = width - cell.chars().count() + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', gap));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn cell(text: String) -> String {
    short(one_line(text), CELL)
}

/// At most so many characters of a text, with a mark where some are missing.
fn short(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text,
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

/// Firmware and machines choose texts; none of them may move the cursor.
pub fn one_line(text: String) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The text at a JSON pointer, empty where there is none.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => one_line(text.clone()),
        Some(other) => other.to_string(),
    }
}

/// The machine that something is about, by its name; by the beginning of its id where it has none any more.
pub fn machine(value: &Value) -> String {
    let name = text(value, "/machine_name");
    if name.is_empty() { text(value, "/machine").chars().take(8).collect() } else { name }
}

/// A list of texts, separated by commas.
pub fn joined(value: &Value, pointer: &str) -> String {
    let items = value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| text(item, "")).collect::<Vec<_>>().join(", ")
}

/// How long ago a time was: `40s`, `5m`, `3h`, `12d`.
pub fn age(value: &Value, pointer: &str) -> String {
    match Time::parse(&text(value, pointer)) {
        None => String::new(),
        Some(Time(then)) => duration(now_unix_ms().saturating_sub(then) / 1000),
    }
}

/// A span in its largest unit.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes in binary units, as memory is counted.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// JSON as YAML in block style.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(value, 0, &mut out);
    out
}

fn write_yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                out.push_str(&format!("{pad}{}:", yaml_text(key)));
                write_yaml_value(value, indent + 2, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for item in list {
                let mut inner = String::new();
                write_yaml(item, indent + 2, &mut inner);
                // The dash takes the place of the first line's indentation.
                out.push_str(&format!("{pad}- {}", inner.trim_start()));
            }
        }
        other => out.push_str(&format!("{pad}{}\n", yaml_scalar(other))),
    }
}

fn write_yaml_value(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_yaml(value, indent, out);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            write_yaml(value, indent, out);
        }
        other => out.push_str(&format!(" {}\n", yaml_scalar(other))),
    }
}

fn yaml_scalar(value: &Value) -> String {
    match value {
        Value::String(text) => yaml_text(text),
        other => other.to_string(),
    }
}

/// Plain where no YAML reader of any version could take it for something else; JSON's quotes are YAML's as well.
fn yaml_text(text: &str) -> String {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null"
    );
    if first && text.chars().all(plain) && !word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_reads_back_as_what_was_written() {
        let value = json!({
            "items": [{"name": "a", "tags": ["x", "no", "1e3", ""]}, [], {}, [[1, 2], null], "two\nlines: # x"],
            "key: with": {"deep": {"er": true}}, "empty": {}, "n": -1.5, "mac": "52:54:00:12:34:56",
        });
        let text = yaml(&value);
        assert!(text.contains("\"no\"") && text.contains("- name: a\n"), "{text}");
        assert_eq!(read_back(&text), value, "{text}");
    }

    #[test]
    fn a_machine_is_named_and_only_one_without_a_name_by_its_id() {
        let id = "52540012-3456-4000-8000-000000000001";
        assert_eq!(machine(&json!({"machine": id, "machine_name": "kitchen"})), "kitchen");
        for unnamed in [json!({"machine": id}), json!({"machine": id, "machine_name": ""})] {
            assert_eq!(machine(&unnamed), "52540012");
        }
        assert_eq!(machine(&json!({"hub": "acme"})), "");
    }

    /// A reader independent of the writer: the crate that documents are read with.
    fn read_back(text: &str) -> Value {
        use saphyr_parser::{Event, Parser, ScalarStyle};
        let mut stack: Vec<Value> = Vec::new();
        let mut keys: Vec<Option<String>> = Vec::new();
        let mut root = Value::Null;
        for event in Parser::new_from_str(text) {
            let done = match event.expect("it is YAML").0 {
                Event::MappingStart(..) => {
                    stack.push(json!({}));
                    keys.push(None);
                    continue;
                }
                Event::SequenceStart(..) => {
                    stack.push(json!([]));
                    keys.push(None);
                    continue;
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    keys.pop();
                    stack.pop().expect("it was opened")
                }
                Event::Scalar(text, ScalarStyle::Plain, ..) => {
                    serde_json::from_str(&text).unwrap_or_else(|_| Value::from(&*text))
                }
                Event::Scalar(text, ..) => Value::from(&*text),
                _ => continue,
            };
            match stack.last_mut() {
                None => root = done,
                Some(Value::Array(list)) => list.push(done),
                Some(Value::Object(map)) => {
                    let key = keys.last_mut().expect("one for each collection");
                    match key.take() {
                        None => *key = Some(done.as_str().expect("keys are texts").to_owned()),
                        Some(key) => drop(map.insert(key, done)),
                    }
                }
                Some(_) => unreachable!("only collections are opened"),
            }
        }
        root
    }

    #[test]
    fn columns_stand_below_each_other() {
        let items = [json!({"name": "a", "n": 1}), json!({"name": "long\u{1b}[2J", "n": 22})];
        let columns = [Column("name", |v| text(v, "/name")), Column("n", |v| text(v, "/n"))];
        assert_eq!(table(&items, &columns), "NAME      N\na         1\nlong [2J  22\n");
        assert_eq!(table(&[], &columns), "none\n");
        let wide = table(&[json!({"name": "ä".repeat(200)})], &columns[..1]);
        assert_eq!(wide.lines().last().map(|line| line.chars().count()), Some(100));
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal_and_short_columns_stay_whole() {
        let row = |who: &str, change: &str| vec![who.to_owned(), change.to_owned(), "done".to_owned()];
        let mut rows = vec![row("WHO", "CHANGE"), row("token:olga", &"x".repeat(90)), row("token:ci", "y")];
        fit(&mut rows, 60);
        let table = aligned(&rows);
        assert!(table.lines().all(|line| line.chars().count() <= 60), "{table}");
        assert!(table.contains("token:olga  xxx") && table.contains("x…  done"), "{table}");
        let mut narrow = vec![row(&"w".repeat(50), &"x".repeat(50))];
        fit(&mut narrow, 10);
        assert_eq!(narrow[0].iter().map(|cell| cell.chars().count()).collect::<Vec<_>>(), [NARROW, NARROW, 4]);
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!([0, 1536, 1 << 30, 16_700_000_000].map(bytes), ["0 B", "1.5 KiB", "1 GiB", "15.6 GiB"]);
        assert_eq!([5, 120, 7_300, 400_000].map(duration), ["5s", "2m", "2h", "4d"]);
    }
}
