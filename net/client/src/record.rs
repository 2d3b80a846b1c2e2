//! A record, as it is written and read.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use streamd_log::batch::{NewRecord, Writer, build};
use streamd_model::Offset;

/// A record. Of one that is to be written the offset is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Milliseconds since 1970; 0 of one that is to be written: now.
    pub timestamp: i64,
    /// Its key; `None` is a null.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a null.
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// A record to be written, without a key.
    pub fn of(value: impl Into<Vec<u8>>) -> Record {
        Record {
            value: Some(value.into()),
            ..Record::default()
        }
    }

    /// A record to be written, with a key.
    pub fn keyed(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Record {
        Record {
            key: Some(key.into()),
            ..Record::of(value)
        }
    }

    /// Its value as text; nothing for a null.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default())
    }
}

/// The batch of these records.
pub(crate) fn pack(records: &[Record], writer: Writer) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_millis() as i64);
    let records: Vec<NewRecord<'_>> = records
        .iter()
        .map(|record| NewRecord {
            timestamp: match record.timestamp {
                0 => now,
                given => given,
            },
            key: record.key.as_deref(),
            value: record.value.as_deref(),
        })
        .collect();
    build(&records, writer)
}
