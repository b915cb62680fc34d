//! What a command takes from the person who gives it: a document, a yes.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;

use super::error::CliError;
use crate::documents::TEXT_LIMIT;

/// Reads a document; `-` is standard input.
pub fn document(path: &Path) -> Result<String, CliError> {
    let failed = |cause| CliError::File { verb: "read", path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    // One byte more than is allowed tells that there is more.
    let limit = TEXT_LIMIT as u64 + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > TEXT_LIMIT {
        return Err(CliError::Failed(format!("{} is over the limit of {TEXT_LIMIT} bytes", path.display())));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        CliError::Failed(format!("{} is not UTF-8, from byte {at} on", path.display()))
    })
}

/// Asks for a yes on a terminal; `None` where nobody can be asked.
pub fn is_meant(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    eprint!("{question} Type yes to go on: ");
    let mut line = String::new();
    Some(io::stdin().lock().read_line(&mut line).is_ok() && line.trim() == "yes")
}
