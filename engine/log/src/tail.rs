//! The bytes that were written last, kept in the buffers that the journal was written from. They
//! answer readers at the tail without the disk, and they are what the segments are written from.
//!
//! Groups are in log order; what is dropped is dropped from the front, so what is left is always
//! one stretch that ends at the flushed end.

use std::collections::VecDeque;

use bytes::Bytes;
use streamd_model::Offset;

/// Batches that were written to the journal together.
#[derive(Clone, Debug)]
pub struct TailGroup {
    /// Base offset of the segment that it is in.
    pub segment: Offset,
    /// Position of its first byte in the segment.
    pub position: u64,
    /// The offset after its last record.
    pub next: Offset,
    /// The batches, whole.
    pub bytes: Bytes,
    /// Bytes of memory behind it: its share of the buffer that the journal was written from.
    pub memory: usize,
}

/// The groups of one partition that are still in memory.
#[derive(Default)]
pub struct Tail {
    groups: VecDeque<TailGroup>,
    memory: usize,
}

impl Tail {
    /// Adds the group that was just written.
    pub fn push(&mut self, group: TailGroup) {
        if let Some(last) = self.groups.back() {
            let follows = if last.segment == group.segment {
                last.position + last.bytes.len() as u64 == group.position
            } else {
                group.segment > last.segment && group.position == 0
            };
            assert!(follows, "a tail group must follow the one before it");
        }
        self.memory += group.memory;
        self.groups.push_back(group);
    }

    /// Drops the groups that end at or before `next`.
    pub fn drop_before(&mut self, next: Offset) {
        while let Some(g) = self.groups.front().filter(|g| g.next <= next) {
            self.memory -= g.memory;
            self.groups.pop_front();
        }
    }

    /// The index of the first group that ends after `offset`.
    pub fn after(&self, offset: Offset) -> usize {
        self.groups.partition_point(|g| g.next <= offset)
    }

    /// The bytes from `position` of `segment` to the end of their group, if they are in memory.
    pub fn bytes_at(&self, segment: Offset, position: u64) -> Option<Bytes> {
        let g = self.group(self.find(segment, position)?)?;
        Some(g.bytes.slice((position - g.position) as usize..))
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Groups held.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group that holds `position` of `segment`, as its index for [`Tail::group`].
    pub fn find(&self, segment: Offset, position: u64) -> Option<usize> {
        let after = self
            .groups
            .partition_point(|g| (g.segment, g.position) <= (segment, position));
        let at = after.checked_sub(1)?;
        let g = &self.groups[at];
        let end = g.position + g.bytes.len() as u64;
        (g.segment == segment && position < end).then_some(at)
    }

    /// Where memory begins in `segment`: bytes before this position come from the file.
    pub fn begins(&self, segment: Offset) -> Option<u64> {
        let at = self.groups.partition_point(|g| g.segment < segment);
        self.groups
            .get(at)
            .filter(|g| g.segment == segment)
            .map(|g| g.position)
    }

    /// The group at an index that [`Tail::find`] gave.
    pub fn group(&self, at: usize) -> Option<&TailGroup> {
        self.groups.get(at)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.memory = 0;
    }
}
