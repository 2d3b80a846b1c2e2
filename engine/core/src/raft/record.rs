//! What a node of the quorum keeps on disk: records, each with its own checksum.
//!
//! Invariant: the hard state and the entries that go with it are in one record, so no crash parts
//! them. A record with a snapshot begins anew: what is before it no longer counts.

use ::raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

use super::codec::{get_entries, get_snapshot, put_entries, put_snapshot};
use crate::codec::{Damaged, In, Out};

const MAGIC: [u8; 4] = *b"SRFT";
const VERSION: u8 = 1;
/// Magic, length and checksum.
const HEAD: usize = 12;

/// One record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record {
    pub hard: HardState,
    pub snapshot: Option<Snapshot>,
    /// They replace what the log has from the first of them on.
    pub entries: Vec<Entry>,
}

/// Whether bytes look like a record: other forms of the metadata log begin differently.
pub fn is_record(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.raw(&MAGIC);
        out.raw(&[0; 8]);
        out.u8(VERSION);
        out.u64(self.hard.term);
        out.u64(self.hard.vote);
        out.u64(self.hard.commit);
        out.u8(u8::from(self.snapshot.is_some()));
        if let Some(snapshot) = &self.snapshot {
            put_snapshot(&mut out, snapshot);
        }
        put_entries(&mut out, &self.entries);
        let mut bytes = out.0;
        let len = u32::try_from(bytes.len() - HEAD).unwrap_or(u32::MAX);
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[HEAD..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads one record, all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Record, Damaged> {
        let mut r = In(bytes);
        if r.array("a record of the quorum")? != MAGIC {
            return Err(r.damaged("a record of the quorum without its mark"));
        }
        let len = u32::from_le_bytes(r.array("a record's length")?) as usize;
        let crc = u32::from_le_bytes(r.array("a record's checksum")?);
        if len != r.0.len() || crc32c::crc32c(r.0) != crc {
            return Err(r.damaged("a record of the quorum that is cut or damaged"));
        }
        if r.u8("a record's version")? != VERSION {
            return Err(r.damaged("a record of the quorum of an unknown version"));
        }
        let mut record = Record::default();
        record.hard.term = r.u64("a term")?;
        record.hard.vote = r.u64("a vote")?;
        record.hard.commit = r.u64("a commit index")?;
        if r.flag("whether there is a snapshot")? {
            record.snapshot = Some(get_snapshot(&mut r)?);
        }
        record.entries = get_entries(&mut r)?;
        r.end("a record of the quorum with bytes behind it")?;
        Ok(record)
    }
}

/// Cuts bytes into whole records, and says how many bytes at the end are none: a write that a
/// crash cut off.
///
/// # Errors
/// [`Damaged`] if there is a whole record behind a bad one: then it was no crash that damaged it.
pub fn split(bytes: &[u8]) -> Result<(Vec<&[u8]>, usize), Damaged> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(len) = whole(&bytes[at..]) {
        records.push(&bytes[at..at + len]);
        at += len;
    }
    let rest = &bytes[at..];
    if (1..rest.len()).any(|from| whole(&rest[from..]).is_some()) {
        return Err(In(rest).damaged("a damaged record of the quorum before a whole one"));
    }
    Ok((records, rest.len()))
}

/// The length of the whole record at the beginning.
fn whole(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(&MAGIC) {
        return None;
    }
    let len = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(HEAD..HEAD.checked_add(len)?)?;
    (crc32c::crc32c(body) == crc).then_some(HEAD + len)
}

/// The record that a quorum begins with: never index 0, so that who joins later gets a snapshot.
pub(super) fn bootstrap(voters: &[u64], data: Vec<u8>) -> Vec<u8> {
    let mut snapshot = Snapshot {
        data: data.into(),
        ..Snapshot::default()
    };
    let metadata = snapshot.mut_metadata();
    metadata.index = 1;
    metadata.term = 1;
    metadata.set_conf_state(ConfState::from((voters.to_vec(), Vec::new())));
    let hard = HardState {
        term: 1,
        commit: 1,
        ..HardState::default()
    };
    let record = Record {
        hard,
        snapshot: Some(snapshot),
        entries: Vec::new(),
    };
    record.encode()
}
