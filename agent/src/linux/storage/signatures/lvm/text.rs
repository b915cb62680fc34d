//! The text in which LVM2 keeps its metadata: sections of `key = value` and `name { … }` (LVM2, lib/config/config.c).
//!
//! Called by `group`; pure. It is bounded in depth and in size, and what does not fit the grammar is no text at all:
//! its checksum has held, so LVM would not have it either. It gives no meaning to anything.

use std::borrow::Cow;

/// A group has sections in sections of sections; LVM2 itself needs five.
const DEPTH: usize = 8;
/// Keys and values together: a thousand volumes with ten segments each have less.
const NODES: usize = 1 << 16;

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    /// `name { … }`
    Section(Section<'a>),
    /// `"text"`
    Text(Cow<'a, str>),
    /// `12`; fractions are read and come as 0, since nothing here has any.
    Number(u64),
    /// `[ … ]`
    List(Vec<Value<'a>>),
}

/// Keys in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Section<'a>(pub(super) Vec<(&'a str, Value<'a>)>);

impl<'a> Section<'a> {
    /// Reads a whole text.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parser = Parser { rest: text, nodes: 0 };
        let section = parser.section(0)?;
        parser.blanks();
        parser.rest.is_empty().then_some(section)
    }

    fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub(super) fn section(&self, key: &str) -> Option<&Self> {
        match self.get(key)? {
            Value::Section(section) => Some(section),
            Value::Text(_) | Value::Number(_) | Value::List(_) => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            Value::Section(_) | Value::Number(_) | Value::List(_) => None,
        }
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Number(number) => Some(*number),
            Value::Section(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    /// A list; nothing where there is none.
    pub(super) fn list(&self, key: &str) -> &[Value<'a>] {
        match self.get(key) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// The sections in it.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'a str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((*name, section)),
            Value::Text(_) | Value::Number(_) | Value::List(_) => None,
        })
    }
}

impl Value<'_> {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Section(_) | Value::Number(_) | Value::List(_) => None,
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    nodes: usize,
}

impl<'a> Parser<'a> {
    /// Keys up to the end or a `}`, which it leaves.
    fn section(&mut self, depth: usize) -> Option<Section<'a>> {
        let mut section = Section::default();
        loop {
            self.blanks();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Some(section);
            }
            self.count()?;
            let name = self.name()?;
            self.blanks();
            let value = if self.eats('{') {
                let inner = if depth < DEPTH { self.section(depth + 1)? } else { return None };
                self.eats('}').then_some(Value::Section(inner))?
            } else {
                self.eats('=').then_some(())?;
                self.value()?
            };
            section.0.push((name, value));
        }
    }

    fn value(&mut self) -> Option<Value<'a>> {
        self.blanks();
        if !self.eats('[') {
            return self.single();
        }
        let mut list = Vec::new();
        loop {
            self.blanks();
            if self.eats(']') {
                return Some(Value::List(list));
            }
            self.count()?;
            list.push(self.single()?);
            self.blanks();
            if !self.eats(',') && !self.rest.starts_with(']') {
                return None;
            }
        }
    }

    fn single(&mut self) -> Option<Value<'a>> {
        if let Some(text) = self.rest.strip_prefix('"') {
            return self.quoted(text);
        }
        let end = self.rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+')));
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if number.is_empty() {
            return None;
        }
        self.rest = rest;
        // What is no whole number, or too large for one, counts for nothing that is read here.
        Some(Value::Number(number.parse().unwrap_or(0)))
    }

    fn quoted(&mut self, text: &'a str) -> Option<Value<'a>> {
        let mut is_escaped = false;
        let end = text.bytes().position(|byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        })?;
        self.rest = &text[end + 1..];
        let text = &text[..end];
        if !text.contains('\\') {
            return Some(Value::Text(text.into()));
        }
        let mut plain = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            plain.extend(if char == '\\' { chars.next() } else { Some(char) });
        }
        Some(Value::Text(plain.into()))
    }

    fn name(&mut self) -> Option<&'a str> {
        if let Some(text) = self.rest.strip_prefix('"') {
            let (name, rest) = text.split_once('"')?;
            self.rest = rest;
            return Some(name);
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | '=' | '#' | '"' | '[' | ']'));
        let (name, rest) = self.rest.split_at(end?);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    /// Blanks, and comments up to the end of their line.
    fn blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn eats(&mut self, char: char) -> bool {
        let rest = self.rest.strip_prefix(char);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn count(&mut self) -> Option<()> {
        self.nodes += 1;
        (self.nodes <= NODES).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_texts_numbers_and_lists_are_read() {
        let text = "# a comment\nvg {\n\tid = \"a\\\"b\\\\\" # another\n\tn = 12\n\tf=-1.5\n\tl = [\"x\", 2 , ]\n\te=[]\n}\nversion=1";
        let all = Section::parse(text).expect("a text");
        let vg = all.section("vg").expect("a section");
        assert_eq!((vg.text("id"), vg.number("n"), vg.number("f")), (Some("a\"b\\"), Some(12), Some(0)));
        assert_eq!(vg.list("l"), [Value::Text("x".into()), Value::Number(2)]);
        assert_eq!((vg.list("e").len(), vg.list("id").len(), vg.text("n")), (0, 0, None));
        assert_eq!((all.number("version"), all.sections().count()), (Some(1), 1));
    }

    #[test]
    fn what_is_no_text_is_nothing() {
        for wrong in [
            "a",
            "a {",
            "}",
            "a = ",
            "a = }",
            "a = [1",
            "a = [1 2]",
            "a = \"x",
            "= 1",
            "a = b",
            "a { b = 1 } }",
            "{ }",
            "a = \"\\\"",
        ] {
            assert_eq!(Section::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Section::parse(" \n# nothing"), Some(Section::default()));
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_nothing() {
        let deep = |n: usize| format!("{}{}", "a {".repeat(n), "}".repeat(n));
        assert!(Section::parse(&deep(DEPTH)).is_some());
        assert_eq!(Section::parse(&deep(DEPTH + 1)), None);
        assert_eq!(Section::parse(&deep(100_000)), None);
        assert_eq!(Section::parse(&"a=1 ".repeat(NODES + 1)), None);
        assert_eq!(Section::parse(&format!("a=[{}]", "1,".repeat(NODES))), None);
    }
}
