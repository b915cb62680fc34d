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
}
