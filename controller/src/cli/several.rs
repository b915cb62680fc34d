//! One command for several things: what fails does not keep the others from it, and is told.

use super::error::{CliError, text};

/// How far such a command is.
pub struct Several {
    asked: usize,
    failed: Vec<CliError>,
}

impl Several {
    /// So many things are asked for.
    pub fn new(asked: usize) -> Self {
        Self { asked, failed: Vec::new() }
    }

    /// Takes note of how it went with one of them; `None` where it failed, which is told at once.
    ///
    /// Errors: the controller cannot be asked, and so not for the others either.
    pub fn note<T>(&mut self, result: Result<T, CliError>) -> Result<Option<T>, CliError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ CliError::Connect(_)) => Err(error),
            Err(error) => {
                if self.asked > 1 {
                    eprintln!("{}", text(&error));
                }
                self.failed.push(error);
                Ok(None)
            }
        }
    }

    /// All were tried.
    ///
    /// Errors: that of the only one, or how many failed.
    pub fn end(mut self) -> Result<(), CliError> {
        match (self.failed.len(), self.asked) {
            (0, _) => Ok(()),
            (1, 1) => self.failed.pop().map_or(Ok(()), Err),
            (failed, asked) => Err(CliError::Failed(format!("{failed} of {asked} failed"))),
        }
    }
}
