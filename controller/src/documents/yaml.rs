//! YAML (and JSON, which is YAML) into a small tree in which every node knows its line.
//!
//! Called by [`super::parse`]. Knows nothing of networks or disks, and guesses no types: `1500` and `yes` stay texts until
//! someone asks for a number or a truth value, so netplan's and Butane's own readings of them both fit.
//! Size, depth and number of nodes are limited, aliases included, before they cost anything.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::{DocumentProblem, TEXT_LIMIT};

/// Collections within collections.
const DEPTH_LIMIT: usize = 32;
/// Nodes after aliases are replaced by what they stand for.
const NODE_LIMIT: usize = 50_000;

/// Where a node begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Counted from 1.
    pub(super) line: usize,
    /// In characters, counted from 1.
    pub(super) column: usize,
}

/// One value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A plain `~`, `null` or nothing at all.
    Nothing,
    /// Anything written in one piece, quoted or not.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text. Keys are texts; a key may come twice.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and its place.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "empty",
            Self::Text(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads exactly one document.
///
/// Errors: one problem, at the first thing that is not YAML, or over a limit.
pub(super) fn read(text: &str) -> Result<Node, Vec<DocumentProblem>> {
    if text.len() > TEXT_LIMIT {
        let problem = format!("{} bytes are over the limit of {TEXT_LIMIT}", text.len());
        return Err(vec![problem_at(Place { line: 1, column: 1 }, problem)]);
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        let step = match event {
            Ok((event, span)) => builder.take(event, place(&span.start)),
            Err(error) => Err(problem_at(place(error.marker()), format!("not YAML: {}", error.info()))),
        };
        step.map_err(|problem| vec![problem])?;
    }
    builder.root.ok_or_else(|| vec![problem_at(Place { line: 1, column: 1 }, "the text is empty")])
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn problem_at(place: Place, problem: impl Into<String>) -> DocumentProblem {
    DocumentProblem::new(place, "", &problem.into())
}

/// Builds the tree from the parser's events with a stack of its own, so that depth costs no call stack.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

/// A collection whose end has not come yet.
struct Open {
    anchor: usize,
    pending: Option<Key>,
    node: Node,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), DocumentProblem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if nothing { Value::Nothing } else { Value::Text(text.into_owned()) };
                self.put(Node { place, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                self.begin(Value::List(Vec::new()), anchor, place)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.is_some(), place)?;
                self.begin(Value::Map(Vec::new()), anchor, place)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(done) => self.put(done.node, done.anchor),
                None => Err(problem_at(place, "not YAML: a collection ends that never began")),
            },
            Event::Alias(anchor) => {
                let Some(meant) = self.anchors.get(&anchor) else {
                    return Err(problem_at(place, "this alias stands inside the very thing it names"));
                };
                // Counted before it is copied: aliases of aliases grow exponentially.
                self.nodes += count(&meant.value);
                self.check_nodes(place)?;
                let copy = Node { place, value: meant.value.clone() };
                self.put(copy, 0)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(problem_at(place, "a second document begins here; give one file one document"))
            }
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, place: Place) -> Result<(), DocumentProblem> {
        if self.open.len() == DEPTH_LIMIT {
            return Err(problem_at(place, format!("nested deeper than {DEPTH_LIMIT}")));
        }
        self.open.push(Open { anchor, pending: None, node: Node { place, value } });
        Ok(())
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), DocumentProblem> {
        self.nodes += 1;
        self.check_nodes(node.place)?;
        if anchor != 0 {
            self.nodes += count(&node.value);
            self.check_nodes(node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { node: Node { value: Value::List(list), .. }, .. }) => list.push(node),
            Some(Open { node: Node { value: Value::Map(map), .. }, pending, .. }) => match pending.take() {
                Some(key) => map.push((key, node)),
                None => *pending = Some(into_key(node)?),
            },
            Some(Open { node: Node { value: Value::Nothing | Value::Text(_), .. }, .. }) => {}
        }
        Ok(())
    }

    fn check_nodes(&self, place: Place) -> Result<(), DocumentProblem> {
        if self.nodes > NODE_LIMIT {
            return Err(problem_at(place, format!("more than {NODE_LIMIT} values, aliases included")));
        }
        Ok(())
    }
}

fn into_key(node: Node) -> Result<Key, DocumentProblem> {
    match node.value {
        Value::Text(text) => Ok(Key { place: node.place, text }),
        other => Err(problem_at(node.place, format!("a key must be a text; this one is {}", other.kind()))),
    }
}

fn refuse_tag(present: bool, place: Place) -> Result<(), DocumentProblem> {
    if present { Err(problem_at(place, "YAML tags (!…) are not supported; leave it out")) } else { Ok(()) }
}

/// Nodes in a tree. Depth is limited, so recursion is.
fn count(value: &Value) -> usize {
    match value {
        Value::Nothing | Value::Text(_) => 1,
        Value::List(list) => 1 + list.iter().map(|node| count(&node.value)).sum::<usize>(),
        Value::Map(map) => 1 + map.iter().map(|(_, node)| 1 + count(&node.value)).sum::<usize>(),
    }
}
