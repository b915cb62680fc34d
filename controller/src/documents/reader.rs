//! From a tree to typed values, with every complaint at its line.
//!
//! Used by the files that know a dialect. A mapping is opened with the [`Keys`] it may have, so an unknown key can not be
//! overlooked; a value is then asked for by key and type, and a wrong one leaves a problem behind and `None`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::DocumentProblem;
use super::words::{Form, truth};
use super::yaml::{Node, Place, Value};

/// Problems after this many are counted and not listed.
const PROBLEM_LIMIT: usize = 100;

/// Entries of one list or one mapping of names; the limits of the desired state itself are below.
const ENTRY_LIMIT: usize = 1024;

/// The keys of one kind of mapping.
pub(super) struct Keys {
    /// Read by Muster.
    pub(super) supported: &'static [&'static str],
    /// Legal in the dialect, and refused by name because Muster cannot do it yet.
    pub(super) known: &'static [&'static str],
}

/// An opened mapping: only supported keys, none of them twice.
pub(super) struct Fields<'n> {
    /// The path of keys that leads here.
    pub(super) at: String,
    pub(super) place: Place,
    entries: Vec<(&'n str, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The value of `key`, if it is given.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        let (_, node) = self.entries.iter().find(|(name, _)| *name == key)?;
        Some(*node)
    }

    /// Whether there is no key at all.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The path of `key`.
    pub(super) fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }
}

/// What was found wrong so far, and where each field stands.
#[derive(Default)]
pub(super) struct Findings {
    problems: Vec<(Place, DocumentProblem)>,
    places: BTreeMap<String, Place>,
    /// By paths that the check knows: the paths of the text, where they are others.
    written: BTreeMap<String, String>,
    /// Keys that are given twice: what is told of one may be meant of the other.
    twice: BTreeSet<String>,
    /// Problems over the limit.
    unlisted: usize,
}

impl Findings {
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn add(&mut self, place: Place, field: impl Into<String>, problem: impl Into<String>) {
        if self.problems.len() == PROBLEM_LIMIT {
            self.unlisted += 1;
            return;
        }
        self.problems.push((place, DocumentProblem::new(place, &field.into(), &problem.into())));
    }

    /// Remembers where `field` stands, for problems that are found after reading.
    pub(super) fn note(&mut self, field: impl Into<String>, place: Place) {
        self.places.entry(field.into()).or_insert(place);
    }

    /// Remembers that `field`, and what is in it, stands in the text under another path.
    pub(super) fn note_as(&mut self, field: impl Into<String>, written: impl Into<String>) {
        self.written.insert(field.into(), written.into());
    }

    /// A problem with a field by its path: the place of that field or of the nearest one around it.
    pub(super) fn add_at_field(&mut self, field: &str, problem: String) {
        let spot = outwards(field).find_map(|path| self.spot(path, field));
        let (place, field) = spot.unwrap_or((Place { line: 1, column: 1 }, field));
        let field = field.to_owned();
        self.add(place, field, problem);
    }

    /// Where `field` stands, where it is known for sure: not what it would be in, and not where keys around it are given
    /// twice.
    pub(super) fn place(&self, field: &str) -> Option<Place> {
        let (place, written) = match outwards(field).find_map(|path| Some((path, self.written.get(path)?))) {
            Some((path, _)) => self.spot(path, field)?,
            None => self.spot(field, field)?,
        };
        let is_clear = outwards(written).all(|path| !self.twice.contains(path));
        is_clear.then_some(place)
    }

    /// The place of `path`, which is `field` or around it, and how `field` is written in the text.
    fn spot<'f>(&'f self, path: &str, field: &'f str) -> Option<(Place, &'f str)> {
        match self.written.get(path) {
            Some(written) => Some((*self.places.get(written)?, written)),
            None => Some((*self.places.get(path)?, field)),
        }
    }

    /// `last` runs only where nothing is wrong so far, and may find more.
    pub(super) fn finish<T>(mut self, last: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, Vec<DocumentProblem>> {
        if self.is_clean()
            && let Some(value) = last(&mut self)
        {
            return Ok(value);
        }
        self.problems.sort_by_key(|(place, _)| *place);
        let mut problems: Vec<_> = self.problems.into_iter().map(|(_, problem)| problem).collect();
        if self.unlisted > 0
            && let Some(last) = problems.last_mut()
        {
            last.problem.push_str(&format!(" (and {} more problems, not listed)", self.unlisted));
        }
        Err(problems)
    }

    /// Opens a mapping that may have these keys.
    pub(super) fn fields<'n>(&mut self, node: &'n Node, at: &str, keys: &Keys) -> Option<Fields<'n>> {
        let (fields, places) = self.entries(node, at)?;
        for ((key, _), place) in fields.entries.iter().zip(places) {
            if keys.supported.contains(key) {
                continue;
            }
            // Looking for what was meant costs more than counting.
            let refusal = if self.problems.len() < PROBLEM_LIMIT { refusal(key, keys) } else { String::new() };
            self.add(place, fields.path(key), refusal);
        }
        Some(fields)
    }

    /// Opens a mapping whose keys are names, such as `ethernets`.
    pub(super) fn named<'n>(&mut self, node: &'n Node, at: &str) -> Vec<(&'n str, Place, &'n Node)> {
        let Some((fields, places)) = self.entries(node, at) else { return Vec::new() };
        if self.is_too_long(node, at, fields.entries.len()) {
            return Vec::new();
        }
        let named: Vec<_> =
            fields.entries.into_iter().zip(places).map(|((key, node), place)| (key, place, node)).collect();
        for (key, place, _) in named.iter().filter(|(key, ..)| key.contains(char::is_control)) {
            self.add(*place, format!("{at}.{key}"), "a name has no control characters; leave them out");
        }
        named
    }

    /// A mapping's entries, and the places of their keys in the same order.
    fn entries<'n>(&mut self, node: &'n Node, at: &str) -> Option<(Fields<'n>, Vec<Place>)> {
        self.note(at, node.place);
        let Value::Map(map) = &node.value else {
            self.wrong(node, at, "a mapping of keys and values");
            return None;
        };
        let mut fields = Fields { at: at.to_owned(), place: node.place, entries: Vec::new() };
        let mut places = Vec::new();
        let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
        for (key, value) in map {
            let field = fields.path(&key.text);
            if let Some(first) = seen.insert(&key.text, key.place) {
                self.add(key.place, field.as_str(), format!("given twice, first in line {}", first.line));
                self.twice.insert(field);
                continue;
            }
            self.note(field, key.place);
            places.push(key.place);
            fields.entries.push((&key.text, value));
        }
        Some((fields, places))
    }

    /// A list's items with their paths, `routes[0]`; one problem where it is none. Absent is empty.
    pub(super) fn items<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Vec<(String, &'n Node)> {
        let Some(node) = fields.get(key) else { return Vec::new() };
        let path = fields.path(key);
        match &node.value {
            Value::List(list) if self.is_too_long(node, &path, list.len()) => Vec::new(),
            Value::List(list) => {
                let items: Vec<_> = list.iter().enumerate().map(|(i, item)| (format!("{path}[{i}]"), item)).collect();
                for (path, item) in &items {
                    self.note(path.as_str(), item.place);
                }
                items
            }
            _ => {
                self.wrong(node, &path, "a list");
                Vec::new()
            }
        }
    }

    fn is_too_long(&mut self, node: &Node, path: &str, count: usize) -> bool {
        let too_long = count > ENTRY_LIMIT;
        if too_long {
            self.add(node.place, path, format!("{count} entries are over the limit of {ENTRY_LIMIT}"));
        }
        too_long
    }

    /// A text, not empty.
    pub(super) fn text<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<&'n str> {
        let node = fields.get(key)?;
        self.item_text(node, &fields.path(key), "a text")
    }

    /// A text that reads as `T`; `expected` says what would be right.
    pub(super) fn parsed<T: FromStr>(&mut self, fields: &Fields<'_>, key: &str, expected: &str) -> Option<T> {
        let node = fields.get(key)?;
        self.item_parsed(node, &fields.path(key), expected)
    }

    /// Digits, as netplan and Butane both read them: decimal, with or without quotes.
    pub(super) fn number<T: FromStr>(&mut self, fields: &Fields<'_>, key: &str, expected: &str) -> Option<T> {
        let node = fields.get(key)?;
        let path = fields.path(key);
        let text = self.item_text(node, &path, expected)?;
        match text.parse() {
            // `FromStr` also reads `+5`.
            Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => Some(number),
            _ => {
                self.wrong(node, &path, expected);
                None
            }
        }
    }

    /// A truth value in any of YAML 1.1's words, which both dialects read.
    pub(super) fn boolean(&mut self, fields: &Fields<'_>, key: &str) -> Option<bool> {
        let node = fields.get(key)?;
        let path = fields.path(key);
        let text = self.item_text(node, &path, "true or false")?;
        let value = truth(text);
        if value.is_none() {
            self.wrong(node, &path, "true or false");
        }
        value
    }

    /// A number in the form in which its dialect writes it.
    pub(super) fn formed(&mut self, fields: &Fields<'_>, key: &str, form: Form) -> Option<u32> {
        let node = fields.get(key)?;
        self.item_formed(node, &fields.path(key), form)
    }

    /// Refuses any value of `key` but those that say what happens anyway.
    pub(super) fn only(&mut self, fields: &Fields<'_>, key: &str, allowed: &[&str]) {
        let Some(node) = fields.get(key) else { return };
        let fine = match &node.value {
            Value::Text(text) => allowed.contains(&text.as_str()),
            // None of them is another thing than all of them.
            Value::List(list) if !list.is_empty() => {
                list.iter().all(|item| matches!(&item.value, Value::Text(text) if allowed.contains(&text.as_str())))
            }
            Value::List(_) | Value::Nothing | Value::Map(_) => false,
        };
        if !fine {
            let problem = format!("not supported yet; supported here: {}", allowed.join(", "));
            self.add(node.place, fields.path(key), problem);
        }
    }

    /// One problem where `key` is absent.
    pub(super) fn require(&mut self, fields: &Fields<'_>, key: &str, expected: &str) {
        if fields.get(key).is_none() {
            self.add(fields.place, fields.path(key), format!("missing; give {expected}"));
        }
    }

    pub(super) fn item_text<'n>(&mut self, node: &'n Node, path: &str, expected: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) if text.contains(char::is_control) => {
                let problem = format!("{:?} has control characters; it must be {expected}", short(text));
                self.add(node.place, path, problem);
                None
            }
            Value::Text(text) => Some(text),
            _ => {
                self.wrong(node, path, expected);
                None
            }
        }
    }

    pub(super) fn item_parsed<T: FromStr>(&mut self, node: &Node, path: &str, expected: &str) -> Option<T> {
        let text = self.item_text(node, path, expected)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.wrong(node, path, expected);
        }
        value
    }

    pub(super) fn item_formed(&mut self, node: &Node, path: &str, form: Form) -> Option<u32> {
        let expected = form.expected();
        let text = self.item_text(node, path, &expected)?;
        let value = form.read(text);
        if value.is_none() {
            self.wrong(node, path, &expected);
        }
        value
    }

    /// "Expected this, found that."
    pub(super) fn wrong(&mut self, node: &Node, path: &str, expected: &str) {
        let found = match &node.value {
            Value::Text(text) => format!("{:?}", short(text)),
            other => other.kind().to_owned(),
        };
        self.add(node.place, path, format!("must be {expected}, and is {found}"));
    }
}

/// The beginning of a value, to know it by.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A path, and those around it: `a.b[0].c`, `a.b[0]`, `a.b`, `a`.
fn outwards(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rfind(['.', '[']).map(|end| &path[..end]))
}

/// Why a key is refused, and which ones would be taken.
fn refusal(key: &str, keys: &Keys) -> String {
    let mut supported: Vec<_> = keys.supported.to_vec();
    supported.sort_unstable();
    let supported = supported.join(", ");
    if keys.known.contains(&key) {
        return format!("{key} is not supported yet; supported here: {supported}");
    }
    let all = keys.supported.iter().chain(keys.known).copied();
    match nearest(key, all) {
        Some(near) => format!("{key} is not a known key; did you mean {near}?"),
        None => format!("{key} is not a known key; supported here: {supported}"),
    }
}

/// The candidate that a typo most likely meant.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let word: String = plain(word).chars().take(64).collect();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance * 2 < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}
