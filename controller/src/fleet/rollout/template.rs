//! Templates: a document with `{{ … }}` where machines differ, in Jinja's words.
//!
//! What a template may say is less than what Jinja may: values, a few filters, `if` and `for`. Nothing can be given a name
//! and nothing multiplied, so that no template, however small, makes a text or a computation that has no bound: what one
//! tag makes is limited by its length, what all make by fuel and by [`TEXT_LIMIT`].
//! A value that a machine does not have is a mistake with its line, unless the template says what to take instead:
//! `{{ labels.mtu | default(1500) }}`.

use std::io;

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, filters};
use serde_json::Value;

use super::missing;
use crate::documents::TEXT_LIMIT;

/// Steps that one machine's rendering may take; a document of a hundred lines takes a few hundred.
const FUEL: u64 = 20_000;

/// Words and signs of one tag. The engine's reader follows them on its stack.
const TOKENS: usize = 200;

/// Blocks within blocks, with every `elif`.
const DEPTH: usize = 32;

/// What a template is called inside the engine.
const NAME: &str = "template";

/// What is wrong with a template, or with it for one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In the template, counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// A template that can be rendered.
pub struct Template<'t> {
    text: &'t str,
    engine: Environment<'t>,
}

impl<'t> Template<'t> {
    /// Reads a template.
    ///
    /// Errors: it is no template, or says more than a template here may.
    pub fn read(text: &'t str) -> Result<Self, Fault> {
        if text.len() > TEXT_LIMIT {
            return Err(Fault { line: 1, column: 1, problem: format!("is over the limit of {TEXT_LIMIT} bytes") });
        }
        check(text)?;
        let mut engine = Environment::empty();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        engine.set_auto_escape_callback(|_| AutoEscape::None);
        // Says where in the text an error is.
        engine.set_debug(true);
        engine.set_fuel(Some(FUEL));
        engine.set_syntax(syntax());
        engine.add_filter("default", filters::default);
        engine.add_filter("first", filters::first);
        engine.add_filter("last", filters::last);
        engine.add_filter("length", filters::length);
        engine.add_filter("lower", filters::lower);
        engine.add_filter("upper", filters::upper);
        engine.add_filter("replace", replace);
        engine.add_test("defined", minijinja::tests::is_defined);
        engine.add_template(NAME, text).map_err(|error| fault(text, &error))?;
        Ok(Self { text, engine })
    }

    /// What was read.
    pub fn text(&self) -> &'t str {
        self.text
    }

    /// The document for a machine with these values.
    pub fn render(&self, values: &Value) -> Result<String, Fault> {
        let mut out = Limited(Vec::new());
        let template = self.engine.get_template(NAME).map_err(|error| fault(self.text, &error))?;
        let rendered = template.render_captured_to(minijinja::value::Serde(values), &mut out).map(drop);
        if out.0.len() > TEXT_LIMIT {
            let problem = format!("gives a document of more than {TEXT_LIMIT} bytes");
            return Err(Fault { line: 1, column: 1, problem });
        }
        rendered.map_err(|error| match (error.kind(), place(self.text, &error)) {
            (ErrorKind::UndefinedError, Some(range)) => {
                let name = name(self.text, range.clone());
                at(self.text, range.start, format!("{name} is not known of it; {}", missing::remedy(name, values)))
            }
            _ => fault(self.text, &error),
        })?;
        Ok(String::from_utf8(out.0).expect("the engine writes texts"))
    }
}

/// Takes no more than a document may have.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (TEXT_LIMIT + 1).saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Jinja's, with a limit: each could make a text many times as long.
fn replace(text: String, from: String, to: String) -> Result<String, Error> {
    let grown = text.len().saturating_add(text.matches(&from).count().saturating_mul(to.len()));
    match grown > TEXT_LIMIT {
        true => Err(Error::new(ErrorKind::InvalidOperation, format!("makes more than {TEXT_LIMIT} bytes"))),
        false => Ok(text.replace(&from, &to)),
    }
}

/// Jinja's, where a line that holds a block alone leaves nothing behind.
fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("the delimiters are Jinja's own")
}

/// Refuses what could make much out of little, before the engine's reader sees it.
fn check(text: &str) -> Result<(), Fault> {
    let mut tag: Vec<Token> = Vec::new();
    let mut blocks: Vec<usize> = Vec::new();
    for token in tokenize(text, false, syntax()) {
        let (token, span) = token.map_err(|error| fault(text, &error))?;
        let refuse = |problem: String| Err(at(text, span.start_offset as usize, problem));
        match &token {
            Token::TemplateData(_) => continue,
            Token::VariableStart | Token::BlockStart => tag.clear(),
            Token::Mul | Token::Pow => return refuse("a template here does not multiply".into()),
            Token::BraceOpen | Token::BraceClose => return refuse("a template here makes no mappings".into()),
            Token::BlockEnd => {
                let within = |blocks: &[usize]| blocks.iter().sum::<usize>() < DEPTH;
                match statement(&tag) {
                    Statement::Opens if within(&blocks) => blocks.push(1),
                    Statement::Goes if within(&blocks) => blocks.iter_mut().last().into_iter().for_each(|n| *n += 1),
                    Statement::Opens | Statement::Goes => {
                        return refuse(format!("more than {DEPTH} blocks within each other"));
                    }
                    Statement::Closes => drop(blocks.pop()),
                    Statement::ForOverMade => {
                        return refuse("`for` goes over a value, as in {% for nic in nics %}".into());
                    }
                    Statement::Unknown(word) => {
                        let known = "{{ … }}, {% if %} and {% for %}";
                        return refuse(format!("`{word}` is not supported in templates here; they have {known}"));
                    }
                }
            }
            _ => {}
        }
        tag.push(token);
        if tag.len() > TOKENS {
            return refuse(format!("more than {TOKENS} words and signs in one tag"));
        }
    }
    Ok(())
}

enum Statement {
    Opens,
    /// `elif`: another block within the one before.
    Goes,
    Closes,
    ForOverMade,
    Unknown(String),
}

/// What a `{% … %}` does; its first token is the brace.
fn statement(tag: &[Token]) -> Statement {
    let word = match tag.get(1) {
        Some(Token::Ident(word)) => *word,
        _ => "",
    };
    match word {
        "if" => Statement::Opens,
        "for" if is_over_value(tag) => Statement::Opens,
        "for" => Statement::ForOverMade,
        "elif" => Statement::Goes,
        // One `else` is no block of its own; whether it is at its place, the engine's reader says.
        "else" => Statement::Goes,
        "endif" | "endfor" => Statement::Closes,
        other => Statement::Unknown(other.to_owned()),
    }
}

/// Whether a `for` goes over something that is there and not over something made in the tag: that could be twice what
/// it was made of, and so on in every block within.
fn is_over_value(tag: &[Token]) -> bool {
    let Some(place) = tag.iter().position(|token| matches!(token, Token::Ident("in"))) else { return false };
    let path = &tag[place + 1..];
    let legal = |token: &Token| {
        matches!(
            token,
            Token::Ident(_) | Token::Dot | Token::BracketOpen | Token::BracketClose | Token::Int(_) | Token::Str(_)
        )
    };
    let is_word = |token: &Token| matches!(token, Token::Ident(_));
    path.iter().all(legal) && path.first().is_some_and(is_word) && !path.windows(2).any(|two| two.iter().all(is_word))
}

/// The engine's error in our words.
fn fault(text: &str, error: &Error) -> Fault {
    let range = place(text, error);
    let problem = match error.kind() {
        ErrorKind::OutOfFuel => "does too much for one machine".to_owned(),
        ErrorKind::UnknownFilter => {
            let filter = range.clone().and_then(|range| text.get(range)).unwrap_or("this");
            let known = "default, first, last, length, lower, replace, upper";
            format!("there is no filter {filter:?} in templates here; there are {known}")
        }
        _ => error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
    };
    match range {
        Some(range) => at(text, range.start, problem),
        None => Fault { line: error.line().unwrap_or(1), column: 1, problem },
    }
}

/// Where in the template an error is.
fn place(text: &str, error: &Error) -> Option<std::ops::Range<usize>> {
    error.range().filter(|range| text.get(range.clone()).is_some())
}

/// What the template calls the value at this place, from its beginning: errors name the last part of a path alone.
fn name(text: &str, range: std::ops::Range<usize>) -> &str {
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '[' | ']' | '"' | '\'' | '/' | '-');
    let before = &text[..range.start];
    let start = before.trim_end_matches(is_path).len();
    text[start..range.end].trim()
}

fn at(text: &str, offset: usize, problem: String) -> Fault {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Fault { line, column, problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values() -> Value {
        json!({
            "machine": {"name": "web-1"},
            "labels": {"rack": "b2", "net/ip": "192.0.2.7", "empty": ""},
            "nics": [{"mac": "52:54:00:00:00:01"}, {"mac": "52:54:00:00:00:02"}],
        })
    }

    #[track_caller]
    fn gives(text: &str, expected: &str) {
        let rendered = Template::read(text).and_then(|template| template.render(&values()));
        assert_eq!(rendered.as_deref(), Ok(expected), "{text}");
    }

    #[track_caller]
    fn refused(text: &str) -> Fault {
        Template::read(text).and_then(|template| template.render(&values())).expect_err(text)
    }

    #[test]
    fn values_are_filled_in_and_everything_else_stays_as_it_is() {
        gives("# {a} 100%\nmac: \"{{ nics[1].mac }}\"\n", "# {a} 100%\nmac: \"52:54:00:00:00:02\"\n");
        gives("{{ labels.rack | upper }}-{{ labels[\"net/ip\"] | replace('.', '-') }}", "B2-192-0-2-7");
        gives("mtu: {{ labels.mtu | default(1500) }}", "mtu: 1500");
        gives("{{ nics | length }}{{ (nics | last).mac }}{{ 100 + 7 }}", "252:54:00:00:00:02107");
        gives("{{ '<&>' }}{% raw %}{{ x }}{% endraw %}{# nothing #}", "<&>{{ x }}");
        gives(
            "a:\n  {% for nic in nics %}\n  - {{ nic.mac }}\n  {% endfor %}\n",
            "a:\n  - 52:54:00:00:00:01\n  - 52:54:00:00:00:02\n",
        );
        gives("{% if labels.rack == 'b2' %}yes{% elif labels.x is defined %}?{% else %}no{% endif %}", "yes");
    }

    #[test]
    fn a_value_that_a_machine_does_not_have_is_named_with_its_line() {
        for (text, name, line, column) in [
            ("a\nb: {{ labels.ip }}", "labels.ip", 2, 7),
            ("{{ labels.ip.v4 }}", "labels.ip.v4", 1, 10),
            ("{{ nics[7].mac }}", "nics[7].mac", 1, 8),
            ("{{ labels['a-b'] }}", "labels['a-b']", 1, 4),
            ("\n\n{{ role }}", "role", 3, 4),
            ("{% if labels.x %}{% endif %}", "labels.x", 1, 7),
            ("{% for a in addresses %}{% endfor %}", "addresses", 1, 13),
        ] {
            let fault = refused(text);
            assert!(fault.problem.starts_with(&format!("{name} is not known of it; ")), "{fault:?}");
            assert_eq!(fault.line, line, "{fault:?}");
            assert!(fault.column.abs_diff(column) <= 4, "{fault:?}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_line() {
        for (text, part) in [
            ("a\n{{ labels.rack", "unexpected end"),
            ("\n{{ a b }}", "unexpected identifier"),
            ("\n{% if x %}", "unexpected end"),
            ("\n{{ labels.rack | shout }}", "no filter \"shout\""),
            ("\n{% include 'x' %}", "`include` is not supported"),
            ("\n{% set a = 1 %}", "`set` is not supported"),
        ] {
            let fault = refused(text);
            assert!(fault.problem.contains(part) && fault.line == 2, "{text:?}: {fault:?}");
        }
    }

    #[test]
    fn no_template_makes_much_out_of_little() {
        let doubled = "{% set a = a ~ a %}".repeat(64);
        let nested = format!("{}x{}", "{% if 1 %}".repeat(1000), "{% endif %}".repeat(1000));
        let otherwise = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(1000));
        let long = format!("{{{{ 1{} }}}}", "+1".repeat(100_000));
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
        let replaced = format!("{{{{ labels.rack{} }}}}", " | replace('b', 'bbbbbbbbbb')".repeat(30));
        let fours = "{% for a in nics %}".repeat(20) + "x" + &"{% endfor %}".repeat(20);
        let large = "{% for a in nics %}{% for b in nics %}".to_owned()
            + &"x".repeat(TEXT_LIMIT / 3)
            + "{% endfor %}{% endfor %}";
        for bomb in [
            &*doubled,
            "{% with a = 'x' ~ 'x' %}{{ a }}{% endwith %}",
            "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
            "{% for a in ['x' ~ 'x'] %}{{ a }}{% endfor %}",
            "{% for a in nics | first %}{{ a }}{% endfor %}",
            "{% for a in nics recursive %}{{ loop(nics) }}{% endfor %}",
            "{{ 'x' * 100000000 }}",
            "{{ [1] * 1000000000 }}",
            "{{ 10 ** 10 }}",
            "{{ range(1000000000) }}",
            "{{ {'a': 1} }}",
            &nested,
            &otherwise,
            &long,
            &deep,
            &replaced,
            &fours,
            &large,
            &"x".repeat(TEXT_LIMIT + 1),
        ] {
            refused(bomb);
        }
    }
}
