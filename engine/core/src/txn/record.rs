//! The records of `__transaction_state`, in Kafka's own format, so that Kafka's tools can read the
//! topic and a log of Kafka's can be replayed here.
//!
//! A key is its version, 0, and the transactional id. A value begins with the version of its
//! layout: 0, or 1 with tagged fields, which is written. A null value forgets the id.
//! Invariant: decoding never panics and reserves no more than the bytes can bear out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codec::Damaged;
use crate::kafka_codec::{In, Out};
use crate::machine::Record;

/// What a transactional id is doing; the numbers are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// It has a producer id, and nothing else.
    Empty = 0,
    /// A transaction is open.
    Ongoing = 1,
    /// It is decided that it commits; markers are being written.
    PrepareCommit = 2,
    /// It is decided that it aborts; markers are being written.
    PrepareAbort = 3,
    /// All markers are written.
    CompleteCommit = 4,
    /// All markers are written.
    CompleteAbort = 5,
}

impl Status {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Status::Empty => "Empty",
            Status::Ongoing => "Ongoing",
            Status::PrepareCommit => "PrepareCommit",
            Status::PrepareAbort => "PrepareAbort",
            Status::CompleteCommit => "CompleteCommit",
            Status::CompleteAbort => "CompleteAbort",
        }
    }

    /// Whether markers are being written.
    pub fn is_ending(self) -> bool {
        matches!(self, Status::PrepareCommit | Status::PrepareAbort)
    }

    fn from_number(n: u8) -> Option<Status> {
        const ALL: [Status; 6] = [
            Status::Empty,
            Status::Ongoing,
            Status::PrepareCommit,
            Status::PrepareAbort,
            Status::CompleteCommit,
            Status::CompleteAbort,
        ];
        ALL.get(usize::from(n)).copied()
    }
}

/// Topics by name, and their partitions.
pub type Partitions = BTreeMap<Arc<str>, BTreeSet<i32>>;

/// The durable state of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnValue {
    /// Its producer id.
    pub producer: i64,
    /// The id that it had before; -1: none.
    pub prev_producer: i64,
    /// The id that it gets when the transaction has ended, because the epochs of this one are used
    /// up; -1: it stays.
    pub next_producer: i64,
    /// The epoch; -1 before the first.
    pub epoch: i16,
    /// After how long a transaction is aborted, ms.
    pub timeout_ms: i32,
    /// What it is doing.
    pub status: Status,
    /// What the transaction has written to.
    pub partitions: Partitions,
    /// When this was written, wall time in ms.
    pub updated_ms: i64,
    /// When the transaction began, wall time in ms; -1: none did.
    pub started_ms: i64,
    /// `transaction.version` as the producer spoke it last.
    pub version: i16,
}

/// A transactional id and what is known of it; `None`: nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnRecord {
    /// The transactional id.
    pub id: Arc<str>,
    /// What it is.
    pub value: Option<TxnValue>,
}

impl Record for TxnRecord {
    fn key(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.i16(0);
        out.str(&self.id);
        out.0
    }

    fn value(&self) -> Option<Vec<u8>> {
        self.value.as_ref().map(put)
    }

    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<TxnRecord>, Damaged> {
        let mut k = In(key);
        if k.i16("the kind of a transaction record")? != 0 {
            return Ok(None);
        }
        let id = k.str("a transactional id")?.into();
        let value = value.map(get).transpose()?;
        Ok(Some(TxnRecord { id, value }))
    }
}

fn put(v: &TxnValue) -> Vec<u8> {
    let mut out = Out::default();
    out.i16(1);
    out.i64(v.producer);
    out.i16(v.epoch);
    out.i32(v.timeout_ms);
    out.raw(&[v.status as u8]);
    if v.status == Status::Empty {
        out.uvarint(0);
    } else {
        out.uvarint(v.partitions.len() + 1);
        for (topic, partitions) in &v.partitions {
            out.uvarint(topic.len() + 1);
            out.raw(topic.as_bytes());
            out.uvarint(partitions.len() + 1);
            for p in partitions {
                out.i32(*p);
            }
            out.uvarint(0);
        }
    }
    out.i64(v.updated_ms);
    out.i64(v.started_ms);
    let mut tags: Vec<(usize, Vec<u8>)> = Vec::new();
    if v.prev_producer >= 0 {
        tags.push((0, v.prev_producer.to_be_bytes().to_vec()));
    }
    if v.next_producer >= 0 {
        tags.push((1, v.next_producer.to_be_bytes().to_vec()));
    }
    if v.version != 0 {
        tags.push((2, v.version.to_be_bytes().to_vec()));
    }
    out.uvarint(tags.len());
    for (tag, bytes) in tags {
        out.uvarint(tag);
        out.uvarint(bytes.len());
        out.raw(&bytes);
    }
    out.0
}

fn get(bytes: &[u8]) -> Result<TxnValue, Damaged> {
    let mut r = In(bytes);
    let version = r.i16("the version of a transaction")?;
    if !(0..=1).contains(&version) {
        return Err(r.damaged("a transaction of an unknown version"));
    }
    let flexible = version >= 1;
    let producer = r.i64("a producer id")?;
    let epoch = r.i16("a producer epoch")?;
    let timeout_ms = r.i32("a transaction's timeout")?;
    let [number] = r.array("a transaction's status")?;
    // Kafka's Dead (6) and PrepareEpochFence (7) are never written.
    let status = Status::from_number(number).ok_or(r.damaged("a transaction's status"))?;
    let partitions = get_partitions(&mut r, flexible)?;
    let mut value = TxnValue {
        producer,
        prev_producer: -1,
        next_producer: -1,
        epoch,
        timeout_ms,
        status,
        partitions,
        updated_ms: r.i64("a transaction's time")?,
        started_ms: r.i64("a transaction's start")?,
        version: 0,
    };
    if flexible {
        r.tags(&mut |tag, bytes| {
            if let (0 | 1, Ok(id)) = (tag, bytes.try_into().map(i64::from_be_bytes)) {
                match tag {
                    0 => value.prev_producer = id,
                    _ => value.next_producer = id,
                }
            }
            if let (2, Ok(version)) = (tag, bytes.try_into()) {
                value.version = i16::from_be_bytes(version);
            }
        })?;
    }
    Ok(value)
}

/// The length of a list; none is 0.
fn count(r: &mut In<'_>, flexible: bool, what: &'static str) -> Result<usize, Damaged> {
    match flexible {
        true => Ok(r.uvarint(what)?.saturating_sub(1)),
        false => Ok(usize::try_from(r.i32(what)?).unwrap_or(0)),
    }
}

fn get_partitions(r: &mut In<'_>, flexible: bool) -> Result<Partitions, Damaged> {
    let mut partitions = Partitions::new();
    for _ in 0..count(r, flexible, "a number of topics")? {
        let topic = r.text(flexible, "a topic's name")?.into();
        let mut indexes = BTreeSet::new();
        for _ in 0..count(r, flexible, "a number of partitions")? {
            indexes.insert(r.i32("a partition")?);
        }
        if flexible {
            r.tags(&mut |_, _| {})?;
        }
        partitions.insert(topic, indexes);
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(status: Status) -> TxnRecord {
        let partitions = match status {
            Status::Empty => Partitions::new(),
            _ => [("t".into(), [0, 7].into()), ("üx".into(), [3].into())].into(),
        };
        let value = TxnValue {
            producer: 4000,
            prev_producer: 3000,
            next_producer: 5000,
            epoch: 32_766,
            timeout_ms: 60_000,
            status,
            partitions,
            updated_ms: 1_700_000_000_123,
            started_ms: 1_700_000_000_000,
            version: 2,
        };
        TxnRecord {
            id: "tx-1".into(),
            value: Some(value),
        }
    }

    #[test]
    fn round_trip() {
        for n in 0..6 {
            let r = record(Status::from_number(n).unwrap());
            let value = r.value();
            let again = TxnRecord::decode(&r.key(), value.as_deref());
            assert_eq!(again, Ok(Some(r)));
        }
        let gone = TxnRecord {
            id: "x".into(),
            value: None,
        };
        assert_eq!(TxnRecord::decode(&gone.key(), None), Ok(Some(gone)));
        assert_eq!(TxnRecord::decode(&[0, 1, 0, 0], None), Ok(None));
        assert_eq!(Status::from_number(6), None);
    }

    #[test]
    fn what_kafka_writes_in_version_0() {
        // Producer 1, epoch 2, 60000 ms, Ongoing, topic t partition 5, times 9 and 8.
        let mut bytes = vec![0, 0];
        bytes.extend(1i64.to_be_bytes());
        bytes.extend(2i16.to_be_bytes());
        bytes.extend(60_000i32.to_be_bytes());
        bytes.push(1);
        bytes.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 5]);
        bytes.extend(9i64.to_be_bytes());
        bytes.extend(8i64.to_be_bytes());
        let key = [0, 0, 0, 1, b'a'];
        let found = TxnRecord::decode(&key, Some(&bytes)).unwrap().unwrap();
        let value = found.value.unwrap();
        assert_eq!((&*found.id, value.producer, value.epoch), ("a", 1, 2));
        assert_eq!(value.partitions, [("t".into(), [5].into())].into());
        assert_eq!((value.updated_ms, value.started_ms), (9, 8));
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>()) {
            let r = record(Status::Ongoing);
            let good = r.value().unwrap();
            let short = &good[..cut % good.len()];
            prop_assert!(TxnRecord::decode(&r.key(), Some(short)).is_err());
            let mut bad = good;
            let at = at % bad.len();
            bad[at] = byte;
            let _ = TxnRecord::decode(&r.key(), Some(&bad));
        }
    }
}
