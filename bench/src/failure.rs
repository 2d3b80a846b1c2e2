//! The one error of this program: a sentence for the person who runs it.

use std::fmt;
use std::io;

/// Why a measurement could not be made. Printed as it is; the program then exits with 1, or with
/// 2 if it was called wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    sentence: String,
    usage: bool,
}

/// What everything here returns.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure from a sentence.
    pub fn new(sentence: impl Into<String>) -> Failure {
        Failure {
            sentence: sentence.into(),
            usage: false,
        }
    }

    /// A failure of the one who called: an argument that cannot be.
    pub fn usage(sentence: impl Into<String>) -> Failure {
        Failure {
            sentence: sentence.into(),
            usage: true,
        }
    }

    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

/// Says what was being done when an error came.
pub trait Context<T> {
    /// Puts `what` and a colon in front of the error.
    ///
    /// # Errors
    /// The error itself, with the words in front.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{}: {error}", what())))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(error.to_string())
    }
}
