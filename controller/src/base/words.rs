//! Words for people: numbers with their nouns, articles. Used where something is told.

/// `1 machine`, `2 machines`; for nouns that only need an s, and those in -s or -y.
pub fn counted(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) if noun.ends_with('s') => format!("{count} {noun}es"),
        (_, None) => format!("{count} {noun}s"),
    }
}

/// `a viewer`, `an operator`; for words that are spoken as they are written.
pub fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// A text that moves no cursor and fits a refusal: what is no visible character is written as its number, and of a long one
/// the middle is left out, since both ends may say what is wrong.
pub fn plain(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return visible(text);
    }
    let (start, end) = (most * 2 / 3, most / 3);
    let begin: String = text.chars().take(start).collect();
    let rest: String = text.chars().skip(count - end).collect();
    format!("{}…{}", visible(&begin), visible(&rest))
}

/// A text with a number in place of whatever a terminal would act on, but for the ends of its lines.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match acts(c) {
            // As JSON and YAML write it too.
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// Whether a terminal does something at this character, or turns around what follows.
fn acts(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\n')
}

/// Whether people do not see a character for what it is: what moves a cursor, turns the writing around, is invisible, or looks
/// like a blank and is none. In a text of one line.
pub fn hides(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    // Hangul's and Khmer's fillers count as letters.
    let is_filler = matches!(c, '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}');
    is_invisible || is_filler || c.is_control() || c.is_whitespace() && c != ' '
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many_and_vowels_take_an() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "machine")), ["0 machines", "1 machine", "2 machines"]);
        assert_eq!([1, 3].map(|n| counted(n, "address")), ["1 address", "3 addresses"]);
        assert_eq!([1, 3].map(|n| counted(n, "entry")), ["1 entry", "3 entries"]);
        assert_eq!(["viewer", "operator", "admin"].map(with_article), ["a viewer", "an operator", "an admin"]);
    }

    #[test]
    fn what_a_terminal_would_act_on_is_written_as_a_number() {
        assert_eq!(
            visible("a\u{1b}[2Jb\r\u{9b}K\u{202e}\u{7f}\tä\n"),
            "a\\u001b[2Jb\\u000d\\u009bK\\u202e\\u007f\\u0009ä\n"
        );
    }

    #[test]
    fn what_people_do_not_see_for_what_it_is_hides() {
        for c in ['a', ' ', 'ß', '東', '–', '’', '€', '\u{308}', '·'] {
            assert!(!hides(c), "{c:?}");
        }
        for c in ['\n', '\u{7f}', '\u{a0}', '\u{200b}', '\u{202e}', '\u{2066}', '\u{2028}', '\u{feff}', '\u{3164}'] {
            assert!(hides(c), "{c:?}");
        }
    }

    #[test]
    fn both_ends_of_a_long_text_are_kept() {
        assert_eq!(plain("short", 9), "short");
        assert_eq!(plain("123456789\u{7}", 9), "123456…89\\u0007");
        let long = format!("\"{}\" is no name", "x".repeat(100_000));
        let cut = plain(&long, 60);
        assert!(cut.starts_with("\"xxx") && cut.ends_with("\" is no name") && cut.chars().count() == 61, "{cut}");
    }
}
