//! The bytes that were written last, kept in the buffers that they were written from. They answer
//! readers at the tail without the disk: a direct write leaves nothing in the page cache.
//!
//! Groups are in log order; what is dropped is dropped from the front, so what is left is always
//! one stretch that ends at the flushed end.

use std::collections::VecDeque;

use bytes::Bytes;
use streamd_model::Offset;

/// A group of batches that was written with one durable write.
#[derive(Clone, Debug)]
pub struct TailGroup {
    /// Base offset of the segment that it is in.
    pub segment: Offset,
    /// Position of its first byte in the segment.
    pub position: u64,
    /// The batches, whole.
    pub bytes: Bytes,
    /// Bytes of memory behind it (the whole write buffer).
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

    /// Drops the oldest group and says how many bytes that frees.
    pub fn drop_oldest(&mut self) -> usize {
        let freed = self.groups.pop_front().map_or(0, |g| g.memory);
        self.memory -= freed;
        freed
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
