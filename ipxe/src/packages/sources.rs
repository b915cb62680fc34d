//! Where this host gets Debian's packages from, and the same place for another release.
//!
//! Reads both of apt's formats (sources.list(5)): one-line entries and deb822 stanzas.
//! Pure: text in, text out.

/// One entry of a source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    uris: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// `Signed-By` and `Trusted` as they were written, continuation lines included.
    trust: Vec<(String, String)>,
}

/// Reads a `.sources` file; stanzas that are disabled or not for binary packages are left out.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut stanzas: Vec<Vec<(String, String)>> = vec![vec![]];
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some(stanza) = stanzas.last_mut() else { continue };
        if line.trim().is_empty() {
            stanzas.push(vec![]);
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            stanza.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    stanzas.iter().filter_map(|stanza| from_stanza(stanza)).collect()
}

fn from_stanza(stanza: &[(String, String)]) -> Option<Source> {
    let field = |name: &str| stanza.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name: &str| field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let off = field("enabled").is_some_and(|v| ["no", "false", "off", "0"].contains(&v.to_ascii_lowercase().as_str()));
    if off || !words("types").iter().any(|t| t == "deb") {
        return None;
    }
    Some(Source {
        uris: words("uris").join(" "),
        suites: words("suites"),
        components: words("components"),
        trust: stanza.iter().filter(|(key, _)| key == "signed-by" || key == "trusted").cloned().collect(),
    })
}

/// Reads a `.list` file.
pub fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(from_line).collect()
}

fn from_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    let trust = options.split_whitespace().filter_map(|o| o.split_once('='));
    let trust = trust.filter(|(key, _)| *key == "signed-by" || *key == "trusted");
    let trust = trust.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some(Source { uris: uri, suites: vec![suite], components: words.collect(), trust })
}

/// Debian's own sources among `sources`, for `release` where the host has `host`; both are codenames like `bookworm`.
/// The answer is a `.sources` file, empty where the host has no source for Debian.
///
/// For the host's own release its updates and security fixes belong to it.
/// For another one the released packages are enough, and their place is the only one that can be told from here.
pub fn for_release(sources: &[Source], host: &str, release: &str) -> String {
    let wanted = |suite: &str| match suite.strip_prefix(host) {
        Some("") => Some(release.to_owned()),
        Some("-updates" | "-security") if host == release => Some(suite.to_owned()),
        _ => None,
    };
    let mut stanzas = vec![];
    for source in sources.iter().filter(|s| s.components.iter().any(|c| c == "main")) {
        let suites: Vec<_> = source.suites.iter().filter_map(|s| wanted(s)).collect();
        if suites.is_empty() {
            continue;
        }
        let mut stanza = format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n", source.uris, suites.join(" "));
        for (key, value) in &source.trust {
            stanza.push_str(&format!("{key}: {value}\n"));
        }
        stanzas.push(stanza);
    }
    stanzas.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "# made by an installer
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
";

    #[test]
    fn the_hosts_own_release_keeps_its_updates_and_fixes() {
        let text = for_release(&parse_deb822(DEB822), "bookworm", "bookworm");
        assert_eq!(
            text,
            "Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
signed-by: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
signed-by: \n -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
 -----END PGP PUBLIC KEY BLOCK-----
"
        );
    }

    #[test]
    fn another_release_comes_from_the_same_place() {
        let text = for_release(&parse_deb822(DEB822), "bookworm", "trixie");
        assert_eq!(
            text,
            "Types: deb
URIs: http://mirror.example/debian
Suites: trixie
Components: main
signed-by: /usr/share/keyrings/debian.gpg
"
        );
    }

    #[test]
    fn one_line_entries_mean_the_same() {
        let list = "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # here
deb-src http://mirror.example/debian bookworm main
# deb http://off.example/debian bookworm main
deb http://tools.example/linux bookworm stable
deb http://tools.example/apt tools-bookworm main
broken [ line
";
        let text = for_release(&parse_list(list), "bookworm", "trixie");
        assert_eq!(
            text,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\nsigned-by: /k.gpg\n"
        );
    }

    #[test]
    fn a_host_without_debians_sources_has_none() {
        assert_eq!(for_release(&parse_deb822("nonsense\n\n: x\n y"), "bookworm", "trixie"), "");
        assert_eq!(for_release(&parse_deb822(DEB822), "noble", "noble"), "");
    }
}
