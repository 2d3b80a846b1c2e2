//! Disks that lose what was not synced: of a process that ends, a prefix of what was under way is
//! there, the record behind it perhaps in part.

use std::collections::VecDeque;

use streamd_core::raft::split;
use streamd_core::repl::Epochs;
use streamd_model::{Epoch, Offset};

use crate::rng::Rng;

/// A record of a partition: what it is, who wrote it, how long it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rec {
    pub epoch: Epoch,
    pub value: u64,
    pub bytes: u64,
}

/// The metadata log's disk.
#[derive(Default)]
pub struct MetaDisk {
    durable: Vec<Vec<u8>>,
    under_way: VecDeque<(u64, Vec<u8>, bool)>,
    pub torn: u64,
    pub lost: u64,
}

impl MetaDisk {
    pub fn of(record: Vec<u8>) -> MetaDisk {
        MetaDisk {
            durable: vec![record],
            ..MetaDisk::default()
        }
    }

    pub fn write(&mut self, number: u64, record: Vec<u8>, anew: bool) {
        self.under_way.push_back((number, record, anew));
    }

    /// The oldest write is durable; its number.
    pub fn done(&mut self) -> Option<u64> {
        let (number, record, anew) = self.under_way.pop_front()?;
        if anew {
            self.durable.clear();
        }
        self.durable.push(record);
        Some(number)
    }

    pub fn crash(&mut self, rng: &mut Rng, lose: bool) {
        let whole = match lose {
            true => rng.below(self.under_way.len() as u64 + 1),
            false => self.under_way.len() as u64,
        };
        for _ in 0..whole {
            self.done();
        }
        if let Some((_, record, _)) = self.under_way.pop_front() {
            self.lost += 1;
            let mut log = self.durable.concat();
            let part = rng.below(record.len() as u64) as usize;
            log.extend_from_slice(&record[..part]);
            self.torn += u64::from(part > 0);
            let (whole, rest) = split(&log).expect("a crash damages the end alone");
            assert_eq!((whole.len(), rest), (self.durable.len(), part));
        }
        self.under_way.clear();
    }

    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.durable.iter().map(Vec::as_slice)
    }

    pub fn wipe(&mut self) {
        self.durable.clear();
    }
}

enum Op {
    Append(Rec),
    Truncate(usize),
}

/// The log of one partition: in memory, and on the disk.
#[derive(Default)]
pub struct LogDisk {
    pub log: Vec<Rec>,
    pub durable: Vec<Rec>,
    /// The high watermark of the last checkpoint.
    pub high: Offset,
    ops: VecDeque<Op>,
    flushing: usize,
    pub lost: u64,
}

impl LogDisk {
    pub fn append(&mut self, rec: Rec) {
        self.log.push(rec);
        self.ops.push_back(Op::Append(rec));
    }

    pub fn truncate(&mut self, to: Offset) {
        self.log.truncate(to as usize);
        self.ops.push_back(Op::Truncate(to as usize));
    }

    /// Begins a flush, if there is something to flush and none is under way.
    pub fn flush(&mut self) -> bool {
        if self.flushing > 0 || self.ops.is_empty() {
            return false;
        }
        self.flushing = self.ops.len();
        true
    }

    /// The flush is through: what of the log is durable now.
    pub fn flushed(&mut self, high: Offset) -> Offset {
        let n = std::mem::take(&mut self.flushing);
        self.write(n);
        self.high = high;
        // What is to be cut is not what the log holds.
        let cuts = self.ops.iter().filter_map(|op| match op {
            Op::Truncate(to) => Some(*to),
            Op::Append(_) => None,
        });
        cuts.fold(self.durable.len(), usize::min) as Offset
    }

    fn write(&mut self, n: usize) {
        for op in self.ops.drain(..n) {
            match op {
                Op::Append(rec) => self.durable.push(rec),
                Op::Truncate(to) => self.durable.truncate(to),
            }
        }
    }

    pub fn crash(&mut self, rng: &mut Rng, lose: bool) {
        let all = self.ops.len() as u64;
        let kept = if lose { rng.below(all + 1) } else { all };
        self.lost += all - kept;
        self.write(kept as usize);
        self.ops.clear();
        self.flushing = 0;
        self.log = self.durable.clone();
    }

    pub fn epochs(&self) -> Epochs {
        let mut epochs: Vec<(Epoch, Offset)> = Vec::new();
        for (at, rec) in self.log.iter().enumerate() {
            if epochs.last().is_none_or(|e| e.0 != rec.epoch) {
                epochs.push((rec.epoch, at as Offset));
            }
        }
        Epochs::new(epochs)
    }
}
