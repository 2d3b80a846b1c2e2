//! The offset map: for each key of the dirty part of a log, the offset of its last record. Open
//! addressing in one block of memory that is made once, of a size that never changes; the keys are
//! there as their hashes only.

use streamd_model::Offset;

use super::hash::KeyHash;

/// Bytes of one cell.
pub const CELL: usize = 24;

/// So many cells of eight may be in use: probes stay short.
const USED_OF_8: usize = 6;

/// Hash of the key, and the offset plus one; zeros are an empty cell.
type Cell = [u64; 3];

/// From keys to the offsets of their last records.
pub struct OffsetMap {
    cells: Vec<Cell>,
    used: usize,
    limit: usize,
    secret: [u64; 2],
}

impl OffsetMap {
    /// An empty map in at most `bytes` of memory, and no more than `records` keys need. It takes
    /// at least one key. `secret` should be new for each map.
    pub fn new(bytes: usize, records: u64, secret: [u64; 2]) -> OffsetMap {
        let wanted = usize::try_from(records)
            .unwrap_or(usize::MAX)
            .saturating_mul(8)
            / USED_OF_8
            + 2;
        let cells = wanted.min(bytes / CELL).max(2);
        OffsetMap {
            cells: vec![[0; 3]; cells],
            used: 0,
            limit: (cells / 8 * USED_OF_8 + cells % 8 * USED_OF_8 / 8).max(1),
            secret,
        }
    }

    /// The beginning of a key's hash.
    pub fn hash(&self) -> KeyHash {
        KeyHash::new(self.secret)
    }

    /// Keys in the map.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is no key in the map.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.cells.len() * CELL
    }

    /// The cell of a key, or the empty one where it would be.
    fn cell(&self, hash: [u64; 2]) -> usize {
        // The high half of a product spreads over all cells, whatever their number.
        let mut at = ((u128::from(hash[0]) * self.cells.len() as u128) >> 64) as usize;
        loop {
            let [a, b, next] = self.cells[at];
            if next == 0 || [a, b] == hash {
                return at;
            }
            at = if at + 1 == self.cells.len() {
                0
            } else {
                at + 1
            };
        }
    }

    /// Notes a record of the key at `offset`, after all that were noted before. False, and nothing
    /// is noted, when the key is new and there is no room.
    pub fn put(&mut self, hash: [u64; 2], offset: Offset) -> bool {
        let at = self.cell(hash);
        if self.cells[at][2] == 0 {
            if self.used == self.limit {
                return false;
            }
            self.used += 1;
        }
        assert!(
            self.cells[at][2] <= offset as u64,
            "records are noted in their order"
        );
        self.cells[at] = [hash[0], hash[1], offset as u64 + 1];
        true
    }

    /// The offset of the last record of the key that was noted.
    pub fn get(&self, hash: [u64; 2]) -> Option<Offset> {
        (self.cells[self.cell(hash)][2] as i64)
            .checked_sub(1)
            .filter(|&o| o >= 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::hash_key;
    use super::*;

    #[test]
    fn it_keeps_the_last_of_each_and_says_when_it_is_full() {
        let mut map = OffsetMap::new(100 * CELL, u64::MAX, [1, 2]);
        assert_eq!(map.memory(), 100 * CELL);
        let hash = |i: i64| hash_key([1, 2], &i.to_be_bytes());
        let mut keys = 0;
        while map.put(hash(keys), keys) {
            keys += 1;
        }
        assert_eq!(keys as usize, map.len());
        assert!((70..=75).contains(&keys), "{keys} keys");
        for i in 0..keys {
            assert_eq!(map.get(hash(i)), Some(i));
            assert!(map.put(hash(i), 1000 + i), "a known key needs no room");
        }
        for i in 0..keys {
            assert_eq!(map.get(hash(i)), Some(1000 + i));
        }
        assert_eq!(map.get(hash(keys)), None);
    }

    #[test]
    fn it_takes_no_more_memory_than_it_needs_and_one_key_at_least() {
        assert!(OffsetMap::new(1 << 30, 10, [0, 0]).memory() < 400);
        let mut map = OffsetMap::new(0, u64::MAX, [0, 0]);
        assert!(map.put([0, 0], 0));
        assert_eq!(map.get([0, 0]), Some(0), "a hash of zeros is a hash");
        assert!(!map.put([1, 1], 1));
        assert_eq!(map.get([1, 1]), None);
    }
}
