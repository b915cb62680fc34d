//! Why a command failed, for the person who gave it.

use std::error::Error;
use std::path::PathBuf;

use crate::server::ServeError;
use crate::words::visible;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// An argument does not make sense.
    #[error("{0}")]
    Usage(String),
    /// The controller cannot be found or reached.
    #[error("{0}")]
    Connect(String),
    /// The controller refused.
    #[error("{detail}")]
    Refused {
        /// Stable code of the problem document.
        code: String,
        /// What is wrong and what would be right; one line for each thing that is wrong with a document.
        detail: String,
    },
    /// It was begun and came to a bad end.
    #[error("{0}")]
    Failed(String),
    /// Whoever gave the command has had enough of it; what it had begun is undone.
    #[error("{0}")]
    Interrupted(String),
    /// A file cannot be read or written.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The controller's configuration is wrong.
    #[error("the configuration cannot be used")]
    Config(#[from] crate::config::ConfigError),
    /// The controller does not run any more.
    #[error("the controller does not run")]
    Serve(#[from] ServeError),
}

impl CliError {
    /// 1 refused or failed, 2 wrong usage, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Interrupted(_) => super::interrupt::EXIT_CODE,
            // What was typed cannot be, and is found out by the controller.
            Self::Refused { code, .. } if matches!(code.as_str(), "invalid" | "malformed") => 2,
            Self::Connect(_)
            | Self::Refused { .. }
            | Self::Failed(_)
            | Self::File { .. }
            | Self::Config(_)
            | Self::Serve(_) => 1,
        }
    }
}

/// An error with its causes, in one line unless it has several of its own. Files and machines choose some of the words:
/// none of them moves the cursor.
pub fn text(error: &dyn Error) -> String {
    let mut text = format!("muster: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    visible(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_moves_no_cursor() {
        let error = CliError::Failed("no \u{1b}[2Jsuch\rNIC\nand no other".to_owned());
        assert_eq!(text(&error), "muster: no \\u001b[2Jsuch\\u000dNIC\nand no other");
    }
}
