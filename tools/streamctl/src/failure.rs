//! How a command fails: with a sentence that says what happened and what to do, and an exit code.

use std::{fmt, io};

use streamd_model::ErrorCode;

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a command ends early.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for what cannot be: exit code 2.
    Usage(String),
    /// It failed: exit code 1.
    Failed(String),
    /// The connection to a broker broke, or could not be made: exit code 1, unless the caller
    /// tries again.
    Lost(String),
    /// Nobody reads standard output any more (`| head`): the end, and no failure.
    Closed,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure::Failed(text.into())
    }

    /// A broker answered `what` with an error code, and maybe with words of its own.
    pub fn code(what: &str, code: i16, words: Option<&str>) -> Failure {
        Failure::Failed(describe(what, code, words))
    }

    /// Standard output could not be written.
    pub fn stdout(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::Closed
        } else {
            Failure::Failed(format!("cannot write to standard output: {error}"))
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Failed(_) | Failure::Lost(_) => 1,
            Failure::Closed => 0,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Failed(text) | Failure::Lost(text) => f.write_str(text),
            Failure::Closed => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// The sentence for a broker's error code, with what to do about it where that is known.
pub fn describe(what: &str, code: i16, words: Option<&str>) -> String {
    let known = ErrorCode::from_code(code);
    let name = known.map_or_else(|| "an error unknown here".to_owned(), |c| format!("{c:?}"));
    let words = words
        .filter(|w| !w.is_empty())
        .or(known.map(ErrorCode::message));
    let words = words
        .unwrap_or("no reason given")
        .trim()
        .trim_end_matches('.');
    let mut text = format!("{what}: {words} ({name}, code {code}).");
    if let Some(hint) = known.and_then(hint) {
        text.push(' ');
        text.push_str(hint);
    }
    text
}

fn hint(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopicOrPartition => "`streamctl topic list` shows the topics there are.",
        ErrorCode::TopicAlreadyExists => "`streamctl topic describe` shows it.",
        ErrorCode::MessageTooLarge => {
            "Raise it with `streamctl config set topic NAME max.message.bytes=BYTES`."
        }
        ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend => {
            "`streamctl topic describe` shows which replicas are in sync."
        }
        ErrorCode::GroupIdNotFound => "`streamctl group list` shows the groups there are.",
        ErrorCode::NonEmptyGroup => {
            "Stop its members first; `streamctl group describe` shows them."
        }
        ErrorCode::InvalidReplicationFactor => "`streamctl cluster` shows the brokers there are.",
        _ => return None,
    })
}

/// Whether trying again, maybe after a look at the metadata, may help.
pub fn is_passing(code: i16) -> bool {
    use ErrorCode as E;
    matches!(
        ErrorCode::from_code(code),
        Some(
            E::LeaderNotAvailable
                | E::NotLeaderOrFollower
                | E::RequestTimedOut
                | E::NotEnoughReplicas
                | E::NotEnoughReplicasAfterAppend
                | E::UnknownTopicOrPartition
                | E::FencedLeaderEpoch
                | E::UnknownLeaderEpoch
                | E::OffsetNotAvailable
                | E::KafkaStorageError
                | E::CoordinatorNotAvailable
                | E::CoordinatorLoadInProgress
                | E::NotCoordinator
                | E::NetworkException
                | E::ConcurrentTransactions
                | E::ThrottlingQuotaExceeded
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_becomes_a_sentence_with_a_hint() {
        let text = describe("topic `x`", 3, None);
        assert!(
            text.starts_with("topic `x`: This server does not host"),
            "{text}"
        );
        assert!(text.contains("UnknownTopicOrPartition, code 3"), "{text}");
        assert!(
            text.ends_with("`streamctl topic list` shows the topics there are."),
            "{text}"
        );
        assert_eq!(
            describe("it", 999, None),
            "it: no reason given (an error unknown here, code 999)."
        );
        assert!(describe("it", 36, Some("taken")).starts_with("it: taken (TopicAlready"));
    }

    #[test]
    fn exit_codes_follow_the_contract() {
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::failed("").exit_code(), 1);
        assert_eq!(
            Failure::stdout(io::ErrorKind::BrokenPipe.into()).exit_code(),
            0
        );
        assert_eq!(
            Failure::stdout(io::ErrorKind::StorageFull.into()).exit_code(),
            1
        );
    }
}
