//! `make build/netplan`: netplan's own examples and those in its reference, for the tests of documents.
//!
//! They are another project's work and so not in this repository: they come out of Debian's package, which is fetched as
//! the image's packages are. Tests run without a network, and so this is done before.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use muster_ipxe::packages::{Freshness, Node, Packages, default_cache};

const EXAMPLES: &str = "usr/share/doc/netplan/examples/";
const REFERENCE: &str = "usr/share/doc/netplan/netplan.html";

fn main() -> ExitCode {
    let [folder] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        eprintln!("muster-examples: give the folder to write to, and nothing else");
        return ExitCode::from(2);
    };
    match write(Path::new(folder)) {
        Ok(count) => {
            println!("{folder}: {count} of netplan's examples");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("muster-examples: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All of them or none: a folder that is there is complete.
fn write(folder: &Path) -> Result<usize> {
    let package = Packages::open(&default_cache(), Freshness::Cached)?
        .get_recent("netplan-generator", &mut |step| println!("{step}"))?;
    let mut examples: Vec<(String, String)> = Vec::new();
    package.visit(&mut |path, node| {
        let Node::File(bytes) = node else { return };
        let text = String::from_utf8_lossy(bytes);
        if let Some(name) = path.strip_prefix(EXAMPLES).filter(|name| name.ends_with(".yaml") && !name.contains('/')) {
            examples.push((name.to_owned(), text.into_owned()));
        } else if path == REFERENCE {
            let named = in_reference(&text).into_iter().enumerate();
            examples.extend(named.map(|(i, text)| (format!("reference-{:02}.yaml", i + 1), text)));
        }
    })?;
    ensure!(examples.len() > 50, "netplan-generator {} has only {} examples", package.version, examples.len());
    let fresh = folder.with_extension("fresh");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| fresh.display().to_string())?;
    for (name, text) in &examples {
        fs::write(fresh.join(name), text)?;
    }
    let _ = fs::remove_dir_all(folder);
    fs::rename(&fresh, folder)?;
    Ok(examples.len())
}

/// The documents that the reference shows; its marks for what is left out are left out.
fn in_reference(page: &str) -> Vec<String> {
    let blocks = page.split("<pre").skip(1).filter_map(|rest| rest.split_once('>')?.1.split_once("</pre>"));
    let texts = blocks.map(|(block, _)| plain(block)).filter(|text| text.starts_with("network:"));
    let whole = texts.map(|text| {
        let lines = text.lines().filter(|line| !["...", "[...]"].contains(&line.trim()));
        lines.map(|line| line.replace("{...}", "{}").replace("[...]", "[]") + "\n").collect()
    });
    whole.collect()
}

/// HTML without its elements and entities.
fn plain(html: &str) -> String {
    let mut out = String::new();
    for (i, part) in html.split('<').enumerate() {
        out.push_str(if i == 0 { part } else { part.split_once('>').map_or("", |(_, text)| text) });
    }
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    entities.into_iter().fold(out, |text, (entity, character)| text.replace(entity, character))
}
