//! The log of the quorum in memory, as the library reads it. What is in here may not be durable
//! yet: the library knows how far it is.
//!
//! Invariant: `entries` are dense from `base + 1` on; `base <= snapshot.index`.

use std::cell::Cell;
use std::collections::VecDeque;

use ::raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use ::raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};

use super::record::Record;

#[derive(Default)]
pub(super) struct Store {
    hard: HardState,
    snapshot: Snapshot,
    /// The entry before the first that is here: index and term.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    /// Somebody needs a newer snapshot than the one that is here.
    wanted: Cell<bool>,
}

impl Store {
    /// Whether a newer snapshot is needed; asked once.
    pub fn wants_snapshot(&self) -> bool {
        self.wanted.take()
    }

    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    pub fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub fn snapshot_now(&self) -> &Snapshot {
        &self.snapshot
    }

    /// A snapshot from the leader: the log begins behind it.
    pub fn install(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.get_metadata();
        self.base = (metadata.index, metadata.term);
        self.hard.commit = self.hard.commit.max(metadata.index);
        self.hard.term = self.hard.term.max(metadata.term);
        self.entries.clear();
        self.snapshot = snapshot;
    }

    /// Entries that replace what is there from the first of them on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.base.0 < first.index && first.index <= self.last() + 1,
            "entries from {} on do not follow {}..={}",
            first.index,
            self.base.0,
            self.last()
        );
        self.entries
            .truncate((first.index - self.base.0 - 1) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    /// A snapshot of the state at `index`; `keep` entries before it stay for those who lag.
    pub fn compact(&mut self, index: u64, conf: ConfState, data: Vec<u8>, keep: u64) {
        assert!(index >= self.snapshot.get_metadata().index && index <= self.last());
        let term = self.term_at(index).expect("what was applied is in the log");
        let mut snapshot = Snapshot {
            data: data.into(),
            ..Snapshot::default()
        };
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = term;
        snapshot.mut_metadata().set_conf_state(conf);
        self.snapshot = snapshot;
        let drop = index.saturating_sub(keep).saturating_sub(self.base.0);
        for entry in self.entries.drain(..drop as usize) {
            self.base = (entry.index, entry.term);
        }
    }

    /// All of it in one record, to begin anew with.
    pub fn checkpoint(&self) -> Record {
        let after = self.snapshot.get_metadata().index;
        Record {
            hard: self.hard.clone(),
            snapshot: Some(self.snapshot.clone()),
            entries: self
                .entries
                .iter()
                .filter(|e| e.index > after)
                .cloned()
                .collect(),
        }
    }

    /// Takes a record that was read back, in order.
    ///
    /// # Errors
    /// If it does not follow the ones before it.
    pub fn replay(&mut self, record: Record) -> std::result::Result<(), String> {
        if let Some(snapshot) = record.snapshot {
            self.install(snapshot);
        }
        if let Some(first) = record.entries.first()
            && (first.index <= self.base.0 || first.index > self.last() + 1)
        {
            return Err(format!(
                "a record has entries from {} on, and the log has {} to {}",
                first.index,
                self.base.0,
                self.last()
            ));
        }
        self.append(&record.entries);
        if record.hard.commit > self.last() || record.hard.term < self.hard.term {
            return Err(format!(
                "a record has term {} and commit index {}; before it the term was {}, and the \
                 log ends at {}",
                record.hard.term,
                record.hard.commit,
                self.hard.term,
                self.last()
            ));
        }
        self.hard = record.hard;
        Ok(())
    }

    /// Takes everything for committed if `id` is the only voter: what it has is what a majority
    /// has. Not so when a change of the members may have been committed meanwhile.
    pub fn commit_alone(&mut self, id: u64) {
        let metadata = self.snapshot.get_metadata();
        let conf = metadata.get_conf_state();
        let alone = conf.voters == [id] && conf.voters_outgoing.is_empty();
        let after = metadata.index;
        let mut entries = self.entries.iter().filter(|e| e.index > after);
        if alone && entries.all(|e| e.get_entry_type() == EntryType::EntryNormal) {
            self.hard.commit = self.last();
        }
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(at as usize).map(|e| e.term)
    }
}

impl Storage for Store {
    fn initial_state(&self) -> Result<RaftState> {
        let conf = self.snapshot.get_metadata().get_conf_state().clone();
        Ok(RaftState::new(self.hard.clone(), conf))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let range = (low - self.base.0 - 1) as usize..(high - self.base.0 - 1) as usize;
        let mut bytes = 0u64;
        let mut entries = Vec::new();
        for entry in self.entries.range(range) {
            bytes += (entry.data.len() + entry.context.len()) as u64 + 24;
            if bytes > max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        let metadata = self.snapshot.get_metadata();
        if index == metadata.index {
            return Ok(metadata.term);
        }
        match self.term_at(index) {
            Some(term) => Ok(term),
            None if index < self.base.0 => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let metadata = self.snapshot.get_metadata();
        let conf = metadata.get_conf_state();
        let lists = [
            &conf.voters,
            &conf.learners,
            &conf.voters_outgoing,
            &conf.learners_next,
        ];
        // A snapshot of before a node belonged to the quorum would be thrown away by it.
        if metadata.index < request_index || !lists.iter().any(|l| l.contains(&to)) {
            self.wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.snapshot.clone())
    }
}
