//! What can be wrong with bytes that came in, and with a message that is to go out.
//!
//! Both are small and own nothing, so that refusing hostile input costs no allocation.

use std::fmt;

use super::generated::ApiKey;

/// Why bytes could not be decoded. `at` counts bytes from the start of what was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end inside a field.
    Short {
        /// Where the field begins.
        at: usize,
        /// How many bytes the field needs.
        need: usize,
        /// How many there are.
        have: usize,
    },
    /// A length or count is negative or larger than the bytes that remain.
    Length {
        /// Where the length stands.
        at: usize,
        /// The length or count as read.
        length: i64,
        /// How many bytes remain behind it.
        have: usize,
    },
    /// Null where this version allows none.
    Null {
        /// Where the null stands.
        at: usize,
    },
    /// A string is not UTF-8.
    Utf8 {
        /// Where the string begins.
        at: usize,
    },
    /// A variable-length integer does not end within five bytes or 32 bits.
    Varint {
        /// Where the integer begins.
        at: usize,
    },
    /// A tagged field that is known is shorter than the size in front of it.
    Tag {
        /// The tag.
        tag: u32,
        /// How many bytes are left over.
        left: usize,
    },
    /// The codec does not know this version of the message.
    Version {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The oldest and the newest version that the codec knows.
        known: (i16, i16),
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DecodeError::Short { at, need, have } => {
                write!(
                    f,
                    "byte {at}: the field needs {need} bytes, {have} are left"
                )
            }
            DecodeError::Length { at, length, have } => {
                write!(f, "byte {at}: length {length}, but {have} bytes are left")
            }
            DecodeError::Null { at } => write!(f, "byte {at}: null where a value is required"),
            DecodeError::Utf8 { at } => write!(f, "byte {at}: the string is not UTF-8"),
            DecodeError::Varint { at } => write!(f, "byte {at}: a varint longer than 32 bits"),
            DecodeError::Tag { tag, left } => {
                write!(f, "tagged field {tag}: {left} bytes too many for its type")
            }
            DecodeError::Version {
                message,
                version,
                known: (min, max),
            } => {
                write!(
                    f,
                    "{message} version {version}: versions {min} to {max} are known"
                )
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why a message could not be encoded: a mistake of the program that built it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A field is set that this version does not have and whose loss would change the meaning.
    Lacks {
        /// The field, as the schema names it.
        field: &'static str,
        /// The version of the message.
        version: i16,
    },
    /// A field is null that must not be null in this version.
    Null {
        /// The field, as the schema names it.
        field: &'static str,
        /// The version of the message.
        version: i16,
    },
    /// A string, array or frame is longer than its length field can say.
    TooLong {
        /// The length.
        length: usize,
    },
    /// The codec does not know this version of the message.
    Version {
        /// The API.
        api: ApiKey,
        /// The version asked for.
        version: i16,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            EncodeError::Lacks { field, version } => {
                write!(f, "{field} is set, but version {version} does not have it")
            }
            EncodeError::Null { field, version } => {
                write!(f, "{field} is null, which version {version} does not allow")
            }
            EncodeError::TooLong { length } => {
                write!(f, "{length} bytes or elements do not fit the length field")
            }
            EncodeError::Version { api, version } => {
                write!(f, "{} has no version {version}", api.name())
            }
        }
    }
}

impl std::error::Error for EncodeError {}
