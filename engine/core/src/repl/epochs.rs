//! Which leader epoch wrote which part of a log (KIP-101, KIP-279).

use streamd_model::{Epoch, Offset};

/// The epochs of a log, each with the offset of its first record; both rise.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Epochs(Vec<(Epoch, Offset)>);

impl Epochs {
    /// What a log was opened with.
    pub fn new(epochs: Vec<(Epoch, Offset)>) -> Epochs {
        let rises = epochs
            .windows(2)
            .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
        assert!(rises, "epochs out of order: {epochs:?}");
        Epochs(epochs)
    }

    /// The epochs, with their first offsets.
    pub fn list(&self) -> &[(Epoch, Offset)] {
        &self.0
    }

    /// The last epoch; -1 if there is none.
    pub fn last(&self) -> Epoch {
        self.0.last().map_or(-1, |e| e.0)
    }

    /// Records of this epoch begin at this offset, unless they have begun before.
    pub fn begin(&mut self, epoch: Epoch, at: Offset) {
        if epoch == self.last() {
            return;
        }
        assert!(epoch > self.last(), "epoch {epoch} after {}", self.last());
        // What has no records was nothing.
        self.0.retain(|e| e.1 < at);
        self.0.push((epoch, at));
    }

    /// The largest epoch up to `epoch`, and the offset behind its last record in a log that ends
    /// at `end`. -1 and the first offset if all epochs are later.
    pub fn end_of(&self, epoch: Epoch, end: Offset) -> (Epoch, Offset) {
        let later = self.0.partition_point(|e| e.0 <= epoch);
        let ends = self.0.get(later).map_or(end, |e| e.1);
        match later.checked_sub(1) {
            Some(at) => (self.0[at].0, ends),
            None => (-1, ends),
        }
    }

    /// The log ends here now.
    pub fn truncate(&mut self, end: Offset) {
        self.0.retain(|e| e.1 < end);
    }

    /// The log starts here now.
    pub fn trim(&mut self, start: Offset) {
        let gone = self.0.partition_point(|e| e.1 <= start).saturating_sub(1);
        self.0.drain(..gone);
        if let Some(first) = self.0.first_mut() {
            first.1 = first.1.max(start);
        }
    }
}
