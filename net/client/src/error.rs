//! What can go wrong, for a person and for a program.

use std::fmt;

use streamd_model::ErrorCode;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The connection could not be made, or broke, and time was over: what.
    Lost(String),
    /// The broker refused it: Kafka's code, and a sentence.
    Refused(i16, String),
    /// What came cannot be understood: what.
    Malformed(String),
}

/// With our error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The code, if the broker refused it with one that is known.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Refused(code, _) => ErrorCode::from_code(*code),
            _ => None,
        }
    }

    pub(crate) fn malformed(what: impl fmt::Display) -> Error {
        Error::Malformed(what.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Lost(what) => f.write_str(what),
            Error::Refused(code, text) => match ErrorCode::from_code(*code) {
                Some(known) => write!(f, "{text} ({known})"),
                None => write!(f, "{text} (code {code})"),
            },
            Error::Malformed(what) => write!(f, "the broker sent what is not understood: {what}"),
        }
    }
}

impl std::error::Error for Error {}
