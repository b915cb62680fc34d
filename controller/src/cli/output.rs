//! How answers are shown: a table for people, JSON and YAML for programs.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use serde_json::Value;

/// `--output`, on every command that reads.
#[derive(Args)]
pub(super) struct Output {
    /// How to show it
    #[arg(long, short = 'O', value_enum, default_value = "table")]
    pub output: Form,
}

/// A form of output.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Columns for people
    Table,
    /// As the API answers it
    Json,
    /// The same in YAML
    Yaml,
}

/// A column: its heading, and what it shows of an item.
pub(super) type Column = (&'static str, fn(&Value) -> String);

impl Output {
    /// Shows a list.
    pub fn list(&self, items: Vec<Value>, columns: &[Column]) {
        match self.output {
            Form::Table if items.is_empty() => println!("none"),
            Form::Table => print!("{}", table(&items, columns)),
            Form::Json | Form::Yaml => self.value(&Value::Array(items)),
        }
    }

    /// Shows one thing; `people` is what people see of it.
    pub fn one(&self, item: &Value, people: impl FnOnce(&Value) -> String) {
        match self.output {
            Form::Table => println!("{}", people(item).trim_end()),
            Form::Json | Form::Yaml => self.value(item),
        }
    }

    fn value(&self, value: &Value) {
        match self.output {
            Form::Yaml => print!("{}", yaml(value)),
            Form::Table | Form::Json => println!("{value:#}"),
        }
    }
}

/// The text at a dotted path; `-` where there is nothing.
pub(super) fn text(item: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(item, |value, key| value.get(key));
    match found {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) if text.is_empty() => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "-".into(),
        Some(Value::Array(items)) => {
            items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned)).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
    }
}

/// Bytes with the unit that people use for this size: powers of 1024.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if size.fract() < 0.05 { format!("{size:.0} {}", UNITS[unit]) } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// Headings and rows, each column as wide as its widest cell.
pub(super) fn table(items: &[Value], columns: &[Column]) -> String {
    let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let rows = items.iter().map(|item| columns.iter().map(|(_, cell)| cell(item)).collect());
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// YAML 1.2: every string in JSON's quotes, which no reader takes for anything else.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(value, 0, &mut out);
    out
}

fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let entry = |key: String, value: &Value, out: &mut String| {
        let nested = match value {
            Value::Array(items) => !items.is_empty(),
            Value::Object(entries) => !entries.is_empty(),
            _ => false,
        };
        out.push_str(&format!("{indent}{key}"));
        if nested {
            out.push('\n');
            write_yaml(value, depth + 1, out);
        } else {
            out.push_str(&format!(" {value}\n"));
        }
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            items.iter().for_each(|item| entry("-".into(), item, out));
        }
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                entry(format!("{}:", Value::from(key.as_str())), value, out);
            }
        }
        plain => out.push_str(&format!("{indent}{plain}\n")),
    }
}

/// Where long work has got to: one line that is drawn over on a terminal, a line for each news elsewhere.
#[derive(Default)]
pub(super) struct Progress {
    last: String,
}

impl Progress {
    /// Shows where it is now.
    pub fn at(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        self.last = text.to_owned();
        if std::io::stderr().is_terminal() {
            let line: String = text.chars().take(100).collect();
            eprint!("\r\x1b[2K{line}");
        } else {
            eprintln!("{text}");
        }
    }

    /// Leaves the line.
    pub fn done(self) {
        if !self.last.is_empty() && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let columns: [Column; 2] = [("NAME", |v| text(v, "name")), ("AT", |v| text(v, "at.city"))];
        let items = [json!({"name": "kitchen", "at": {"city": "Berlin"}}), json!({"name": "b"})];
        assert_eq!(table(&items, &columns), "NAME     AT\nkitchen  Berlin\nb        -\n");
    }

    #[test]
    fn yaml_nests_and_quotes() {
        let value = json!({"on": ["no", {"a": 1}], "empty": [], "text": "a\nb"});
        assert_eq!(yaml(&value), "\"empty\": []\n\"on\":\n  - \"no\"\n  -\n    \"a\": 1\n\"text\": \"a\\nb\"\n");
    }

    #[test]
    fn bytes_read_like_people_say_them() {
        assert_eq!([0, 1023, 1024, 1536, 1 << 30].map(bytes), ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1 GiB"]);
    }
}
