//! Offsets, leader epochs, and the watermarks of a log with the order between them.

/// The position of a record in a partition, from 0.
pub type Offset = i64;

/// A leader epoch (KIP-101, KIP-320). -1 on the wire means "unknown".
pub type Epoch = i32;

/// The watermarks of a partition. `start <= stable <= high <= flushed <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// The first offset that can be read (Kafka's log start offset).
    pub start: Offset,
    /// The last stable offset: below it every transaction has ended.
    pub stable: Offset,
    /// The high watermark: below it records are committed and visible.
    pub high: Offset,
    /// Below it records are on stable storage of this node.
    pub flushed: Offset,
    /// The offset that the next record gets.
    pub end: Offset,
}

impl Watermarks {
    /// Panics if the order does not hold: that would be corruption, and going on would spread it.
    pub fn check(&self) {
        assert!(
            self.start <= self.stable
                && self.stable <= self.high
                && self.high <= self.flushed
                && self.flushed <= self.end,
            "watermarks out of order: {self:?}"
        );
    }
}
