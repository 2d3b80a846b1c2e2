//! From what was read of a partition to what a member gets of it.

use bytes::Bytes;
use streamd_core::producer::AbortedTxn;
use streamd_core::share::{Acquired, ReadBatch};
use streamd_log::BatchHeader;
use streamd_model::Offset;

/// A batch, and where it lies in what was read.
struct Found {
    batch: ReadBatch,
    from: usize,
    to: usize,
}

/// The whole batches of a read.
pub(super) struct ReadBatches {
    bytes: Bytes,
    all: Vec<Found>,
}

impl ReadBatches {
    /// Finds the batches from `offset` on. What was aborted is passed over when `committed`.
    pub fn new(
        bytes: Bytes,
        offset: Offset,
        committed: bool,
        aborted: &[AbortedTxn],
    ) -> ReadBatches {
        let (mut all, mut from) = (Vec::new(), 0);
        while let Ok(header) = BatchHeader::parse(&bytes[from..]) {
            let to = from + header.size;
            if to > bytes.len() {
                break;
            }
            if header.last_offset() >= offset {
                let skip = header.is_control() || committed && is_aborted(&header, aborted);
                let batch = ReadBatch {
                    first: header.base_offset.max(offset),
                    last: header.last_offset(),
                    skip,
                };
                all.push(Found { batch, from, to });
            }
            from = to;
        }
        ReadBatches { bytes, all }
    }

    /// The batches.
    pub fn batches(&self) -> Vec<ReadBatch> {
        self.all.iter().map(|f| f.batch).collect()
    }

    /// The bytes from the first to the last batch that has something of these.
    pub fn of(&self, acquired: &[Acquired]) -> Bytes {
        let (Some(first), Some(last)) = (acquired.first(), acquired.last()) else {
            return Bytes::new();
        };
        let touched = |f: &&Found| f.batch.last >= first.first && f.batch.first <= last.last;
        let mut touched = self.all.iter().filter(touched);
        match touched.next() {
            None => Bytes::new(),
            Some(one) => {
                let end = touched.next_back().unwrap_or(one).to;
                self.bytes.slice(one.from..end)
            }
        }
    }
}

fn is_aborted(header: &BatchHeader, aborted: &[AbortedTxn]) -> bool {
    let mut of = aborted.iter().filter(|a| a.producer == header.producer_id);
    header.is_transactional() && of.any(|a| (a.first..=a.last).contains(&header.base_offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamd_log::batch::{NewRecord, Writer, build, build_marker, set_transactional, stamp};

    fn batch(base: Offset, records: usize, producer: i64) -> Vec<u8> {
        let writer = Writer {
            id: producer,
            epoch: 0,
            sequence: 0,
        };
        let mut bytes = build(&vec![NewRecord::default(); records], writer);
        if producer >= 0 {
            set_transactional(&mut bytes, false);
        }
        stamp(&mut bytes, base, 0);
        bytes
    }

    #[test]
    fn markers_aborted_and_cut_batches_are_told_apart() {
        let mut bytes = [batch(0, 5, -1), batch(5, 2, 7), batch(7, 1, 8)].concat();
        let mut marker = build_marker((7, 0), false, 0, 0);
        stamp(&mut marker, 8, 0);
        bytes.extend_from_slice(&marker);
        let whole = bytes.len();
        bytes.extend_from_slice(&batch(9, 9, -1)[..70]);
        let aborted = [AbortedTxn {
            producer: 7,
            first: 5,
            last: 8,
            stable: 5,
        }];
        let read = ReadBatches::new(bytes.clone().into(), 2, true, &aborted);
        let found: Vec<_> = read
            .batches()
            .iter()
            .map(|b| (b.first, b.last, b.skip))
            .collect();
        let want = [(2, 4, false), (5, 6, true), (7, 7, false), (8, 8, true)];
        assert_eq!(found, want);
        let got = |first, last| Acquired {
            first,
            last,
            count: 1,
        };
        assert_eq!(read.of(&[got(2, 3), got(7, 7)]).len(), whole - marker.len());
        assert_eq!(read.of(&[got(7, 7)])[..], batch(7, 1, 8));
        assert!(read.of(&[]).is_empty());
        let read = ReadBatches::new(bytes.into(), 5, false, &aborted);
        let skipped: Vec<_> = read.batches().iter().map(|b| b.skip).collect();
        assert_eq!(skipped, [false, false, true], "only markers");
    }
}
